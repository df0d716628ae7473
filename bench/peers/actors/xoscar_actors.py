"""xoscar: actors on asyncio in pools; the far one is in a process of the same pool."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import xoscar

from atoll.bench.peers.actors.contender import IN_FLIGHT
from atoll.bench.peers.actors.serving import BURST, Operation, asked, repeated, serve
from atoll.bench.sockets import HOST, free_port


class Echo(xoscar.Actor):
    """Gives back what it gets."""

    async def echo(self, number: int) -> int:
        """Answer."""
        return number


def main() -> None:
    """Start a pool of two processes and serve."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    run = loop.run_until_complete

    async def started() -> tuple[Any, Any]:
        pool = await xoscar.create_actor_pool(f"{HOST}:{free_port()}", n_process=1)
        address = pool.external_address
        near = await xoscar.create_actor(Echo, address=address, allocate_strategy=xoscar.allocate_strategy.MainPool())
        far = await xoscar.create_actor(
            Echo, address=address, allocate_strategy=xoscar.allocate_strategy.ProcessIndex(1)
        )
        return near, far

    near, far = run(started())

    def alone(ref: Any) -> Operation:
        return asked(lambda: run(ref.echo(1)))

    def together(call: Callable[[], Awaitable[Any]], count: int) -> Operation:
        async def batch() -> None:
            await asyncio.gather(*(call() for _ in range(count)))

        return repeated(lambda: run(batch()), count)

    async def tells() -> None:
        for _ in range(BURST):
            await near.echo.tell(1)
        await near.echo(1)

    serve(
        "xoscar",
        {
            "tell": repeated(lambda: run(tells()), BURST),
            "ask": alone(near),
            "asks": together(lambda: near.echo(1), IN_FLIGHT),
            "ask_across": alone(far),
            "asks_across": together(lambda: far.echo(1), IN_FLIGHT),
        },
    )


if __name__ == "__main__":
    main()

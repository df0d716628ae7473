"""Reads and writes one stream at once, until either ends."""

from collections.abc import Awaitable, Callable

import anyio

from atoll.transport.errors import MalformedFrame
from atoll.transport.talk import StreamLost


async def both_ways(read: Callable[[], Awaitable[None]], write: Callable[[], Awaitable[None]]) -> None:
    """Run both until the first of them ends; the other one is cancelled.

    Raises:
        StreamLost: The stream is lost, or has ended.
        MalformedFrame: The other end breaks the rules.
    """
    failures: list[StreamLost | MalformedFrame] = []
    async with anyio.create_task_group() as tasks:

        async def run(direction: Callable[[], Awaitable[None]]) -> None:
            try:
                await direction()
            except (StreamLost, MalformedFrame) as error:
                failures.append(error)
            tasks.cancel_scope.cancel()

        tasks.start_soon(run, read)
        tasks.start_soon(run, write)
    if failures:
        raise failures[0]

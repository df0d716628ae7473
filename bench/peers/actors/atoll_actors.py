"""Ours on uvloop, measured by the same commands as the others; the far actor is reached by a link, as between nodes."""

import statistics
import time
from collections.abc import Awaitable, Callable

import anyio

from atoll.actors.runtime import ActorRef, ActorSystem, Address
from atoll.bench.actor_ends import ANSWERER, ASKER, ASKER_KEY, CODEC, HOST, Echo, Links, Ping, Tick, open_links
from atoll.bench.loops import run_on
from atoll.bench.peers.actors.contender import IN_FLIGHT, OURS
from atoll.bench.peers.actors.serving import BURST, serve_async
from atoll.bench.processes import Process

LOOP = "uvloop"
LINK_S = 10.0
AsyncOperation = Callable[[float], Awaitable[dict[str, float]]]


def _tells(ref: ActorRef) -> AsyncOperation:
    async def operation(seconds: float) -> dict[str, float]:
        tick, ping = Tick(), Ping(1)
        count, began = 0, time.perf_counter()
        while not count or time.perf_counter() < began + seconds:
            for _ in range(BURST):
                ref.tell(tick)
            await ref.ask(ping)
            count += BURST
        return {"count": count, "took_s": time.perf_counter() - began}

    return operation


def _ask(ref: ActorRef) -> AsyncOperation:
    async def operation(seconds: float) -> dict[str, float]:
        ping, times = Ping(1), list[float]()
        began = time.perf_counter()
        while not times or time.perf_counter() < began + seconds:
            before = time.perf_counter()
            await ref.ask(ping)
            times.append(time.perf_counter() - before)
        took_s = time.perf_counter() - began
        return {"count": len(times), "took_s": took_s, "p50_us": statistics.median(times) * 1e6}

    return operation


def _asks(ref: ActorRef) -> AsyncOperation:
    async def operation(seconds: float) -> dict[str, float]:
        ping, count = Ping(1), 0
        began = time.perf_counter()

        async def asker() -> None:
            nonlocal count
            while not count or time.perf_counter() < began + seconds:
                await ref.ask(ping)
                count += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.start_soon(asker)
        return {"count": count, "took_s": time.perf_counter() - began}

    return operation


async def _main(link_port: int) -> None:
    async with (
        open_links(ASKER_KEY) as transport,
        ActorSystem(ASKER, CODEC) as system,
        anyio.create_task_group() as tasks,
    ):
        links = Links(system, transport)
        tasks.start_soon(links.receive)
        transport.dial(ANSWERER, HOST, link_port)
        with anyio.fail_after(LINK_S):
            await links.up.wait()
        near = await system.spawn(Echo, "echo", mailbox_max=1_000_000)
        far = system.ref(Address(ANSWERER, "echo"))
        operations = {"tell": _tells(near), "ask": _ask(near), "asks": _asks(near)}
        await serve_async(OURS, operations | {"ask_across": _ask(far), "asks_across": _asks(far)})


def main() -> None:
    """Start the other process and serve."""
    other = Process("atoll.bench.actor_ends", LOOP)
    try:
        _, link_port, _ = map(int, other.line().split())
        run_on(LOOP, _main, link_port)
    finally:
        other.close()


if __name__ == "__main__":
    main()

"""What all contenders in Python share: commands in, answers out, and the end of everything below when we are gone."""

import json
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import anyio.to_thread

from atoll.bench.peers.keeper import adopt_orphans, end_all

BURST = 256

Operation = Callable[[float], dict[str, float]]


def _commands() -> "queue.Queue[str]":
    """Read the commands in a thread, which ends the process when there can be no more."""
    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        end_all()
        os._exit(0)

    threading.Thread(target=read, name="commands", daemon=True).start()
    return waiting


async def serve_async(name: str, operations: dict[str, Callable[[float], Awaitable[dict[str, float]]]]) -> None:
    """Do as `serve` does, on an event loop."""
    waiting = _commands()
    print(name, flush=True)
    while True:
        operation, seconds = (await anyio.to_thread.run_sync(waiting.get)).split()
        print(json.dumps(await operations[operation](float(seconds))), flush=True)


def serve(name: str, operations: dict[str, Operation]) -> None:
    """Say that this is ready, and do what is asked, for ever."""
    adopt_orphans()
    waiting = _commands()
    print(name, flush=True)
    while True:
        operation, seconds = waiting.get().split()
        print(json.dumps(operations[operation](float(seconds))), flush=True)


def told(tell: Callable[[], object], wait: Callable[[], object]) -> Operation:
    """Make an operation of bursts of tells; `wait` returns when all before it was handled."""

    def operation(seconds: float) -> dict[str, float]:
        count, began = 0, time.perf_counter()
        while not count or time.perf_counter() < began + seconds:
            for _ in range(BURST):
                tell()
            wait()
            count += BURST
        return {"count": count, "took_s": time.perf_counter() - began}

    return operation


def asked(ask: Callable[[], object]) -> Operation:
    """Make an operation of asks one after the other, each timed."""

    def operation(seconds: float) -> dict[str, float]:
        times: list[float] = []
        began = time.perf_counter()
        while not times or time.perf_counter() < began + seconds:
            before = time.perf_counter()
            ask()
            times.append(time.perf_counter() - before)
        took_s = time.perf_counter() - began
        return {"count": len(times), "took_s": took_s, "p50_us": statistics.median(times) * 1e6}

    return operation


def repeated(batch: Callable[[], object], count: int) -> Operation:
    """Make an operation of batches of `count`."""

    def operation(seconds: float) -> dict[str, float]:
        done, began = 0, time.perf_counter()
        while not done or time.perf_counter() < began + seconds:
            batch()
            done += count
        return {"count": done, "took_s": time.perf_counter() - began}

    return operation

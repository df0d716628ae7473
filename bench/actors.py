"""`atoll bench actors`: what tells, asks and actors cost, on each loop and beside the barest means of that loop.

The baseline of a tell is a deque that one parked task drains; of an ask, the same with a promise for the answer; of
an ask to another process, an echo of 64 bytes by TCP, and one by the barest ZeroMQ: CURVE, and blocking threads. Other
processes are reached twice: over plain TCP with nothing but the envelopes on it, and over a link as between two nodes
(ZeroMQ, CURVE). All figures of a loop come from one process in interleaved rounds; the first round is not counted. What
happens within the process is counted for each second of its CPU: it is never idle meanwhile, and so what else the host
does is left out.
"""

import gc
import os
import platform
import statistics
import time
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import psutil

from atoll.actors.runtime import Actor, ActorRef, ActorSystem, Address, handles
from atoll.bench import bars
from atoll.bench.actor_ends import (
    ANSWERER,
    ASKER,
    ASKER_KEY,
    CODEC,
    ECHO,
    ECHO_BYTES,
    ENVELOPES,
    HOST,
    Echo,
    Links,
    Ping,
    Pipe,
    Tick,
    ZeroMqEcho,
    open_links,
)
from atoll.bench.loops import LOOPS, available_loops, run_on
from atoll.bench.peers.actors import chosen, measured
from atoll.bench.peers.actors.contender import ALL, OURS, TITLES
from atoll.bench.processes import Process
from atoll.bench.report import BenchReport, Row, row
from atoll.bench.rounds import ROUNDS, WARM_UP_PART, Progress, silent
from atoll.transport.parking import Promise, PromiseFactory

DURATION_S = 20.0
STEPS = 18
"""Things measured in a round, spawning counted as three."""
IN_FLIGHT = 64
PIPELINED = 256
ACTORS = 1000
"""Spawned in each round, and measured together."""
BURST = 512
RAW = "deque and parked task"
"""The baseline of a tell, and the measure of the host's speed."""
OURS_BEGIN = (OURS, *(f"{loop}, {what}" for loop in LOOPS for what in ("tell", "ask", "spawn", "actor")))
LINK_S = 10.0
"""Within this a link comes up, or never."""

Figures = dict[str, list[float]]


class Idle(Actor):
    """What an actor costs when it does nothing."""

    @handles
    async def tick(self, message: Tick) -> None:
        """Do nothing."""


class RawBox:
    """A deque and one parked task: the least that a mailbox can be."""

    def __init__(self, new_promise: PromiseFactory) -> None:
        self.items: deque[Any] = deque()
        self.new_promise = new_promise
        self.parked: Promise | None = None
        self.handled = 0

    def put(self, item: Any) -> None:
        """Append, and wake the reader."""
        self.items.append(item)
        parked = self.parked
        if parked is not None:
            self.parked = None
            if not parked.done():
                parked.set_result(None)

    async def drain(self) -> None:
        """Take items for ever; a promise among them gets a result."""
        while True:
            while self.items:
                item = self.items.popleft()
                self.handled += 1
                if item is not None:
                    item.set_result(1)
            self.parked = self.new_promise()
            await self.parked

    async def ask(self) -> None:
        """Put a promise and await it."""
        promise = self.new_promise()
        self.put(promise)
        await promise


class Pace:
    """How often something was done: for each second of the clock, and for each of this process's CPU."""

    def __init__(self) -> None:
        self.count = 0
        self._began, self._cpu_began_s = time.perf_counter(), time.process_time()

    def end(self) -> None:
        """Stop both clocks."""
        self.per_s = self.count / (time.perf_counter() - self._began)
        self.per_cpu_s = self.count / (time.process_time() - self._cpu_began_s)


async def _told(tell: Callable[[], None], wait: Callable[[], Awaitable[None]], slice_s: float) -> Pace:
    """Tell in bursts, with the other side's turn between them, and until everything is handled."""
    pace, end = Pace(), time.perf_counter() + slice_s
    while not pace.count or time.perf_counter() < end:
        for _ in range(BURST):
            tell()
        pace.count += BURST
        await wait()
    pace.end()
    return pace


async def _asked(ask: Callable[[], Awaitable[Any]], in_flight: int, slice_s: float) -> Pace:
    pace, end = Pace(), time.perf_counter() + slice_s

    async def asker() -> None:
        while True:
            for _ in range(10):
                await ask()
            pace.count += 10
            if time.perf_counter() >= end:
                return

    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(asker)
    pace.end()
    return pace


def _add(figures: Figures, name: str, value: float) -> None:
    figures.setdefault(name, []).append(value)


async def _rounds(figures: Figures, slice_s: float, measure: Callable[[float], Awaitable[None]]) -> None:
    """Measure `ROUNDS` times, and once before to warm up."""
    await measure(slice_s * WARM_UP_PART)
    figures.clear()
    for _ in range(ROUNDS):
        await measure(slice_s)


async def _inside(slice_s: float) -> Figures:
    """Measure what happens within one process."""
    figures: Figures = {}
    async with ActorSystem(ASKER, CODEC) as system, anyio.create_task_group() as tasks:
        box = RawBox(system.new_promise)
        tasks.start_soon(box.drain)
        ref = await system.spawn(Echo, "echo")
        message, tick = Ping(1), Tick()

        async def box_emptied() -> None:
            while box.items:
                await anyio.lowlevel.checkpoint()

        async def emptied() -> None:
            while system.statistics()["mailboxes"]["echo"]["waiting"]:
                await anyio.lowlevel.checkpoint()

        async def measure(round_s: float) -> None:
            _add(figures, "raw tell", (await _told(lambda: box.put(None), box_emptied, round_s)).per_cpu_s)
            _add(figures, "tell", (await _told(lambda: ref.tell(tick), emptied, round_s)).per_cpu_s)
            for in_flight in (1, IN_FLIGHT):
                _add(figures, f"raw ask {in_flight}", (await _asked(box.ask, in_flight, round_s)).per_cpu_s)
                _add(
                    figures, f"ask {in_flight}", (await _asked(lambda: ref.ask(message), in_flight, round_s)).per_cpu_s
                )
            await _spawn(system, figures)

        await _rounds(figures, slice_s, measure)
        tasks.cancel_scope.cancel()
    return figures


async def _spawn(system: ActorSystem, figures: Figures) -> None:
    """Measure the time and the memory of actors before, at and after their work."""
    message = Tick()

    async def spawned() -> list[ActorRef]:
        return [await system.spawn(Idle, f"idle-{number}") for number in range(ACTORS)]

    async def worked(refs: Sequence[ActorRef]) -> None:
        for ref in refs:
            ref.tell(message)
        await refs[-1].ask(message)

    gc.collect()
    began = time.process_time()
    refs = await spawned()
    ready = time.process_time()
    await worked(refs)
    _add(figures, "spawn", (ready - began) / ACTORS * 1e6)
    _add(figures, "spawn and first message", (time.process_time() - began) / ACTORS * 1e6)
    for ref in refs:
        await system.stop(ref)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        refs = await spawned()
        _add(figures, "idle", (tracemalloc.get_traced_memory()[0] - before) / ACTORS)
        await worked(refs)
        # The loop lets go of an ended task some turns later.
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        gc.collect()
        _add(figures, "worked", (tracemalloc.get_traced_memory()[0] - before) / ACTORS)
    finally:
        tracemalloc.stop()
    for ref in refs:
        await system.stop(ref)


@asynccontextmanager
async def _connected(port: int, purpose: bytes) -> AsyncIterator[Any]:
    async with await anyio.connect_tcp(HOST, port) as stream:
        await stream.send(purpose)
        yield stream


async def _across(port: int, link_port: int, zeromq_port: int, slice_s: float) -> Figures:
    """Measure asks and tells to an actor of another process, over TCP and over a link, and the echoes beside them."""
    figures: Figures = {}
    async with (
        _connected(port, ECHO) as echo,
        _connected(port, ENVELOPES) as stream,
        open_links(ASKER_KEY) as transport,
        ActorSystem(ASKER, CODEC) as system,
        ActorSystem(ASKER, CODEC) as linked,
        anyio.create_task_group() as tasks,
    ):
        pipe, links, zeromq = Pipe(system, stream), Links(linked, transport), ZeroMqEcho(zeromq_port)
        for run_on_and_on in (pipe.send, pipe.receive, links.receive):
            tasks.start_soon(run_on_and_on)
        transport.dial(ANSWERER, HOST, link_port)
        with anyio.fail_after(LINK_S):
            await links.up.wait()
        there = Address(ANSWERER, "echo")
        message, data = Ping(1), bytes(ECHO_BYTES)

        async def echoed() -> None:
            await echo.send(data)
            got = 0
            while got < ECHO_BYTES:
                got += len(await echo.receive(ECHO_BYTES))

        async def measure(round_s: float) -> None:
            _add(figures, "raw p50", await _median_us(echoed, round_s))
            _add(figures, "raw zeromq p50", await _median_us(zeromq.once, round_s))
            raw = await _told(lambda: None, lambda: zeromq.once(BURST), round_s)
            _add(figures, "raw zeromq pipelined", raw.per_s)
            for way, ref in (("tcp", system.ref(there)), ("link", linked.ref(there))):

                async def asked(ref: ActorRef = ref) -> None:
                    await ref.ask(message)

                def tell(ref: ActorRef = ref) -> None:
                    ref.tell(message)

                _add(figures, f"{way} p50", await _median_us(asked, round_s))
                # The ask behind each burst of tells is answered when all of it is handled.
                for name, pace in (
                    ("pipelined", await _asked(asked, PIPELINED, round_s)),
                    ("tell", await _told(tell, asked, round_s)),
                ):
                    _add(figures, f"{way} {name}", pace.per_s)
                    _add(figures, f"{way} {name} CPU", 1e6 / pace.per_cpu_s)

        await _rounds(figures, slice_s, measure)
        zeromq.close()
        tasks.cancel_scope.cancel()
    return figures


async def _median_us(once: Callable[[], Awaitable[None]], slice_s: float) -> float:
    took = []
    end = time.perf_counter() + slice_s
    while (began := time.perf_counter()) < end:
        await once()
        took.append((time.perf_counter() - began) * 1e6)
    return statistics.median(took)


def _rows_inside(loop: str, figures: Figures) -> list[Row]:
    rows = []
    raw = row(f"{loop}, {RAW}", "1/CPU s", figures["raw tell"])
    rows += [raw, row(f"{loop}, tell", "1/CPU s", figures["tell"], against=raw)]
    for in_flight in (1, IN_FLIGHT):
        raw = row(f"{loop}, promise through a deque, {in_flight} in flight", "1/CPU s", figures[f"raw ask {in_flight}"])
        rows += [raw, row(f"{loop}, ask, {in_flight} in flight", "1/CPU s", figures[f"ask {in_flight}"], against=raw)]
    rows += [
        row(f"{loop}, spawn", "us CPU", figures["spawn"]),
        row(f"{loop}, spawn and first message", "us CPU", figures["spawn and first message"]),
        row(f"{loop}, actor that has not worked yet", "B", figures["idle"]),
        row(f"{loop}, actor that has just worked", "B", figures["worked"]),
    ]
    return rows


def _rows_across(loop: str, figures: Figures) -> list[Row]:
    raw = row(f"{loop}, TCP echo of {ECHO_BYTES} B, round trip p50", "us", figures["raw p50"])
    baselines = {
        "p50": row(f"{loop}, ZeroMQ echo of {ECHO_BYTES} B, round trip p50", "us", figures["raw zeromq p50"]),
        "pipelined": row(f"{loop}, ZeroMQ echo, {BURST} in flight", "1/s", figures["raw zeromq pipelined"]),
    }
    rows = [raw, *baselines.values()]
    for name, unit, figure in (
        ("ask another process{}, p50", "us", "p50"),
        (f"ask another process{{}}, {PIPELINED} in flight", "1/s", "pipelined"),
        (f"ask another process{{}}, {PIPELINED} in flight, CPU here", "us", "pipelined CPU"),
        ("tell another process{}", "1/s", "tell"),
        ("tell another process{}, CPU here", "us", "tell CPU"),
    ):
        over_tcp = row(
            f"{loop}, {name.format('')}", unit, figures[f"tcp {figure}"], against=raw if figure == "p50" else None
        )
        over_link = row(f"{loop}, {name.format(' by link')}", unit, figures[f"link {figure}"], against=over_tcp)
        rows += [over_tcp, over_link]
        if (zeromq := baselines.get(figure)) is not None:
            # The price of everything but ZeroMQ itself.
            rows.append(row(f"{over_link.name}, to ZeroMQ", unit, figures[f"link {figure}"], against=zeromq))
    return rows


def _judged(each: Row, speeds: Mapping[str, float]) -> Row:
    """Put a row of a loop beside those of other loops, and beside what is asked of it."""
    loop, _, figure = each.name.partition(", ")
    return replace(each, group=figure, bar=bars.ACTORS.get(figure), speed=speeds[loop])


def run(
    duration_s: float = DURATION_S,
    *,
    loops: Sequence[str] | None = None,
    peers: Sequence[str] = (),
    progress: Progress = silent,
) -> BenchReport:
    """Measure on every loop that is installed, or on those given; takes about `duration_s`, peers as much again.

    Raises:
        UsageError: A peer that was named is not here, or there is none of that name.
        Unreachable: Another process did not start, or ended.
    """
    here, absent = chosen(peers)
    loops = tuple(loops) if loops is not None else available_loops()
    slice_s = duration_s / (ROUNDS * len(loops) * STEPS)
    rows: list[Row] = []
    busy_before, own = psutil.cpu_times(), psutil.Process()
    own_before, began, others_s = own.cpu_times(), time.monotonic(), 0.0
    for loop in loops:
        progress(f"{loop}: within one process")
        rows += _rows_inside(loop, run_on(loop, _inside, slice_s))
        progress(f"{loop}: to another process")
        other = Process("atoll.bench.actor_ends", loop)
        try:
            ports = map(int, other.line().split())
            rows += _rows_across(loop, run_on(loop, _across, *ports, slice_s))
            others_s += other.cpu_s()
        finally:
            other.close()
    speeds = {
        loop: each.median / bars.DEQUE_AND_TASK_PER_S
        for loop in loops
        for each in rows
        if each.name == f"{loop}, {RAW}"
    }
    rows = [_judged(each, speeds) for each in rows]
    took_s, own_after = time.monotonic() - began, own.cpu_times()
    busy_after = psutil.cpu_times()
    busy_s = busy_after.user + busy_after.system - busy_before.user - busy_before.system
    own_s = own_after.user + own_after.system - own_before.user - own_before.system
    notes = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "rounds": f"{ROUNDS} of {slice_s:.3g} s each, after one of {WARM_UP_PART:g} of that which is not counted; "
        "ratios are taken round by round",
        "took": f"{took_s:.1f} s on {os.cpu_count()} cores",
        "CPU of this process and the other end": f"{own_s / took_s:.2f} and {others_s / took_s:.2f} cores",
        "CPU used by others meanwhile": f"{max(0.0, busy_s - own_s - others_s) / took_s:.2f} cores",
        "speed": f"of the host on which {RAW} did {bars.DEQUE_AND_TASK_PER_S / 1e6:g} M/s, for which bars were set",
        "memory": "as Python's allocators count it; what uvloop allocates in C is not in it",
    }
    if here:
        operations = sum(len(each.operations) for each in here) + len(TITLES)
        rows += measured(
            here, duration_s / (ROUNDS + WARM_UP_PART) / operations, progress, absent if ALL in peers else None
        )
        notes["peers"] = "after the loops, beside ours on uvloop; the CPU of others is that of the time before"
    notes |= {f"absent: {name}": reason for name, reason in absent.items()}
    return BenchReport("actors", rows, notes, ours=OURS_BEGIN)

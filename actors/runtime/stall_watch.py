"""Says when an event loop stands still because something in it does not come to an end, and where it is.

    loop    --beat, every BEAT_S-->  Stillness  <--look, every BEAT_S--  thread
            --WATCHDOG=1-->          the service manager, where it wants to be told (sd_watchdog_enabled(3))

An actor's handler that computes for ever holds up its whole process, as in any program with one event loop: links die,
others take over, and nobody sees why. The thread does, and the log has the line of the program. A service manager with
`WatchdogSec=` starts such a process again.
"""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import anyio

from atoll.transport.naps import beat

log = logging.getLogger("atoll.process")

BEAT_S = 1.0
STILL_S = 2.0
"""Longer than a busy host makes a loop wait, and shorter than the others take to declare a node dead."""
BUSY_RATIO = 0.5
"""Of a time in which not even the thread ran: with so much of a core used, it was this process and not the host."""
FRAMES = 5
"""Lines of the program that are told: the innermost is often a library's."""
WATCHDOG_BEATS = 3
"""So many beats come in the time after which the service manager loses patience."""


class Stillness:
    """What the beats tell of how long a loop has stood still; it has no clock, all times are monotonic seconds."""

    def __init__(self, now: float, cpu_s: float = 0.0) -> None:
        self._beaten_at = self._looked_at = now
        self._cpu_s = cpu_s
        self._still_s = 0.0
        """What was said last of how long the loop stands still; 0 while it runs."""

    def beat(self, now: float) -> None:
        """Note that the loop runs."""
        self._beaten_at = now

    def look(self, now: float, cpu_s: float, stack: Callable[[], str]) -> str:
        """Give what there is to say, or nothing; `cpu_s` is what the process has used, `stack` says where it is.

        Time in which the thread that looks did not run either is nobody's fault: the host slept, or had no time for
        this process. Unless the process used it: then something holds Python's lock.
        """
        looked_at, used_s = self._looked_at, cpu_s - self._cpu_s
        self._looked_at, self._cpu_s = now, cpu_s
        unseen_s = now - looked_at
        if unseen_s >= STILL_S and used_s < BUSY_RATIO * unseen_s:
            self._beaten_at = max(self._beaten_at, now)
        if (still_s := now - self._beaten_at) >= STILL_S:
            was_said, self._still_s = self._still_s > 0, still_s
            return "" if was_said else f"this process has stood still for {still_s:.1f} s: {stack()}"
        if self._still_s:
            lasted_s, self._still_s = self._still_s, 0.0
            return f"it goes on, after it stood still for about {lasted_s:.0f} s"
        if unseen_s >= STILL_S and used_s >= BUSY_RATIO * unseen_s:
            return f"this process stood still for about {unseen_s:.1f} s, in something that holds Python's lock"
        return ""


def where(thread: int) -> str:
    """Say where a thread is: the innermost line, and what called it."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and there is no other way
    if frame is None:
        return "its thread is gone"
    called = traceback.extract_stack(frame, limit=FRAMES)
    return ", called by ".join(f"{each.filename}:{each.lineno} in {each.name}" for each in reversed(called))


def watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Give how long the service manager waits for a sign of life; None: it does not."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    micros = environ.get("WATCHDOG_USEC", "")
    return int(micros) / 1e6 if micros.isdigit() and int(micros) else None


@asynccontextmanager
async def stall_watch(notify: Callable[[str], None] | None = None) -> AsyncIterator[None]:
    """Have it logged, by `atoll.process`, when the loop of this thread stands still; it takes a thread of its own.

    `notify` tells the service manager (sd_notify(3)); its signs of life are given only where it asks for them.
    """
    with _watched() as stillness:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_beat, stillness, notify)
            yield
            tasks.cancel_scope.cancel()


@contextmanager
def _watched() -> Iterator[Stillness]:
    stillness = Stillness(time.monotonic(), time.process_time())
    loop_thread, ended = threading.get_ident(), threading.Event()

    def look() -> None:
        while not ended.wait(BEAT_S):
            if said := stillness.look(time.monotonic(), time.process_time(), lambda: where(loop_thread)):
                log.warning("%s", said)

    thread = threading.Thread(target=look, name="stall watch", daemon=True)
    thread.start()
    try:
        yield stillness
    finally:
        ended.set()
        thread.join()


async def _beat(stillness: Stillness, notify: Callable[[str], None] | None) -> None:
    patience_s = watchdog_s(os.environ) if notify else None
    every_s = BEAT_S if patience_s is None else min(BEAT_S, patience_s / WATCHDOG_BEATS)
    while True:
        stillness.beat(time.monotonic())
        if notify and patience_s is not None:
            notify("WATCHDOG=1")
        await beat(every_s)

"""Tells how long this host stood still: what a test measures meanwhile is not what it tests.

    python -m atoll.testing.host_pauses

is a process of its own, so that nothing that is under test can hold it up: it wakes every `BEAT_S` and prints, for each
time that it woke too late, when that was (monotonic seconds) and by how many seconds. A virtual machine that is not
run, or that runs others, shows there.
"""

import os
import subprocess
import sys
import time
from collections import deque
from threading import Thread
from types import TracebackType
from typing import Self

BEAT_S = 0.01
PAUSE_S = 0.05
"""What is late by less is a busy host."""
TOLD_S = 0.1
PAUSES_MAX = 10_000


class HostPauses:
    """The times that the host stood still while the block lasts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str]
        self._reader = Thread(target=self._read, name="host pauses", daemon=True)
        self._pauses: deque[tuple[float, float]] = deque(maxlen=PAUSES_MAX)
        """When each ended, and how long it was."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)  # noqa: S603 - this module
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def longest_s(self, since: float = 0.0) -> float:
        """Give the longest one since a monotonic time, in seconds; waits until one that has just ended is told."""
        return max(self._since(since), default=0.0)

    def total_s(self, since: float) -> float:
        """Give all of them together, in seconds."""
        return sum(self._since(since))

    def most_s(self, stretch_s: float) -> float:
        """Give how much of any stretch of so many seconds it stood still at most.

        In the worst stretch a pause begins or ends, so no others are looked at.
        """
        pauses = self._told()
        begins = [at for ended, late_s in pauses for at in (ended - stretch_s, ended - late_s)]
        return max((sum(_overlap_s(at, at + stretch_s, each) for each in pauses) for at in begins), default=0.0)

    def _since(self, since: float) -> list[float]:
        return [late_s for ended, late_s in self._told() if ended > since]

    def _told(self) -> list[tuple[float, float]]:
        time.sleep(TOLD_S)
        return list(self._pauses)

    def _read(self) -> None:
        for line in self._process.stdout or ():
            ended, late_s = map(float, line.split())
            self._pauses.append((ended, late_s))


def _overlap_s(begins: float, ends: float, pause: tuple[float, float]) -> float:
    ended, late_s = pause
    return max(0.0, min(ends, ended) - max(begins, ended - late_s))


def main() -> None:
    """Print how late each wake is that is late, as long as the one who asked lives."""
    asked_by = os.getppid()
    while os.getppid() == asked_by:
        began = time.monotonic()
        time.sleep(BEAT_S)
        now = time.monotonic()
        if now - began - BEAT_S > PAUSE_S:
            print(f"{now:.3f} {now - began - BEAT_S:.3f}", flush=True)  # noqa: T201 - a program's output


if __name__ == "__main__":
    main()

"""Tells how long this host stood still: what a test measures meanwhile is not what it tests.

    python -m atoll.testing.host_pauses

is a process of its own, so that nothing that is under test can hold it up: it wakes every `BEAT_S` and prints, for each
time that it woke too late, by how many seconds. A virtual machine that is not run, or that runs others, shows there.
"""

import os
import subprocess
import sys
import time
from threading import Thread
from types import TracebackType
from typing import Self

BEAT_S = 0.01
PAUSE_S = 0.05
"""What is late by less is a busy host."""


class HostPauses:
    """The times that the host stood still while the block lasts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str]
        self._reader = Thread(target=self._read, name="host pauses", daemon=True)
        self._longest_s = 0.0

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

    def longest_s(self) -> float:
        """Give the longest one until now, in seconds; waits until one that has just ended is told."""
        time.sleep(2 * PAUSE_S)
        return self._longest_s

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._longest_s = max(self._longest_s, float(line))


def main() -> None:
    """Print how late each wake is that is late, as long as the one who asked lives."""
    asked_by = os.getppid()
    while os.getppid() == asked_by:
        began = time.monotonic()
        time.sleep(BEAT_S)
        late_s = time.monotonic() - began - BEAT_S
        if late_s > PAUSE_S:
            print(f"{late_s:.3f}", flush=True)  # noqa: T201 - a program's output


if __name__ == "__main__":
    main()

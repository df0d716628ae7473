"""Processes of a benchmark: started apart, measured from outside, and gone when the benchmark is.

    started --close()--> killed
            --the benchmark dies, however--> its end of the pipe closes --> the process ends itself

Each has a process group of its own, so that Ctrl-C reaches only the benchmark, which then ends them.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil

from atoll.transport.errors import Unreachable

ANSWER_TIMEOUT_S = 60.0
"""No operation takes a third of this, on a busy host either."""
ANSWER_BYTES_MAX = 1 << 20


def end_with_parent() -> None:
    """End this process when the one that started it is gone; for the started one, whose stdin is a pipe from it."""

    def wait() -> None:
        while os.read(0, 64):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


class Process:
    """`python -m module arguments`, in a process of its own."""

    def __init__(self, module: str, *arguments: str, descriptors: Sequence[int] = ()) -> None:
        self.name = module.rpartition(".")[2]
        self._process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
            process_group=0,
            text=True,
        )
        self.pid = self._process.pid

    def line(self) -> str:
        """Wait for the next line that the process prints.

        Raises:
            Unreachable: It ended instead.
        """
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise Unreachable(f"{self.name} did not start; its own message stands above")
        return line

    def cpu_s(self) -> float:
        """CPU seconds since its start, all threads, ended ones too."""
        # The process's CPU clock as clock_getcpuclockid(3) makes it on Linux: nanoseconds, where /proc has 10 ms ticks.
        return time.clock_gettime((~self.pid << 3) | 2)

    def rss_bytes(self) -> int:
        """Memory that is resident now."""
        return int(psutil.Process(self.pid).memory_info().rss)

    def close(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


class End(Process):
    """A process of `relay_ends`: takes commands and sockets, gives answers."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(ANSWER_TIMEOUT_S)
        self._doing = ""
        with theirs:
            super().__init__("atoll.bench.relay_ends", str(theirs.fileno()), descriptors=[theirs.fileno()])

    def begin(self, operation: str, *socks: socket.socket, **arguments: Any) -> None:
        """Start an operation on sockets, which belong to the process from then on."""
        self._doing = operation
        command = json.dumps({"do": operation, **arguments}).encode()
        socket.send_fds(self._control, [command], [sock.fileno() for sock in socks])
        for sock in socks:
            sock.close()

    def answer(self) -> dict[str, Any]:
        """Wait for what the operation gives.

        Raises:
            Unreachable: It failed, or takes far longer than it ever should.
        """
        try:
            data = self._control.recv(ANSWER_BYTES_MAX)
        except TimeoutError:
            raise Unreachable(f"{self._doing!r} gave no answer within {ANSWER_TIMEOUT_S:g} s") from None
        if not data:
            raise Unreachable(f"the process that did {self._doing!r} ended early; its own message stands above")
        answer: dict[str, Any] = json.loads(data)
        if failure := answer.get("failed"):
            raise Unreachable(f"{self._doing!r} failed: {failure}")
        return answer

    def do(self, operation: str, *socks: socket.socket, **arguments: Any) -> dict[str, Any]:
        """Begin an operation and wait for its answer."""
        self.begin(operation, *socks, **arguments)
        return self.answer()

    def close(self) -> None:
        """End it at once."""
        # In this order: it would complain if it were still there to see its commands end.
        super().close()
        self._control.close()

"""Runs one process of a cluster: tells when it is ready, keeps its log within bounds, and names it when it dies.

    started  --READY=1-->  ready  --stop-->  stopping  --ended, or killed after the grace-->  ended
    started, ready  --ends by itself-->  ended, and `on_death` is called at once

Readiness is told as systemd is told it: the process finds a unix datagram socket in `NOTIFY_SOCKET` and sends `READY=1`
there. No signal ever goes to a process that this module did not start.
"""

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process, TaskStatus, UNIXDatagramSocket

from atoll.testing.errors import NotReady, ProcessDied

LOG_BYTES_MAX = 4 * 1024 * 1024
"""Of each of two files: the current one and the one before."""
TAIL_LINES = 12
LINE_CHARACTERS_MAX = 400
REST_OF_LOG_S = 1.0
"""How long after its end the last lines of a process are waited for; a child of it may keep the pipe open."""


class BoundedLog:
    """A log file that is begun anew when it is full; the one before is kept as `NAME.1`."""

    def __init__(self, path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
        self.path = path
        self._bytes_max = bytes_max
        self._file = path.open("wb")
        self._written = 0
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial = ""

    def write(self, data: bytes) -> None:
        """Keep what a process said."""
        if self._written and self._written + len(data) > self._bytes_max:
            self._file.close()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._file = self.path.open("wb")
            self._written = 0
        self._file.write(data)
        self._file.flush()
        self._written += len(data)
        *lines, partial = (self._partial + data.decode("utf-8", "replace")).split("\n")
        self._tail += [line[:LINE_CHARACTERS_MAX] for line in lines]
        self._partial = partial[:LINE_CHARACTERS_MAX]

    def last_lines(self) -> list[str]:
        """Give the end of it."""
        return [*self._tail, self._partial] if self._partial else list(self._tail)

    def close(self) -> None:
        """Write no more."""
        self._file.close()


class ClusterProcess:
    """One process; `run` it in a task, once."""

    def __init__(self, name: str, kind: str, directory: Path) -> None:
        self.name = name
        self.kind = kind
        self.directory = directory
        self.pid = 0
        self.returncode: int | None = None
        self.ready = anyio.Event()
        self.ended = anyio.Event()
        self.said = ""
        """The last `STATUS=` it sent."""
        self.expected_to_end = False
        self._log: BoundedLog | None = None
        self._process: Process | None = None

    def __repr__(self) -> str:
        state = f"ended {self.returncode}" if self.ended.is_set() else "ready" if self.ready.is_set() else "starting"
        return f"<{self.kind} {self.name} pid={self.pid} {state}>"

    @property
    def log_file(self) -> Path:
        """Where all it says goes."""
        return self.directory / "log"

    @property
    def alive(self) -> bool:
        """It was started and has not ended."""
        return self.pid != 0 and not self.ended.is_set()

    def last_lines(self) -> list[str]:
        """Give the end of its log."""
        return self._log.last_lines() if self._log else []

    async def run(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        on_death: Callable[[ProcessDied], None],
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run it to its end. It is not ended by cancelling this task: `stop` or `kill` it."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log = BoundedLog(self.log_file)
        notify = self.directory / "notify"
        try:
            with anyio.CancelScope(shield=True):
                async with (
                    await anyio.create_unix_datagram_socket(local_path=notify, local_mode=0o600) as notices,
                    await anyio.open_process(
                        list(argv),
                        stdin=subprocess.DEVNULL,
                        stderr=subprocess.STDOUT,
                        env={**environment, "NOTIFY_SOCKET": str(notify)},
                        # A Ctrl-C at the terminal is for whoever started the cluster, who ends it in order.
                        start_new_session=True,
                    ) as process,
                ):
                    self._process, self.pid = process, process.pid
                    task_status.started()
                    await self._watch(process, notices)
        finally:
            self._log.close()
            self.ended.set()
        if not self.expected_to_end:
            on_death(self._death())

    async def _watch(self, process: Process, notices: UNIXDatagramSocket) -> None:
        if process.stdout is None:
            raise RuntimeError("the process has no stdout though one was asked for")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear, notices)
            log_read = anyio.Event()
            tasks.start_soon(self._keep_log, process.stdout, log_read)
            self.returncode = await process.wait()
            with anyio.move_on_after(REST_OF_LOG_S):
                await log_read.wait()
            tasks.cancel_scope.cancel()

    async def _hear(self, notices: UNIXDatagramSocket) -> None:
        while True:
            data, _ = await notices.receive()
            for line in data.decode("utf-8", "replace").splitlines():
                if line == "READY=1":
                    self.ready.set()
                elif line.startswith("STATUS="):
                    self.said = line.removeprefix("STATUS=")[:LINE_CHARACTERS_MAX]

    async def _keep_log(self, stream: ByteReceiveStream, done: anyio.Event) -> None:
        try:
            async for data in stream:
                if self._log is not None:
                    self._log.write(data)
        finally:
            done.set()

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until it says that it is ready.

        Raises:
            NotReady: It did not in time, or ended before.
        """
        with anyio.move_on_after(timeout_s):
            async with anyio.create_task_group() as tasks:

                async def until(event: anyio.Event) -> None:
                    await event.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(until, self.ready)
                tasks.start_soon(until, self.ended)
        if self.ready.is_set():
            return
        if self.ended.is_set():
            raise self._death()
        said = f" (it says: {self.said})" if self.said else ""
        raise NotReady(
            f"{self.kind} {self.name} was not ready within {timeout_s:g} s{said}", f"its log ends:\n{self._quoted()}"
        )

    async def stop(self, grace_s: float, first: signal.Signals = signal.SIGTERM) -> bool:
        """End it in order, or by force after `grace_s`; gives whether it went by itself."""
        self.signal(first)
        self.signal(signal.SIGCONT)  # Whoever was paused hears of nothing.
        with anyio.move_on_after(grace_s):
            await self.ended.wait()
            return True
        self.signal(signal.SIGKILL)
        await self.ended.wait()
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; from now on it may end."""
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self.expected_to_end = True
        if self._process is not None and self.alive and self._process.returncode is None:
            # Unreaped as long as there is no return code, so that the number is still its own.
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _death(self) -> ProcessDied:
        code = self.returncode
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return ProcessDied(f"{self.kind} {self.name} ended by itself {how}", f"its log ends:\n{self._quoted()}")

    def _quoted(self) -> str:
        return "\n".join(f"  | {line}" for line in self.last_lines()) or "  (it said nothing)"


def environment_of_processes() -> dict[str, str]:
    """Give the environment for a cluster's processes: this one's, without what would override their configs."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ATOLL_")}

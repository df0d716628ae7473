r"""Owns one worker process of a JavaScript service, from the node's side.

    open --Ready--> spare --load--> loaded --call, call, …--> loaded
      \\______________\\_______________\\_____________________________--kill, or its own end--> ended

What the worker says is checked before it is believed; a worker that breaks the protocol is killed. Whoever waits for
an answer when it ends gets `WorkerGone` with the reason.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.abc

from atoll.actors.container_manager.errors import FAULTS, Crashed, RuntimeMissing
from atoll.actors.container_manager.fields import field_fault
from atoll.actors.container_manager.messages import Headers, Pairs, ServiceReply
from atoll.actors.container_manager.runtimes import frames
from atoll.transport.errors import MalformedFrame

MODULE = "atoll.actors.container_manager.runtimes.javascript_worker"
INSTALL = "pip install 'atoll[wasm]'"
KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "SYSTEMROOT", "LANG")
"""What Python itself needs to start; the worker drops these too."""
STDERR_BYTES_MAX = 4096
MEMORY_BYTES_MAX = 32 * 1024 * 1024
LOAD_S = 5.0
PATIENCE_S = 0.5

Logs: TypeAlias = Callable[[tuple[tuple[frames.Stream, str], ...]], None]
Asks: TypeAlias = Callable[[frames.HttpAsk], Awaitable[frames.HttpAnswer]]


class WorkerGone(Exception):
    """The worker has ended; the text says why."""


class _Slot:
    """Where one answer will be put."""

    __slots__ = ("asks", "event", "frame")

    def __init__(self) -> None:
        self.event = anyio.Event()
        self.frame: frames.Frame | None = None
        self.asks = 0
        """HTTP requests of this call that are under way."""


class Worker:
    """One worker process. Start it with `tasks.start(worker.run)`; it returns there when the worker is ready."""

    def __init__(self, cache: Path) -> None:
        """Name the folder where workers keep the compiled engine; it must be the node's own."""
        self._cache = cache
        self._process: anyio.abc.Process | None = None
        self._pidfd: int | None = None
        self._slots: dict[int, _Slot] = {}
        self._loading = _Slot()
        self._sending = anyio.Lock()
        self._next = 1
        self._gone = ""
        self._killed = ""
        self._complaint = b""
        self.on_log: Logs = lambda _: None
        self.on_ask: Asks | None = None
        self.ended = anyio.Event()

    @property
    def pid(self) -> int | None:
        """The process id, once it runs."""
        return self._process.pid if self._process else None

    @property
    def gone(self) -> str:
        """Why it has ended; empty while it lives."""
        return self._gone or self._killed

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the process until it ends.

        Raises:
            RuntimeMissing: JavaScript is not installed on this host.
            WorkerGone: It ended before it was ready.
        """
        environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        # -P: what lies in the current folder must not be imported.
        command = [sys.executable, "-P", "-m", MODULE, str(self._cache)]
        try:
            # A cancelled start leaves uvloop a process that it neither ends nor waits for; a start takes milliseconds.
            with anyio.CancelScope(shield=True):
                process = await anyio.open_process(command, env=environment, start_new_session=True)
        except OSError as error:
            raise WorkerGone(f"a worker process cannot be started: {error.strerror}") from error
        self._process = process
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # It has ended already, or the kernel knows no pidfd.
                self._pidfd = os.pidfd_open(process.pid)
        ready = anyio.Event()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen_to_complaints)
                tasks.start_soon(self._report_ready, ready, task_status)
                await self._read(tasks, ready)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._reap()
        if not ready.is_set():
            raise self._stillborn()

    async def _report_ready(self, ready: anyio.Event, task_status: anyio.abc.TaskStatus[None]) -> None:
        await ready.wait()
        task_status.started()

    def _stillborn(self) -> Exception:
        failed = self._loading.frame
        if isinstance(failed, frames.Failed) and failed.missing:
            return RuntimeMissing(f"{failed.reason}; on this host run: {INSTALL}")
        return WorkerGone(self._gone)

    async def _read(self, tasks: anyio.abc.TaskGroup, ready: anyio.Event) -> None:
        assert self._process is not None and self._process.stdout is not None  # noqa: S101, PT018 - for the type checker
        splitter = frames.Splitter(frames.FromWorker)
        try:
            while True:
                for frame in splitter.feed(await self._process.stdout.receive()):
                    if isinstance(frame, frames.Ready):
                        ready.set()
                    else:
                        self._take(frame, tasks)
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            pass  # It ended; `_reap` finds out why.
        except MalformedFrame as error:
            self.kill(f"its worker broke the protocol: {error}")

    def _take(self, frame: frames.Frame, tasks: anyio.abc.TaskGroup) -> None:
        match frame:
            case frames.Replied(call=call) | frames.Faulted(call=call):
                self._put(self._slots.get(call), frame)
            case frames.Loaded() | frames.Failed():
                self._put(self._loading, frame)
            case frames.Logged(lines=lines):
                self.on_log(lines)
            case frames.HttpAsk(call=call):
                if (slot := self._slots.get(call)) is not None:
                    self._begin_to_fetch(frame, slot, tasks)

    def _put(self, slot: _Slot | None, frame: frames.Frame) -> None:
        if slot is not None and slot.frame is None:
            slot.frame = frame
            slot.event.set()

    def _begin_to_fetch(self, ask: frames.HttpAsk, slot: _Slot, tasks: anyio.abc.TaskGroup) -> None:
        if slot.asks >= frames.ASKS_PER_CALL_MAX:
            # The worker keeps this limit itself; whoever breaks it is no worker of ours any more.
            self.kill(f"its worker broke the protocol: more than {frames.ASKS_PER_CALL_MAX} requests of one call")
            return
        slot.asks += 1
        tasks.start_soon(self._fetch, ask, slot)

    async def _fetch(self, ask: frames.HttpAsk, slot: _Slot) -> None:
        try:
            if self.on_ask is None:
                answer = frames.HttpAnswer(ask.call, ask.token, error="this node gives services no way out")
            else:
                answer = await self.on_ask(ask)
        finally:
            slot.asks -= 1
        with contextlib.suppress(WorkerGone):
            await self._send(answer)

    async def _listen_to_complaints(self) -> None:
        assert self._process is not None and self._process.stderr is not None  # noqa: S101, PT018 - for the type checker
        with contextlib.suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                self._complaint = (self._complaint + await self._process.stderr.receive())[-STDERR_BYTES_MAX:]

    async def load(self, code: str, env: Pairs, info: Pairs, storage: Path, *, memory_bytes_max: int) -> None:
        """Make it the worker of a service.

        Raises:
            Crashed: The program cannot be loaded (its author's fault).
            WorkerGone: The worker ended meanwhile.
        """
        await self._send(frames.Load(code, env, info, str(storage), memory_bytes_max, LOAD_S))
        frame = await self._answer(self._loading)
        if isinstance(frame, frames.Failed):
            raise Crashed(f"the program cannot be loaded: {frame.reason}")

    async def call(self, method: str, url: str, headers: Headers, body: bytes, *, budget_s: float) -> ServiceReply:
        """Hand it one call and wait for the answer. The caller keeps the time and calls `kill` when it is over.

        Raises:
            ServiceFault: Threw, overran or crashed, as the worker says.
            WorkerGone: The worker ended meanwhile.
        """
        call, self._next = self._next, self._next + 1
        slot = self._slots[call] = _Slot()
        answered = False
        try:
            await self._send(frames.Call(call, method, url, headers, body, budget_s))
            frame = await self._answer(slot)
            answered = True
        finally:
            del self._slots[call]
            if not answered and not self.gone:
                with anyio.CancelScope(shield=True), anyio.move_on_after(1), contextlib.suppress(WorkerGone):
                    await self._send(frames.Cancel(call))
        if isinstance(frame, frames.Replied):
            if fault := field_fault(frame.headers):
                raise Crashed(f"the service answered with what cannot be sent: {fault}")
            return ServiceReply(frame.status, frame.headers, frame.body)
        assert isinstance(frame, frames.Faulted)  # noqa: S101 - `_take` puts nothing else there
        raise FAULTS.get(frame.fault, Crashed)(frame.reason)

    async def _answer(self, slot: _Slot) -> frames.Frame:
        await slot.event.wait()
        if slot.frame is None:
            raise WorkerGone(self.gone)
        return slot.frame

    async def _send(self, frame: frames.Frame) -> None:
        if self.gone or self._process is None or self._process.stdin is None:
            raise WorkerGone(self.gone or "the worker was not started")
        try:
            async with self._sending:
                # Half a frame would garble all that follow.
                with anyio.CancelScope(shield=True):
                    await self._process.stdin.send(frames.pack(frame))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            await self.ended.wait()
            raise WorkerGone(self.gone) from error

    def kill(self, reason: str) -> None:
        """End the process now; harmless when it has ended."""
        self._killed = self._killed or reason
        if self._process is not None and not self._gone:
            self._end()

    def _end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                # `Popen.kill` polls first, and so takes the exit code away from asyncio when the process just ended.
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            else:
                self._process.kill()

    async def _reap(self) -> None:
        """Wait for the end of the process, and wake everybody who waits for an answer."""
        assert self._process is not None  # noqa: S101 - for the type checker
        if self._process.stdin is not None:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                await self._process.stdin.aclose()
        # With its stdin closed a worker ends by itself; one that is busy with a call does not, and one without a
        # program has nothing to end in order.
        if not self._killed and isinstance(self._loading.frame, frames.Loaded):
            with anyio.move_on_after(PATIENCE_S):
                await self._process.wait()
        self._end()
        code = await self._process.wait()
        await self._process.aclose()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        self._gone = self._killed or self._obituary(code)
        self.ended.set()
        for slot in (*self._slots.values(), self._loading):
            slot.event.set()

    def _obituary(self, code: int) -> str:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        last = self._complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"its worker {how}{': ' + last[:300] if last else ''}"

"""Carries out what one container's lifecycle decides: workers, calls, timers.

    a fact --Lifecycle--> effects --performed here, in order--> worker, timers, waiting callers

It decides nothing itself. A caller waits in `call`; it is woken by Dispatch (then it talks to the worker) or by Fail.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import anyio.abc

from atoll.actors.container_manager.console import Console
from atoll.actors.container_manager.errors import FAULTS, ContainerError, Crashed, ServiceFault, Threw
from atoll.actors.container_manager.images import ContainerRecord
from atoll.actors.container_manager.lifecycle import (
    CallArrived,
    CallEnded,
    Dispatch,
    Effect,
    EndWorker,
    Fact,
    Fail,
    Launch,
    Lifecycle,
    Limits,
    WorkerEnded,
    WorkerReady,
)
from atoll.actors.container_manager.messages import Headers, Pairs, ServiceReply
from atoll.actors.container_manager.runtimes.javascript import Asks, Worker, WorkerGone
from atoll.actors.container_manager.timers import Timers
from atoll.actors.runtime.machine import Arm, Disarm, TimerFired


class Surroundings(Protocol):
    """What an instance needs of `Containers`."""

    tasks: anyio.abc.TaskGroup
    timers: Timers
    memory_bytes_max: int

    async def take_worker(self) -> Worker: ...

    async def read_program(self, record: ContainerRecord) -> str: ...


@dataclass(slots=True, eq=False)
class _Waiter:
    woken: anyio.Event
    worker: Worker | None = None
    fault: ServiceFault | None = None

    def fail(self, fault: ServiceFault) -> None:
        if self.fault is None:
            self.fault = fault
            self.woken.set()


class Instance:
    """One container and what runs for it."""

    def __init__(
        self,
        record: ContainerRecord,
        surroundings: Surroundings,
        *,
        limits: Limits,
        console: Console,
        info: Pairs,
        storage: Path,
        on_ask: Asks | None,
    ) -> None:
        self.record = record
        self.lifecycle = Lifecycle(limits)
        self.console = console
        self.info = info
        self.storage = storage
        self.used_at = anyio.current_time()
        """When its last call ended."""
        self._around = surroundings
        self._on_ask = on_ask
        self._waiters: dict[int, _Waiter] = {}
        self._next_call = 1
        self.worker: Worker | None = None
        self._launching: anyio.CancelScope | None = None

    def tell(self, fact: Fact) -> None:
        """Tell the lifecycle a fact and do what it decides."""
        for effect in self.lifecycle.handle(fact, anyio.current_time()):
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Arm(name, after):
                self._around.timers.set((self, name), after, lambda: self.tell(TimerFired(name)))
            case Disarm(name):
                self._around.timers.drop((self, name))
            case Dispatch(call):
                if (waiter := self._waiters.get(call)) is not None:
                    waiter.worker = self.worker
                    waiter.woken.set()
            case Fail(call, fault, reason):
                if (waiter := self._waiters.get(call)) is not None:
                    waiter.fail(FAULTS[fault](reason))
            case Launch():
                self._launching = anyio.CancelScope()
                self._around.tasks.start_soon(self._launch, self._launching)
            case EndWorker(reason):
                self._end_worker(reason)

    async def call(self, method: str, url: str, headers: Headers, body: bytes) -> ServiceReply:
        """Have the service answer one request.

        Raises:
            ServiceFault: It did not; the subclass says why.
        """
        call, self._next_call = self._next_call, self._next_call + 1
        waiter = self._waiters[call] = _Waiter(anyio.Event())
        deadline = anyio.current_time() + self.lifecycle.limits.call_s
        answered = False
        try:
            self.tell(CallArrived(call))
            await waiter.woken.wait()
            if waiter.worker is None:
                raise waiter.fault or Crashed("its worker is gone")
            budget_s = deadline - anyio.current_time()
            try:
                reply = await waiter.worker.call(method, url, headers, body, budget_s=budget_s)
            except WorkerGone as error:
                self._worker_ended(waiter.worker, str(error))
                raise waiter.fault or Crashed(str(error)) from None
            except Threw:
                answered = True
                raise
            answered = True
        except ServiceFault as fault:
            self.console.note(f"{method} {url[:200]}: {fault.status}: {str(fault).partition(chr(10))[0]}")
            raise
        else:
            return reply
        finally:
            del self._waiters[call]
            self.used_at = anyio.current_time()
            self.tell(CallEnded(call, answered))

    async def _launch(self, scope: anyio.CancelScope) -> None:
        with scope:
            worker: Worker | None = None
            try:
                worker = await self._around.take_worker()
                worker.on_log = self.console.write
                worker.on_ask = self._on_ask
                code = await self._around.read_program(self.record)
                await worker.load(
                    code, self.record.env, self.info, self.storage, memory_bytes_max=self._around.memory_bytes_max
                )
            except (ContainerError, WorkerGone) as error:
                if worker is not None:
                    worker.kill(str(error))
                self.console.note(str(error))
                if not scope.cancel_called:
                    self.tell(WorkerEnded(str(error)))
                return
            except BaseException:
                if worker is not None:
                    worker.kill("it is not needed any more")
                raise
            self.worker = worker
            self._around.tasks.start_soon(self._watch, worker)
            self.tell(WorkerReady())

    async def _watch(self, worker: Worker) -> None:
        await worker.ended.wait()
        self._worker_ended(worker, worker.gone)

    def _worker_ended(self, worker: Worker, reason: str) -> None:
        if self.worker is worker:
            self.worker = None
            self.console.note(reason)
            self.tell(WorkerEnded(reason))

    def _end_worker(self, reason: str) -> None:
        if self._launching is not None:
            self._launching.cancel()
        if (worker := self.worker) is not None:
            self.worker = None
            worker.kill(reason)

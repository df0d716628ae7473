"""The worker processes of a node: so many at most, and one that is warm before it is wanted.

    nobody needs one --want--> a spare is made --take--> somebody's; the next spare is made when one is wanted again
                                               --SPARE_S without a taker--> ended
                            --MAKE_S without an engine--> ended
    somebody takes one while there is none --made--> somebody's   --who wanted it gives up before--> the spare

Compiling the engine takes most of the 0.7 s that a worker needs to start; the spare has done it. On a host that is slow
or busy it takes many seconds, and goes on when nobody waits any more: ended then, it would begin anew for the next.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc

from atoll.actors.container_manager.errors import RuntimeMissing
from atoll.actors.container_manager.runtimes.javascript import Worker, WorkerGone
from atoll.actors.container_manager.timers import Timers

log = logging.getLogger("atoll.containers")

WORKERS_MAX = 16
"""About 80 MB each."""
SPARE_S = 300.0
MAKE_S = 120.0
"""A worker that has no engine by then hangs, and is ended: everybody who wants one waits for the spare. It took 37 s on
a host where others were at work."""


@dataclass(slots=True, eq=False)
class _Order:
    """One worker, from when it is wanted until its process has ended."""

    spare: bool
    """For nobody yet."""
    worker: Worker | None = None
    error: RuntimeMissing | WorkerGone | None = None
    settled: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class Workshop:
    """Makes workers and counts them."""

    def __init__(
        self,
        tasks: anyio.abc.TaskGroup,
        timers: Timers,
        cache: Path,
        *,
        workers_max: int = WORKERS_MAX,
        spare_s: float = SPARE_S,
        make_s: float = MAKE_S,
    ) -> None:
        self._tasks = tasks
        self._timers = timers
        self._cache = cache
        self._workers_max = workers_max
        self._spare_s, self._make_s = spare_s, make_s
        self._orders: set[_Order] = set()
        self._spare: Worker | None = None
        self._making: _Order | None = None
        """The spare, while it is being made."""

    @property
    def alive(self) -> int:
        """How many worker processes there are, the spare and those that are being started among them."""
        return len(self._orders)

    @property
    def full(self) -> bool:
        """Whether one more worker would be too many; the spare is not counted, for it can be taken."""
        return self.alive - (self._spare is not None) >= self._workers_max

    @property
    def spare_ready(self) -> bool:
        """Whether a warm worker waits."""
        return self._spare is not None and not self._spare.gone

    def want(self) -> None:
        """Have a spare soon; also keeps the one there is for a while longer."""
        if self._spare is not None and self._spare.gone:
            self._spare = None
        if self._spare is not None:
            self._timers.set("spare", self._spare_s, self._end_spare)
        elif self._making is None and self.alive < self._workers_max:
            self._making = self._order(spare=True)

    def _order(self, *, spare: bool) -> _Order:
        order = _Order(spare)
        # Counted before its task begins: several may want one in the same moment.
        self._orders.add(order)
        self._tasks.start_soon(self._fill, order)
        return order

    async def _fill(self, order: _Order) -> None:
        worker = Worker(self._cache)
        try:
            order.scope.deadline = anyio.current_time() + self._make_s
            with order.scope:
                await self._tasks.start(self._run, order, worker)
                order.worker = worker
            if order.worker is None:
                order.error = WorkerGone(f"its worker had no engine within {self._make_s:g} s")
        except (RuntimeMissing, WorkerGone) as error:
            order.error = error
            # Nobody hears it of a spare: whoever needs a worker then makes one, and gets the error.
            log.debug("no worker: %s", error)
        finally:
            if order.worker is None:
                self._orders.discard(order)
            if order.spare:
                self._making = None
                if order.worker is not None:
                    self._put_by(order.worker)
            order.settled.set()

    def _leave(self, order: _Order) -> None:
        """Make a spare of a worker that nobody waits for any more, unless there is one, or will be."""
        wanted = self._making is None and not self.spare_ready
        if not order.settled.is_set():
            if wanted:
                order.spare, self._making = True, order
            else:
                order.scope.cancel()
        elif order.worker is not None:
            if wanted:
                self._put_by(order.worker)
            else:
                order.worker.kill("nobody needed it")

    def _put_by(self, worker: Worker) -> None:
        self._spare = worker
        self._timers.set("spare", self._spare_s, self._end_spare)

    def _end_spare(self) -> None:
        if (worker := self._spare) is not None:
            self._spare = None
            worker.kill("nobody needed it")

    async def take(self) -> Worker:
        """Give a worker that has no program yet.

        Raises:
            RuntimeMissing: JavaScript is not installed.
            WorkerGone: It cannot be started, or there are too many.
        """
        if self._making is not None:
            await self._making.settled.wait()
        worker, self._spare = self._spare, None
        self._timers.drop("spare")
        if worker is not None and not worker.gone:
            return worker
        if self.alive >= self._workers_max:
            raise WorkerGone(f"all {self._workers_max} workers of this node are busy; try again soon")
        order = self._order(spare=False)
        try:
            await order.settled.wait()
        except BaseException:
            self._leave(order)
            raise
        if order.worker is None:
            raise order.error or WorkerGone("this node's containers end")
        return order.worker

    async def _run(self, order: _Order, worker: Worker, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            await worker.run(task_status=task_status)
        finally:
            self._orders.discard(order)

"""Tasks that actors borrow while they have something to do: as many as there are actors that wait within a handler.

    free --called, as actors have messages--> lent to one actor after the other --none is left--> lingers with the last
    lingers --the actor has a message--> lent to it --none is left--> lingers
            --called, as other actors have messages--> lent to them
            --the actor is stopped--> free
    lent --its actor ended, or keeps background tasks--> gone with it

A task that lingers is free as well. Its actor finds it with the next message: that costs less than to call one.

An actor that waits holds its task, and must hold up nobody: before a task turns to an actor and others are left, the
next task is called, for the next turn of the loop; mostly it finds nothing to do any more.
"""

import contextvars
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from atoll.actors.runtime.errors import sole_error
from atoll.transport.parking import Promise, PromiseFactory

if TYPE_CHECKING:
    from atoll.actors.runtime.cell import Cell

FREE_MAX = 16
"""Tasks of a branch that are kept for the next messages; while more actors wait within handlers there are more."""


class Workers:
    """The tasks of one branch."""

    def __init__(self, group: anyio.abc.TaskGroup, new_promise: PromiseFactory) -> None:
        self._group, self.new_promise = group, new_promise
        self.ready: deque[Cell] = deque()
        """Actors with messages and without a task; whoever enters one calls, unless a task is called already."""
        self.free: list[Promise] = []
        """What the tasks wait on that have nothing to do; who has waited longest is called first."""
        self.called = False
        """Whether a task is on its way to see who is ready."""
        self._context = contextvars.copy_context()

    def call(self) -> None:
        """Let a task come in the next turn; for when none is on its way."""
        self.called = True
        for parked in self.free:
            # Those that are done are woken by their own actor, and are taken out when they come.
            if not parked.done():
                self.free.remove(parked)
                parked.set_result(True)
                return
        # In the branch's own context: that of whoever told the message has nothing to do with other actors.
        self._context.run(partial(self._group.start_soon, Worker(self).run, name="actors"))


class Worker:
    """One task."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.free = workers.free
        self._cell: Cell | None = None
        self._left = 0
        """How many of those who are ready are to be served in this turn of the loop."""

    def come(self) -> None:
        """See who is ready: not those who become so meanwhile, as the loop must have its turn."""
        self._workers.called = False
        self._left = len(self._workers.ready)

    def park(self) -> Promise | None:
        """Let the task wait with the actor that it has; gives True when the task is called to others.

        None when it must leave the actor at once: others are ready, or it left something in the context, which is
        nothing for others, or there are enough tasks without this one.
        """
        workers = self._workers
        if workers.ready or len(self.free) >= FREE_MAX or contextvars.copy_context() != self._context:
            return None
        parked = workers.new_promise()
        self.free.append(parked)
        return parked

    async def run(self) -> None:
        error: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                await self._serve(tasks)
                tasks.cancel_scope.cancel()
        except Exception as raised:
            if self._cell is None:
                raise
            error = sole_error(raised)
        except BaseException:
            # The whole branch is torn down. Others who are ready see that by themselves: a task that is called comes.
            if self._cell is not None:
                self._cell.torn_down()
            raise
        if self._cell is not None:
            self._cell.ended(error)

    async def _serve(self, tasks: anyio.abc.TaskGroup) -> None:
        """Serve who is ready, until the actor in hand ends or there are enough tasks without this one."""
        workers, ready = self._workers, self._workers.ready
        self._context = contextvars.copy_context()
        self.come()
        while True:
            while self._left and ready:
                self._left -= 1
                self._cell = ready.popleft()
                if ready and not workers.called:
                    workers.call()
                if not await self._cell.work(tasks, self):
                    return
                self._cell = None
                if contextvars.copy_context() != self._context:
                    return
            if len(self.free) >= FREE_MAX:
                return
            parked = workers.new_promise()
            self.free.append(parked)
            await parked
            self.come()

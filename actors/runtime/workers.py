"""Tasks that actors borrow while they have something to do: as many as there are actors that wait within a handler.

    free --called, as an actor has messages--> lent to one actor after the other --none is left--> free
                                               --its actor ended, or keeps background tasks--> gone with it

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
        """What the tasks wait on that have nothing to do."""
        self.called = False
        """Whether a task is on its way to see who is ready."""
        self._context = contextvars.copy_context()

    def call(self) -> None:
        """Let a task come in the next turn; for when none is on its way."""
        self.called = True
        while self.free:
            parked = self.free.pop()
            if not parked.done():
                parked.set_result(None)
                return
        # In the branch's own context: that of whoever told the message has nothing to do with other actors.
        self._context.run(partial(self._group.start_soon, _Worker(self).run, name="actors"))


class _Worker:
    """One task."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._cell: Cell | None = None

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
        workers, ready, context = self._workers, self._workers.ready, contextvars.copy_context()
        while True:
            workers.called = False
            # Not those who become ready meanwhile: the loop must have its turn.
            for _ in range(len(ready)):
                if not ready:
                    break
                self._cell = cell = ready.popleft()
                if ready and not workers.called:
                    workers.call()
                if not await cell.work(tasks):
                    return
                self._cell = None
                if contextvars.copy_context() != context:
                    # What a handler left in its context is nothing for other actors.
                    return
            if len(workers.free) >= FREE_MAX:
                return
            parked = workers.new_promise()
            workers.free.append(parked)
            await parked

"""Parks one task until somebody sets a result: an asyncio future, or the same for trio.

    waiting --set_result--> done
    waiting --the waiter is cancelled--> done

`anyio.Event` serves any number of tasks and costs several times as much; every message of an idle actor parks and wakes
once, so here the loops' own means are used. Only ever from the loop's own thread.
"""

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias


class Promise(Protocol):
    """One result for one waiting task; `await` it at most once."""

    def done(self) -> bool:
        """Tell whether the result is set or nobody waits any more; `set_result` is then an error."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Wake the waiter, or let it pass when it comes."""
        ...

    def __await__(self) -> Generator[Any, None, Any]: ...


PromiseFactory: TypeAlias = Callable[[], Promise]


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """Give the loop that runs here, if it is one of asyncio's."""
    try:
        # A trio guest of asyncio has a running asyncio loop, but no task of it.
        return asyncio.get_running_loop() if asyncio.current_task() is not None else None
    except RuntimeError:
        return None


def promise_factory() -> PromiseFactory:
    """Give what makes promises on the loop that runs here."""
    loop = asyncio_loop()
    return _trio_promises() if loop is None else loop.create_future


def _trio_promises() -> PromiseFactory:
    from trio import lowlevel  # noqa: PLC0415 - trio is an extra, and is here only if the loop is trio's

    class TrioPromise:
        """A promise of trio's: the waiting task, or the result."""

        __slots__ = ("_done", "_result", "_task")

        def __init__(self) -> None:
            self._done = False
            self._result: Any = None
            self._task: lowlevel.Task | None = None

        def done(self) -> bool:
            return self._done

        def set_result(self, result: Any, /) -> None:
            self._done = True
            self._result = result
            if self._task is not None:
                lowlevel.reschedule(self._task)
                self._task = None

        def _abort(self, _raise_cancel: Any) -> lowlevel.Abort:
            self._done = True
            self._task = None
            return lowlevel.Abort.SUCCEEDED

        def __await__(self) -> Generator[Any, None, Any]:
            if not self._done:
                self._task = lowlevel.current_task()
                yield from lowlevel.wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105 - as `await` does
            return self._result

    return TrioPromise

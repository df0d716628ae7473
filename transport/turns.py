"""Does something in the next turn of the event loop, once, however often it is wanted: what one turn brings is batched.

    idle --want()--> wanted --the next turn--> done, and again in the turn after it while there is more --> idle

On asyncio's loops that is a callback, which costs half of waking a task; trio has none, so there it is a parked task.
"""

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import anyio.lowlevel

from atoll.transport.parking import Promise, asyncio_loop, promise_factory

Act: TypeAlias = Callable[[], bool]
"""Does what there is, also what is wanted meanwhile; True when it stopped to give others their turn."""


class NextTurn:
    """Calls `act` while `run` runs; what is wanted before that is done when it begins."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self._wanted = False
        self._wake: Callable[[], object] | None = None

    def want(self) -> None:
        """Let it be done in the next turn."""
        if not self._wanted:
            self._wanted = True
            if self._wake is not None:
                self._wake()

    async def run(self) -> None:
        """Do what is wanted, for ever; cancel it. What `act` raises is raised here."""
        loop = asyncio_loop()
        try:
            await (self._run_parked() if loop is None else self._run_called(loop))
        finally:
            self._wake = None

    async def _run_called(self, loop: asyncio.AbstractEventLoop) -> None:
        failed: asyncio.Future[None] = loop.create_future()

        def called() -> None:
            if failed.done():
                return
            try:
                self._wanted = self._act()
            except BaseException as error:  # noqa: BLE001 - raised where somebody waits
                failed.set_exception(error)
            else:
                if self._wanted:
                    wake()

        # Always the same context: not that of who wants it, which would be copied each time.
        self._wake = wake = partial(loop.call_soon, called, context=contextvars.copy_context())
        if self._wanted:
            wake()
        await failed

    async def _run_parked(self) -> None:
        new_promise = promise_factory()
        parked: Promise | None = None

        def wake() -> None:
            if parked is not None and not parked.done():
                parked.set_result(None)

        self._wake = wake
        while True:
            if self._wanted:
                await anyio.lowlevel.checkpoint()
            else:
                parked = new_promise()
                await parked
            self._wanted = self._act()

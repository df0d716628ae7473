"""Looks after a descriptor for as long as it is there: a callback on asyncio's loops, a wait after the other on trio.

`anyio.wait_readable` tells the kernel of the descriptor anew for each wait, and then wakes a task that does the work;
with a callback that stays, a round trip over a link takes a fifth less.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import anyio
import anyio.lowlevel

from atoll.transport.parking import asyncio_loop

Look: TypeAlias = Callable[[], bool]
"""Takes what has come, a turn's worth at most; True when there may be more already."""

_WITHOUT_READERS = tuple(filter(None, [getattr(asyncio, "ProactorEventLoop", None)]))
"""Windows' own loop, for which anyio keeps a thread."""


async def keep_looking(descriptor: int, look: Look) -> None:
    """Call `look` now, and whenever the descriptor is readable or the last look said that there is more.

    It never returns; cancel it. What `look` raises is raised here.
    """
    loop = asyncio_loop()
    if loop is not None and not isinstance(loop, _WITHOUT_READERS):
        await _called_by(loop, descriptor, look)
        return
    while True:
        while look():
            await anyio.lowlevel.checkpoint()
        await anyio.wait_readable(descriptor)


async def _called_by(loop: asyncio.AbstractEventLoop, descriptor: int, look: Look) -> None:
    failed: asyncio.Future[None] = loop.create_future()

    def called() -> None:
        if failed.done():
            return
        try:
            if look():
                loop.call_soon(called)
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits
            failed.set_exception(error)

    loop.add_reader(descriptor, called)
    try:
        called()
        await failed
    finally:
        loop.remove_reader(descriptor)

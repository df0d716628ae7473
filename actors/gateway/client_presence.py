"""To wait for something only while the client that asked for it is there."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from starlette.types import Receive

from atoll.actors.gateway.http_line import ClientGone

T = TypeVar("T")


async def while_there(receive: Receive, wait: Callable[[], Awaitable[T]]) -> T:
    """Wait, and give what came; begin it when the request's body was read.

    Raises:
        ClientGone: The client closed its connection, or was killed; `wait` was cancelled.
    """
    found: list[T] = []
    failed: list[Exception] = []
    async with anyio.create_task_group() as tasks:

        async def until_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(until_gone)
        try:
            found.append(await wait())
        except Exception as error:  # noqa: BLE001 - raised below, and not as a group
            failed.append(error)
        tasks.cancel_scope.cancel()
    if failed:
        raise failed[0]
    if not found:
        raise ClientGone("the client left before its answer")
    return found[0]

"""What a play tells: steps that were done, with how long they took."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from atoll.testing.errors import ClusterFault


@dataclass(frozen=True, slots=True)
class StepDone:
    """What happened."""

    what: str
    took_s: float
    detail: str
    ok: bool


async def step(what: str, doing: Callable[[], Awaitable[str]]) -> StepDone:
    """Do it and time it; `doing` gives what was seen, or raises `ClusterFault` when it is not as it should be."""
    at = anyio.current_time()
    try:
        detail, ok = await doing(), True
    except ClusterFault as error:
        detail, ok = str(error), False
    return StepDone(what, anyio.current_time() - at, detail, ok)

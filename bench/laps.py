"""How long an end of a measurement goes on: for its time, and often enough that there is something to measure."""

import time
from collections.abc import Iterator


def laps(duration_s: float, least: int = 1) -> Iterator[None]:
    """Go round until the time is over, and at least so often: a host may stand still for longer than a short round."""
    until = time.monotonic() + duration_s
    for _ in range(least):
        yield
    while time.monotonic() < until:
        yield

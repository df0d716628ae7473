"""How long to wait so that a loop does not wake too early."""

import math

TICKS_PER_S = 1000
"""Of the clock of uvloop, which has whole milliseconds."""
SLACK_S = 1e-6
"""Floats are not exact."""


def nap_s(seconds: float) -> float:
    """Give a time that a loop waits for again and again, rounded up to whole ticks: at most 1 ms more.

    For `anyio.move_on_after`: uvloop rounds to the nearest tick, and anyio, awake a fraction too soon, waits again for
    0 ms until the next one: hundreds of turns of the loop a second in a node that does nothing.
    """
    return max(0.0, math.ceil(seconds * TICKS_PER_S) / TICKS_PER_S - SLACK_S)

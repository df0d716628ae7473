"""How to wait so that a loop wakes seldom: not too early, and for many things at once."""

import math
import os

import anyio

TICKS_PER_S = 1000
"""Of the clock of uvloop, which has whole milliseconds."""
SLACK_S = 1e-6
"""Floats are not exact."""
_PHASE_S = os.getpid() * 0.618 % 1.0
"""Processes of one host have one clock, and shall not all wake at once."""


def nap_s(seconds: float) -> float:
    """Give a time that a loop waits for again and again, rounded up to whole ticks: at most 1 ms more.

    For `anyio.move_on_after`: uvloop rounds to the nearest tick, and anyio, awake a fraction too soon, waits again for
    0 ms until the next one: hundreds of turns of the loop a second in a node that does nothing.
    """
    return max(0.0, math.ceil(seconds * TICKS_PER_S) / TICKS_PER_S - SLACK_S)


def until_beat_s(now: float, period_s: float) -> float:
    """Give the time to a multiple of a period: about one period, between a half and one and a half."""
    # A loop may wake just before the time: that beat is over then, and not yet to come.
    return (math.floor(now / period_s + 0.5) + 1) * period_s - now


async def beat(period_s: float) -> None:
    """Sleep until the next beat of this period, for looks that need no exact time.

    Those whose periods divide each other come in one turn of the loop: to wake it costs more than most looks do (Linux
    rounds its timers of a second for the same reason, `round_jiffies`).
    """
    await anyio.sleep(until_beat_s(anyio.current_time() + _PHASE_S, period_s))

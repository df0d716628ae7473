"""Rings bells at times of the lease clock: the time-outs of asks and the timers of machines.

    asleep --the earliest alarm is due, or `LOOK_S` passed--> look --> asleep
    asleep --an earlier alarm is set--> look

One task serves all of them: an own timer or cancel scope for every ask would cost more than the ask. An alarm never
rings early, and two grains (2 ms) late at most. The loop's clock stops while a computer sleeps and the lease clock does
not, so no sleep lasts longer than `LOOK_S`.
"""

import heapq
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

import anyio

from atoll.actors.runtime.machine import Seconds
from atoll.transport.naps import nap_s
from atoll.transport.parking import Promise, PromiseFactory

GRAINS_PER_S = 1000
"""Alarms of the same millisecond ring together."""
LOOK_S = 1.0
"""A suspended computer is noticed this late at most, after it wakes."""

Clock: TypeAlias = Callable[[], Seconds]


def _lease_clock() -> Clock:
    # Linux has CLOCK_BOOTTIME. On macOS CLOCK_MONOTONIC goes on in sleep while time.monotonic does not; on Windows
    # time.monotonic does.
    number = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic if number is None else partial(time.clock_gettime, number)


lease_clock: Clock = _lease_clock()
"""Seconds that never go back and that go on while the computer sleeps; see docs on the election's lease."""


class Bell(Protocol):
    """Something an alarm rings."""

    def ring(self) -> None:
        """Take notice; quick, and never raises."""
        ...


Grain: TypeAlias = set[Bell]
"""Those who ring in the same millisecond. Discarding a bell that has rung is harmless."""


class Alarms:
    """Any number of bells, each set to a time."""

    def __init__(self, clock: Clock, new_promise: PromiseFactory) -> None:
        self._clock = clock
        self._new_promise = new_promise
        self._grains: dict[int, Grain] = {}
        self._order: list[int] = []
        self._asleep: Promise | None = None
        self._until: float = 0.0

    def set(self, at: Seconds, bell: Bell) -> Grain:
        """Ring the bell at that time, unless it is discarded from what this gives."""
        grain = int(at * GRAINS_PER_S) + 1
        bells = self._grains.get(grain)
        if bells is None:
            bells = self._grains[grain] = {bell}
            heapq.heappush(self._order, grain)
            if self._asleep is not None and grain < self._until and not self._asleep.done():
                self._asleep.set_result(None)
        else:
            bells.add(bell)
        return bells

    def _ring_due(self) -> float | None:
        """Ring what is due; give the grain of the next, if there is one."""
        now = self._clock() * GRAINS_PER_S
        while self._order:
            grain = self._order[0]
            if grain > now and self._grains[grain]:
                return grain
            heapq.heappop(self._order)
            bells = self._grains.pop(grain)
            while bells:
                bells.pop().ring()
        return None

    async def run(self) -> None:
        """Ring for ever; the system's own task."""
        while True:
            following = self._ring_due()
            now = self._clock() * GRAINS_PER_S
            self._asleep = self._new_promise()
            if following is None:
                self._until = float("inf")
                await self._asleep
            else:
                self._until = min(following, now + LOOK_S * GRAINS_PER_S)
                with anyio.move_on_after(nap_s((self._until - now) / GRAINS_PER_S)):
                    await self._asleep

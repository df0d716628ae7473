"""What is to happen in a world of virtual time, in order; of what is to happen at one time, what was noted first."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Agenda:
    """Deeds and their times. A world takes the next one, sets its clock, and does it."""

    _heap: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _serial: int = 0

    def __bool__(self) -> bool:
        return bool(self._heap)

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Note a deed."""
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, do))

    def next(self) -> tuple[float, Callable[[], None]]:
        """Take the next one off, with its time."""
        when, _, do = heapq.heappop(self._heap)
        return when, do

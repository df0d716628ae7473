"""Where actors went that were here, or were asked for here: callers are redirected, until they ask the placement."""

from dataclasses import dataclass

from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Seconds

TOMBSTONES_MAX = 4096
TOMBSTONE_S = 300.0
"""Longer than callers remember an address; who comes later asks the placement."""


@dataclass(slots=True)
class Tombstone:
    """Where an actor is."""

    placed: Placed
    until: Seconds


class Tombstones:
    """Those of one host; the oldest go first when there are too many."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left: dict[str, Tombstone] = {}

    def __contains__(self, actor: str) -> bool:
        return actor in self._left

    def put(self, actor: str, placed: Placed, now: Seconds) -> None:
        """Leave one."""
        self._left.pop(actor, None)
        self._left[actor] = Tombstone(placed, now + TOMBSTONE_S)
        if len(self._left) > TOMBSTONES_MAX:
            del self._left[next(iter(self._left))]

    def confirm(self, actor: str, placed: Placed, now: Seconds) -> bool:
        """Keep one for longer, if it says that or something newer; False where there is none or an older one."""
        found = self._left.get(actor)
        if found is None or placed.generation > found.placed.generation:
            return False
        found.until = now + TOMBSTONE_S
        return True

    def find(self, actor: str, now: Seconds) -> Placed | None:
        """Say where an actor went; None where it is not known any more."""
        found = self._left.get(actor)
        if found is not None and now < found.until:
            return found.placed
        self._left.pop(actor, None)
        return None

    def clear(self, actor: str) -> None:
        """Forget one: the actor is here."""
        self._left.pop(actor, None)

"""Ends actors for good: those that are here and are to be removed, and those that were.

    wanted   --the placement is asked, and names this host--> freezing
             --not within WISH_S, or it names another one-->  given up
             --the one that was meant is gone, and another of its name has begun-->  given up
    freezing --nothing is in hand, or FREEZE_S is over-->     asking
    asking   --the placement has no such actor any more-->    removed
             --the placement says something newer-->          given up: it is elsewhere, or went on here

An owner that has asked goes on in no case before the placement has said what is there: the removal may be done. It is
not taken back either: whoever wanted it still does. What is in hand when it is done has no answer.

The stores are only told that their logs may be of no use. Each asks the placement itself (`retention.py`), so one that
was away finds out as well, and a wrong word does no harm.
"""

import enum
from dataclasses import dataclass

from atoll.actors.hand_over.claims import Claims
from atoll.actors.hand_over.departures import WISH_S
from atoll.actors.hand_over.messages import LOG_STORE, LogDoubted
from atoll.actors.hand_over.move import FREEZE_S, Owner
from atoll.actors.hand_over.orders import Removed
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Announce, Effect, Seconds, Send

REMEMBERED_MAX = 4096
"""Actors of which it is known with which generation one of that name begins."""


class Ending(enum.Enum):
    """How far a removal is."""

    WANTED = "wanted"
    FREEZING = "freezing"
    ASKING = "asking"


@dataclass(slots=True)
class Removal:
    """One that is not over."""

    since: Seconds
    founded: int = 0
    """In which generation the one was founded that is meant; 0: whichever has the name."""
    step: Ending = Ending.WANTED
    expected: Placed | None = None
    """What is to be removed, once the placement has said it."""


class Removals:
    """Those of one host."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._here: dict[str, Removal] = {}
        self._first: dict[str, int] = {}

    def __contains__(self, actor: str) -> bool:
        return actor in self._here

    def want(self, actor: str, now: Seconds, founded: int = 0) -> list[Effect]:
        """Begin to end an actor; ask the placement first, so that it does not stand still for nothing."""
        if actor in self._here:
            return []
        self._here[actor] = Removal(now, founded)
        return self._claims.look(actor, now)

    def heard(
        self, actor: str, placed: Placed, owner: Owner | None, now: Seconds, *, here: bool, founded: int | None
    ) -> list[Effect]:
        """Hear where an actor is, unless that was so before what is known already; `founded` is None if not told."""
        removal = self._here.get(actor)
        if removal is None or self._is_older(placed, owner, removal) or self.is_over(actor, placed.generation):
            return []
        if not here:
            return self.over(actor, f"it is on {placed.host.short} now")
        if removal.expected is not None and placed.generation > removal.expected.generation:
            return self.over(actor, f"it goes on in generation {placed.generation}")
        if removal.step is Ending.WANTED and removal.founded:
            if founded is None:
                return []
            if self.is_another(removal, founded):
                return self.over(actor, f"it is another one, which was founded in generation {founded}")
        if removal.step is Ending.WANTED and (owner is None or owner.placed == placed):
            removal.step, removal.since, removal.expected = Ending.FREEZING, now, placed
            if owner is not None:
                self.freeze(owner)
        return []

    def is_another(self, removal: Removal, founded: int) -> bool:
        """Tell whether the actor that has the name is not the one that is meant, as far as that is known."""
        return founded not in (0, removal.founded)

    def _is_older(self, placed: Placed, owner: Owner | None, removal: Removal) -> bool:
        """Tell whether this host knows of a later generation: the answer comes late."""
        known = [removal.expected] if owner is None else [removal.expected, owner.placed]
        return any(each is not None and placed.generation < each.generation for each in known)

    def freeze(self, owner: Owner) -> None:
        """Take no calls any more."""
        owner.frozen = True

    def go_on(self, actor: str, owner: Owner | None, now: Seconds) -> list[Effect]:
        """Ask the placement once nothing is in hand; something that never ends must not keep the actor alive."""
        removal = self._here.get(actor)
        if removal is None or removal.step is not Ending.FREEZING or removal.expected is None:
            return []
        if owner is not None and not owner.settled and owner.serving and now - removal.since < FREEZE_S:
            return []
        removal.step, removal.since = Ending.ASKING, now
        return [self._claims.inquiry.remove(actor, removal.expected)]

    def ask_again(self, actor: str, now: Seconds) -> list[Effect]:
        """Ask again, or give it up where nothing was ended yet."""
        removal = self._here.get(actor)
        if removal is None:
            return []
        if removal.step is Ending.ASKING and removal.expected is not None:
            return [self._claims.inquiry.remove(actor, removal.expected)]
        if removal.step is Ending.WANTED and now - removal.since >= WISH_S:
            return self.over(actor, "the placement does not answer")
        return self._claims.look(actor, now) if removal.step is Ending.WANTED else []

    def over(self, actor: str, why: str) -> list[Effect]:
        """Give a removal up, and say why the actor is still there."""
        return [] if self._here.pop(actor, None) is None else [Announce(Removed(actor, why))]

    def gone(self, actor: str, placed: Placed | None) -> list[Effect]:
        """Say that an actor of this host has no place any more, to its stores, too; `placed`: where it was known."""
        if self._here.pop(actor, None) is None and placed is None:
            return []
        stores = placed.stores if placed is not None else ()
        return [Announce(Removed(actor, "")), *(Send(store, LogDoubted(actor), LOG_STORE) for store in stores)]

    def expected(self, actor: str) -> Placed | None:
        """Give what is to be removed, where the placement was asked for it or is about to be."""
        removal = self._here.get(actor)
        return None if removal is None else removal.expected

    def note(self, actor: str, first: int) -> None:
        """Note with which generation an actor of that name begins."""
        self._first[actor] = max(first, self._first.pop(actor, 0))
        if len(self._first) > REMEMBERED_MAX:
            del self._first[next(iter(self._first))]

    def is_over(self, actor: str, generation: int) -> bool:
        """Tell whether a place is one that was removed: whoever says so heard of it before the removal."""
        return generation < self._first.get(actor, 0)

"""Where one node may be dialled: the addresses that were heard or named, most promising first. Pure.

    heard  --not for `FORGET_S`-->  forgotten       named (a seed)  -->  stays
    known  --`take`-->  tried  --`begin_round`-->  known

Of a node's addresses the one heard last goes first, as after a change of network it is the living one.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from atoll.actors.discoverer.messages import CANDIDATES_MAX
from atoll.actors.runtime.machine import Seconds
from atoll.transport.beacon_packet import FORGET_S

Place: TypeAlias = tuple[str, int]


@dataclass(slots=True)
class _Candidate:
    heard_at: Seconds | None
    static: bool
    beat: int = 0
    """Of its node's beats, the last one that came from here; addresses of the newest beat are alive."""

    def live(self, now: Seconds) -> bool:
        return self.static or (self.heard_at is not None and now - self.heard_at < FORGET_S)


@dataclass(slots=True)
class Addresses:
    """The addresses of one node, and which were tried in this round."""

    _known: dict[Place, _Candidate] = field(default_factory=dict)
    _tried: set[Place] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def static(self) -> bool:
        """One of them was named, and does not depend on what is heard."""
        return any(each.static for each in self._known.values())

    def name(self, place: Place) -> None:
        """Take an address that somebody wrote down, if there is room."""
        if len(self._known) < CANDIDATES_MAX:
            self._known[place] = _Candidate(None, static=True)

    def hear(self, place: Place, beat: int, now: Seconds) -> bool:
        """Note that beat `beat` of the node came from there; tell whether the address is new.

        In a full table it takes the place of the one heard longest ago, never of a named one.
        """
        candidate = self._known.get(place)
        if candidate is not None:
            candidate.heard_at, candidate.beat = now, beat
            return False
        if len(self._known) >= CANDIDATES_MAX:
            heard = [(each.heard_at or 0.0, old) for old, each in self._known.items() if not each.static]
            if not heard:
                return False
            del self._known[min(heard)[1]]
        self._known[place] = _Candidate(now, static=False, beat=beat)
        return True

    def forget_old(self, now: Seconds) -> None:
        """Forget those from which nothing was heard for `FORGET_S`."""
        for place in [place for place, each in self._known.items() if not each.live(now)]:
            del self._known[place]

    def live(self, now: Seconds) -> list[Place]:
        """Give where to dial, most promising first: the newest beat, of one beat loopback first and link-local last."""

        def promise(place: Place) -> tuple[int, bool, bool, Place]:
            return -self._known[place].beat, not place[0].startswith("127."), "%" in place[0], place

        return sorted((place for place, each in self._known.items() if each.live(now)), key=promise)

    def untried(self, now: Seconds) -> list[Place]:
        """Give those of `live` that this round has not tried."""
        return [place for place in self.live(now) if place not in self._tried]

    def take(self, now: Seconds) -> Place | None:
        """Give the next one to be dialled in this round; None when there is none."""
        place = next(iter(self.untried(now)), None)
        if place is not None:
            self._tried.add(place)
        return place

    def begin_round(self) -> None:
        """Let all be tried again."""
        self._tried.clear()

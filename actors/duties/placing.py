"""Decides who does which of a site's duties: the fittest member, and another one only for a reason.

    nowhere --somebody is able-->                              placed   (its state, if any, comes from `source`)
    placed  --its holder does it-->                            settled
    placed  --not within TAKE_S, or the holder is gone-->      placed elsewhere
    settled --its holder drains-->                             placed elsewhere, with its state
    settled --another has been fitter for BETTER_FOR_S-->      placed elsewhere, with its state
    settled --its holder is gone-->                            placed elsewhere, without

Whoever held a duty goes on until the next one has it (make before break): a duty may be done twice for a moment and
harms nobody then, while a gap would. Only a supernode places; the next one takes over what it was told in the roll, so
that a change of supernode moves nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from atoll.actors.duties.messages import PROXY, REGISTRAR, WHY_CHARACTERS_MAX, DutyPlace
from atoll.actors.elector.score import Score, why_best
from atoll.actors.runtime.machine import Seconds, insist
from atoll.transport.identity import NodeId

TAKE_S = 4.0
"""How long a member may take to begin a duty: a proxy needs two relays, each a dial and a ticket."""
BETTER_FOR_S = 30.0
"""As for the supernode itself: a move costs more than a short advantage gains."""
NEEDS_CLOUD = frozenset({REGISTRAR, PROXY})


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a member told about itself, as far as it matters here."""

    score: Score
    able: frozenset[str] = frozenset()
    draining: bool = False
    held: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Duty -> epoch and turn of the decision by which it holds it."""

    def holds(self, place: DutyPlace) -> bool:
        """Tell whether it does what was decided."""
        return self.held.get(place.duty) == (place.epoch, place.turn)


class Placing:
    """The places of a site's duties, while one node is supernode; times are monotonic and come in."""

    def __init__(self, own: NodeId, epoch: int, known: Iterable[DutyPlace], now: Seconds) -> None:
        """Take over what was known before, under this epoch."""
        self._own = own
        self._epoch = epoch
        self._turns: dict[str, int] = {}
        self._places: dict[str, DutyPlace] = {}
        self._since: dict[str, Seconds] = {}
        self._better: dict[str, tuple[NodeId, Seconds]] = {}
        for place in known:
            self._put(place.duty, place.holder, place.source, place.why, now, turn=place.turn + 1)

    def places(self) -> tuple[DutyPlace, ...]:
        """Give every place, by duty."""
        return tuple(self._places[duty] for duty in sorted(self._places))

    def decide(self, candidates: Mapping[NodeId, Candidate], now: Seconds) -> bool:
        """Look at everything again; True when a place is another than before."""
        before = self.places()
        duties = {duty for each in candidates.values() for duty in each.able} | set(self._places)
        for duty in sorted(duties):
            self._decide_one(duty, candidates, now)
        return self.places() != before

    def due_in(self, now: Seconds) -> Seconds | None:
        """Say when to decide again though nothing happens; None: never."""
        waits = [self._since[duty] + TAKE_S for duty in self._places]
        waits += [since + BETTER_FOR_S for _, since in self._better.values()]
        later = [at - now for at in waits if at > now]
        return min(later) if later else None

    def check(self) -> None:
        """Assert what always holds."""
        insist(all(place.holder != place.source for place in self._places.values()), "a duty moves to where it is")
        insist(all(place.epoch == self._epoch for place in self._places.values()), "a place of another's epoch")

    def _decide_one(self, duty: str, candidates: Mapping[NodeId, Candidate], now: Seconds) -> None:
        place = self._places.get(duty)
        if place is None:
            self._place(duty, candidates, now)
            return
        holder = candidates.get(place.holder)
        if holder is None or duty not in holder.able:
            self._place(duty, candidates, now, source=place.source, without=place.holder, because="its holder is gone")
        elif not holder.holds(place):
            if self._overdue(duty, now):
                self._place(
                    duty, candidates, now, source=place.source, without=place.holder, because="it was not taken in time"
                )
        elif place.source is not None:
            self._settle(place, now)
        elif holder.draining:
            self._place(duty, candidates, now, source=place.holder, without=place.holder, because="its holder drains")
        else:
            self._look_for_better(place, candidates, now)

    def _overdue(self, duty: str, now: Seconds) -> bool:
        return now - self._since[duty] >= TAKE_S

    def _settle(self, place: DutyPlace, now: Seconds) -> None:
        # The turn stays: the holder would have to take it again otherwise.
        self._put(place.duty, place.holder, None, place.why, now, turn=place.turn)

    def _look_for_better(self, place: DutyPlace, candidates: Mapping[NodeId, Candidate], now: Seconds) -> None:
        best = self._fittest(place.duty, candidates)
        ahead = best is not None and _fitness(place.duty, candidates[best]) > _fitness(
            place.duty, candidates[place.holder]
        )
        if best is None or not ahead:
            self._better.pop(place.duty, None)
            return
        known = self._better.get(place.duty)
        if known is None or known[0] != best:
            self._better[place.duty] = (best, now)
        elif now - known[1] >= BETTER_FOR_S:
            self._place(place.duty, candidates, now, source=place.holder, because="another is clearly fitter")

    def _fittest(
        self, duty: str, candidates: Mapping[NodeId, Candidate], without: NodeId | None = None
    ) -> NodeId | None:
        able = {
            node: each
            for node, each in candidates.items()
            if duty in each.able and not each.draining and node != without
        }
        # Among equals the supernode itself: one host less that may fail.
        return max(able, key=lambda node: (_fitness(duty, able[node]), node == self._own, node), default=None)

    def _place(
        self,
        duty: str,
        candidates: Mapping[NodeId, Candidate],
        now: Seconds,
        *,
        source: NodeId | None = None,
        without: NodeId | None = None,
        because: str = "",
    ) -> None:
        chosen = self._fittest(duty, candidates, without)
        if chosen is None:
            if without is None or without not in candidates or duty not in candidates[without].able:
                self._places.pop(duty, None)
            return
        source = source if source in candidates and source != chosen else None
        scores = {node: each.score for node, each in candidates.items() if duty in each.able and not each.draining}
        why = f"{because}; {why_best(chosen, scores)}" if because else why_best(chosen, scores)
        self._put(duty, chosen, source, why[:WHY_CHARACTERS_MAX], now)

    def _put(
        self, duty: str, holder: NodeId, source: NodeId | None, why: str, now: Seconds, *, turn: int | None = None
    ) -> None:
        turn = self._turns.get(duty, 0) + 1 if turn is None else turn
        self._turns[duty] = turn
        source = None if source == holder else source
        self._places[duty] = DutyPlace(duty, holder, self._epoch, turn, source, why)
        self._since[duty] = now
        self._better.pop(duty, None)


def _fitness(duty: str, candidate: Candidate) -> tuple[bool, Score]:
    return duty not in NEEDS_CLOUD or candidate.score.cloud, candidate.score

"""What a host asks the placement: whether it has an actor, and to have one.

    nothing  --look-->                                        question --LOOK_S, or a certain answer--> nothing
    nothing  --open: (g, host) -> (g + 1, this host)-->       claim    --the placement says g + 1, or more--> nothing
    nothing  --found: an actor with a log-->                  founding --all of its stores have begun it--> claim
                                                              founding --a majority has, for REST_S--> claim

An actor with a log is founded on its stores first: whoever owns it later, after whatever became of this host, must find
enough stores that know for themselves that they never had anything of it. Only the founder can tell them, for it asked
the placement: nothing is placed under that name, and its first generation is above all that ever were.
"""

import math
from dataclasses import dataclass, field

from atoll.actors.hand_over.durable import Handed
from atoll.actors.hand_over.inquiry import Inquiry
from atoll.actors.hand_over.messages import LOG_STORE, Fenced, Seal, Sealed
from atoll.actors.placement.messages import Placed, PlaceFound, PlaceSwapped
from atoll.actors.runtime.machine import Effect, Seconds, Send
from atoll.transport.identity import NodeId

CLAIMS_MAX = 1024
LOOK_S = 5.0
"""For how long the placement is asked about an actor that it does not know."""
REST_S = 2.0
"""What a founder gives the rest of the stores when a majority has begun: as long as hosts that stand still at times, or
have just found each other, may need. Who begins without one of them waits so long, once in the actor's life."""


@dataclass(slots=True)
class Claim:
    """This host asks the placement for an actor, or asks whether it has it."""

    expected: Placed | None = None
    wanted: Placed | None = None
    """None: it only asks."""
    until: Seconds = math.inf
    """A question is given up then."""
    handed: Handed | None = None
    heard: dict[NodeId, int] = field(default_factory=dict)
    kind: str = ""
    changes: bool = False
    """It is about other stores."""
    founds: tuple[NodeId, ...] = ()
    """Stores of an actor that begins."""
    life: int = 0
    """Under which they are sealed, and the first generation owned."""
    first: int = 1
    begun: set[NodeId] = field(default_factory=set)
    enough_since: Seconds | None = None
    """Since when it is known that a majority of the stores has begun."""
    done: bool = False
    """The placement said so of this very claim."""

    def begins(self, placed: Placed) -> bool:
        """Tell whether the place that was wanted is this claim's, and not one that this host had before a crash.

        A soft actor has no stores that would tell two lives of its host apart, so it begins empty once in a generation:
        in one whose claim was answered. Else the next one is claimed.
        """
        return bool(placed.stores) or self.done or self.handed is not None

    @property
    def only_asks(self) -> bool:
        """Whether this host wants nothing but to know."""
        return self.wanted is None and not self.founds

    def still_open(self, placed: Placed) -> bool:
        """Tell whether what the placement said does not decide this claim: it says what was there before."""
        if self.wanted is None or self.expected is None:
            return False
        return placed.generation <= self.expected.generation

    def begins_later(self, first: int) -> bool:
        """Found the actor in generation `first`, if that wanted is used up by a removal; tell whether it is."""
        if self.wanted is None or self.expected is not None or self.wanted.generation >= first:
            return False
        if self.founds:
            self.begin_with(first)
        else:
            self.wanted = Placed(first, self.wanted.host, self.wanted.stores)
        return True

    def begin_with(self, first: int) -> None:
        """Have the stores begin the log with that generation."""
        if first > self.first or self.wanted is not None:
            self.first, self.wanted = max(self.first, first), None
            self.begun.clear()
            self.enough_since = None

    def begun_enough(self, now: Seconds) -> bool:
        """Tell whether a majority of the stores has begun the log, and the rest had its time."""
        if not self.founds or len(self.begun) <= len(self.founds) // 2:
            return False
        if self.enough_since is None:
            self.enough_since = now
        return now - self.enough_since >= REST_S

    def overtaken_by(self, placed: Placed | None) -> bool:
        """Tell whether the place may have been won and left again, so that asking for it says nothing any more."""
        return self.wanted is not None and placed is not None and placed.generation >= self.wanted.generation


class Claims:
    """Those of one host; one at most for each actor."""

    def __init__(self, own: NodeId, placement: NodeId | None) -> None:
        self.inquiry = Inquiry(placement or own)
        self.refused = 0
        self._own = own
        self._open: dict[str, Claim] = {}

    def __contains__(self, actor: str) -> bool:
        return actor in self._open

    def get(self, actor: str) -> Claim | None:
        """Give the one about an actor."""
        return self._open.get(actor)

    def pop(self, actor: str) -> Claim | None:
        """Close it."""
        return self._open.pop(actor, None)

    def open(self, actor: str, claim: Claim) -> list[Effect]:
        """Begin to ask."""
        if len(self._open) >= CLAIMS_MAX:
            self.refused += 1
            return []
        self._open[actor] = claim
        return self.ask(actor, claim)

    def look(self, actor: str, now: Seconds) -> list[Effect]:
        """Ask where an actor is, unless it is asked already."""
        return [] if actor in self._open else self.open(actor, Claim(until=now + LOOK_S))

    def ask(self, actor: str, claim: Claim) -> list[Effect]:
        """Ask, or ask again."""
        if claim.wanted is None:
            return [self.inquiry.find(actor)]
        return [self.inquiry.swap(actor, claim.expected, claim.wanted)]

    def again(self, actor: str, now: Seconds) -> list[Effect]:
        """Ask again, or give it up."""
        claim = self._open.get(actor)
        if claim is None:
            return []
        if now >= claim.until:
            del self._open[actor]
            return []
        if claim.wanted is None and claim.begun_enough(now):
            self._want(claim)
        return self.ask(actor, claim)

    def answered(self, swapped: PlaceSwapped) -> None:
        """Note whether a claim is done."""
        claim = self._open.get(swapped.actor)
        if claim is not None:
            claim.done = swapped.done and swapped.current == claim.wanted

    def nowhere(self, found: PlaceFound) -> list[Effect]:
        """Hear for certain that an actor has no place: begin it on its stores, if that is wanted."""
        actor, claim = found.actor, self._open.get(found.actor)
        if claim is None or not claim.founds or claim.wanted is not None:
            return []
        claim.begin_with(max(1, found.first))
        seal = Seal(actor, claim.first, claim.life, founds=True, kind=claim.kind)
        return [Send(store, seal, LOG_STORE) for store in claim.founds if store not in claim.begun]

    def store_begun(self, store: NodeId, message: Sealed | Fenced) -> list[Effect]:
        """Hear that a store has begun a log, or has one already; when all have, the actor is claimed.

        A majority is enough, but not at once: a store left out has no voice before the next generation, or is not even
        in the set before somebody wants it there, and until then the loss of one more would stop the actor.
        """
        claim = self._open.get(message.actor)
        if claim is None or store not in claim.founds or claim.wanted is not None:
            return []
        known = isinstance(message, Fenced) or message.voice
        if (message.generation, message.life) != (claim.first, claim.life) or not known:
            return []
        claim.begun.add(store)
        if len(claim.begun) < len(claim.founds):
            return []
        self._want(claim)
        return self.ask(message.actor, claim)

    def _want(self, claim: Claim) -> None:
        claim.wanted = Placed(claim.first, self._own, self.stores_of(claim))

    def stores_of(self, claim: Claim) -> tuple[NodeId, ...]:
        """Place an actor on stores that have begun its log, alone, once anything was removed.

        Another may have the log of the actor of that name that was removed, with a voice; it is taught later.
        """
        if claim.first == 1:
            return claim.founds
        return tuple(store for store in claim.founds if store in claim.begun)

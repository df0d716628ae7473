"""Moves an actor: the two sides of one move.

    source: freezing --what is in hand is done--> offering --the target has the state on disk--> committing
            freezing, offering --too long, or declined--> given up: goes on in its generation; nobody was asked for it
            committing --the placement names the target--> gone: a tombstone redirects
            committing --too long--> retaking: asks the placement for (g + 1, source), and goes on only with that
    target: taking --all parts, and their hash--> on disk --the placement names it--> owner
            on disk --the placement names another, or too long--> dropped

The swap in the placement is the commit: before it the source is the owner, after it the target is, whatever becomes of
messages and of the other side. A source that does not know whether it was committed must not go on.
"""

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from atoll.actors.hand_over.durable import DurableOwner, Handed
from atoll.actors.hand_over.log import digest_of, parts_of
from atoll.actors.hand_over.messages import PAUSE_MS_MAX, OfferState, StateKept, StatePart, StatePartTaken, TakePlace
from atoll.actors.hand_over.soft import SoftOwner
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Effect, Seconds, Send
from atoll.transport.identity import NodeId

FREEZE_S = 2.0
"""How long operations in hand may take to finish; one that waits for a majority of stores may have to wait longer."""
OFFER_S = 3.0
"""Silence of the target, after which nothing more is sent to it."""
COMMIT_S = 1.0
"""After this long without word from the placement the source takes its actor back."""
RESEND_S = 0.1
WINDOW_PARTS = 4
"""Parts on their way at once: a megabyte fills a link for long enough."""
ARRIVAL_S = 60.0
"""How long an offered state is kept for a commit that does not come."""
POLL_S = 0.5

Owner: TypeAlias = DurableOwner | SoftOwner


class Step(enum.Enum):
    """How far a source is."""

    FREEZING = "freezing"
    OFFERING = "offering"
    COMMITTING = "committing"


@dataclass(slots=True)
class Departure:
    """A move at its source."""

    owner: Owner
    wanted: Placed
    move: int
    frozen_at: Seconds
    step: Step = Step.FREEZING
    since: Seconds = 0.0
    """When the target or the placement was heard last."""
    handed: Handed | None = None
    taken: int = 0
    sent: int = 0
    parts: list[bytes] = field(default_factory=list)

    @property
    def target(self) -> NodeId:
        """The host to be."""
        return self.wanted.host

    def offer(self, now: Seconds) -> list[Effect]:
        """Begin to send the state, once nothing is in hand any more."""
        self.handed = self.owner.state()
        self.parts = parts_of(self.handed.state)
        self.step, self.since = Step.OFFERING, now
        return self._send(0)

    def _send(self, part: int) -> list[Effect]:
        owner = self.owner
        self.sent = max(self.sent, part + 1)
        if part or self.handed is None:
            return [Send(self.target, StatePart(owner.actor, self.move, part, self.parts[part]))]
        handed, parts = self.handed, self.parts
        offer = OfferState(
            owner.actor,
            self.move,
            owner.kind,
            owner.placed,
            self.wanted,
            handed.position,
            digest_of(handed.state),
            len(parts),
            parts[0],
        )
        return [Send(self.target, offer)]

    def more(self, message: StatePartTaken, now: Seconds) -> list[Effect]:
        """Send what fits into the window after what the target has."""
        if message.parts > self.taken:
            self.taken, self.since = min(message.parts, len(self.parts)), now
        effects: list[Effect] = []
        while self.sent < min(len(self.parts), self.taken + WINDOW_PARTS):
            effects += self._send(self.sent)
        return effects

    def take_place(self, now: Seconds) -> TakePlace:
        """Tell the target that the actor is its own, and how long nobody had it."""
        paused_ms = min(PAUSE_MS_MAX, round(1000 * max(0.0, now - self.frozen_at), 1))
        return TakePlace(self.owner.actor, self.wanted, self.move, paused_ms)

    def resend(self) -> list[Effect]:
        """Send the first part again that the target is not known to have."""
        self.sent = self.taken = min(self.taken, len(self.parts) - 1)
        return self._send(self.taken)

    def overdue(self, now: Seconds) -> bool:
        """Tell whether this step takes too long."""
        limit = {Step.FREEZING: FREEZE_S, Step.OFFERING: OFFER_S, Step.COMMITTING: COMMIT_S}[self.step]
        return now - (self.frozen_at if self.step is Step.FREEZING else self.since) >= limit


@dataclass(slots=True)
class Arrival:
    """A move at its target."""

    offer: OfferState
    source: NodeId
    since: Seconds
    parts: list[bytes]
    kept: bool = False
    """The state is whole, checked and on disk."""

    @property
    def durable(self) -> bool:
        """Whether the actor has a log that says more than this state."""
        return bool(self.offer.wanted.stores)

    def superseded_by(self, offer: OfferState) -> bool:
        """Tell whether another offer is newer than this one, and not the same once more."""
        mine = self.offer
        return (offer.wanted.generation, offer.move) > (mine.wanted.generation, mine.move)

    def take(self, part: int, data: bytes) -> None:
        """Take a part; parts come in order, and what comes twice or too early is left."""
        if part == len(self.parts) < self.offer.parts:
            self.parts.append(data)

    @property
    def whole(self) -> bool:
        """Whether all parts are here."""
        return len(self.parts) == self.offer.parts

    def sound(self) -> bool:
        """Tell whether the parts are what was offered."""
        return digest_of(b"".join(self.parts)) == self.offer.digest

    @property
    def handed(self) -> Handed:
        """The state, for its owner to be."""
        return Handed(self.offer.position, b"".join(self.parts))

    def taken(self) -> StatePartTaken:
        """Say what is here."""
        return StatePartTaken(self.offer.actor, self.offer.move, len(self.parts), self.kept)

    def records(self) -> list[StateKept]:
        """Give what is to be on disk before the target says that it has the state."""
        offer, state = self.offer, b"".join(self.parts)
        parts = parts_of(state)
        return [
            StateKept(
                offer.actor,
                offer.kind,
                offer.move,
                offer.wanted,
                offer.position,
                offer.digest,
                number,
                len(parts),
                part,
            )
            for number, part in enumerate(parts)
        ]


def arrival_of(records: list[StateKept], own: NodeId, now: Seconds) -> Arrival | None:
    """Make an arrival of what is on disk; None where it is not whole."""
    first = records[0]
    parts = [each.data for each in records]
    offer = OfferState(
        first.actor,
        first.move,
        first.kind,
        first.wanted,
        first.wanted,
        first.position,
        first.digest,
        first.parts,
        parts[0],
    )
    arrival = Arrival(offer, own, now, parts, kept=True)
    return arrival if arrival.whole and arrival.sound() else None

"""The states that are offered to a host: taken in parts, checked, on disk before the source is told so.

nothing --OfferState--> taking --all parts, and their hash--> kept on disk --owner, overtaken, or ARRIVAL_S--> nothing
"""

from collections.abc import Sequence

from atoll.actors.hand_over.application import Applications
from atoll.actors.hand_over.messages import (
    HOST_RECORDS,
    MayMove,
    MoveWelcome,
    OfferState,
    StateDeclined,
    StateKept,
    StatePart,
    TakePlace,
)
from atoll.actors.hand_over.move import Arrival, arrival_of
from atoll.actors.hand_over.tenures import OWNERS_MAX
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Effect, Record, Rewrite, Seconds, Send
from atoll.transport.identity import NodeId

ARRIVALS_MAX = 16
"""Moves to this host at once; each may hold a whole state in memory."""


class Arrivals:
    """Those at one host."""

    def __init__(self, own: NodeId, make: Applications, kind: type[Arrival]) -> None:
        self.here: dict[str, Arrival] = {}
        self.paused_ms: dict[str, float] = {}
        """For how long actors took no calls when they moved here, as their sources say."""
        self._own = own
        self._make = make
        self._kind = kind

    def restore(self, records: Sequence[Record], now: Seconds) -> None:
        """Take up what is on disk; half a state is none."""
        kept: dict[str, list[StateKept]] = {}
        for record in records:
            if isinstance(record, StateKept):
                parts = kept.setdefault(record.actor, [])
                if record.part == 0:
                    parts.clear()
                parts.append(record)
        for actor, parts in kept.items():
            arrival = arrival_of(parts, self._own, now)
            if arrival is not None:
                self.here[actor] = arrival

    def offered(self, sender: NodeId, offer: OfferState, now: Seconds, *, owned: bool) -> list[Effect]:
        """Take an offer, or decline it; `owned`: this host has the actor itself, or is about to."""
        actor = offer.actor
        if why := self._declines(sender, offer, owned=owned):
            return [Send(sender, StateDeclined(actor, offer.move, why))]
        arrival = self.here.get(actor)
        if arrival is None or arrival.superseded_by(offer):
            arrival = self.here[actor] = self._kind(offer, sender, now, [])
        elif arrival.offer.move != offer.move:
            return []
        return self._take(arrival, 0, offer.data)

    def asked(self, sender: NodeId, message: MayMove, *, owned: bool) -> list[Effect]:
        """Say whether an offer would be taken now."""
        return [Send(sender, MoveWelcome(message.actor, self._unwelcome(message.actor, message.kind, owned=owned)))]

    def _declines(self, sender: NodeId, offer: OfferState, *, owned: bool) -> str:
        if offer.wanted.host != self._own or offer.placed.host != sender or offer.parts == 0:
            return "the offer contradicts itself"
        return self._unwelcome(offer.actor, offer.kind, owned=owned)

    def _unwelcome(self, actor: str, kind: str, *, owned: bool) -> str:
        if owned:
            return "this host owns it, or is about to"
        if actor not in self.here and len(self.here) >= ARRIVALS_MAX:
            return f"{ARRIVALS_MAX} actors arrive here already"
        if self._make(actor, kind) is None:
            return f"no actor of the kind {kind} is known here"
        return ""

    def take_part(self, sender: NodeId, message: StatePart, _now: Seconds) -> list[Effect]:
        """Take a later part."""
        arrival = self.here.get(message.actor)
        if arrival is None or arrival.source != sender or arrival.offer.move != message.move:
            return []
        return self._take(arrival, message.part, message.data)

    def _take(self, arrival: Arrival, part: int, data: bytes) -> list[Effect]:
        actor = arrival.offer.actor
        arrival.take(part, data)
        effects: list[Effect] = []
        if arrival.whole and not arrival.kept:
            if not arrival.sound():
                del self.here[actor]
                why = "the parts are not what was offered"
                return [Send(arrival.source, StateDeclined(actor, arrival.offer.move, why))]
            arrival.kept = True
            effects += keep(actor, arrival.records())
        return [*effects, Send(arrival.source, arrival.taken())]

    def promised_by(self, sender: NodeId, message: TakePlace) -> bool:
        """Tell whether the source of an arrival that is on disk says that its move is committed."""
        arrival = self.here.get(message.actor)
        if arrival is None or arrival.source != sender or not arrival.kept:
            return False
        return (arrival.offer.wanted, arrival.offer.move) == (message.placed, message.move)

    def brings(self, actor: str, placed: Placed) -> bool:
        """Tell whether the state is on disk with which the actor begins in that generation, and never again."""
        arrival = self.here.get(actor)
        return arrival is not None and arrival.kept and arrival.offer.wanted == placed

    def note_pause(self, actor: str, paused_ms: float) -> None:
        """Note how long an actor took no calls; the oldest go first when there are too many."""
        self.paused_ms[actor] = paused_ms
        if len(self.paused_ms) > OWNERS_MAX:
            del self.paused_ms[next(iter(self.paused_ms))]

    def drop(self, actor: str) -> list[Effect]:
        """Forget what was offered, on disk too."""
        arrival = self.here.pop(actor)
        return keep(actor, ()) if arrival.kept else []


def keep(actor: str, records: Sequence[Record]) -> list[Effect]:
    """Put these records in the place of what is kept of an actor."""
    return [Rewrite(actor, HOST_RECORDS, tuple(records))]

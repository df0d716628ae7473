"""The visitor's side: subscribes or publishes at a node of another site, over one stream after the other. Without I/O.

    begin --VisitBegins--> asking --VisitWelcome, my epoch--> there: nothing is lost, nothing comes twice
                                  --another epoch--> there: what the gate had kept is gone, and the reader is told
                                  --VisitRefused--> over, or to be tried again
    there --the stream is lost--> begin once more

It hands on each number once, in order, and says of every gap how long it is.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from atoll.actors.runtime.machine import insist
from atoll.actors.topics.filters import matches
from atoll.actors.topics.messages import (
    GAP_MAX,
    Item,
    Lost,
    Publication,
    VisitBegins,
    VisitHeard,
    VisitMessage,
    VisitPublish,
    VisitRefused,
    VisitTaken,
    VisitWelcome,
)
from atoll.actors.topics.ring import Missed, Ring
from atoll.transport.codec import Message
from atoll.transport.errors import MalformedFrame

OUT_MAX = 256
"""Messages that are on their way to a gate, or wait for that; what is more waits where it comes from."""
OUT_BYTES_MAX = 1024 * 1024
HEARD_EVERY = 64
"""Messages after which the gate is told that they are here."""
HEARD_EVERY_BYTES = 512 * 1024


class Arrived(msgspec.Struct, frozen=True):
    """A message is here, or word of a loss."""

    item: Item


class Delivered(msgspec.Struct, frozen=True):
    """The gate has published everything of ours up to this number."""

    number: int


class Welcomed(msgspec.Struct, frozen=True):
    """The gate has let us in, or in again."""

    site: bytes


class TurnedAway(msgspec.Struct, frozen=True):
    """The gate has refused; without `again` for good."""

    reason: str
    again: bool


VisitEvent: TypeAlias = Arrived | Delivered | Welcomed | TurnedAway


@dataclass(slots=True, kw_only=True)
class Visit:
    """One visit, over all its streams; see the module."""

    key: bytes
    site: bytes
    filters: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    joins: bool = False
    epoch: bytes = b""
    gate_site: bytes = b""
    heard: int = 0
    there: bool = False
    acknowledged: int = 0
    """The number of the newest of ours that the gate has taken."""
    _out: Ring[Item] = field(default_factory=lambda: Ring(OUT_MAX, OUT_BYTES_MAX))
    _heard_said: int = 0
    _heard_bytes: int = 0

    def begin(self) -> VisitBegins:
        """Begin on a fresh stream."""
        self.there = False
        return VisitBegins(
            self.key,
            self.site,
            self.joins,
            self.filters,
            self.publishes,
            self.epoch,
            self.heard,
            self.acknowledged,
        )

    def hear(self, message: Message) -> list[VisitEvent]:
        """Take what the gate says.

        Raises:
            MalformedFrame: It breaks the rules; the stream must end.
        """
        match message:
            case VisitRefused(reason, again):
                return [TurnedAway(reason, again)]
            case VisitWelcome() if not self.there:
                return self._on_welcome(message)
            case VisitMessage(number, item) if self.there and 0 <= number - item.weight - self.heard <= GAP_MAX:
                return self._on_message(number, item)
            case VisitTaken(number) if self.there and self.acknowledged < number <= self._out.told:
                self.acknowledged = number
                self._out.acknowledge(number)
                return [Delivered(number)]
        raise MalformedFrame(f"{type(message).__name__} has no sense here")

    def _on_welcome(self, welcome: VisitWelcome) -> list[VisitEvent]:
        events: list[VisitEvent] = [Welcomed(welcome.site)]
        if welcome.taken > self.acknowledged:
            events.append(Delivered(welcome.taken))
        if not self.acknowledged <= welcome.taken <= self._out.told:
            raise MalformedFrame("it has taken what was never published")
        if welcome.epoch != self.epoch:
            if self.epoch and self.filters:
                events.append(Arrived(Lost(via=self._via(welcome.site))))
            self.heard = 0
        self.epoch, self.gate_site, self.there = welcome.epoch, welcome.site, True
        self._heard_said, self._heard_bytes = self.heard, 0
        self.acknowledged = welcome.taken
        self._out.acknowledge(welcome.taken)
        self._out.go_back(welcome.taken)
        return events

    def _via(self, gate_site: bytes) -> tuple[bytes, ...]:
        return () if gate_site == self.site else (gate_site,)

    def _on_message(self, number: int, item: Item) -> list[VisitEvent]:
        via = self._via(self.gate_site)
        if via and item.via[-1:] != via:
            raise MalformedFrame("a message comes by another way than it says")
        if isinstance(item, Publication) and not any(matches(each, item.topic) for each in self.filters):
            raise MalformedFrame("it sends what was not subscribed to")
        gap, self.heard = number - item.weight - self.heard, number
        self._heard_bytes += item.size
        return [*([Arrived(Lost(gap, via))] if gap else ()), Arrived(item)]

    # What goes there

    @property
    def has_room(self) -> bool:
        """Tell whether a message to publish has a place."""
        return len(self._out) < OUT_MAX // 2 and self._out.bytes < OUT_BYTES_MAX // 2

    def publish(self, item: Item) -> int:
        """Have a message published there, in its turn, or word of a loss said; give its number."""
        return self._out.put(item, item.size, item.weight, sure=item.sure)

    @property
    def delivered(self) -> bool:
        """Tell whether the gate has taken everything."""
        return self.acknowledged == self._out.last

    def outgoing(self) -> Message | None:
        """Give what is to be said next on the stream."""
        if not self.there:
            return None
        behind = self.heard - self._heard_said
        if behind >= HEARD_EVERY or (behind and self._heard_bytes >= HEARD_EVERY_BYTES):
            self._heard_said, self._heard_bytes = self.heard, 0
            return VisitHeard(self.heard)
        found = self._out.take()
        if isinstance(found, Missed):
            # The gap in the numbers says it.
            found = self._out.take()
        return None if found is None or isinstance(found, Missed) else VisitPublish(*found)

    def check(self) -> None:
        """Assert what always holds."""
        self._out.check()
        insist(self.acknowledged <= self._out.told, "nothing is taken that was not said")
        insist(self._heard_said <= self.heard, "nothing is said to be here that is not")

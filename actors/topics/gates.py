"""The gate's side of visits: nodes that subscribe or publish here over a stream, kept while they are away. Without I/O.

    VisitBegins --allowed?--> known with that epoch --> what it has is forgotten, the rest is sent again
                                             new    --> a subscriber of this site, under a fresh epoch
    the stream is lost --> kept for `KEPT_S`, its ring bounded as everybody's --> forgotten

Deny by default: members of the site may do what they could do anyway; nodes with a grant what the config names; nobody
else anything. It never publishes what the visitor did not say it would, nor what has been in this site before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.actors.runtime.machine import insist
from atoll.actors.topics.errors import BadTopic, NotLetIn, TooMany
from atoll.actors.topics.exchange import Exchange, ExchangeEffect, Subscriber
from atoll.actors.topics.filters import all_covered, check_filter, check_topic, matches
from atoll.actors.topics.messages import (
    BOOT_BYTES,
    GAP_MAX,
    Item,
    Lost,
    VisitBegins,
    VisitHeard,
    VisitMessage,
    VisitPublish,
    VisitTaken,
    VisitWelcome,
)
from atoll.actors.topics.ring import Missed
from atoll.transport.base import Standing
from atoll.transport.codec import Message
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

GUESTS_MAX = 64
"""Visits of all nodes that a gate knows, those that are away included."""
GUESTS_PER_PEER_MAX = 8
KEPT_S = 120.0
"""How long what a visitor subscribed to is kept for it while it is away."""


@dataclass(slots=True, kw_only=True)
class Guest:
    """One visit, over all its streams."""

    peer: NodeId
    key: bytes
    epoch: bytes
    site: bytes
    filters: tuple[str, ...]
    publishes: tuple[str, ...]
    subscriber: Subscriber | None
    """None where it only publishes."""
    taken: int
    taken_said: int
    here: int = 0
    """The number of the stream that it has now; 0: it is away."""
    until: float = 0.0


@dataclass(slots=True, kw_only=True)
class Gates:
    """All guests of a node; see the module."""

    exchange: Exchange
    may_subscribe: tuple[str, ...] = ()
    """Filters for nodes with a grant."""
    may_publish: tuple[str, ...] = ()
    draw_epoch: Callable[[], bytes]
    guests: dict[tuple[NodeId, bytes], Guest] = field(default_factory=dict)
    _streams: int = 0

    def begin(
        self, peer: NodeId, standing: Standing | None, begins: VisitBegins, now: float
    ) -> tuple[Guest, VisitWelcome, list[ExchangeEffect]]:
        """Let a visitor in, or back in; its stream before that is no more its own (`Guest.here`).

        Raises:
            NotLetIn: It may not do that here; the text says what would have to be allowed.
            TooMany: There are too many visits.
            MalformedFrame: It says what cannot be.
        """
        self._check(standing, begins)
        self._authorize(standing, begins)
        effects: list[ExchangeEffect] = []
        guest = self.guests.get((peer, begins.key))
        if guest is not None and (guest.epoch != begins.epoch or not _same(guest, begins)):
            effects += self._forget(guest, now)
            guest = None
        if guest is None:
            guest, more = self._enter(peer, begins, now)
            effects += more
        elif guest.subscriber is not None:
            ring = guest.subscriber.ring
            if begins.heard > ring.told:
                raise MalformedFrame("it has heard what was never said")
            ring.acknowledge(begins.heard)
            ring.go_back(begins.heard)
        self._streams += 1
        guest.here = self._streams
        guest.taken_said = guest.taken
        return guest, VisitWelcome(self.exchange.site, guest.epoch, guest.taken), effects

    def _check(self, standing: Standing | None, begins: VisitBegins) -> None:
        try:
            for each in (*begins.filters, *begins.publishes):
                check_filter(each)
        except BadTopic as error:
            raise MalformedFrame(str(error)) from error
        if not begins.filters and not begins.publishes:
            raise MalformedFrame("a visit for nothing")
        if len(begins.epoch) not in {0, BOOT_BYTES}:
            raise MalformedFrame("an epoch of another length")
        member = standing in {None, Standing.MEMBER}
        if member != (begins.site == self.exchange.site):
            raise MalformedFrame("it is not of the site that it says")

    def _authorize(self, standing: Standing | None, begins: VisitBegins) -> None:
        if standing in {None, Standing.MEMBER}:
            if begins.joins:
                raise NotLetIn("it is of the same site, and hears everything anyway; remove that [[join]]")
            return
        if standing is not Standing.GRANTED:
            raise NotLetIn("only members of its site and nodes with a grant may visit it")
        for wanted, allowed, verb in (
            (begins.filters, self.may_subscribe, "subscribe"),
            (begins.publishes, self.may_publish, "publish"),
        ):
            if not all_covered(allowed, wanted):
                listed = ", ".join(f'"{each}"' for each in wanted if not all_covered(allowed, (each,)))
                raise NotLetIn(
                    f"nobody may {verb} to that there: its config would have to say pubsub.{verb} = [{listed}]"
                )

    def _enter(self, peer: NodeId, begins: VisitBegins, now: float) -> tuple[Guest, list[ExchangeEffect]]:
        effects: list[ExchangeEffect] = []
        wanted = (begins.site, begins.filters, begins.publishes)
        for each in [each for each in self.guests.values() if each.peer == peer and not each.here]:
            # The same visitor, after a crash: it begins anew, and what it had is lost.
            if (each.site, each.filters, each.publishes) == wanted:
                effects += self._forget(each, now)
        away = sorted((each for each in self.guests.values() if not each.here), key=lambda each: each.until)
        if len(self.guests) >= GUESTS_MAX and away:
            effects += self._forget(away[0], now)
        own = [each for each in self.guests.values() if each.peer == peer]
        if len(own) >= GUESTS_PER_PEER_MAX:
            gone = sorted((each for each in own if not each.here), key=lambda each: each.until)
            if not gone:
                raise TooMany(f"{GUESTS_PER_PEER_MAX} visits of this node are there already; end one")
            effects += self._forget(gone[0], now)
        if len(self.guests) >= GUESTS_MAX:
            raise TooMany(f"{GUESTS_MAX} visits are there already; try again later")
        subscriber = None
        if begins.filters:
            subscriber, more = self.exchange.subscribe(begins.filters, now, beyond=begins.site, joins=begins.joins)
            effects += more
        guest = Guest(
            peer=peer,
            key=begins.key,
            epoch=self.draw_epoch(),
            site=begins.site,
            filters=begins.filters,
            publishes=begins.publishes,
            subscriber=subscriber,
            taken=begins.published,
            taken_said=begins.published,
        )
        self.guests[peer, begins.key] = guest
        return guest, effects

    def _forget(self, guest: Guest, now: float) -> list[ExchangeEffect]:
        del self.guests[guest.peer, guest.key]
        # Whoever never came back may have had something to publish.
        effects: list[ExchangeEffect] = []
        if not guest.here and guest.publishes:
            effects += self.exchange.inject(Lost(via=self._via(guest)))
        guest.here = 0
        if guest.subscriber is not None:
            effects += self.exchange.unsubscribe(guest.subscriber.number, now)
        return effects

    def hear(self, guest: Guest, message: Message) -> list[ExchangeEffect]:
        """Take what a visitor says on its stream.

        Raises:
            MalformedFrame: It breaks the rules; the stream must end.
        """
        match message:
            case VisitHeard(number) if guest.subscriber is not None and number <= guest.subscriber.ring.told:
                guest.subscriber.ring.acknowledge(number)
                return []
            case VisitPublish(number, item) if guest.taken <= number - item.weight <= guest.taken + GAP_MAX:
                self._check_item(guest, item)
                gap, guest.taken = number - item.weight - guest.taken, number
                effects = self.exchange.inject(Lost(gap, self._via(guest))) if gap else []
                return [*effects, *self.exchange.inject(item)]
        raise MalformedFrame(f"{type(message).__name__} has no sense here")

    def _lost_here(self, guest: Guest) -> tuple[bytes, ...]:
        return () if guest.site == self.exchange.site else (self.exchange.site,)

    def _via(self, guest: Guest) -> tuple[bytes, ...]:
        return () if guest.site == self.exchange.site else (guest.site,)

    def _check_item(self, guest: Guest, item: Item) -> None:
        if not self.exchange.may_enter(item):
            raise MalformedFrame("a message comes back into its site")
        if item.via[-1:] != self._via(guest):
            raise MalformedFrame("a message comes by another way than it says")
        if isinstance(item, Lost):
            return
        try:
            check_topic(item.topic)
        except BadTopic as error:
            raise MalformedFrame(str(error)) from error
        if not any(matches(each, item.topic) for each in guest.publishes):
            raise MalformedFrame("it publishes what it did not say it would")
        if not item.via and item.node != guest.peer:
            raise MalformedFrame("it publishes in another one's name")

    def outgoing(self, guest: Guest) -> Message | None:
        """Give what is to be said next on a visitor's stream."""
        if guest.taken > guest.taken_said:
            guest.taken_said = guest.taken
            return VisitTaken(guest.taken)
        ring = None if guest.subscriber is None else guest.subscriber.ring
        found = None if ring is None else ring.take()
        while ring is not None and isinstance(found, Missed):
            # The gap in the numbers says it; what is not known is said anew, behind what waits.
            if found.count is None:
                lost = Lost(via=self._lost_here(guest))
                ring.put(lost, lost.size, sure=False)
            found = ring.take()
        return None if found is None or isinstance(found, Missed) else VisitMessage(*found)

    def away(self, guest: Guest, stream: int, now: float) -> None:
        """Note that a stream of its is lost; harmless when it has another one already."""
        if guest.here == stream:
            guest.here, guest.until = 0, now + KEPT_S

    def leave(self, guest: Guest, stream: int, now: float) -> list[ExchangeEffect]:
        """Note that it has ended its visit itself."""
        if guest.here != stream or not stream:
            return []
        return self._forget(guest, now)

    def tick(self, now: float) -> list[ExchangeEffect]:
        """Forget those who did not come back."""
        gone = [each for each in self.guests.values() if not each.here and now >= each.until]
        return [effect for each in gone for effect in self._forget(each, now)]

    def check(self) -> None:
        """Assert what always holds."""
        insist(len(self.guests) <= GUESTS_MAX, "visits are bounded")
        for guest in self.guests.values():
            known = guest.subscriber is None or guest.subscriber.number in self.exchange.subscribers
            insist(known, "every guest that reads is a subscriber")
            insist(guest.taken_said <= guest.taken, "nothing is said to be taken that is not")


def _same(guest: Guest, begins: VisitBegins) -> bool:
    known = (guest.site, guest.filters, guest.publishes)
    return known == (begins.site, begins.filters, begins.publishes)

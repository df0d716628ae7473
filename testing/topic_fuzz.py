"""Hostile messages about topics to members, gates and visitors, in any state: `MalformedFrame` at most, tables bounded.

    messages of a simulated world (`topic_world.py`), and such as fit the moment --changed (`fuzz.py`)--> codec
        --> Exchange, Gates, Visit

Tables are small here, so that they are full often. What is refused has changed nothing. A stream whose end raised is
over, as it would be; the visit then begins once more.
What our ends say and keep in consequence is read back by the codec, and stays within the limits that have names.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest import mock

from atoll.actors.topics import exchange, gates, seen
from atoll.actors.topics.errors import NotLetIn, TooMany
from atoll.actors.topics.exchange import Flush, Say
from atoll.actors.topics.messages import (
    BATCH_MAX,
    FRAME_BYTES_MAX,
    GAP_MAX,
    KEY_BYTES,
    MESSAGES,
    Item,
    Lost,
    Publication,
    TopicMessages,
    TopicsTaken,
    TopicsWanted,
    VisitBegins,
    VisitHeard,
    VisitMessage,
    VisitPublish,
    VisitRefused,
    VisitTaken,
    VisitWelcome,
)
from atoll.actors.topics.ring import Missed, Ring
from atoll.actors.topics.visit import Visit
from atoll.testing.election_fuzz import FINDINGS_MAX
from atoll.testing.fuzz import Mutator
from atoll.testing.topic_world import TOPICS, Joined, Place, TopicWorld, node_id, tag
from atoll.transport.base import Standing
from atoll.transport.codec import Codec, Message
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

SITES = {"a": 3, "b": 2}
JOINS = (("a0", "b0", "both", ("#",)), ("b1", "a0", "both", ("a/#", "b/x")))
OWN = "a0"
PEERS = 8
STRANGERS = 200
"""Who speaks, beside the nodes of the sites: some often, and more than a table holds here."""
CASES_PER_WORLD = 2500
SAMPLES_MAX = 3000
TICK_EVERY = 50
READ_EVERY = 7
STANDINGS = (Standing.GRANTED, Standing.GRANTED, Standing.MEMBER, Standing.NEIGHBOUR)
_CODEC = Codec(MESSAGES)


@contextlib.contextmanager
def small_tables() -> Iterator[None]:
    """Let few peers and messages be more than may be kept."""
    with (
        mock.patch.object(exchange, "MEMBERS_MAX", 16),
        mock.patch.object(exchange, "SOURCES_MAX", 16),
        mock.patch.object(exchange, "WAITING_MAX", 64),
        mock.patch.object(seen, "PUBLISHERS_MAX", 16),
        mock.patch.object(gates, "GUESTS_MAX", 12),
        mock.patch.object(gates, "GUESTS_PER_PEER_MAX", 3),
    ):
        yield


class _Recording(deque[bytes]):
    """A way for messages that keeps them."""

    def __init__(self, said: list[bytes]) -> None:
        super().__init__()
        self._said = said

    def append(self, data: bytes, /) -> None:
        if len(self._said) < SAMPLES_MAX:
            self._said.append(data)
        super().append(data)


class _Overheard(TopicWorld):
    """Keeps what is said between members, to gates and to visitors."""

    def __init__(self, rng: Random) -> None:
        self.said: dict[str, list[bytes]] = {"member": [], "gate": [], "visitor": []}
        super().__init__(rng, sites=SITES, joins=JOINS)
        for pair, first in self.links.items():
            self.links[pair] = _Recording(self.said["member"])
            for each in first:
                self.links[pair].append(each)

    def _join(self, visitor: Place, gate: Place, direction: str, topics: tuple[str, ...]) -> Joined:
        joined = super()._join(visitor, gate, direction, topics)
        joined.there, joined.back = _Recording(self.said["gate"]), _Recording(self.said["visitor"])
        return joined


@dataclass(slots=True)
class TopicFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    fates: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cases: int = 0
    _rng: Random = field(init=False)
    _mutator: Mutator = field(init=False)
    _world: _Overheard = field(init=False)
    _every: list[bytes] = field(init=False)
    _now: float = 0.0

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)
        self._mutator = Mutator(self._rng)

    def run(self, cases: int) -> None:
        """Run so many messages."""
        until = self.cases + cases
        with small_tables():
            while self.cases < until and len(self.findings) < FINDINGS_MAX:
                self._begin()
                for _ in range(min(CASES_PER_WORLD, until - self.cases)):
                    self.cases += 1
                    self._case()

    def _begin(self) -> None:
        self._world = world = _Overheard(self._rng)
        world.run()
        self._every = [each for said in world.said.values() for each in said]
        self._now = world.now
        # Some that read here do so for good, as programs do.
        for filters in (("#",), ("+/x", "c/#")):
            self._own.exchange.subscribe(filters, self._now)

    @property
    def _own(self) -> Place:
        return self._world.places[OWN]

    def _case(self) -> None:
        end = self._rng.choice(("member", "member", "gate", "gate", "visitor"))
        peer = self._peer()
        data = self._data(end, peer)
        self._now += self._rng.expovariate(100.0)
        before = self._state()
        try:
            message = _CODEC.decode(data)
        except MalformedFrame:
            self.fates["no message"] += 1
            return
        try:
            try:
                fate = {"member": self._to_member, "gate": self._to_gate, "visitor": self._to_visitor}[end](
                    peer, message
                )
            except MalformedFrame:
                fate = "malformed"
                if self._state() != before:
                    self._found(data, f"a malformed message to a {end} changed something")
            self._look(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            self._found(data, f"{end}: {type(error).__name__}: {error}")
            return
        self.fates[f"{end}: {type(message).__name__} {fate}"] += 1

    # What is said

    def _data(self, end: str, peer: NodeId) -> bytes:
        rng = self._rng
        if rng.random() < 0.3:
            return self._mutator.variant(self._world.said[end] if rng.random() < 0.8 else self._every)
        aimed = {"member": self._for_member, "gate": self._for_gate, "visitor": self._for_visitor}[end](peer)
        data = _CODEC.encode(aimed)
        return self._mutator.variant([data]) if rng.random() < 0.6 else data

    def _item(self, node: NodeId, via: tuple[bytes, ...]) -> Item:
        rng = self._rng
        if rng.random() < 0.2:
            return Lost(rng.choice((None, 1, 5, GAP_MAX)), via)
        boot = bytes([rng.randrange(3)]) * 8
        return Publication(
            rng.choice(TOPICS), rng.randbytes(rng.randrange(40)), node, boot, rng.randrange(1, 99), 0, via
        )

    def _for_member(self, peer: NodeId) -> Message:
        rng, own = self._rng, self._own.exchange
        boot, number = bytes([rng.randrange(3)]) * 8, rng.randrange(1, 4)
        via = rng.choice(((), (), (tag("b"),), (tag("a"),)))
        items = tuple(self._item(peer, via) for _ in range(rng.randrange(1, 5)))
        return rng.choice(
            (
                TopicMessages(boot, own.boot, number, rng.choice((1, 1, 2, 9)), items),
                TopicsWanted(boot, number, rng.choice(((), ("#",), ("a/+", "b/#")))),
                TopicsTaken(own.boot, own.version),
            )
        )

    def _for_gate(self, _: NodeId) -> Message:
        rng, guests = self._rng, list(self._own.gates.guests.values())
        if not guests or rng.random() < 0.3:
            known = rng.choice(guests) if guests and rng.random() < 0.5 else None
            key, epoch = (rng.randbytes(KEY_BYTES), b"") if known is None else (known.key, known.epoch)
            filters = rng.choice((("#",), ("a/#", "b/x"), ()))
            return VisitBegins(key, tag("b"), rng.random() < 0.5, filters, ("#",), epoch, rng.randrange(3), 0)
        # The newest one hears it.
        guest = guests[-1]
        item = self._item(guest.peer, (guest.site,))
        told = 0 if guest.subscriber is None else guest.subscriber.ring.told
        return rng.choice((VisitPublish(guest.taken + item.weight, item), VisitHeard(told)))

    def _for_visitor(self, peer: NodeId) -> Message:
        rng, visit = self._rng, self._visit
        if not visit.there and rng.random() < 0.9:
            return VisitWelcome(tag("b"), bytes([rng.randrange(2)]) * 8, visit.acknowledged)
        item = self._item(peer, (tag("b"),))
        return rng.choice(
            (
                *[VisitMessage(visit.heard + item.weight, item)] * 6,
                VisitTaken(visit.acknowledged + 1),
                VisitRefused("no", again=rng.random() < 0.5),
            )
        )

    @property
    def _visit(self) -> Visit:
        return next(each for each in self._world.joins if each.visitor is self._own).visit

    # Who hears it

    def _peer(self) -> NodeId:
        rng = self._rng
        if rng.random() < 0.6:
            return self._world.places[rng.choice(("a1", "a2", "b0", "b1"))].id
        return node_id(f"peer {rng.randrange(PEERS if rng.random() < 0.5 else STRANGERS)}")

    def _to_member(self, peer: NodeId, message: Message) -> str:
        effects = self._own.exchange.hear(peer, message, self._now)
        self._carry_out(effects)
        return "taken" if effects else "ignored"

    def _to_gate(self, peer: NodeId, message: Message) -> str:
        own = self._own.gates
        guests = list(own.guests.values())
        if isinstance(message, VisitBegins) or not guests:
            peer = peer if not guests or self._rng.random() < 0.5 else self._rng.choice(guests).peer
            if not isinstance(message, VisitBegins):
                raise MalformedFrame("no visit begins so")
            try:
                guest, welcome, effects = own.begin(peer, self._rng.choice(STANDINGS), message, self._now)
            except (NotLetIn, TooMany) as error:
                return type(error).__name__
            self._readable(welcome)
            self._carry_out(effects)
            if self._rng.random() < 0.5:
                own.away(guest, guest.here, self._now)
            return "let in"
        guest = guests[-1]
        try:
            self._carry_out(own.hear(guest, message))
        except MalformedFrame:
            own.away(guest, guest.here, self._now)
            raise
        return "taken"

    def _to_visitor(self, _: NodeId, message: Message) -> str:
        visit = self._visit
        if not visit.there and self._rng.random() < 0.5:
            visit.begin()
        try:
            events = visit.hear(message)
        except MalformedFrame:
            visit.there = False
            raise
        finally:
            visit.check()
        for event in events:
            item = getattr(event, "item", None)
            if item is not None and self._own.exchange.may_enter(item):
                self._carry_out(self._own.exchange.inject(item))
        if visit.has_room and self._rng.random() < 0.2:
            visit.publish(self._own.exchange.sign("a/x", b"x", 0))
        while (said := visit.outgoing()) is not None:
            self._readable(said)
        return " ".join(sorted({type(each).__name__ for each in events})) or "-"

    # What comes of it

    def _carry_out(self, effects: Sequence[Any]) -> None:
        own = self._own.exchange
        ends = len(own.subscribers) + own.wanting + len(own.linked)
        if len(effects) > (BATCH_MAX + 2) * (ends + 1):
            self.findings.append(f"{len(effects)} effects of one message, with {ends} ends")
        for effect in effects:
            match effect:
                case Say(_, message):
                    self._readable(message)
                case Flush(peer) if self.cases % READ_EVERY == 0:
                    while (messages := own.outgoing(peer)) is not None:
                        self._readable(messages)

    def _readable(self, message: Message) -> None:
        data = _CODEC.encode(message)
        if len(data) > FRAME_BYTES_MAX:
            self.findings.append(f"a {type(message).__name__} of {len(data)} bytes is said")
        try:
            _CODEC.decode(data)
        except MalformedFrame as error:
            self.findings.append(f"a {type(message).__name__} is said that nobody can read: {error}; {message!r:.300}")

    def _look(self, data: bytes) -> None:
        place = self._own
        if self.cases % TICK_EVERY == 0:
            self._carry_out([*place.exchange.tick(self._now), *place.gates.tick(self._now)])
        if self.cases % READ_EVERY == 0:
            for guest in list(place.gates.guests.values()):
                while guest.here and (said := place.gates.outgoing(guest)) is not None:
                    self._readable(said)
            for subscriber in place.exchange.subscribers.values():
                if not subscriber.beyond:
                    self._read(subscriber.ring, data)
        sizes, limits = place.exchange.sizes(), _limits()
        for name, size in sizes.items():
            if size > limits[name]:
                self._found(data, f"{size} {name}, where {limits[name]} may be")
        peers = Counter(each.peer for each in place.gates.guests.values())
        if peers.total() > gates.GUESTS_MAX or max(peers.values(), default=0) > gates.GUESTS_PER_PEER_MAX:
            self._found(data, "more visits than may be")
        place.exchange.check()
        place.gates.check()

    def _read(self, ring: Ring[Item], data: bytes) -> None:
        while (found := ring.take()) is not None:
            if isinstance(found, Missed):
                continue
            number, item = found
            ring.acknowledge(number)
            if tag(self._own.site) in item.via:
                self._found(data, "a message came back into its site")

    def _state(self) -> tuple[Any, ...]:
        own = self._own.exchange
        return (
            own.sizes(),
            own.version,
            own.missed,
            own.doubled,
            [(each.ring.last, each.ring.bytes) for each in own.subscribers.values()],
            [(each.peer, each.epoch, each.taken) for each in self._own.gates.guests.values()],
        )

    def _found(self, data: bytes, what: str) -> None:
        self.findings.append(f"case {self.cases} of seed {self.seed}: {data[:100]!r}: {what}")


def _limits() -> dict[str, int]:
    return {
        "members": exchange.MEMBERS_MAX,
        "turns": exchange.MEMBERS_MAX,
        "sources": exchange.SOURCES_MAX,
        "publishers": seen.PUBLISHERS_MAX,
    }

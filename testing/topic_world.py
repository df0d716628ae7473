"""Sites with topics under a seeded adversary: links that break, streams that are cut, slow readers, nodes that crash.

    TopicWorld(Random(seed), sites={"a": 2, "b": 1}, joins=[("a0", "b0", "both")]).run() --> what was broken, in words

Nothing here has a clock of its own, and every message goes through the codec. A reader writes down what it was given
and what it was told to have missed; in the end that is held against what was published.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from random import Random
from typing import Any

from atoll.actors.topics import exchange
from atoll.actors.topics.exchange import LEASE_S, Exchange, Flush, Say, Subscriber, Wake
from atoll.actors.topics.filters import matches
from atoll.actors.topics.gates import KEPT_S, Gates, Guest
from atoll.actors.topics.messages import MESSAGES, Item, Lost, Publication, TopicMessages
from atoll.actors.topics.ring import Missed
from atoll.actors.topics.visit import Arrived, Delivered, Visit, Welcomed
from atoll.transport.base import Standing
from atoll.transport.codec import Codec, Message
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

TOPICS = ("a/x", "a/y", "b/x", "c/z")
FILTERS = (("#",), ("a/#",), ("+/x",), ("b/x", "a/y"))
STEPS = 300
CALM_STEPS = 4000
"""At most, at the end, within which everything must have come to rest."""
FAULTS = ("lose", "cut link", "cut stream", "long away", "crash", "sleep")
_CODEC = Codec(MESSAGES)


def node_id(name: str) -> NodeId:
    """Make an id out of a name."""
    return NodeId(blake2b(name.encode(), digest_size=32).digest())


def tag(site: str) -> bytes:
    """Make a site's tag."""
    return site.encode().ljust(8, b".")


@dataclass(slots=True, eq=False)
class Reader:
    """One subscriber of a node, as a program would be one."""

    node: "Place"
    subscriber: Subscriber
    since: int
    """The step at which it was known everywhere."""
    got: list[Publication] = field(default_factory=list)
    missed: int = 0
    doubts: int = 0


class Place:
    """One node."""

    def __init__(self, world: "TopicWorld", site: str, name: str) -> None:
        self.world, self.site, self.name, self.id = world, site, name, node_id(name)
        self.lives = 0
        self.start()

    def start(self) -> None:
        """Begin a life."""
        self.lives += 1
        boot = blake2b(f"{self.name} {self.lives}".encode(), digest_size=8).digest()
        self.exchange = self.world.make_exchange(node=self.id, boot=boot, site=tag(self.site))
        self.gates = self.world.make_gates(
            exchange=self.exchange,
            may_subscribe=("#",),
            may_publish=("#",),
            draw_epoch=lambda: self.world.rng.randbytes(8),
        )
        self.readers: list[Reader] = []


@dataclass(slots=True, eq=False)
class Joined:
    """One join, as `joins.py` keeps it: a visit, and what goes out."""

    visitor: Place
    gate: Place
    topics: tuple[str, ...]
    direction: str
    visit: Visit
    outgoing: Subscriber | None
    guest: Guest | None = None
    stream: int = 0
    there: deque[bytes] = field(default_factory=deque)
    back: deque[bytes] = field(default_factory=deque)
    away_until: int = 0
    is_open: bool = False


class TopicWorld:
    """See the module."""

    def __init__(
        self,
        rng: Random,
        *,
        sites: dict[str, int],
        joins: Sequence[tuple[str, str, str, tuple[str, ...]]] = (),
        faults: tuple[str, ...] = FAULTS,
        fault_rate: float = 0.05,
        make_exchange: Callable[..., Exchange] = Exchange,
        make_gates: Callable[..., Gates] = Gates,
        make_visit: Callable[..., Visit] = Visit,
    ) -> None:
        self.rng = rng
        self.faults, self.fault_rate = faults, fault_rate
        # A stream that is cut loses nothing: what was on its way is kept, and sent again.
        self._lossless = not set(faults) - {"cut stream"} and exchange.WAITING_MAX > STEPS
        self.make_exchange, self.make_gates, self.make_visit = make_exchange, make_gates, make_visit
        self.now, self.step = 0.0, 0
        self.broken: list[str] = []
        self.counts: Counter[str] = Counter()
        self._to_lose = 0
        """Messages between members that get lost, the next first."""
        self.places = {
            f"{site}{index}": Place(self, site, f"{site}{index}")
            for site, count in sites.items()
            for index in range(count)
        }
        self.by_id = {place.id: place for place in self.places.values()}
        self.links: dict[tuple[Place, Place], deque[bytes]] = {}
        self.down: dict[tuple[Place, Place], int] = {}
        self.published: list[tuple[int, Publication]] = []
        self.joins = [
            self._join(self.places[a], self.places[b], direction, topics) for a, b, direction, topics in joins
        ]
        for one in self.places.values():
            for other in self.places.values():
                if one.site == other.site and one is not other:
                    self.links[one, other] = deque()
                    self._carry_out(one, one.exchange.peer_up(other.id, self.now))

    # A run

    def run(self) -> list[str]:
        """Run it to its end, and say what was broken."""
        self._settle()
        for place in self.places.values():
            self._read_here(place)
        self._settle()
        for reader in self._readers():
            reader.since = self.step
        for _ in range(STEPS):
            if self.faults and self.rng.random() < self.fault_rate:
                self._fault(self.rng.choice(self.faults))
            if self.rng.random() < 0.25:
                self._publish(self.rng.choice(list(self.places.values())), self.rng.choice(TOPICS))
            self._step()
            if self.broken:
                return self.broken
        self.faults = ()
        self._settle()
        # A last word of everybody: what is lost before it is found out by it.
        for place in self.places.values():
            for topic in TOPICS:
                self._publish(place, topic)
        self._settle()
        self._judge()
        return self.broken

    def _settle(self) -> None:
        for _ in range(CALM_STEPS):
            if not self._step(calm=True) and not self.down and all(each.is_open for each in self.joins):
                self.now += 1.1
                if not self._step(calm=True):
                    return
        self.broken.append("it never comes to rest")

    def _step(self, *, calm: bool = False) -> bool:
        """Do something somewhere; tell whether there was anything to do."""
        self.step += 1
        self.now += 0.05
        for pair in [pair for pair, until in self.down.items() if calm or self.step >= until]:
            self._link_up(*pair)
        for place in self.places.values():
            self._carry_out(place, [*place.exchange.tick(self.now), *place.gates.tick(self.now)])
            place.exchange.check()
            place.gates.check()
        busy: list[Callable[[], None]] = [partial(self._hear, *pair) for pair, queue in self.links.items() if queue]
        for join in self.joins:
            if not join.is_open and (calm or self.step >= join.away_until):
                busy.append(partial(self._open, join))
            if join.there:
                busy.append(partial(self._at_gate, join))
            if join.back:
                busy.append(partial(self._at_visitor, join))
        busy += [partial(self._read, reader) for reader in self._readers() if reader.subscriber.ring.waits]
        for each in busy if calm else self.rng.sample(busy, min(len(busy), 3)):
            each()
        return bool(busy)

    def _readers(self) -> list[Reader]:
        return [reader for place in self.places.values() for reader in place.readers]

    def _read_here(self, place: Place) -> None:
        for filters in self.rng.sample(FILTERS, 2):
            subscriber, effects = place.exchange.subscribe(filters, self.now)
            place.readers.append(Reader(place, subscriber, self.step))
            self._carry_out(place, effects)

    def _read(self, reader: Reader) -> None:
        found = reader.subscriber.ring.take()
        if isinstance(found, Missed):
            reader.missed += found.count or 0
            reader.doubts += found.count is None
        elif found is not None:
            number, item = found
            reader.subscriber.ring.acknowledge(number)
            if isinstance(item, Lost):
                reader.missed += item.count or 0
                reader.doubts += item.count is None
            else:
                reader.got.append(item)
            if tag(reader.node.site) in item.via:
                self.broken.append("a message came back into its site")

    def _publish(self, place: Place, topic: str) -> None:
        publication, effects = place.exchange.publish(topic, b"x", self.step)
        self.published.append((self.step, publication))
        self._carry_out(place, effects)

    # Links

    def _carry_out(self, place: Place, effects: Sequence[Any]) -> None:
        for effect in effects:
            match effect:
                case Say(peer, message):
                    self._send(place, self.by_id[peer], message)
                case Flush(peer):
                    while (found := place.exchange.outgoing(peer)) is not None:
                        self._look_at(self.by_id[peer], found)
                        self._send(place, self.by_id[peer], found)
                case Wake(number):
                    self._wake(place, number)

    def _send(self, one: Place, other: Place, message: Message) -> None:
        if self._to_lose and self.faults:
            self._to_lose = 0
        elif (one, other) not in self.down:
            self.links[one, other].append(_CODEC.encode(message))

    def _look_at(self, target: Place, messages: TopicMessages) -> None:
        wishes = [each for subscriber in target.exchange.subscribers.values() for each in subscriber.filters]
        topics = [each.topic for each in messages.items if isinstance(each, Publication)]
        self.counts["sent"] += len(topics)
        if self._lossless and not all(any(matches(each, topic) for each in wishes) for topic in topics):
            self.broken.append("a node is sent what it does not want")

    def _hear(self, one: Place, other: Place) -> None:
        message = _CODEC.decode(self.links[one, other].popleft())
        try:
            self._carry_out(other, other.exchange.hear(one.id, message, self.now))
        except MalformedFrame as error:
            self.broken.append(f"an honest member broke the rules: {error}")

    def _link_down(self, one: Place, other: Place, steps: int) -> None:
        for pair in ((one, other), (other, one)):
            self.down[pair] = self.step + steps
            self.links[pair].clear()
            pair[0].exchange.peer_down(pair[1].id)

    def _link_up(self, one: Place, other: Place) -> None:
        del self.down[one, other]
        self._carry_out(one, one.exchange.peer_up(other.id, self.now))

    # Joins

    def _join(self, visitor: Place, gate: Place, direction: str, topics: tuple[str, ...]) -> Joined:
        visit = self.make_visit(
            key=self.rng.randbytes(16),
            site=tag(visitor.site),
            filters=topics if direction != "out" else (),
            publishes=topics if direction != "in" else (),
            joins=True,
        )
        outgoing = None
        if direction != "in":
            outgoing, effects = visitor.exchange.subscribe(topics, self.now)
            self._carry_out_later(visitor, effects)
        return Joined(visitor, gate, topics, direction, visit, outgoing)

    def _carry_out_later(self, place: Place, effects: Sequence[Any]) -> None:
        # The first wish is said when the links come up.
        if self.links:
            self._carry_out(place, effects)

    def _open(self, join: Joined) -> None:
        join.is_open = True
        join.there.clear()
        join.back.clear()
        join.there.append(_CODEC.encode(join.visit.begin()))
        join.guest = None

    def _cut(self, join: Joined, steps: int) -> None:
        if join.guest is not None:
            join.gate.gates.away(join.guest, join.stream, self.now)
        join.visit.there = join.is_open = False
        join.guest, join.away_until = None, self.step + steps
        join.there.clear()
        join.back.clear()

    def _at_gate(self, join: Joined) -> None:
        message, gates = _CODEC.decode(join.there.popleft()), join.gate.gates
        try:
            if join.guest is None:
                join.guest, welcome, effects = gates.begin(join.visitor.id, Standing.GRANTED, message, self.now)  # type: ignore[arg-type]
                join.stream = join.guest.here
                join.back.append(_CODEC.encode(welcome))
                self._carry_out(join.gate, effects)
            else:
                self._carry_out(join.gate, gates.hear(join.guest, message))
        except MalformedFrame as error:
            self.broken.append(f"an honest visitor broke the rules: {error}")
            return
        self._say_back(join)

    def _say_back(self, join: Joined) -> None:
        while (
            len(join.back) < 4
            and join.guest is not None
            and (found := join.gate.gates.outgoing(join.guest)) is not None
        ):
            join.back.append(_CODEC.encode(found))

    def _at_visitor(self, join: Joined) -> None:
        ours, visit = join.visitor.exchange, join.visit
        try:
            events = visit.hear(_CODEC.decode(join.back.popleft()))
        except MalformedFrame as error:
            self.broken.append(f"an honest gate broke the rules: {error}")
            return
        visit.check()
        for event in events:
            match event:
                case Arrived(item):
                    if ours.may_enter(item):
                        self._carry_out(join.visitor, ours.inject(item))
                    else:
                        self.broken.append("a gate sent a message back into its site")
                case Welcomed() | Delivered():
                    self._pump(join)
        self._say_there(join)
        self._say_back(join)

    def _pump(self, join: Joined) -> None:
        visit, outgoing = join.visit, join.outgoing
        while outgoing is not None and visit.there and visit.has_room and (found := outgoing.ring.take()) is not None:
            if isinstance(found, Missed):
                item: Item = Lost(found.count)
            else:
                number, item = found
                outgoing.ring.acknowledge(number)
            leaves = join.visitor.exchange.leaving(item, beyond=visit.gate_site, joins=True)
            if leaves is not None:
                visit.publish(leaves)
        self._say_there(join)

    def _say_there(self, join: Joined) -> None:
        while join.is_open and (found := join.visit.outgoing()) is not None:
            join.there.append(_CODEC.encode(found))

    def _wake(self, place: Place, number: int) -> None:
        for join in self.joins:
            if join.visitor is place and join.outgoing is not None and join.outgoing.number == number:
                self._pump(join)
            guest = join.guest
            if (
                join.gate is place
                and guest is not None
                and guest.subscriber is not None
                and guest.subscriber.number == number
            ):
                self._say_back(join)

    # Faults

    def _fault(self, fault: str) -> None:
        self.counts[fault] += 1
        pairs = sorted(self.links, key=lambda pair: (pair[0].name, pair[1].name))
        match fault:
            case "lose":
                self._to_lose = 1
            case "cut link" if pairs:
                self._link_down(*self.rng.choice(pairs), self.rng.choice((5, 20, 60)))
            case "cut stream" if self.joins:
                self._cut(self.rng.choice(self.joins), self.rng.choice((1, 5, 20)))
            case "long away" if self.joins:
                self._cut(self.rng.choice(self.joins), 10)
                self.now += KEPT_S + 1
            case "sleep":
                self.now += LEASE_S + 1
            case "crash":
                self._crash(self.rng.choice(list(self.places.values())))

    def _crash(self, place: Place) -> None:
        """Begin anew, without any memory; programs that read there are gone, and others take their place."""
        for pair in [pair for pair in self.links if place in pair]:
            self.links[pair].clear()
            self.down.pop(pair, None)
            if pair[1] is place:
                pair[0].exchange.peer_down(place.id)
        for join in self.joins:
            if place in (join.visitor, join.gate):
                self._cut(join, 5)
        place.start()
        for index, join in enumerate(self.joins):
            if place is join.visitor:
                self.joins[index] = self._join(place, join.gate, join.direction, join.topics)
        for pair in [pair for pair in self.links if place in pair]:
            self._carry_out(pair[0], pair[0].exchange.peer_up(pair[1].id, self.now))

    # What must hold

    def _judge(self) -> None:
        for reader in self._readers():
            mine = Counter((each.node, each.boot, each.sequence) for each in reader.got)
            if mine and max(mine.values()) > 1:
                self.broken.append("a message came twice")
            self._judge_order(reader)
            expected = {
                (each.node, each.boot, each.sequence)
                for step, each in self.published
                if step > reader.since
                and any(matches(wanted, each.topic) for wanted in reader.subscriber.filters)
                and self._reaches(self.by_id[each.node].site, reader.node.site, each.topic)
            }
            lost = len(expected - set(mine))
            if lost and self._lossless:
                self.broken.append(f"{lost} messages are lost, and nothing was that loses any")
            elif lost > reader.missed and not reader.doubts:
                self.broken.append(f"{lost} messages are lost, and {reader.missed} are said to be")
            if self._lossless and (reader.missed or reader.doubts):
                self.broken.append("something is said to be lost, and nothing is")

    def _judge_order(self, reader: Reader) -> None:
        """Hold one publisher's messages against their order, where there is one way alone.

        A gate that crashed does not know what it had: its visitor says it again, and what was lost behind it may come.
        """
        if len(self.joins) > 1 or self.counts["crash"]:
            return
        newest: defaultdict[Any, int] = defaultdict(int)
        for each in reader.got:
            key = (each.node, each.boot)
            if each.sequence < newest[key]:
                self.broken.append("messages of one publisher came out of order")
            newest[key] = max(newest[key], each.sequence)

    def _reaches(self, source: str, target: str, topic: str) -> bool:
        """Tell whether joins lead from one site to another for a topic."""
        reached, looked = {source}, -1
        while looked != len(reached):
            looked = len(reached)
            for join in self.joins:
                if any(matches(each, topic) for each in join.topics):
                    one, other = join.visitor.site, join.gate.site
                    if join.direction != "in" and one in reached:
                        reached.add(other)
                    if join.direction != "out" and other in reached:
                        reached.add(one)
        return target in reached

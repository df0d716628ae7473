"""Who of a site gets a message: this node's subscribers, and the members that said they want its topic. Without I/O.

    publish, inject --new?--> each subscriber's ring, and the ring of each member with a matching filter
    TopicsWanted of a member --> its filters, until its lease ends --> TopicsTaken
    TopicMessages of a member --numbers without a gap, or the gap is told--> new? --> this node's subscribers alone

There is no broker: a message goes from its publisher's node, or from the gate it came through, straight to the nodes
that want it, and never on from there. What a member cannot be sent while its link is away waits in its ring, until its
lease ends. It never delivers a message twice, and loses none that a subscriber is not told of.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec
from msgspec import structs

from atoll.actors.runtime.machine import insist
from atoll.actors.topics.errors import BadTopic, TooMany
from atoll.actors.topics.filters import FilterTree, check_filter, check_topic, good_filters
from atoll.actors.topics.messages import (
    BATCH_BYTES_MAX,
    BATCH_MAX,
    GAP_MAX,
    HOPS_MAX,
    NODE_FILTERS_MAX,
    PAYLOAD_BYTES_MAX,
    Item,
    Lost,
    Publication,
    TopicMessages,
    TopicsTaken,
    TopicsWanted,
)
from atoll.actors.topics.ring import Missed, Ring
from atoll.actors.topics.seen import Seen
from atoll.transport.codec import Message
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

SUBSCRIBERS_MAX = 128
"""Of one node, visitors included."""
WAITING_MAX = 8192
"""Messages that wait for one reader: a subscriber, a member, a gate."""
WAITING_BYTES_MAX = 4 * 1024 * 1024
LEASE_S = 30.0
"""How long a member's wish holds after it was said last."""
RENEW_S = 10.0
REPEAT_S = 1.0
"""Until a wish that was not taken is said again."""
MEMBERS_MAX = 1024
"""Members whose wishes are kept."""
SOURCES_MAX = 1024
"""Members of which is known how far they were heard; the one whose life or turn began first is forgotten first."""


class Say(msgspec.Struct, frozen=True):
    """Tell a member's Topics; a message that finds no way is lost, and its number says so."""

    peer: NodeId
    message: Message


class Flush(msgspec.Struct, frozen=True):
    """There is something for a member: call `outgoing` until it gives nothing, as fast as the link takes it."""

    peer: NodeId


class Wake(msgspec.Struct, frozen=True):
    """There is something in a subscriber's ring."""

    subscriber: int


ExchangeEffect: TypeAlias = Say | Flush | Wake


@dataclass(slots=True, kw_only=True)
class Subscriber:
    """Whoever reads on this node: a command, an actor, a visitor from another site."""

    number: int
    filters: tuple[str, ...]
    ring: Ring[Item]
    beyond: bytes = b""
    """The site that gets it, where it leaves this one; empty: nothing leaves."""
    joins: bool = False
    """It goes on into that site."""


@dataclass(slots=True)
class _Member:
    """What a member wants of us."""

    boot: bytes
    version: int
    filters: tuple[str, ...]
    until: float
    ring: Ring[Item]
    turn: int


@dataclass(slots=True)
class _Link:
    """How far a member knows what we want."""

    taken: int = -1
    said: float = 0.0
    tries: int = 0


@dataclass(slots=True)
class _Source:
    """How far we have what a member sends."""

    boot: bytes
    turn: int
    heard: int = 0
    rested: bool = False
    """Nothing was wanted meanwhile: a new turn is no loss."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """The topics of one node; see the module."""

    node: NodeId
    boot: bytes
    site: bytes
    sequence: int = 0
    version: int = 0
    subscribers: dict[int, Subscriber] = field(default_factory=dict)
    seen: Seen = field(default_factory=Seen)
    missed: int = 0
    """What members sent and never came."""
    doubled: int = 0
    _tree: FilterTree[int] = field(default_factory=FilterTree)
    _wishes: dict[str, int] = field(default_factory=dict)
    """Filter -> how many subscribers have it."""
    _members: dict[NodeId, _Member] = field(default_factory=dict)
    _member_tree: FilterTree[NodeId] = field(default_factory=FilterTree)
    _links: dict[NodeId, _Link] = field(default_factory=dict)
    _sources: dict[NodeId, _Source] = field(default_factory=dict)
    _last: int = 0
    _rested: bool = False
    """Nothing was wanted at some time: an earlier turn may have been ended by ourselves."""
    _turns: dict[NodeId, tuple[bytes, int]] = field(default_factory=dict)
    """How often each life of a member was entered."""

    # Subscribers of this node

    def subscribe(
        self,
        filters: tuple[str, ...],
        now: float,
        *,
        ring: Ring[Item] | None = None,
        beyond: bytes = b"",
        joins: bool = False,
    ) -> tuple[Subscriber, list[ExchangeEffect]]:
        """Enter a subscriber, with a ring of its own unless it has one; it is heard of everywhere when `settled`.

        Raises:
            BadTopic: A filter is none.
            TooMany: There are too many subscribers or filters.
        """
        filters = good_filters(filters)
        if len(self.subscribers) >= SUBSCRIBERS_MAX:
            raise TooMany(f"{SUBSCRIBERS_MAX} subscribers are here already; end one")
        if len(self._wishes.keys() | filters) > NODE_FILTERS_MAX:
            raise TooMany(f"this node's subscribers have {NODE_FILTERS_MAX} filters together already; end one")
        self._last += 1
        ring = self.new_ring() if ring is None else ring
        subscriber = Subscriber(number=self._last, filters=filters, ring=ring, beyond=beyond, joins=joins)
        self.subscribers[subscriber.number] = subscriber
        before = len(self._wishes)
        for each in filters:
            self._tree.add(each, subscriber.number)
            self._wishes[each] = self._wishes.get(each, 0) + 1
        return subscriber, self._wish(now) if len(self._wishes) != before else []

    def unsubscribe(self, number: int, now: float) -> list[ExchangeEffect]:
        """Strike one off; harmless when it is gone."""
        subscriber = self.subscribers.pop(number, None)
        if subscriber is None:
            return []
        before = len(self._wishes)
        for each in subscriber.filters:
            self._tree.remove(each, number)
            self._wishes[each] -= 1
            if not self._wishes[each]:
                del self._wishes[each]
        if not self._wishes:
            self._rested = True
            for source in self._sources.values():
                source.rested = True
        return self._wish(now) if len(self._wishes) != before else []

    def settled(self, version: int) -> bool:
        """Tell whether every member with a link goes by the filters of that version, or a later one."""
        return all(link.taken >= version for link in self._links.values())

    # Messages

    def publish(self, topic: str, payload: bytes, time_ms: int) -> tuple[Publication, list[ExchangeEffect]]:
        """Publish in this site.

        Raises:
            BadTopic: The topic is none, or the payload is too long.
        """
        publication = self.sign(topic, payload, time_ms)
        return publication, self.inject(publication)

    def sign(self, topic: str, payload: bytes, time_ms: int) -> Publication:
        """Make a message of this node, wherever it is published.

        Raises:
            BadTopic: The topic is none, or the payload is too long.
        """
        check_topic(topic)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise BadTopic(
                f"a payload has at most {PAYLOAD_BYTES_MAX} bytes, this one {len(payload)}; send a file with atoll send"
            )
        self.sequence += 1
        return Publication(topic, payload, self.node, self.boot, self.sequence, time_ms)

    def inject(self, item: Item) -> list[ExchangeEffect]:
        """Bring a message into this site, here and at every member that wants it, once; or word of losses to all."""
        if isinstance(item, Publication) and not self._is_new(item):
            return []
        effects = self._deliver(item)
        wanted = self._members if isinstance(item, Lost) else self._member_tree.holders(item.topic)
        for peer in sorted(wanted):
            self._members[peer].ring.put(item, item.size, item.weight, sure=item.sure)
            effects.append(Flush(peer))
        return effects

    def may_enter(self, item: Item) -> bool:
        """Tell whether a message from another site may come into this one: it has never been here."""
        return self.site not in item.via

    def leaving(self, item: Item, *, beyond: bytes, joins: bool) -> Item | None:
        """Give a message, or word of a loss, as it leaves this site for another one; None if it must not.

        What goes on in the other site has not been there, and crosses no more than `HOPS_MAX` borders; with the first
        rule, nothing runs in a circle, and with the second nothing that a lying gate sends round.
        """
        if beyond == self.site:
            return item
        if len(item.via) >= HOPS_MAX or (joins and beyond in item.via):
            return None
        return structs.replace(item, via=(*item.via, self.site))

    def _is_new(self, publication: Publication) -> bool:
        # By the first site that it left: no gate can make messages of our own site look old.
        site = publication.via[0] if publication.via else b""
        new = self.seen.is_new((site, publication.node, publication.boot), publication.sequence)
        self.doubled += not new
        return new

    def _deliver(self, item: Item) -> list[ExchangeEffect]:
        effects: list[ExchangeEffect] = []
        if isinstance(item, Lost):
            self.missed += item.weight
            wanted = set(self.subscribers)
        else:
            wanted = self._tree.holders(item.topic)
        for number in sorted(wanted):
            subscriber, given = self.subscribers[number], item
            if subscriber.beyond:
                leaves = self.leaving(item, beyond=subscriber.beyond, joins=subscriber.joins)
                if leaves is None:
                    continue
                given = leaves
            subscriber.ring.put(given, given.size, given.weight, sure=given.sure)
            effects.append(Wake(number))
        return effects

    def reach(self, topic: str) -> tuple[int, int]:
        """Say how many subscribers here and how many members want a topic now."""
        return len(self._tree.holders(topic)), len(self._member_tree.holders(topic))

    def outgoing(self, peer: NodeId) -> TopicMessages | None:
        """Give the next messages for a member; whatever becomes of them, they are not given again."""
        member = self._members.get(peer)
        if member is None or peer not in self._links:
            return None
        batch: list[Item] = []
        first = size = 0
        while len(batch) < BATCH_MAX and size < BATCH_BYTES_MAX:
            found = member.ring.take()
            if found == Missed(None):
                # Said anew, behind what waits.
                member.ring.put(Lost(), Lost().size, sure=False)
                continue
            if isinstance(found, Missed):
                # The gap in the numbers says it; so the next batch begins behind it.
                if batch:
                    break
                continue
            if found is None:
                break
            number, item = found
            first = first or number - item.weight + 1
            batch.append(item)
            size += item.size
            member.ring.acknowledge(number)
        if not batch:
            return None
        return TopicMessages(self.boot, member.boot, member.turn, first, tuple(batch))

    # Members

    def peer_up(self, peer: NodeId, now: float) -> list[ExchangeEffect]:
        """Hear of a link to a member."""
        self._links[peer] = _Link()
        effects: list[ExchangeEffect] = []
        if self._wishes:
            effects += self._say_wish(peer, now)
        else:
            self._links[peer].taken = self.version
        return [*effects, Flush(peer)] if peer in self._members else effects

    def peer_down(self, peer: NodeId) -> None:
        """Hear that it is gone; what the member wanted is kept until its lease ends."""
        self._links.pop(peer, None)

    @property
    def linked(self) -> frozenset[NodeId]:
        """Name the members with a link."""
        return frozenset(self._links)

    @property
    def wants(self) -> bool:
        """Tell whether anybody here subscribes to anything."""
        return bool(self._wishes)

    @property
    def wanting(self) -> int:
        """Count the members that want something."""
        return len(self._members)

    def tick(self, now: float) -> list[ExchangeEffect]:
        """Say wishes again where it is time, and forget members whose lease has ended; about twice a second."""
        for peer in [peer for peer, member in self._members.items() if now >= member.until]:
            self._forget(peer)
        effects: list[ExchangeEffect] = []
        for peer in sorted(self._links):
            link = self._links[peer]
            # A member that never answers has no Topics: it is asked as seldom as one that does.
            pause = RENEW_S if link.taken == self.version or link.tries > 3 else REPEAT_S
            if (self._wishes or link.taken != self.version) and now - link.said >= pause:
                effects += self._say_wish(peer, now)
        return effects

    def hear(self, peer: NodeId, message: Message, now: float) -> list[ExchangeEffect]:
        """Take what a member says.

        Raises:
            MalformedFrame: It breaks the rules; nothing of it was taken.
        """
        match message:
            case TopicsWanted():
                return self._on_wanted(peer, message, now)
            case TopicsTaken(boot, version):
                link = self._links.get(peer)
                if link is not None and boot == self.boot and version <= self.version:
                    link.taken = max(link.taken, version)
                    link.tries = 0
                return []
            case TopicMessages():
                return self._on_messages(peer, message)
        raise MalformedFrame(f"{type(message).__name__} is no message between members")

    def _on_wanted(self, peer: NodeId, wanted: TopicsWanted, now: float) -> list[ExchangeEffect]:
        _check_filters(wanted.filters)
        member = self._members.get(peer)
        if member is not None and member.boot == wanted.boot and wanted.version < member.version:
            return []
        if member is not None and (member.boot != wanted.boot or not wanted.filters):
            self._forget(peer)
            member = None
        if wanted.filters:
            if member is None:
                if len(self._members) >= MEMBERS_MAX:
                    return []
                member = _Member(wanted.boot, -1, (), now, self.new_ring(), self._next_turn(peer, wanted.boot))
                self._members[peer] = member
            self._renew(peer, member, wanted, now)
        return [Say(peer, TopicsTaken(wanted.boot, wanted.version))]

    def _next_turn(self, peer: NodeId, boot: bytes) -> int:
        known, turn = self._turns.pop(peer, (boot, 0))
        self._turns[peer] = boot, turn + 1 if known == boot else 1
        if len(self._turns) > MEMBERS_MAX:
            del self._turns[next(iter(self._turns))]
        return self._turns[peer][1]

    def _renew(self, peer: NodeId, member: _Member, wanted: TopicsWanted, now: float) -> None:
        member.until = now + LEASE_S
        if member.version != wanted.version:
            for each in member.filters:
                self._member_tree.remove(each, peer)
            for each in wanted.filters:
                self._member_tree.add(each, peer)
            member.version, member.filters = wanted.version, wanted.filters

    def _forget(self, peer: NodeId) -> None:
        for each in self._members.pop(peer).filters:
            self._member_tree.remove(each, peer)

    def _on_messages(self, peer: NodeId, messages: TopicMessages) -> list[ExchangeEffect]:
        for each in messages.items:
            self._check(peer, each)
        if messages.wanted_boot != self.boot:
            return []
        effects: list[ExchangeEffect] = []
        source = self._sources.get(peer)
        begins = source is None or (source.boot, source.turn) != (messages.boot, messages.turn)
        gap = messages.first - 1 - (0 if source is None or begins else source.heard)
        if not 0 <= gap <= GAP_MAX:
            raise MalformedFrame("a member numbers its messages twice, or has lost more than it can have sent")
        if source is None or begins:
            if (messages.turn > 1 and not self._rested) if source is None else not source.rested:
                # It started anew, or forgot us while we could not be reached.
                effects += self._deliver(Lost())
            source = self._begin_source(peer, _Source(messages.boot, messages.turn))
        if gap:
            effects += self._deliver(Lost(gap))
        source.rested = False
        source.heard = messages.first - 1 + sum(each.weight for each in messages.items)
        for each in messages.items:
            if isinstance(each, Lost) or self._is_new(each):
                effects += self._deliver(each)
        return effects

    def _begin_source(self, peer: NodeId, source: _Source) -> _Source:
        self._sources.pop(peer, None)
        self._sources[peer] = source
        if len(self._sources) > SOURCES_MAX:
            del self._sources[next(iter(self._sources))]
        return source

    def _check(self, peer: NodeId, item: Item) -> None:
        if self.site in item.via:
            raise MalformedFrame("a message comes back into its site")
        if isinstance(item, Lost):
            return
        try:
            check_topic(item.topic)
        except BadTopic as error:
            raise MalformedFrame(str(error)) from error
        if not item.via and item.node != peer:
            raise MalformedFrame("a member speaks in another one's name")

    def _wish(self, now: float) -> list[ExchangeEffect]:
        self.version += 1
        return [effect for peer in sorted(self._links) for effect in self._say_wish(peer, now)]

    def _say_wish(self, peer: NodeId, now: float) -> list[ExchangeEffect]:
        link = self._links[peer]
        link.said = now
        link.tries += link.taken != self.version
        return [Say(peer, TopicsWanted(self.boot, self.version, tuple(sorted(self._wishes))))]

    def new_ring(self) -> Ring[Item]:
        """Make what waits for one reader."""
        return Ring(WAITING_MAX, WAITING_BYTES_MAX)

    def sizes(self) -> dict[str, int]:
        """Count what stands in tables that others can fill."""
        return {
            "members": len(self._members),
            "turns": len(self._turns),
            "sources": len(self._sources),
            "publishers": len(self.seen),
        }

    def check(self) -> None:
        """Assert what always holds."""
        insist(len(self.subscribers) <= SUBSCRIBERS_MAX, "subscribers are bounded")
        insist(len(self._wishes) <= NODE_FILTERS_MAX, "filters are bounded")
        insist(len(self._members) <= MEMBERS_MAX, "members are bounded")
        insist(len(self._sources) <= SOURCES_MAX, "sources are bounded")
        for ring in (*(each.ring for each in self.subscribers.values()), *(m.ring for m in self._members.values())):
            ring.check()


def _check_filters(filters: tuple[str, ...]) -> None:
    try:
        for each in filters:
            check_filter(each)
    except BadTopic as error:
        raise MalformedFrame(str(error)) from error

"""Decides whom to dial, where, and when; and who is shown as near.

    unknown  --a beacon, a seed, a link from there-->  alone
    alone    --our turn, wanted, room-->               dialling  (more addresses join it, one each `HEAD_START_S`)
    dialling --no address answered-->                  alone     (for longer after each round)
    any      --PeerUp-->                               linked
    linked   --PeerDown-->                             alone
    alone    --unheard for 10 s, and no seed-->        unknown

Of two nodes the one with the lower id dials, so that two links do not cross; when that one does not come, the other
dials too. A node's addresses are dialled in turn (`addresses.py`), the next when the transport says that one failed.
Members go before neighbours, who have a few dials and links between them all. On a small site everybody has a link to
everybody; on a large one to the next few members by id, which holds the site together, to those that are `Wanted`, and
for a while to those that are talked to (`talks.py`).

A hint is never proof: it cannot end a link, raise a standing, or make this node dial faster than the limits here. The
machine must never dial its own node, and every table has its limit.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from atoll.actors.discoverer.addresses import Addresses
from atoll.actors.discoverer.messages import (
    CANDIDATES_MAX,
    DialWanted,
    LinkWanted,
    ListSeen,
    NodeLost,
    NodeSeen,
    Seed,
    SeenNode,
    SeenNodes,
    Wanted,
)
from atoll.actors.discoverer.talks import Talks
from atoll.actors.router.messages import LetGo, PeerDown, PeerUp
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Effect,
    Input,
    Received,
    Record,
    Reply,
    Seconds,
    TimerFired,
    Told,
    insist,
)
from atoll.transport.base import DialFailed, Standing
from atoll.transport.beacon_packet import FORGET_S, Heard
from atoll.transport.dnssd import AddressHinted
from atoll.transport.identity import NodeId
from atoll.transport.network_watch import NetworkChanged

FALLBACK_S = 1.5
"""How long the higher id waits for the lower one's link, while it hears it: a beacon and a handshake."""
FALLBACK_BEATS = 2
"""Beacons heard in that time: one alone may be the last of a node that is gone."""
DIAL_S = 4.0
"""How long an address has when the transport says nothing; usually it says within 2 s that a dial failed."""
HEAD_START_S = 0.25
"""How long an address is dialled alone; then the next one joins, so that dead ones hold nobody up. Five addresses of
which three are dead cost less than a second."""
MOVED_S = 0.25
"""How soon a new address of a node that does not answer is dialled."""
MOVED_FOR_S = 5.0
"""How long after a change of our own addresses we dial without waiting for lower ids."""
PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 8.0
"""Between two rounds; doubled from round to round, and shortened by up to a half at random."""
STABLE_S = 5.0
"""A link that breaks sooner did not work: its next round waits as if the dial had failed."""
RELINK_S_MAX = 0.1
"""After a link broke, so that a site whose switch restarts does not dial in one moment."""
LOOK_S = 0.25
IDLE_LOOK_S = 1.0
"""Between two looks while every wanted link is up."""
DIALS_MAX = 16
NEIGHBOUR_DIALS_MAX = 4
"""Of those, what nodes of other sites may take up."""
NEIGHBOUR_LINKS_MAX = 16
"""Neighbours dialled for; their links are only for show."""
MEMBERS_MAX = 4096
NEIGHBOURS_MAX = 256
SMALL_SITE_MAX = 16
"""Nodes, this one counted, that all have links to each other: 120 links in all."""
CROWD = 64
RING_LINKS = 2
"""On a larger site, members next by id that are always wanted: four links a node with those that want it, which is what
8 packets a second allow (decision 0017). The ring is chosen anew as soon as somebody is forgotten."""


@dataclass(slots=True)
class _Peer:
    node: NodeId
    member: bool
    alone_since: Seconds
    """Since when it has been known, or the link has been down."""
    label: str = ""
    release: str = ""
    boot: int = 0
    sequence: int = 0
    heard_at: Seconds | None = None
    beats: int = 0
    """Beacons heard, each counted once."""
    beats_before: int = 0
    """Of these, before `alone_since`."""
    standing: Standing | None = None
    linked_at: Seconds = 0.0
    addresses: Addresses = field(default_factory=Addresses)
    rounds: int = 0
    """That came to nothing, one after the other."""
    dialling_until: Seconds = 0.0
    alone_until: Seconds = 0.0
    """While it is being dialled: when the next address joins."""
    not_before: Seconds = 0.0
    failure: str = ""
    """What the transport said of a dial of this round."""
    why: str = ""


class Membership:
    """The discovery machine of one node; see the module."""

    def __init__(self, own: NodeId, *, rng: Random, seeds: Iterable[Seed] = ()) -> None:
        self.own = own
        self.rng = rng
        self.counts: Counter[str] = Counter()
        self.notes: tuple[str, ...] = ()
        """What the shell knows to be wrong with beacons; handed on in `SeenNodes`."""
        self._seeds = tuple(seed for seed in seeds if seed.peer != own)
        self._peers: dict[NodeId, _Peer] = {}
        self._dialling: set[NodeId] = set()
        self._wanted: frozenset[NodeId] = frozenset()
        self._everybody = False
        self._talks = Talks()
        self.crowded = False
        """So many members are known that each says less."""
        self._chosen: frozenset[NodeId] | None = None
        """Members to have links with; None when it has to be chosen anew."""
        self._moved_until: Seconds = 0.0
        """Until then the order of who dials does not hold: our address has changed, and only we know it."""
        self._hurried = False
        """The next look is `LOOK_S` away, not `IDLE_LOOK_S`."""

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        del restored  # nothing is persisted: who is near is heard within a second
        effects: list[Effect] = []
        for seed in self._seeds:
            peer = self._peers.get(seed.peer)
            if peer is None:
                # The operator named it, so it is treated like a member until its link says otherwise.
                peer = self._peers[seed.peer] = _Peer(seed.peer, member=True, alone_since=now)
            peer.addresses.name((seed.host, seed.port))
        return effects + self._look(now)

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        effects: list[Effect] = []
        match event:
            case Told(Heard() as heard):
                effects = self._on_heard(heard, now)
            case TimerFired():
                effects = self._look(now)
            case Told(PeerUp() as fact):
                effects = self._on_up(fact, now)
            case Told(PeerDown(peer=node)):
                effects = self._on_down(node, now)
            case Told(DialFailed(peer=node, reason=reason)):
                effects = self._on_failed(node, reason, now)
            case Told(AddressHinted() as hint):
                effects = self._on_hinted(hint, now)
            case Told(NetworkChanged()):
                effects = self._on_moved(now)
            case Told(Wanted() | LinkWanted() as wish):
                effects = self._on_wish(wish, now)
            case Received(message=ListSeen(), reply_to=reply_to) if reply_to is not None:
                effects = [Reply(reply_to, self.seen(now))]
            case _:
                self.counts["ignored"] += 1
        return effects

    def seen(self, now: Seconds) -> SeenNodes:
        """List everybody, with the reason where there is no link."""
        return SeenNodes(tuple(self._describe(self._peers[node], now) for node in sorted(self._peers)), self.notes)

    def is_coming(self, node: NodeId) -> bool:
        """Tell whether a link to that member is being made only because somebody talks to it."""
        peer = self._peers.get(node)
        return node in self._talks and peer is not None and peer.standing is None and bool(peer.addresses)

    def statistics(self, now: Seconds) -> dict[str, int]:
        """Count nodes and links now, and events since the start."""
        peers = self._peers.values()
        return {
            "members": sum(peer.member for peer in peers),
            "neighbours": sum(not peer.member for peer in peers),
            "links": sum(peer.standing is not None for peer in peers),
            "dialling": len(self._under_way(now)),
            **dict(sorted(self.counts.items())),
        }

    def check(self) -> None:
        alone = [peer for peer in self._peers.values() if peer.standing is None]
        for holds, what in (
            (self.own not in self._peers, "a node is its own peer"),
            (sum(peer.member for peer in alone) <= MEMBERS_MAX + len(self._seeds), "too many members"),
            (sum(not peer.member for peer in alone) <= NEIGHBOURS_MAX + len(self._seeds), "too many neighbours"),
            (len(self._dialling) <= DIALS_MAX, "too many dials"),
            (all(self._peers[node].standing is None for node in self._dialling), "dials somebody linked"),
            (all(len(peer.addresses) <= CANDIDATES_MAX for peer in alone), "too many addresses"),
        ):
            insist(holds, what)

    # What comes in

    def _on_heard(self, heard: Heard, now: Seconds) -> list[Effect]:
        if heard.peer == self.own:
            self.counts["ignored"] += 1
            return []
        effects: list[Effect] = []
        peer = self._peers.get(heard.peer)
        if peer is None:
            if not self._has_room(member=heard.member_tag):
                self.counts["refused"] += 1
                return []
            peer = self._peers[heard.peer] = _Peer(heard.peer, heard.member_tag, alone_since=now)
            self._chosen = None
            effects = [Announce(NodeSeen(heard.peer, heard.label, heard.member_tag))]
        self._note_beacon(peer, heard, now)
        fresh = peer.addresses.hear((heard.host, heard.port), peer.beats, now)
        if peer.standing is not None:
            return effects
        if fresh:
            # It may have moved: the pause was for addresses that did not answer.
            peer.not_before = min(peer.not_before, now + MOVED_S)
        return effects + self._consider(peer, now) + self._hurry(peer)

    def _on_hinted(self, hint: AddressHinted, now: Seconds) -> list[Effect]:
        """Note where somebody is said to be; without a seal nobody is taken for a member."""
        if hint.peer == self.own:
            return []
        effects: list[Effect] = []
        peer = self._peers.get(hint.peer)
        if peer is None:
            if not self._has_room(member=False):
                self.counts["refused"] += 1
                return []
            peer = self._peers[hint.peer] = _Peer(hint.peer, member=False, alone_since=now)
            effects = [Announce(NodeSeen(hint.peer, hint.label, member=False))]
        peer.label, peer.release = peer.label or hint.label, peer.release or hint.release
        # One that is also heard counts its own beats.
        peer.beats += peer.heard_at is None
        peer.addresses.hear((hint.host, hint.port), peer.beats, now)
        return effects if peer.standing is not None else effects + self._consider(peer, now) + self._hurry(peer)

    def _on_up(self, fact: PeerUp, now: Seconds) -> list[Effect]:
        if fact.peer == self.own or fact.standing is Standing.CLOUD:
            return []
        effects: list[Effect] = []
        member = fact.standing is Standing.MEMBER
        peer = self._peers.get(fact.peer)
        if peer is None:
            # Links are limited where they are made; each is worth a line here.
            peer = self._peers[fact.peer] = _Peer(fact.peer, member, alone_since=now)
            effects = [Announce(NodeSeen(fact.peer, fact.label, member))]
        peer.standing, peer.linked_at, peer.why = fact.standing, now, ""
        peer.label = fact.label or peer.label
        peer.addresses.begin_round()
        self._dialling.discard(fact.peer)
        if peer.member != member or effects:
            peer.member, self._chosen = member, None
        return effects

    def _on_down(self, node: NodeId, now: Seconds) -> list[Effect]:
        peer = self._peers.get(node)
        if peer is None or peer.standing is None:
            return []
        peer.standing, peer.alone_since, peer.beats_before = None, now, peer.beats
        if now - peer.linked_at >= STABLE_S or now < self._moved_until:
            peer.rounds = 0
            peer.not_before = now + self.rng.uniform(0, RELINK_S_MAX)
        else:
            self._end_round(peer, now, "the link broke at once")
        if not peer.addresses.static and not self._has_room(member=peer.member, room_for=0):
            return self._forget(peer)
        return self._hurry(peer)

    def _on_failed(self, node: NodeId, reason: str, now: Seconds) -> list[Effect]:
        peer = self._peers.get(node)
        if peer is None or peer.standing is not None or node not in self._under_way(now):
            return []
        self.counts["dials_failed"] += 1
        peer.failure = reason
        peer.dialling_until = peer.not_before = now
        return self._consider(peer, now) + self._hurry(peer)

    def _on_moved(self, now: Seconds) -> list[Effect]:
        """Dial everybody soon: what failed before may work now, and others cannot know that it is our turn."""
        self._moved_until = now + MOVED_FOR_S
        for peer in self._peers.values():
            if peer.standing is None and peer.node not in self._dialling:
                peer.rounds = 0
                peer.not_before = min(peer.not_before, now + self.rng.uniform(0, RELINK_S_MAX))
                peer.addresses.begin_round()
        self._hurried = True
        return [*self._look(now), Arm("look", RELINK_S_MAX)]

    def _on_wish(self, wish: Wanted | LinkWanted, now: Seconds) -> list[Effect]:
        """Dial members that the size of the site gives us no link to."""
        if isinstance(wish, Wanted):
            self._wanted, self._everybody, self._chosen = wish.peers, wish.everybody, None
            return self._look(now)
        node = wish.peer
        peer = self._peers.get(node)
        if peer is None or not peer.member:
            return []
        if node not in self._talks and (peer.standing is not None or not self._why_unwanted(peer)):
            return []
        if not self._talks.want(node, now):
            self.counts["talks_refused"] += 1
            return []
        self._chosen = None
        return [] if peer.standing is not None else self._consider(peer, now) + self._hurry(peer)

    def _end_talks(self, now: Seconds) -> list[Effect]:
        """Let links go that nobody talks over any more."""
        effects: list[Effect] = []
        for node in self._talks.over(now):
            self._chosen = None
            peer = self._peers.get(node)
            if peer is not None and peer.standing is not None and self._why_unwanted(peer):
                self.counts["let_go"] += 1
                effects.append(Announce(LetGo(node, "nobody here talks to it any more")))
        return effects

    def _note_beacon(self, peer: _Peer, heard: Heard, now: Seconds) -> None:
        peer.label, peer.release, peer.heard_at = heard.label, heard.release, now
        if (heard.boot, heard.sequence) != (peer.boot, peer.sequence):
            peer.beats += 1
        if heard.boot > peer.boot > 0 and peer.standing is None:
            # It restarted: what failed before may work now.
            peer.rounds, peer.not_before = 0, min(peer.not_before, now + MOVED_S)
        peer.boot, peer.sequence = heard.boot, heard.sequence
        if peer.standing is None and heard.member_tag and not peer.member and self._has_room(member=True):
            peer.member, self._chosen = True, None

    # What follows

    def _look(self, now: Seconds) -> list[Effect]:
        """Forget who is gone, dial whose time has come."""
        effects = self._end_talks(now)
        for peer in list(self._peers.values()):
            peer.addresses.forget_old(now)
            unheard = peer.heard_at is None or now - peer.heard_at >= FORGET_S
            if peer.standing is None and not peer.addresses and unheard and now - peer.alone_since >= FORGET_S:
                effects += self._forget(peer)
        restless = False
        for peer in sorted(self._peers.values(), key=lambda each: (not each.member, each.node)):
            if peer.standing is None:
                effects += self._consider(peer, now)
                restless = restless or not self._why_unwanted(peer)
        self._hurried = restless
        return [*effects, Arm("look", LOOK_S if restless else IDLE_LOOK_S)]

    def _hurry(self, peer: _Peer) -> list[Effect]:
        if self._hurried or self._why_unwanted(peer):
            return []
        self._hurried = True
        return [Arm("look", LOOK_S)]

    def _consider(self, peer: _Peer, now: Seconds) -> list[Effect]:
        """Dial the next address of somebody without a link, if all is right for it."""
        under_way = self._under_way(now)
        joins = now < peer.dialling_until
        if now < (peer.alone_until if joins else peer.not_before):
            return []
        if why := self._why_unwanted(peer) or self._why_not_yet(peer, under_way, now):
            peer.why = why
            return []
        place = peer.addresses.take(now)
        if place is None:
            return []
        peer.dialling_until, peer.alone_until = now + DIAL_S, now + HEAD_START_S
        peer.why = f"dialling {place[0]} port {place[1]}"
        self._dialling.add(peer.node)
        self.counts["dials"] += 1
        return [Announce(DialWanted(peer.node, *place))]

    def _end_round(self, peer: _Peer, now: Seconds, why: str) -> None:
        peer.rounds += 1
        peer.addresses.begin_round()
        peer.failure = ""
        pause_s = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(peer.rounds - 1, 30)) * self.rng.uniform(0.5, 1.0)
        peer.dialling_until, peer.not_before = now, now + pause_s
        peer.why = f"no link after {peer.rounds} rounds of dialling ({why})" if peer.rounds > 1 else why
        self._dialling.discard(peer.node)

    def _why_unwanted(self, peer: _Peer) -> str:
        """Say why no link to that node is wanted; empty when one is."""
        if peer.addresses.static or not peer.member:
            return ""
        if self._chosen is None:
            self._chosen = self._choose()
        return (
            ""
            if peer.node in self._chosen
            else "a large site: links go to the supernode, voters, the next nodes by id, and those talked to"
        )

    def _choose(self) -> frozenset[NodeId]:
        members = sorted(peer.node for peer in self._peers.values() if peer.member)
        self.crowded = len(members) >= CROWD
        if len(members) < SMALL_SITE_MAX or self._everybody:
            return frozenset(members)
        after = sum(node < self.own for node in members)
        ring = (members[after:] + members[:after])[:RING_LINKS]
        return (self._wanted | self._talks.nodes()).intersection(members).union(ring)

    def _why_not_yet(self, peer: _Peer, under_way: set[NodeId], now: Seconds) -> str:
        """Say what a dial of a wanted node waits for; empty when it may begin, or go on."""
        waited = now - peer.alone_since >= FALLBACK_S and (
            peer.beats - peer.beats_before >= FALLBACK_BEATS or peer.addresses.static
        )
        # The other one has no reason to dial when only we have something to say.
        waited = waited or peer.node in self._talks
        if self.own > peer.node and not waited and now >= self._moved_until:
            return "it dials, having the lower id"
        if peer.node in under_way:
            return ""
        if not peer.member:
            linked = sum(each.standing is Standing.NEIGHBOUR for each in self._peers.values())
            dialling = sum(not self._peers[node].member for node in under_way)
            if linked + dialling >= NEIGHBOUR_LINKS_MAX:
                return f"{NEIGHBOUR_LINKS_MAX} links to neighbours are enough"
            if dialling >= NEIGHBOUR_DIALS_MAX:
                return f"{NEIGHBOUR_DIALS_MAX} neighbours are being dialled already"
        return "" if len(under_way) < DIALS_MAX else f"{DIALS_MAX} nodes are being dialled already"

    def _under_way(self, now: Seconds) -> set[NodeId]:
        """Give those being dialled, after dropping those whose last address had its time."""
        # In the order of their ids: each round that ends draws the pause behind it.
        for node in sorted(node for node in self._dialling if now >= self._peers[node].dialling_until):
            peer = self._peers[node]
            if self._why_unwanted(peer) or not peer.addresses.untried(now):
                self._end_round(peer, now, peer.failure or "no address answered")
        return self._dialling

    def _has_room(self, *, member: bool, room_for: int = 1) -> bool:
        known = sum(peer.member == member and peer.standing is None for peer in self._peers.values())
        return known + room_for <= (MEMBERS_MAX if member else NEIGHBOURS_MAX)

    def _forget(self, peer: _Peer) -> list[Effect]:
        del self._peers[peer.node]
        self._dialling.discard(peer.node)
        self._chosen = None
        return [Announce(NodeLost(peer.node))]

    def _describe(self, peer: _Peer, now: Seconds) -> SeenNode:
        return SeenNode(
            peer.node,
            peer.label,
            peer.release,
            peer.member,
            peer.standing.value if peer.standing is not None else "",
            tuple(peer.addresses.live(now)),
            round(now - peer.heard_at, 3) if peer.heard_at is not None else -1.0,
            peer.why,
        )

"""Looks after the migratable actors of a site whose host is gone: the machine of one node, at work while it presides.

    member    --SupernodeElected(this one, confirmed)-->  supernode: hears the hosts for GATHER_S, then decides
    supernode --every DECIDE_S: ListPlaces--> PlacesListed --decides (`relocating.py`)--> SwapPlace, and tells hosts
    supernode --SupernodeLost, or another-->              member: tells the supernode what it can run and what it owns

A host is gone when it was declared dead, or has left, and did not come back within GRACE_S; or when nothing was heard
of it for UNHEARD_S. One that starts again within that time goes on where it was: it is told what is placed on it.

It must never take anything away by itself: whoever is replaced learns of it from the placement, or from its stores.
"""

from collections.abc import Sequence
from typing import Any

from atoll.actors.discoverer.messages import MemberAlive, MemberDied, MemberLeft
from atoll.actors.elector.messages import (
    DrainWanted,
    ElectionStatus,
    RosterInForce,
    ScoreChanged,
    SupernodeElected,
    SupernodeLost,
)
from atoll.actors.elector.score import Score
from atoll.actors.hand_over.messages import HOSTING, TakePlace
from atoll.actors.hand_over.relocating import Candidate, Decision, Elsewhere, Relocating, Site, Tell
from atoll.actors.hand_over.site_messages import RELOCATION, HostHere, HostOffers, Relocated
from atoll.actors.placement.messages import PATH as PLACEMENT
from atoll.actors.placement.messages import ListPlaces, Placed, PlacesListed, PlaceSwapped, SwapPlace
from atoll.actors.router.messages import PeerUp
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Received,
    Record,
    Seconds,
    Send,
    TimerFired,
    insist,
)
from atoll.transport.identity import NodeId

REPORT_S = 5.0
SOON_S = 0.02
"""Changes come in groups; one report carries them all."""
GATHER_S = 1.0
"""How long a new supernode listens to its hosts: far above a round trip, far below what declares a death."""
DECIDE_S = 0.5
GRACE_S = 3.0
"""A process that was killed is declared dead after some six seconds, and starts again within two."""
UNHEARD_S = 3 * REPORT_S
HOSTS_MAX = 1024
"""As many members as are heard; more are ignored."""


class Relocation:
    """The relocation machine of one node; the module tells its states."""

    relocating_kind = Relocating

    def __init__(self, own: NodeId) -> None:
        self.own = own
        self.ignored = 0
        self._supernode: NodeId | None = None
        self._voters: tuple[NodeId, ...] = ()
        self._score = Score()
        self._draining = False
        self._offers = HostOffers((), ())
        self._gone: dict[NodeId, Seconds] = {}
        """Members that were declared dead, or left, and since when."""
        self._heard: dict[NodeId, tuple[HostHere, Seconds]] = {}
        """What hosts said last, and when, while this node is supernode."""
        self._kinds: dict[str, str] = {}
        self._relocating: Relocating | None = None
        """Present exactly while this node is supernode."""
        self._since: Seconds = 0.0
        """When it became that."""
        self._whys: dict[str, str] = {}

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        del restored, now  # Nothing is kept: the placement and the hosts say it again.
        return [Arm("report", SOON_S)]

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        if isinstance(event, Received):
            return self._receive(event.sender, event.message, now)
        if isinstance(event, TimerFired):
            return self._ask() if event.name == "decide" else self._report(now)
        return self._take_fact(event.fact, now)

    def check(self) -> None:
        insist((self._relocating is not None) == (self._supernode == self.own), "decides without being supernode")
        insist(len(self._heard) <= HOSTS_MAX, "heard more hosts than there may be")

    def _take_fact(self, fact: Any, now: Seconds) -> list[Effect]:
        match fact:
            case SupernodeElected(node=node, confirmed=confirmed):
                return self._follow(node if confirmed else None, now)
            case ElectionStatus(supernode=node, confirmed=confirmed, voters=voters):
                self._voters = voters
                return self._follow(node if confirmed else None, now)
            case SupernodeLost():
                return self._follow(None, now)
            case RosterInForce(voters=voters):
                self._voters = voters
            case HostOffers() | ScoreChanged() | DrainWanted():
                self._note_own(fact)
                return [Arm("report", SOON_S)]
            case _:
                self._note_member(fact, now)
        return []

    def _note_own(self, fact: HostOffers | ScoreChanged | DrainWanted) -> None:
        match fact:
            case HostOffers():
                self._offers = fact
            case ScoreChanged(score=score):
                self._score = score
            case DrainWanted(draining=draining):
                self._draining = draining

    def _note_member(self, fact: Any, now: Seconds) -> None:
        match fact:
            case MemberDied(node=node) | MemberLeft(node=node):
                if len(self._gone) < HOSTS_MAX:
                    self._gone.setdefault(node, now)
            case MemberAlive(node=node) | PeerUp(peer=node):
                self._gone.pop(node, None)

    def _follow(self, supernode: NodeId | None, now: Seconds) -> list[Effect]:
        before, self._supernode = self._supernode, supernode
        if supernode == before:
            return []
        self._heard.clear()
        if supernode == self.own:
            self._relocating, self._since = self.relocating_kind(self.own), now
            return [Arm("report", SOON_S), Arm("decide", GATHER_S)]
        self._relocating = None
        return [Arm("report", SOON_S), Disarm("decide")]

    # As a host

    def _report(self, now: Seconds) -> list[Effect]:
        here = HostHere(self._score, self._offers.kinds, self._offers.owned, self._draining)
        again = Arm("report", REPORT_S)
        if self._supernode == self.own:
            self._hear(self.own, here, now)
        elif self._supernode is not None and self._matters():
            return [Send(self._supernode, here, RELOCATION), again]
        return [again]

    def _matters(self) -> bool:
        """Tell whether this node could run an actor, or keep a log: on a large site most can do neither."""
        return bool(self._offers.kinds or self._offers.owned) or self.own in self._voters

    # As supernode

    def _receive(self, sender: NodeId, message: Any, now: Seconds) -> list[Effect]:
        match message:
            case HostHere() if self._relocating is not None:
                self._hear(sender, message, now)
            case PlacesListed(why="") if self._relocating is not None:
                return self._decide(self._relocating, message, now)
            case PlaceSwapped(actor=actor, done=True, current=current) if current is not None:
                return self._tell_of(actor, current)
            case PlacesListed() | PlaceSwapped():
                pass  # Not for certain, or not done: the next list says how it is.
            case _:
                self.ignored += 1
        return []

    def _hear(self, host: NodeId, here: HostHere, now: Seconds) -> None:
        if host not in self._heard and len(self._heard) >= HOSTS_MAX:
            self.ignored += 1
            return
        self._gone.pop(host, None)
        self._heard[host] = (here, now)
        self._kinds.update((each.actor, each.kind) for each in here.owned if each.kind)

    def _ask(self) -> list[Effect]:
        if self._relocating is None:
            return []
        return [Send(self.own, ListPlaces(), PLACEMENT), Arm("decide", DECIDE_S)]

    def _decide(self, relocating: Relocating, listed: PlacesListed, now: Seconds) -> list[Effect]:
        known = {each.actor for each in listed.places}
        self._kinds = {actor: kind for actor, kind in self._kinds.items() if actor in known}
        site = Site(hosts=self._hosts(now), gone=self._all_gone(listed, now), voters=self._voters, kinds=self._kinds)
        return [effect for each in relocating.decide(listed.places, site, now) for effect in self._carry_out(each)]

    def _carry_out(self, decision: Decision) -> list[Effect]:
        if isinstance(decision, Tell):
            return [Send(decision.host, decision.message, HOSTING)]
        self._whys[decision.actor] = decision.why
        return [self._swap(decision)]

    def _swap(self, decision: Elsewhere) -> Send:
        return Send(self.own, SwapPlace(decision.actor, decision.expected, decision.wanted), PLACEMENT)

    def _tell_of(self, actor: str, placed: Placed) -> list[Effect]:
        why = self._whys.pop(actor, "")
        return [
            Send(placed.host, TakePlace(actor, placed), HOSTING),
            Announce(Relocated(actor, placed.host, placed.generation, why)),
        ]

    def _hosts(self, now: Seconds) -> dict[NodeId, Candidate]:
        return {
            node: Candidate(
                here.score, frozenset(here.kinds), {each.actor: each.generation for each in here.owned}, here.draining
            )
            for node, (here, at) in self._heard.items()
            if node not in self._gone and now - at < UNHEARD_S
        }

    def _all_gone(self, listed: PlacesListed, now: Seconds) -> frozenset[NodeId]:
        return frozenset(each.placed.host for each in listed.places if self.is_gone(each.placed.host, now))

    def is_gone(self, host: NodeId, now: Seconds) -> bool:
        """Tell whether a host had its time to come back."""
        if host in self._gone and now - self._gone[host] >= GRACE_S:
            return True
        heard_at = self._heard[host][1] if host in self._heard else self._since
        return now - max(heard_at, self._since) >= UNHEARD_S

"""The duties of a site, as one of its nodes sees them: who belongs to it, who does what, and what this node does.

    member     --SupernodeElected(another)-->   tells it about itself, learns the roll and the places from it
    supernode  --SupernodeElected(this one)-->  keeps the roll, places the duties (`placing.py`), tells everybody
    any        --the roll places a duty here--> HoldDuty; DutyReady --> told to the supernode, which settles it
    any        --the roll has it elsewhere-->   DropDuty, but not while it is the source of a move

Soft duties may be held twice for a moment, on two sides of a cut: nothing they do harms anybody then. So what this node
holds it goes on holding while no supernode is known. It must never obey a roll of anybody but the supernode.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.discoverer.messages import LinkWanted, MemberAlive, MemberDied, MemberLeft
from atoll.actors.duties.messages import (
    PROXY,
    REGISTRAR,
    DropDuty,
    DutyFailed,
    DutyPlace,
    DutyReady,
    HeldDuty,
    HoldDuty,
    LabelsChanged,
    MemberHere,
    OwnRecordChanged,
    SiteDescribed,
    SiteKnown,
    SiteLabels,
    SiteRoll,
)
from atoll.actors.duties.placing import Candidate, Placing
from atoll.actors.duties.roll import Roll, sane
from atoll.actors.elector.messages import DrainWanted, ScoreChanged, SupernodeElected, SupernodeLost
from atoll.actors.elector.score import Score
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Effect,
    Input,
    Received,
    Record,
    Seconds,
    Send,
    TimerFired,
    insist,
)
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

REPORT_S = 5.0
"""A record lives for three of these."""
SOON_S = 0.005
"""Changes come in groups; one report carries them all."""
GATHER_S = 0.2
"""How long a new supernode listens to its members before it places what nobody holds: a few round trips of a LAN."""
DECIDE_S_MIN = 0.05

NEWS = (PeerUp, OwnRecordChanged, ScoreChanged, DrainWanted, DutyReady, DutyFailed)
"""Facts that others should hear of soon."""


@dataclass(slots=True)
class _Holding:
    epoch: int
    turn: int
    ready: bool = False


class DutyBoard:
    """The machine of one node; see the module. The kind, and rules as methods, are for the mutants of the tests."""

    placing_kind = Placing

    def __init__(self, own: NodeRecord, able: Iterable[str]) -> None:
        """Take this node's record and the duties that it could hold."""
        self.own = own
        self.counts: Counter[str] = Counter()
        self._able = tuple(sorted(able))
        self._score = Score()
        self._draining = False
        self._members: set[NodeId] = set()
        """Those with a link."""
        self._supernode: NodeId | None = None
        self._roll = Roll()
        self._told: dict[NodeId, MemberHere] = {}
        """What members in the roll said last, while this node is supernode."""
        self._placing: Placing | None = None
        """Present exactly while this node is supernode."""
        self._gathered = False
        self._records: tuple[NodeRecord, ...] = (own,)
        self._gone: set[NodeId] = set()
        """Those on the roll of another supernode that are gone, as this node has heard; the roll may not say so yet."""
        self._places: tuple[DutyPlace, ...] = ()
        self._holding: dict[str, _Holding] = {}
        self._labels: SiteLabels | None = None
        """Of the proxy: held here, or told by its node."""
        self.fact_handlers: dict[type, Callable[[Any, Seconds], list[Effect]]] = {
            SupernodeElected: lambda fact, now: self._follow(fact.node, fact.epoch, now),
            SupernodeLost: lambda _fact, now: self._follow(None, 0, now),
            PeerDown: lambda fact, now: self._on_down(fact.peer, now),
            MemberDied: lambda fact, now: self._lose(fact.node, now),
            MemberLeft: lambda fact, now: self._lose(fact.node, now),
            MemberAlive: lambda fact, _now: self._back(fact.node),
            LabelsChanged: lambda fact, _now: self._on_labels(fact),
            **dict.fromkeys(NEWS, lambda fact, _now: [Arm("report", SOON_S)] if self._note(fact) else []),
        }
        """All facts that mean something here: the shell subscribes to them."""

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        del restored, now  # Nothing is kept: the supernode says it again.
        return [Arm("report", SOON_S)]

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        if type(event) is Received:
            return self._receive(event.sender, event.message, now)
        if type(event) is TimerFired:
            if event.name != "decide":
                return self._report(now)
            self._gathered = True
            return self._decide(now)
        handler = self.fact_handlers.get(type(event.fact))
        return handler(event.fact, now) if handler else []

    def describe(self) -> SiteDescribed:
        """Say what `status` shows."""
        return SiteDescribed(self._records, self._supernode, self._places, tuple(sorted(self._holding)), self._draining)

    @property
    def alone(self) -> bool:
        """Whether nobody else could take anything over, as far as this node knows."""
        others = [said for node, said in self._told.items() if node != self.own.node]
        return not self._members or (bool(others) and all(said.draining for said in others))

    def recent(self) -> list[object]:
        """Give the facts that a duty which begins now has missed."""
        facts: list[object] = [SiteKnown(self._records, self._supernode, self._places)]
        if self._labels is not None:
            facts.append(LabelsChanged(self._labels.labels, self._labels.relays))
        return facts

    def may_give(self, duty: str, to: NodeId) -> bool:
        """Tell whether a node may have the state of a duty held here: only who was placed next."""
        return duty in self._holding and any(
            place.duty == duty and place.holder == to and place.source == self.own.node for place in self._places
        )

    def check(self) -> None:
        insist((self._placing is not None) == (self._supernode == self.own.node), "places without being supernode")
        insist(self._holding.keys() <= set(self._able), "holds what it is not able to")
        if self._placing is not None:
            self._placing.check()

    # What comes in

    def _receive(self, sender: NodeId, message: object, now: Seconds) -> list[Effect]:
        match message:
            case MemberHere():
                return self._on_member(sender, message, now)
            case SiteRoll() if sender == self._supernode and self._placing is None:
                self._gone &= {record.node for record in message.records}
                return self._learn(message.records, message.places)
            case SiteRoll():
                self.counts["rolls_of_others"] += 1
            case SiteLabels(labels=labels, relays=relays) if self.holder(PROXY) == sender:
                self._labels = message
                return [Announce(LabelsChanged(labels, relays))]
            case SiteLabels():
                self.counts["labels_of_others"] += 1
            case _:
                self.counts["ignored"] += 1
        return []

    def _on_member(self, sender: NodeId, message: MemberHere, now: Seconds) -> list[Effect]:
        record = message.record
        if record.node != sender or record.site != self.own.site or not sane(record):
            self.counts["records_refused"] += 1
            return []
        changed = self._roll.take(record, now)
        if self._placing is None or not self._roll.has(sender):
            return []
        returned = sender not in self._told
        self._told[sender] = message
        effects = self._decide(now, roll_changed=changed)
        if returned and not changed:
            # To the others nothing is new; a member that was started again would know nobody until the next report.
            effects.append(Send(sender, SiteRoll(self._records, self._places)))
        return effects

    def _on_down(self, peer: NodeId, now: Seconds) -> list[Effect]:
        # No more than suspected: it stays on the roll. But a duty is not left to whom nobody here can reach.
        self._members.discard(peer)
        self._told.pop(peer, None)
        return self._decide(now)

    def _on_labels(self, fact: LabelsChanged) -> list[Effect]:
        if PROXY not in self._holding:
            return []
        self._labels = SiteLabels(fact.labels, fact.relays)
        return self._pass_labels_on()

    def _note(self, fact: object) -> bool:
        """Take one of the `NEWS`; False for one that is no news to others."""
        match fact:
            case PeerUp(peer=peer, standing=Standing.MEMBER):
                self._members.add(peer)
            case OwnRecordChanged(services=services, actors=actors):
                own = self.own
                self.own = NodeRecord(own.node, own.name, own.site, own.version, services, actors)
            case ScoreChanged(score=score):
                self._score = score
            case DrainWanted(draining=draining):
                self._draining = draining
            case DutyReady(duty=duty) if duty in self._holding:
                self._holding[duty].ready = True
            case DutyFailed(duty=duty):
                self._holding.pop(duty, None)
                self.counts["duties_failed"] += 1
            case _:
                return False
        return True

    def _back(self, peer: NodeId) -> list[Effect]:
        self._gone.discard(peer)
        return []

    def _lose(self, peer: NodeId, now: Seconds) -> list[Effect]:
        self._told.pop(peer, None)
        if self._placing is None and any(record.node == peer for record in self._records):
            self._gone.add(peer)
        return self._decide(now, roll_changed=True) if self._roll.lost(peer) else []

    def _follow(self, supernode: NodeId | None, epoch: int, now: Seconds) -> list[Effect]:
        before, self._supernode = self._supernode, supernode
        if supernode == self.own.node:
            if self._placing is not None:
                return []
            self._placing = self.placing_kind(self.own.node, epoch, self._inherited(), now)
            self._gathered = False
            self._told.clear()
            self._roll.sweep(now)
            for record in self._records:
                # Members are there as they were under the supernode before; who is not says nothing for `RECORD_S`.
                # Were each missing until it has reported, others would find it nowhere, under another label afterwards.
                if record.node not in self._gone and not self._roll.has(record.node):
                    self._roll.take(record, now)
            self._gone.clear()
            self._take_self(now)
            return [Arm("report", SOON_S), Arm("decide", GATHER_S), *self._publish()]
        self._placing = None
        self._told.clear()
        if supernode == before:
            return []
        return [Arm("report", SOON_S), Announce(SiteKnown(self._records, supernode, self._places))]

    # As supernode

    def _inherited(self) -> tuple[DutyPlace, ...]:
        """Give what the supernode before had decided: its places stay, or a change of supernode would move them."""
        return self._places

    def _take_self(self, now: Seconds) -> None:
        own = self._own_report()
        self._roll.take(own.record, now)
        self._told[self.own.node] = own

    def _decide(self, now: Seconds, *, roll_changed: bool = False) -> list[Effect]:
        """Place the duties by what is known; tell everybody where something changed."""
        if self._placing is None:
            return []
        if not self._gathered:
            return self._tell_roll() if roll_changed else []
        self._take_self(now)
        changed = self._placing.decide(self._candidates(), now) or roll_changed
        again = self._placing.due_in(now)
        effects: list[Effect] = [] if again is None else [Arm("decide", max(DECIDE_S_MIN, again))]
        return effects + (self._tell_roll() if changed else [])

    def _candidates(self) -> dict[NodeId, Candidate]:
        return {
            node: Candidate(
                said.score,
                frozenset(said.able),
                said.draining,
                {each.duty: (each.epoch, each.turn) for each in said.held},
            )
            for node, said in self._told.items()
            if self._roll.has(node)
        }

    def _tell_roll(self) -> list[Effect]:
        effects = self._publish()
        roll = SiteRoll(self._records, self._places)
        # First of all: who is told labels must know already that this node is proxy.
        return [*(Send(member, roll) for member in sorted(self._members)), *effects]

    def _publish(self) -> list[Effect]:
        """Take over, at this node, what this node decided as supernode."""
        assert self._placing is not None  # noqa: S101 - for the type checker: callers have looked
        return self._learn(self._roll.records(), self._placing.places())

    # As whoever does what was decided

    def _learn(self, records: tuple[NodeRecord, ...], places: tuple[DutyPlace, ...]) -> list[Effect]:
        effects: list[Effect] = []
        if (records, places) != (self._records, self._places):
            moved = self.holder(REGISTRAR)
            self._records, self._places = records, places
            if self.holder(REGISTRAR) != moved:
                effects += self._pass_labels_on()
        effects.append(Announce(SiteKnown(records, self._supernode, places)))
        return effects + self._obey()

    def _obey(self) -> list[Effect]:
        effects: list[Effect] = []
        for place in self._places:
            duty, held = place.duty, self._holding.get(place.duty)
            if place.holder == self.own.node and duty in self._able:
                if held is None:
                    self._holding[duty] = _Holding(place.epoch, place.turn)
                    effects.append(Announce(HoldDuty(duty, place.source)))
                elif (held.epoch, held.turn) != (place.epoch, place.turn):
                    held.epoch, held.turn = place.epoch, place.turn
                    effects.append(Arm("report", SOON_S))
            elif held is not None and not self._goes_on(place):
                effects += self._drop(duty)
        placed = {place.duty for place in self._places}
        for duty in sorted(set(self._holding) - placed):
            effects += self._drop(duty)
        return effects

    def _goes_on(self, place: DutyPlace) -> bool:
        """Tell whether this node does a duty on that is placed elsewhere: until it is done there."""
        return place.source == self.own.node

    def _drop(self, duty: str) -> list[Effect]:
        del self._holding[duty]
        return [Announce(DropDuty(duty)), Arm("report", SOON_S)]

    def holder(self, duty: str) -> NodeId | None:
        """Say where a duty is, as far as this node knows."""
        return next((place.holder for place in self._places if place.duty == duty), None)

    def _pass_labels_on(self) -> list[Effect]:
        registrar = self.holder(REGISTRAR)
        if self._labels is None or PROXY not in self._holding or registrar is None or registrar == self.own.node:
            return []
        # A large site gives the two no link. Until there is one, what is sent is lost, and said again.
        return [Announce(LinkWanted(registrar)), Send(registrar, self._labels)]

    def _own_report(self) -> MemberHere:
        held = tuple(
            HeldDuty(duty, each.epoch, each.turn) for duty, each in sorted(self._holding.items()) if each.ready
        )
        return MemberHere(self.own, self._score, self._able, held, self._draining)

    def _report(self, now: Seconds) -> list[Effect]:
        """Say again what must not be forgotten: to the supernode, or as it."""
        effects: list[Effect] = [Arm("report", REPORT_S)]
        if self._placing is not None:
            self._take_self(now)
            self._roll.sweep(now)
            effects += self._decide(now, roll_changed=True)
        elif self._supernode is not None:
            effects.append(Send(self._supernode, self._own_report()))
        return effects + self._pass_labels_on()

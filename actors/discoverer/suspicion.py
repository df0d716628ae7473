"""Decides which members are alive: SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2018).

    alive    --no ack, neither direct nor through others; others say so--> suspect
    suspect  --it refutes with a higher incarnation--> alive     --not in time--> dead
    dead     --a higher incarnation, a link--> alive             any --it says goodbye--> left

Every period one member in turn, of those that this node watches, is pinged over the link; without an ack three others
are asked to ping it. Watched are members with a link, those whose link broke until others have an ack from them, and
those of whom nobody speaks (`unheard.py`). A link that broke puts its member first. A suspicion lasts long when one
node has it and short when several do, and the suspect is told at once. Rumours ride on pings and acks; who knows better
than a ping says so in the ack (`anti_entropy.py`).

A sick observer distrusts itself first: failures stretch its own waits (`local_health.py`), time in which this process
stood still is not held against anybody, and a link that is up outweighs a rumour of death or of leaving. Malformed
things never come this far; what is old, unasked for, about strangers, or could be refuted by nobody changes nothing and
is counted. It must never suspect itself.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from atoll.actors.discoverer.anti_entropy import AntiEntropy
from atoll.actors.discoverer.belief import Belief
from atoll.actors.discoverer.gossip import GossipQueue
from atoll.actors.discoverer.introductions import Introductions
from atoll.actors.discoverer.local_health import LocalHealth
from atoll.actors.discoverer.messages import (
    GOSSIP_MAX,
    INCARNATION_MAX,
    SEQUENCE_MAX,
    Ack,
    Leaving,
    Life,
    MemberAlive,
    MemberDied,
    MemberLeft,
    MembersDescribed,
    MemberState,
    MemberSuspected,
    Nack,
    Ping,
    PingRequest,
    Rumour,
    Rumours,
)
from atoll.actors.discoverer.probe_turns import ProbeTurns
from atoll.actors.discoverer.relayed_pings import RelayedPing, RelayedPings
from atoll.actors.discoverer.suspicion_settings import SuspicionSettings
from atoll.actors.discoverer.unheard import Unheard
from atoll.actors.elector.messages import SupernodeElected, SupernodeLost
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
from atoll.transport.identity import NodeId

MEMBERS_MAX = 1024
WARNING = 0
"""The number of a ping that only tells a suspect of its suspicion: its ack ends no probe."""


@dataclass(slots=True)
class _Probe:
    target: NodeId
    sequence: int
    relays: tuple[NodeId, ...] = ()
    nacks: int = 0
    acked: bool = False


class Suspicion:
    """The failure detector of one member; see the module."""

    health_kind = LocalHealth
    gossip_kind = GossipQueue
    anti_entropy_kind = AntiEntropy
    introductions_kind = Introductions
    unheard_kind = Unheard

    def __init__(
        self, own: NodeId, *, incarnation: int, rng: Random, settings: SuspicionSettings | None = None
    ) -> None:
        """Take an incarnation above that of the node's earlier starts: milliseconds of the wall clock will do."""
        self.own = own
        self.incarnation = incarnation
        self.rng = rng
        self.settings = settings or SuspicionSettings()
        self.health = self.health_kind()
        self.gossip = self.gossip_kind(own)
        self.counts: Counter[str] = Counter()
        self._members: dict[NodeId, Belief] = {}
        self.anti_entropy = self.anti_entropy_kind(own, self._members)
        self.introductions = self.introductions_kind(own, self._members)
        self.unheard = self.unheard_kind(self._members, self.settings)
        self._turns = ProbeTurns(self._members, rng)
        self._probe: _Probe | None = None
        self._relayed = RelayedPings()
        self._sequence = 0
        self._tick_due: Seconds = math.inf
        self._leaving = False
        self._timer_handlers: dict[str, Callable[[Seconds], list[Effect]]] = {
            "tick": self._tick,
            "direct": lambda _now: self._probe_indirectly(),
            "relayed": self._end_relayed,
        }
        self._member_handlers: dict[type, Callable[[NodeId, Any, Seconds], list[Effect]]] = {
            Ping: self._on_ping,
            PingRequest: self._on_ping_request,
            Ack: self._on_ack,
            Nack: self._on_nack,
            Rumours: lambda sender, message, now: self._hear_all(sender, message.gossip, now),
        }
        self.fact_handlers: dict[type, Callable[[Any, Seconds], list[Effect]]] = {
            PeerUp: lambda fact, now: self._on_up(fact.peer, now),
            PeerDown: lambda fact, _now: self._on_down(fact.peer),
            Leaving: lambda _fact, _now: self._leave(),
            SupernodeElected: lambda fact, now: self._preside(now if fact.node == self.own else None),
            SupernodeLost: lambda _fact, _now: self._preside(None),
        }

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        del restored  # nothing is persisted: the incarnation rises with every start
        return [self._arm_tick(now, self.rng.uniform(0, self.settings.period_s))]

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        if type(event) is Received:
            if take := self._member_handlers.get(type(event.message)):
                return take(event.sender, event.message, now)
        elif type(event) is TimerFired:
            if fire := self._timer_handlers.get(event.name):
                return fire(now)
        elif handler := self.fact_handlers.get(type(event.fact)):
            return handler(event.fact, now)
        self.counts["ignored"] += 1
        return []

    def described(self, now: Seconds) -> MembersDescribed:
        """Say of every member what is believed, and why."""
        members = tuple(
            MemberState(each.node, each.life, round(now - each.since, 3), each.why)
            for _, each in sorted(self._members.items())
        )
        return MembersDescribed(members, self.health.score, dict(sorted(self.counts.items())))

    def life(self, node: NodeId) -> Life | None:
        """Tell what is believed of a node; None for one never heard of."""
        member = self._members.get(node)
        return None if member is None else member.life

    def beliefs(self) -> tuple[tuple[NodeId, Life, int, int], ...]:
        """Give of every member its life, its incarnation, and how many accuse it; for tests."""
        return tuple((node, each.life, each.incarnation, len(each.accusers)) for node, each in self._members.items())

    @property
    def tick_due(self) -> Seconds:
        """When the next period begins."""
        return self._tick_due

    def check(self) -> None:
        members = self._members
        insist(self.own not in members, "a node suspects itself")
        insist(len(members) <= MEMBERS_MAX, "too many members")
        insist(self._relayed.within_limits, "too many pings for others")
        insist(len(self.gossip) <= len(members) + 1, "gossip about strangers")
        insist(0 <= self.incarnation <= INCARNATION_MAX, "an incarnation out of range")

    # Links

    def _on_up(self, peer: NodeId, now: Seconds) -> list[Effect]:
        if peer == self.own:
            return []
        member = self._members.get(peer)
        if member is None:
            self._make_room()
            member = self._add_member(peer, now)
            if member is None:
                return []
        effects: list[Effect] = []
        # What is believed of it here goes along, so that it can refute it.
        greeting = [Rumour(self.own, Life.ALIVE, self.incarnation, self.own)]
        if member.life is not Life.ALIVE:
            greeting.append(Rumour(peer, member.life, member.incarnation, self.own))
        if member.gone:
            effects = self._revive(member, member.incarnation, "its link is up again", now)
        member.linked = member.watched = True
        member.why = member.why or "a link to it came up"
        return [*effects, Send(peer, Rumours(tuple(greeting)))]

    def _on_down(self, peer: NodeId) -> list[Effect]:
        member = self._members.get(peer)
        if member is not None and member.linked:
            member.linked = False
            if not member.gone:
                # The transport had no ack from it either; others are asked in the next period.
                self._turns.hurry(peer)
        return []

    def _preside(self, now: Seconds | None) -> list[Effect]:
        self.unheard.preside(now)
        return []

    def _leave(self) -> list[Effect]:
        self._leaving = True
        farewell = Rumours((Rumour(self.own, Life.LEFT, self.incarnation, self.own),))
        return [Send(each.node, farewell) for _, each in sorted(self._members.items()) if each.linked]

    # Probes

    def _arm_tick(self, now: Seconds, after_s: Seconds) -> Effect:
        self._tick_due = now + after_s
        return Arm("tick", after_s)

    def _tick(self, now: Seconds) -> list[Effect]:
        self._note_standstill(now - self._tick_due)
        effects = self._conclude_probe(now)
        for member in list(self._members.values()):
            if member.life is Life.SUSPECT and self._expired(member, now):
                effects += self._mark_gone(member, Life.DEAD, self.own, f"silent though suspected: {member.why}", now)
            elif member.gone and not member.linked and now - member.since >= self.settings.dead_kept_s:
                self._forget(member)
        self._wonder(now)
        return [*effects, *self._begin_probe(), *self._warn_suspects(now), self._arm_tick(now, self._period_s())]

    def _period_s(self) -> Seconds:
        crowded = len(self._members) >= self.settings.crowd
        return self.health.stretch(self.settings.period_s * (2 if crowded else 1))

    def _expired(self, member: Belief, now: Seconds) -> bool:
        return member.until <= now and (not member.linked or member.warnings >= self.settings.warnings_min)

    def _wonder(self, now: Seconds) -> None:
        """Watch a member of whom nobody has spoken: whoever watched it may have died with it."""
        member = self.unheard.longest(now)
        if member is not None:
            member.watched = True
            self._turns.hurry(member.node)

    def _note_standstill(self, late_s: Seconds) -> None:
        """Hold nobody to account for the time in which this very process stood still."""
        if late_s < self.settings.period_s / 2:
            return
        self.counts["standstills"] += 1
        self.health.note(1)
        self._probe = None
        for member in self._members.values():
            member.since += late_s
            member.heard_at += late_s
            member.until += late_s

    def _conclude_probe(self, now: Seconds) -> list[Effect]:
        probe, self._probe = self._probe, None
        if probe is None:
            return []
        member = self._members.get(probe.target)
        if probe.acked:
            self.health.note(-1)
            return [] if member is None else self._vouch(member, now)
        missing = len(probe.relays) - probe.nacks
        # A nack shows that our own network is well; where all came, the fault is not here.
        self.health.note(missing if probe.relays else 1)
        self.counts["probes_failed"] += 1
        if member is None or member.gone:
            return []
        asked = len(probe.relays)
        why = f"no answer to this node, nor to {asked} others it asked" if asked else "no answer to this node"
        return self._suspect(member, member.incarnation, self.own, why, now)

    def _vouch(self, member: Belief, now: Seconds) -> list[Effect]:
        """Note that a member has answered this very node, over its link or through others."""
        member.heard_at, member.warnings = now, 0
        if member.life is not Life.SUSPECT:
            # Without a link, whoever has one watches it.
            member.watched = member.linked
        elif member.incarnation == INCARNATION_MAX:
            return self._revive(member, INCARNATION_MAX, "it answers, and cannot say more", now)
        else:
            # It lives, and its refutation is on the way to here.
            member.until = max(member.until, now + self._timeout_s(len(member.accusers) - 1))
        return []

    def _begin_probe(self) -> list[Effect]:
        target = self._turns.take()
        if target is None:
            return []
        self.counts["probes"] += 1
        self._probe = _Probe(target.node, self._next_sequence())
        if not target.linked:
            return self._probe_indirectly()
        ping = Ping(self._probe.sequence, self._rumours_for(target.node))
        return [Send(target.node, ping), Arm("direct", self.health.stretch(self.settings.direct_s))]

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % SEQUENCE_MAX + 1
        return self._sequence

    def _probe_indirectly(self) -> list[Effect]:
        """Ask others to ping who gives no ack."""
        probe = self._probe
        if probe is None or probe.acked or probe.relays:
            return []
        able = sorted(
            each.node for each in self._members.values() if each.linked and not each.gone and each.node != probe.target
        )
        self.rng.shuffle(able)
        # On a large site most have no link to it.
        witnesses = self._members[probe.target].witnesses if probe.target in self._members else ()
        able.sort(key=lambda node: node not in witnesses)
        probe.relays = tuple(able[: self.settings.indirect])
        return [
            Send(relay, PingRequest(probe.sequence, probe.target, self._rumours_for(relay))) for relay in probe.relays
        ]

    def _warn_suspects(self, now: Seconds) -> list[Effect]:
        """Tell suspects once more, those first who will be dead soonest: their ack brings the refutation.

        Whoever accuses does so from the beginning, everybody else when half of the time is over: gossip alone misses
        one member in some hundreds, and that one would believe a death that all others know to be none.
        """
        suspects = [
            each
            for _, each in sorted(self._members.items())
            if each.life is Life.SUSPECT
            and each.linked
            and (self.own in each.accusers or now - each.since >= each.until - now)
        ]
        suspects.sort(key=lambda each: each.until)
        chosen = suspects[: self.settings.warnings_max]
        for each in chosen:
            each.warnings += 1
        return [self._warning(each.node) for each in chosen]

    def _warning(self, to: NodeId) -> Send:
        return Send(to, Ping(WARNING, self._rumours_for(to)))

    def _rumours_for(self, to: NodeId, corrections: Sequence[Rumour] = ()) -> tuple[Rumour, ...]:
        first = (*corrections, *self.anti_entropy.questions(to, corrections))
        rumours = (*first, *self.gossip.take(len(self._members), to, first))
        return (*rumours, *self.introductions.take(to, GOSSIP_MAX - len(rumours)))

    # Messages

    def _hear_all(self, sender: NodeId, rumours: tuple[Rumour, ...], now: Seconds) -> list[Effect]:
        return [effect for rumour in rumours for effect in self._hear(sender, rumour, now)]

    def _on_ping(self, sender: NodeId, message: Ping, now: Seconds) -> list[Effect]:
        # In this order: what was heard may go back with the ack.
        corrections = self.anti_entropy.corrections(message.gossip)
        effects = self._hear_all(sender, message.gossip, now)
        return [*effects, Send(sender, Ack(message.sequence, self._rumours_for(sender, corrections)))]

    def _on_ping_request(self, sender: NodeId, message: PingRequest, now: Seconds) -> list[Effect]:
        effects = self._correct(sender, message.gossip) + self._hear_all(sender, message.gossip, now)
        return effects + self._ping_for(sender, message.sequence, message.target, now)

    def _correct(self, sender: NodeId, gossip: tuple[Rumour, ...]) -> list[Effect]:
        """Say at once what is known better here, where no ack goes back that could carry it."""
        corrections = self.anti_entropy.corrections(gossip)
        return [Send(sender, Rumours(tuple(corrections)))] if corrections else []

    def _on_nack(self, sender: NodeId, message: Nack, _now: Seconds) -> list[Effect]:
        probe = self._probe
        if probe is None or probe.sequence != message.sequence or sender not in probe.relays:
            self.counts["stray"] += 1
        else:
            probe.nacks = min(probe.nacks + 1, len(probe.relays))
        return []

    def _ping_for(self, origin: NodeId, sequence: int, target: NodeId, now: Seconds) -> list[Effect]:
        if target == self.own:
            return [Send(origin, Ack(sequence, self._rumours_for(origin)))]
        member = self._members.get(target)
        if member is None or not member.linked or self._relayed.full:
            self.counts["pings_refused"] += 1
            return [Send(origin, Nack(sequence))]
        own_sequence = self._next_sequence()
        until = now + self.settings.direct_s
        self._relayed.begin(own_sequence, RelayedPing(origin, sequence, target, until))
        effects: list[Effect] = [Send(target, Ping(own_sequence, self._rumours_for(target)))]
        if len(self._relayed) == 1:
            effects.append(Arm("relayed", self.settings.direct_s))
        return effects

    def _end_relayed(self, now: Seconds) -> list[Effect]:
        ended = self._relayed.expired(now)
        effects: list[Effect] = [Send(each.origin, Nack(each.origin_sequence)) for each in ended]
        if (next_at := self._relayed.next_at) is not None:
            effects.append(Arm("relayed", max(0.0, next_at - now)))
        return effects

    def _on_ack(self, sender: NodeId, message: Ack, now: Seconds) -> list[Effect]:
        effects = self._correct(sender, message.gossip) + self._hear_all(sender, message.gossip, now)
        sequence, probe = message.sequence, self._probe
        if sequence == WARNING and (member := self._members.get(sender)) is not None:
            # Most refute the suspicion in what they say beside.
            effects += self._vouch(member, now)
        if probe is not None and sequence == probe.sequence and (sender == probe.target or sender in probe.relays):
            probe.acked = True
        elif (relayed := self._relayed.answered(sequence, sender)) is not None:
            gossip = self._rumours_for(relayed.origin)
            effects.append(Send(relayed.origin, Ack(relayed.origin_sequence, gossip)))
        elif sequence != WARNING:
            self.counts["stray"] += 1
        return effects

    # Rumours

    def _hear(self, sender: NodeId, rumour: Rumour, now: Seconds) -> list[Effect]:
        if rumour.node == self.own:
            return self._hear_of_self(rumour)
        member = self._members.get(rumour.node)
        if member is None:
            return self._hear_of_stranger(rumour, now)
        member.note_witness(rumour)
        if rumour.life is not Life.ALIVE and rumour.incarnation == INCARNATION_MAX and sender != rumour.node:
            # Its node could say nothing newer: such a rumour would be the last word on it.
            self.counts["irrefutable"] += 1
            return []
        if self._outdated(rumour, member):
            self.counts["old_rumours"] += 1
            if rumour.life is Life.ALIVE and not member.gone and rumour.incarnation == member.incarnation:
                member.heard_at = now
            return []
        return self._believe(sender, rumour, member, now)

    def _believe(self, sender: NodeId, rumour: Rumour, member: Belief, now: Seconds) -> list[Effect]:
        if rumour.life is Life.ALIVE:
            return self._revive(member, rumour.incarnation, "it says so", now, rumour)
        farewell = rumour.life is Life.LEFT and sender == rumour.node
        doubted = member.linked and rumour.life is not Life.SUSPECT and not farewell
        if doubted:
            # A link that is up outweighs a rumour that it is gone: it is probed, and suspected like any other.
            self._turns.hurry(member.node)
        if doubted or rumour.life is Life.SUSPECT:
            why = f"{rumour.by.short} has no answer from it"
            return self._suspect(member, rumour.incarnation, rumour.by, why, now)
        why = "it said goodbye" if rumour.life is Life.LEFT else f"{rumour.by.short} found it dead"
        member.incarnation = rumour.incarnation
        return self._mark_gone(member, rumour.life, rumour.by, why, now)

    def _hear_of_stranger(self, rumour: Rumour, now: Seconds) -> list[Effect]:
        # Who is unknown and alive is worth knowing; who is unknown and dead is forgotten already.
        if rumour.life is not Life.ALIVE or (member := self._add_member(rumour.node, now)) is None:
            return []
        member.incarnation = rumour.incarnation
        member.why = f"{rumour.by.short} has a link to it" if rumour.by != rumour.node else "it says so"
        member.note_witness(rumour)
        self.gossip.spread(rumour)
        # It may be one whose death was told of here, and that has been forgotten since.
        return [Announce(MemberAlive(member.node, member.why))]

    def _outdated(self, rumour: Rumour, member: Belief) -> bool:
        same = (rumour.incarnation, rumour.life) == (member.incarnation, member.life)
        return member.newer_than(rumour) or (same and rumour.life is not Life.SUSPECT)

    def _hear_of_self(self, rumour: Rumour) -> list[Effect]:
        if self._leaving or rumour.life is Life.ALIVE:
            return []
        if rumour.incarnation >= self.incarnation:
            self.incarnation = min(rumour.incarnation + 1, INCARNATION_MAX)
            self.health.note(1)
            self.counts["refutations"] += 1
        self.gossip.spread(Rumour(self.own, Life.ALIVE, self.incarnation, self.own))
        return []

    def _make_room(self) -> None:
        """Forget one of whom others told if the table is full: who has a link is to be watched."""
        if len(self._members) >= MEMBERS_MAX:
            told = [each for each in self._members.values() if not each.linked and not each.watched]
            if told:
                self._forget(min(told, key=lambda each: each.heard_at))

    def _forget(self, member: Belief) -> None:
        del self._members[member.node]
        self.gossip.forget(member.node)

    def _add_member(self, node: NodeId, now: Seconds) -> Belief | None:
        if len(self._members) >= MEMBERS_MAX:
            self.counts["refused"] += 1
            return None
        member = self._members[node] = Belief(node, since=now, heard_at=now)
        return member

    def _revive(
        self, member: Belief, incarnation: int, why: str, now: Seconds, rumour: Rumour | None = None
    ) -> list[Effect]:
        before = member.life
        member.incarnation, member.heard_at = incarnation, now
        if rumour is not None:
            self.gossip.spread(rumour)
        if before is Life.ALIVE:
            return []
        member.turn(Life.ALIVE, why, now)
        return [Announce(MemberAlive(member.node, why))]

    def _suspect(self, member: Belief, incarnation: int, by: NodeId, why: str, now: Seconds) -> list[Effect]:
        rumour = Rumour(member.node, Life.SUSPECT, incarnation, by)
        if member.life is Life.SUSPECT and incarnation == member.incarnation:
            self._confirm(member, rumour)
            return []
        member.turn(Life.SUSPECT, why, now)
        member.incarnation, member.accusers[by] = incarnation, None
        member.until = now + self._timeout_s(0)
        self.gossip.spread(rumour)
        self.counts["suspicions"] += 1
        warning = [self._warning(member.node)] if by == self.own and member.linked else []
        return [Announce(MemberSuspected(member.node, by, why)), *warning]

    def _confirm(self, member: Belief, rumour: Rumour) -> None:
        """Count one more accuser of a suspicion that lasts already."""
        if rumour.by not in member.accusers and len(member.accusers) <= self.settings.confirmations:
            member.accusers[rumour.by] = None
            member.until = min(member.until, member.since + self._timeout_s(len(member.accusers) - 1))
            # The first few confirmations are news to everybody; more would change nothing.
            self.gossip.spread(rumour)

    def _timeout_s(self, confirmations: int) -> Seconds:
        return self.settings.suspicion_s(len(self._members) + 1, confirmations)

    def _mark_gone(self, member: Belief, life: Life, by: NodeId, why: str, now: Seconds) -> list[Effect]:
        member.turn(life, why, now)
        member.watched = member.linked
        self.gossip.spread(Rumour(member.node, life, member.incarnation, by))
        if life is Life.LEFT:
            return [Announce(MemberLeft(member.node))]
        self.counts["deaths"] += 1
        return [Announce(MemberDied(member.node, why))]

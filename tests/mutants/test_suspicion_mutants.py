"""Each rule of suspicion has a mutant that breaks it, and a nemesis that must notice.

The real machine runs under the very same seeds. Some rules keep members alive, some find the dead, some only keep the
site quiet; a nemesis asks for what its rule is there for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from kills import must_kill, must_spare

from atoll.actors.discoverer.anti_entropy import AntiEntropy
from atoll.actors.discoverer.gossip import GossipQueue
from atoll.actors.discoverer.introductions import Introductions
from atoll.actors.discoverer.local_health import LocalHealth
from atoll.actors.discoverer.messages import PingRequest
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.actors.discoverer.suspicion_settings import SuspicionSettings
from atoll.actors.discoverer.unheard import Unheard
from atoll.testing.discovery import (
    SICK_OBSERVERS,
    BoundedGossip,
    FewSuspicions,
    NoFalseDeath,
    Talks,
    ghosts_of,
    suspicion_simulation,
    time_to_find,
)
from atoll.testing.faults import Crash, FaultPlan, Loss, Slow
from atoll.testing.invariants import Invariant

SEEDS = range(6)


class NeverRefutes(Suspicion):
    def _hear_of_self(self, _rumour):
        return []


class NeverDistrustsItself(LocalHealth):
    def note(self, _change):
        pass


class AsksNobodyElse(Suspicion):
    def _probe_indirectly(self):
        return []


class BelievesWhatIsOld(Suspicion):
    def _outdated(self, rumour, member):
        return rumour.life <= member.life and rumour.incarnation <= member.incarnation


class SuspicionNeverExpires(Suspicion):
    def _expired(self, _member, _now):
        return False


class ManyAccusersAreAsGoodAsOne(Suspicion):
    def _timeout_s(self, _confirmations):
        return super()._timeout_s(0)


class DeclaresDeathWithoutAsking(Suspicion):
    def _expired(self, member, now):
        return member.until <= now


class HoldsItsOwnStandstillAgainstOthers(Suspicion):
    def _note_standstill(self, _late_s):
        pass


class AsksOnlyTheSuspectItself(AntiEntropy):
    def questions(self, to, beside=()):
        return [each for each in super().questions(to, beside) if each.node == to]


class CorrectsNobody(AntiEntropy):
    def corrections(self, _gossip):
        return []


class IntroducesNobody(Introductions):
    def take(self, _to, _room):
        return []


class WatchesForEverWithoutALink(Suspicion):
    def _vouch(self, member, now):
        watched = member.watched
        effects = super()._vouch(member, now)
        member.watched = watched
        return effects


class AnswersWithoutCorrections(Suspicion):
    def _correct(self, _sender, _gossip):
        return []


class WondersAboutNobody(Unheard):
    def longest(self, _now):
        return None


class PresidesLikeEverybody(Unheard):
    def preside(self, _now):
        pass


class PassesOnAllItHas(GossipQueue):
    def room(self):
        return len(self)


HASTY = SuspicionSettings(alpha=0.5)
"""Suspicions are so short that a question more or less decides; safety must not lean on their length alone."""
BRIEF = SuspicionSettings(alpha=2.0)
"""Suspicions of less than half their length: on a large site the news of a refutation has as little time."""
SLOW = FaultPlan(weights={}, script=((5.0, Slow(0.8, math.inf)),))
PARTIAL_CUTS = FaultPlan(weights={"partial": 1.0}, every_s=(2.0, 4.0), cut_s=(1.0, 2.0))
REPEATED = FaultPlan(
    weights={}, late_ratio=0, duplicate_ratio=0.5, duplicate_s_max=30.0, script=((0.0, Loss(0.1, math.inf)),)
)
STANDSTILLS = FaultPlan(
    weights={"pause": 1.0},
    every_s=(1.0, 4.0),
    pause_s=(1.5, 4.0),
    aim=1.0,
    late_ratio=0,
    duplicate_ratio=0,
    latency_s=0.1,
)


@dataclass(frozen=True)
class Nemesis:
    faults: FaultPlan
    nodes: int
    seconds: float
    probe: Callable[..., Invariant]
    limit: float = 0.0
    settings: SuspicionSettings | None = None

    def violations(self, kind, seed):
        probe = self.probe(self.limit) if self.limit else self.probe()
        simulation = suspicion_simulation(
            seed,
            nodes=self.nodes,
            faults=self.faults,
            kind=kind,
            settings=self.settings,
            probes=(probe,),
            violations_max=1,
        )
        return simulation.run(self.seconds).violations


@dataclass(frozen=True)
class Hunt:
    """A member dies, and must be found within so long."""

    nodes: int
    within_s: float

    def violations(self, kind, seed):
        found = time_to_find(seed, nodes=self.nodes, kind=kind, bound_s=self.within_s)
        return () if found.last_s <= self.within_s else (f"not everybody knows it after {self.within_s:g} s",)


@dataclass(frozen=True)
class Newcomer:
    """Somebody comes to a large site at rest, and must know everybody after so long."""

    nodes: int
    within_s: float

    def violations(self, kind, seed):
        quiet = FaultPlan(weights={}, late_ratio=0, duplicate_ratio=0)
        simulation = suspicion_simulation(seed, nodes=self.nodes, faults=quiet, kind=kind, probes=())
        simulation.run(120.0)
        newcomer = simulation.hosts[0]
        simulation.apply(Crash(newcomer.index, 30.0))
        simulation.run(30.0 + self.within_s)
        known = len(newcomer.machine.described(0.0).members)
        return () if known == self.nodes - 1 else (f"it knows {known} others",)


class AskedOthers(Invariant):
    """Counts probes through others."""

    sent_kinds = (PingRequest,)

    def __init__(self):
        self.count = 0

    def sent(self, _simulation, _host, _effect):
        self.count += 1


@dataclass(frozen=True)
class LinksLetGo:
    """Many links of a large site at rest are let go, and nobody may ask others about their ends for long."""

    nodes: int

    def violations(self, kind, seed):
        quiet = FaultPlan(weights={}, late_ratio=0, duplicate_ratio=0)
        simulation = suspicion_simulation(seed, nodes=self.nodes, faults=quiet, kind=kind, probes=())
        talks = Talks(simulation, at_once=40)
        talks.turn()
        simulation.run(30.0)
        talks.end()
        simulation.run(180.0)
        late = AskedOthers()
        simulation.watch(late)
        simulation.run(120.0)
        return (f"{late.count} probes through others",) if late.count else ()


@dataclass(frozen=True)
class HalfDies:
    """Half of a large site dies with its supernode, and nobody of them may pass for alive after so long."""

    within_s: float
    told: bool
    """The new supernode knows that it is one."""

    def violations(self, kind, seed):
        ghosts = ghosts_of(seed, nodes=40, within_s=self.within_s, told=self.told, kind=kind)
        return (f"{len(ghosts)} pass for alive",) if ghosts else ()


def hearsay(limit):
    return FewSuspicions(limit, hearsay=True)


def of_settled(limit):
    return FewSuspicions(limit, settled_s=10.0)


NEMESES = {
    NeverRefutes: Nemesis(SICK_OBSERVERS, 20, 120, NoFalseDeath),
    NeverDistrustsItself: Nemesis(SLOW, 12, 120, FewSuspicions, 600),
    AsksNobodyElse: Nemesis(PARTIAL_CUTS, 12, 120, FewSuspicions, 300),
    BelievesWhatIsOld: Nemesis(REPEATED, 12, 60, hearsay, 150),
    SuspicionNeverExpires: Hunt(12, 30.0),
    ManyAccusersAreAsGoodAsOne: Hunt(12, 20.0),
    DeclaresDeathWithoutAsking: Nemesis(SICK_OBSERVERS, 12, 120, NoFalseDeath, settings=HASTY),
    HoldsItsOwnStandstillAgainstOthers: Nemesis(STANDSTILLS, 12, 120, of_settled, 2),
    AsksOnlyTheSuspectItself: Nemesis(SICK_OBSERVERS, 50, 60, NoFalseDeath, settings=BRIEF),
    CorrectsNobody: Nemesis(SICK_OBSERVERS, 50, 60, NoFalseDeath, settings=BRIEF),
    IntroducesNobody: Newcomer(30, 120.0),
    WatchesForEverWithoutALink: LinksLetGo(30),
    AnswersWithoutCorrections: Nemesis(SICK_OBSERVERS, 100, 60, NoFalseDeath, settings=BRIEF),
    WondersAboutNobody: HalfDies(500.0, told=False),
    PresidesLikeEverybody: HalfDies(120.0, told=True),
    PassesOnAllItHas: Nemesis(SICK_OBSERVERS, 30, 60, BoundedGossip),
}


def suspicion_with(mutant):
    if issubclass(mutant, LocalHealth):
        return type(mutant.__name__, (Suspicion,), {"health_kind": mutant})
    if issubclass(mutant, AntiEntropy):
        return type(mutant.__name__, (Suspicion,), {"anti_entropy_kind": mutant})
    if issubclass(mutant, Introductions):
        return type(mutant.__name__, (Suspicion,), {"introductions_kind": mutant})
    if issubclass(mutant, Unheard):
        return type(mutant.__name__, (Suspicion,), {"unheard_kind": mutant})
    if issubclass(mutant, GossipQueue):
        return type(mutant.__name__, (Suspicion,), {"gossip_kind": mutant})
    return mutant


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    nemesis = NEMESES[mutant]
    must_spare(right_seeds, lambda seed: nemesis.violations(Suspicion, seed))
    must_kill(mutant, SEEDS, lambda seed: nemesis.violations(suspicion_with(mutant), seed))

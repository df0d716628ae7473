"""Each rule of the hand-over has a mutant that breaks it, and a nemesis that must notice.

A rule whose mutant lives is either superfluous or not tested. The real machines run under the very same seeds.
"""

from dataclasses import dataclass, field

import pytest
from kills import must_kill, must_spare

from atoll.actors.hand_over.client import Callers
from atoll.actors.hand_over.departures import Departures
from atoll.actors.hand_over.durable import DurableOwner
from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import HOSTING, TakePlace
from atoll.actors.hand_over.move import Arrival
from atoll.actors.hand_over.renewals import Renewals
from atoll.actors.hand_over.replication import Replication
from atoll.actors.hand_over.soft import SoftOwner
from atoll.actors.runtime.machine import Send
from atoll.testing.faults import FaultPlan
from atoll.testing.hand_overs import hand_over_simulation, world
from atoll.testing.hosting_adversary import games_lost

SEEDS = range(6)


class StoreChecksNoFence(LogStore):
    def refusal(self, kept, message):
        return None

    def in_force(self, kept, message):
        return message.memory == kept.memory

    def check(self):
        pass


class StoreIgnoresLives(LogStore):
    def refusal(self, kept, message):
        return super().refusal(kept, message) if message.generation < kept.generation else None


class StoreAnswersBeforeTheDisk(LogStore):
    def durably(self, records, *effects):
        *persists, answer = super().durably(records, *effects)
        return [answer, *persists]


class EmptiedStoreCounts(LogStore):
    def is_voice(self, kept):
        return True


class StoreAppendsWithoutLooking(LogStore):
    def follows(self, log, after):
        return True


class CompactionLosesLaterEntries(LogStore):
    def compact(self, log, base, state):
        super().compact(log, base, state)
        log.cut(base.index)


class AcknowledgesBeforeTheQuorum(DurableOwner):
    def majority_has(self):
        return self.log.last.index if self.serving else super().majority_has()


class AppliesRepeatedOperations(DurableOwner):
    def repeated(self, sender, call):
        return None


class AdoptsTheHighestSeal(DurableOwner):
    def best_of(self, voices):
        return max(voices, key=lambda each: each.before)


class AdoptsWithoutMajority(DurableOwner):
    def sealed_enough(self, voices):
        return bool(voices)


class SnapshotWithoutAnswers(DurableOwner):
    def answers_kept(self):
        return ()


class RefusesWithoutAMajority(DurableOwner):
    def _doubt(self, sender, call, why):
        before = len(self._doubted)
        effects = super()._doubt(sender, call, why)
        return [*effects, self._doubted[call.client][1]] if len(self._doubted) > before else effects


class ServesWhileItsStoresChange(Renewals):
    def claim_of(self, owner, now):
        claim = super().claim_of(owner, now)
        owner.frozen = False
        return claim


class LearnersCount(Replication):
    def majority_has(self):
        matched = sorted((each.matched for each in self.everyone() if each.voice), reverse=True)
        return matched[self.quorum - 1] if len(matched) >= self.quorum else 0


class StoresThatLagFit(Replication):
    def fit(self, stores, has_everything):
        return super().fit(stores, lambda _each: True)


class GoesOnWithoutCommit(Departures):
    def take_back(self, departure, now):
        return self.stay(departure, "no word from the placement", now)


class SourceGoesOnWithoutCommit(Hosting):
    departures_kind = GoesOnWithoutCommit


class TombstoneServes(Hosting):
    def _gone(self, departure, now):
        effects = self.departures.stay(departure, "", now)
        return [Send(departure.target, TakePlace("ledger", departure.wanted, departure.move), HOSTING), *effects]


class SoftSnapshotWithoutAnswers(SoftOwner):
    def answers_kept(self):
        return ()


class SoftRefusesWhileItLeaves(SoftOwner):
    def call(self, sender, call, now):
        frozen, self.frozen = self.frozen, False
        known = self.answers.known(call.client)
        if frozen and call.sequence == (known.sequence + 1 if known else 1):
            self.frozen = True
        effects = super().call(sender, call, now)
        self.frozen = frozen
        return effects


class SaysNothingToAHostThatSendsItAway(Callers):
    def _hint(self, sender, caller):
        return []


class LateOfferReplacesANewerState(Arrival):
    def superseded_by(self, offer):
        return offer.move != self.offer.move


OFTEN = (0.05, 0.6)
BUSY = {"think_s": 0.004}
STORES_LAG = {"one_way": 1, "partial": 2, "slow": 1}
RESTARTS = FaultPlan(
    weights={"crash": 4, "pause": 1, **STORES_LAG},
    every_s=OFTEN,
    crash_s=(0.01, 0.3),
    pause_s=(0.1, 1),
    cut_s=(0.1, 0.5),
)
TORN_WRITES = FaultPlan(
    weights={"tear": 4, "partial": 1}, every_s=(0.05, 0.3), crash_s=(0.01, 0.2), cut_s=(0.05, 0.3), aim=0.0
)
CUTS = FaultPlan(
    weights={"partial": 2, "halves": 1, "one_way": 1, "crash": 1}, every_s=OFTEN, cut_s=(0.1, 1), crash_s=(0.01, 0.3)
)
REPLACED_WHILE_PAUSED = FaultPlan(weights={"pause": 1}, every_s=(0.3, 1.5), pause_s=(0.5, 3), aim=0.9, until_s=20)
"""It ends: stores that two owners write to make everything stand still in the end, and only that is noticed."""
RESTARTED_IN_PLACE = FaultPlan(
    weights={"crash": 2, "loss": 2, "partial": 1},
    every_s=(0.05, 0.4),
    crash_s=(0.01, 0.1),
    cut_s=(0.1, 0.5),
    aim=0.9,
    loss_ratio_max=0.8,
    until_s=40,
)
LOSSES = FaultPlan(
    weights={"loss": 3, "slow": 1, "partial": 1}, every_s=OFTEN, cut_s=(0.5, 3), loss_ratio_max=0.8, late_ratio=0.05
)
OFFERS_AGAIN = FaultPlan(
    weights={"loss": 2, "one_way": 1},
    every_s=OFTEN,
    cut_s=(0.3, 2),
    late_ratio=0,
    duplicate_ratio=0.8,
    duplicate_s_max=3.0,
    loss_ratio_max=0.95,
)
"""Few attempts to move arrive whole, and every one of them arrives again, during the next."""
FORGETTING = FaultPlan(
    weights={"forget": 1, "pause": 3, "one_way": 1},
    every_s=(0.1, 1.0),
    crash_s=(0.01, 0.1),
    cut_s=(0.2, 1),
    pause_s=(0.1, 1),
    aim=0,
)


ANSWERS_LOST = FaultPlan(weights={"partial": 1}, every_s=(0.1, 0.4), cut_s=(0.1, 0.4))
NO_FAULTS = FaultPlan(weights={}, until_s=20)


@dataclass(frozen=True)
class Nemesis:
    faults: FaultPlan
    seconds: float
    soft: bool = False
    world: dict = field(default_factory=lambda: dict(BUSY))

    def violations(self, mutant, seed):
        more = {"replace_s": None} if self.soft else {}
        of = world(**{"hosts": 4, "stores": 3, **more, **self.world}, soft=self.soft, **mutated(mutant))
        return hand_over_simulation(seed, self.faults, of, violations_max=1).run(self.seconds).violations


@dataclass(frozen=True)
class Adversary:
    """One that chooses each step, of a soft actor whose hosts live."""

    odds: dict

    def violations(self, mutant, seed):
        odds = {"crash": 0, "tear": 0, "forget": 0, "replace": 0, **self.odds}
        kind = mutated(mutant).get("hosting_kind", Hosting)
        return games_lost(seed, kind, games=150, steps=600, stores=0, odds=odds)


OF_THE_WORLD = {LogStore: "store_kind", Hosting: "hosting_kind", Callers: "callers_kind"}
OF_A_HOST = {
    DurableOwner: "durable_kind",
    SoftOwner: "soft_kind",
    Arrival: "arrival_kind",
    Renewals: "renewals_kind",
}


def mutated(mutant):
    if mutant is None:
        return {}
    kind = mutant.__mro__[1]
    if kind in OF_THE_WORLD:
        return {OF_THE_WORLD[kind]: mutant}
    if kind is Replication:
        kind, mutant = DurableOwner, type(mutant.__name__, (DurableOwner,), {"replication_kind": mutant})
    return {"hosting_kind": type(mutant.__name__, (Hosting,), {OF_A_HOST[kind]: mutant})}


REPLACING = {**BUSY, "move_s": 0.0, "replace_s": (0.3, 1.0), "callers": 5}
RESTOCKING = {**BUSY, "move_s": 0.5, "restock_s": (0.05, 0.3), "hosts": 5}
CHANGING = {**RESTOCKING, "move_s": 0.0, "hosts": 4, "callers": 5, "stores_max": 2, "replace_s": (3, 5)}
NEMESES = {
    StoreChecksNoFence: Nemesis(REPLACED_WHILE_PAUSED, 25, world=REPLACING),
    StoreIgnoresLives: Nemesis(RESTARTED_IN_PLACE, 45, world={**BUSY, "move_s": 0.0, "replace_s": None, "callers": 5}),
    StoreAnswersBeforeTheDisk: Nemesis(TORN_WRITES, 40, world={**BUSY, "stores": 1}),
    EmptiedStoreCounts: Nemesis(FORGETTING, 60, world={**BUSY, "stores": 1}),
    StoreAppendsWithoutLooking: Nemesis(LOSSES, 40),
    CompactionLosesLaterEntries: Nemesis(RESTARTED_IN_PLACE, 45, world=REPLACING),
    AcknowledgesBeforeTheQuorum: Nemesis(RESTARTS, 60),
    AppliesRepeatedOperations: Nemesis(LOSSES, 100),
    AdoptsTheHighestSeal: Nemesis(CUTS, 60),
    AdoptsWithoutMajority: Nemesis(CUTS, 60),
    SnapshotWithoutAnswers: Nemesis(LOSSES, 30),
    RefusesWithoutAMajority: Nemesis(REPLACED_WHILE_PAUSED, 25, world=REPLACING),
    ServesWhileItsStoresChange: Nemesis(ANSWERS_LOST, 250, world=CHANGING),
    LearnersCount: Nemesis(CUTS, 60, world=RESTOCKING),
    StoresThatLagFit: Nemesis(CUTS, 60, world=RESTOCKING),
    SourceGoesOnWithoutCommit: Nemesis(LOSSES, 400, soft=True),
    TombstoneServes: Nemesis(LOSSES, 30, soft=True),
    SoftSnapshotWithoutAnswers: Nemesis(LOSSES, 30, soft=True),
    SoftRefusesWhileItLeaves: Adversary({"move": 8, "ask": 20, "ask_again": 10}),
    SaysNothingToAHostThatSendsItAway: Nemesis(
        NO_FAULTS, 40, world={"move_s": 0.3, "replace_s": (5, 9), "hints": False}
    ),
    LateOfferReplacesANewerState: Nemesis(OFFERS_AGAIN, 450, soft=True, world={**BUSY, "hosts": 2, "move_s": 0.6}),
}


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    nemesis = NEMESES[mutant]
    must_spare(right_seeds, lambda seed: nemesis.violations(None, seed))
    must_kill(mutant, SEEDS, lambda seed: nemesis.violations(mutant, seed))

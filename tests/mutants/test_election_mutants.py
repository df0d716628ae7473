"""Each rule of the election has a mutant that breaks it, and a nemesis that must notice.

A rule whose mutant lives is either superfluous or not tested. The real machine runs under the very same seeds.
"""

from dataclasses import dataclass

import pytest
from kills import must_kill, must_spare

from atoll.actors.elector.election import Election
from atoll.actors.elector.messages import Amnesia, Ballot, Recalled, Resign
from atoll.actors.elector.recollection import Recollection
from atoll.actors.elector.reign import Reign
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.elector.voter import Voter
from atoll.actors.runtime.machine import Persist
from atoll.testing.elections import election_simulation
from atoll.testing.faults import FaultPlan

SEEDS = range(6)


class RestartedVoterDoesNotWait(Voter):
    def rest_s(self):
        return 0.0


class VoterMakesNoPromise(Voter):
    def promised_elsewhere(self, candidate, _epoch, now):
        return False


class HigherEpochOverridesPromise(Voter):
    def promised_elsewhere(self, candidate, epoch, now):
        return epoch <= self.epoch and super().promised_elsewhere(candidate, epoch, now)


class AcknowledgementIsNoPromise(Voter):
    def bind_by_ack(self, to, epoch, now):
        pass


class VoterAnswersBeforeTheDisk(Voter):
    def durably(self, epoch, voted_for, *effects):
        first, *rest = super().durably(epoch, voted_for, *effects)
        return [*rest, first] if isinstance(first, Persist) else [first, *rest]


class VoterKeepsNothingOnDisk(Voter):
    def durably(self, epoch, voted_for, *effects):
        return [effect for effect in super().durably(epoch, voted_for, *effects) if not isinstance(effect, Persist)]


class DiskForgetsWhomItVotedFor(Voter):
    def restart(self, ballot, now, **more):
        super().restart(ballot and Ballot(ballot.epoch, None, ballot.roster_version), now, **more)


class VoterVotesTwiceInAnEpoch(Voter):
    def vote_spent(self, candidate, epoch):
        return epoch < self.epoch


class ReleaseOfAnyEpochFrees(Voter):
    def releases(self, sender, message):
        return self.promise is not None and self.promise.to == sender


class LeaseIgnoresDrift(Reign):
    def lease_from(self, sent_at):
        return sent_at + self.settings.lease_s


class LeaseCountsFromTheAnswer(Reign):
    def promised_at(self, sent_at, now):
        return now


class QuorumOfThoseInReach(Election):
    """Once it has met everybody; before, it would fall at the first step."""

    met_all = False

    @property
    def quorum(self):
        in_reach = self.outlook.voters_in_reach(self.roster)
        self.met_all = self.met_all or in_reach == len(self.roster.voters)
        return in_reach // 2 + 1 if self.met_all else self.roster.quorum


class HalfIsAMajority(Election):
    @property
    def quorum(self):
        return (len(self.roster.voters) + 1) // 2


class HandsOverAndKeepsTheLease(Election):
    def _hand_over(self, successor, reason, now):
        reign, role, believed = self.reign, self.role, self.outlook.belief
        effects = super()._hand_over(successor, reason, now)
        self.reign, self.role, self.outlook.belief = reign, role, believed
        return effects

    def check(self):
        pass


class DamageIsOverlooked(Election):
    def start(self, restored, now):
        return super().start([record for record in restored if not isinstance(record, Amnesia)], now)


class ForgetfulVoterOnlyRests(Recollection):
    def needed(self, roster):
        return 0


class ForgetfulVoterTrustsTheForgetful(Recollection):
    def take(self, sender, answer):
        super().take(sender, Recalled(answer.nonce, answer.epoch, sure=True))


class SupernodeIgnoresTheEndOfItsLease(Election):
    def lease_held(self, now):
        return self.reign is not None


OFTEN = (0.05, 0.6)
EAGER = ElectionSettings(delay_s_min=0.01, delay_s_max=0.06)
"""Candidates come quickly, so that the few milliseconds between right and wrong are hit; safety must not care."""

RESTARTS = FaultPlan(
    weights={"crash": 3, "one_way": 1, "partial": 1, "halves": 1},
    every_s=OFTEN,
    crash_s=(0.01, 0.2),
    aim=0,
    cut_s=(0.5, 3),
)
TORN_WRITES = FaultPlan(
    weights={"tear": 4, "crash": 1, "partial": 1, "loss": 1},
    every_s=OFTEN,
    crash_s=(0.01, 0.5),
    aim=0,
    loss_ratio_max=0.7,
)
SLOW_AND_TORN = FaultPlan(
    weights={"tear": 1, "slow": 2},
    every_s=(0.02, 0.3),
    latency_s=0.02,
    duplicate_ratio=0.4,
    slow_s_max=2.0,
    crash_s=(0.01, 1),
    cut_s=(0.2, 1),
)
CUTS = FaultPlan(
    weights={"one_way": 1, "partial": 2, "halves": 1},
    every_s=OFTEN,
    cut_s=(0.3, 2),
    latency_s=0.0003,
    late_ratio=0,
    duplicate_ratio=0,
)
LEADER_CUT_OFF = FaultPlan(weights={"halves": 1}, every_s=OFTEN, latency_s=0.0002, late_ratio=0, cut_s=(0.5, 4))
LATE = FaultPlan(
    weights={"partial": 1, "loss": 1, "halves": 1},
    every_s=OFTEN,
    late_ratio=0.4,
    late_s_max=2.0,
    duplicate_ratio=0.2,
    latency_s=0.01,
    cut_s=(0.3, 2),
    loss_ratio_max=0.7,
)
SLOW = FaultPlan(
    weights={"slow": 2, "partial": 1, "halves": 1, "one_way": 1}, every_s=OFTEN, slow_s_max=1.0, cut_s=(0.3, 3)
)
PAUSES = FaultPlan(
    weights={"pause": 2, "suspend": 1, "partial": 1, "loss": 1}, every_s=OFTEN, pause_s=(0.1, 2), suspend_s=(0.2, 3)
)
RESIGNATIONS = FaultPlan(
    weights={"tell": 2, "partial": 1, "loss": 1},
    every_s=OFTEN,
    facts=(Resign("told to"),),
    late_ratio=0.1,
    late_s_max=1.0,
)


FORGETTING = FaultPlan(
    weights={"forget": 3, "partial": 2, "halves": 1},
    every_s=OFTEN,
    crash_s=(0.01, 0.3),
    cut_s=(0.3, 3),
    aim=0,
    late_ratio=0,
)


@dataclass(frozen=True)
class Nemesis:
    faults: FaultPlan
    voters: int
    seconds: float
    settings: ElectionSettings | None = None

    def violations(self, kind, seed):
        simulation = election_simulation(
            seed, voters=self.voters, faults=self.faults, kind=kind, settings=self.settings, violations_max=1
        )
        return simulation.run(self.seconds).violations


NEMESES = {
    RestartedVoterDoesNotWait: Nemesis(RESTARTS, 3, 120),
    VoterMakesNoPromise: Nemesis(CUTS, 5, 40),
    HigherEpochOverridesPromise: Nemesis(PAUSES, 5, 60),
    AcknowledgementIsNoPromise: Nemesis(CUTS, 5, 30),
    VoterAnswersBeforeTheDisk: Nemesis(TORN_WRITES, 4, 100),
    VoterKeepsNothingOnDisk: Nemesis(RESTARTS, 3, 60),
    DiskForgetsWhomItVotedFor: Nemesis(SLOW_AND_TORN, 5, 100),
    VoterVotesTwiceInAnEpoch: Nemesis(SLOW, 5, 60),
    ReleaseOfAnyEpochFrees: Nemesis(LATE, 3, 300, EAGER),
    LeaseIgnoresDrift: Nemesis(LEADER_CUT_OFF, 3, 250, EAGER),
    LeaseCountsFromTheAnswer: Nemesis(LEADER_CUT_OFF, 3, 250, EAGER),
    QuorumOfThoseInReach: Nemesis(CUTS, 3, 60),
    HalfIsAMajority: Nemesis(CUTS, 4, 40),
    HandsOverAndKeepsTheLease: Nemesis(RESIGNATIONS, 3, 60),
    DamageIsOverlooked: Nemesis(FORGETTING, 3, 120),
    ForgetfulVoterOnlyRests: Nemesis(FORGETTING, 3, 300),
    ForgetfulVoterTrustsTheForgetful: Nemesis(FORGETTING, 3, 300),
    SupernodeIgnoresTheEndOfItsLease: Nemesis(PAUSES, 5, 30),
}


def election_with(mutant):
    if issubclass(mutant, Voter):
        return type(mutant.__name__, (Election,), {"voter_kind": mutant})
    if issubclass(mutant, Recollection):
        return type(mutant.__name__, (Election,), {"recollection_kind": mutant})
    if issubclass(mutant, Reign):
        return type(mutant.__name__, (Election,), {"reign_kind": mutant})
    return mutant


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    nemesis = NEMESES[mutant]
    must_spare(right_seeds, lambda seed: nemesis.violations(Election, seed))
    must_kill(mutant, SEEDS, lambda seed: nemesis.violations(election_with(mutant), seed))


def test_a_lease_clock_that_stands_still_while_the_host_sleeps_is_noticed():
    sleeps = {"weights": {"suspend": 1.0}, "suspend_s": (1.5, 10.0), "aim": 0.9}
    right = Nemesis(FaultPlan(**sleeps), 3, 60)
    wrong = Nemesis(FaultPlan(**sleeps, lease_clock_sleeps=True), 3, 60)
    assert not any(right.violations(Election, seed) for seed in SEEDS)
    assert all(wrong.violations(Election, seed) for seed in SEEDS)

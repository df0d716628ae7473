"""Each rule of the placement has a mutant that breaks it, and a nemesis that must notice.

The real machine runs under the very same seeds. Rules of a voter and of its damaged copy, whose breaking needs too many
coincidences to be met in half the seeds, are held by `tests/machines/test_placement.py` alone.
"""

from dataclasses import dataclass, replace

import pytest
from kills import must_kill, must_spare

from atoll.actors.elector.messages import Leave, Resign
from atoll.actors.placement.leadership import Leadership
from atoll.actors.placement.placement import Placement
from atoll.actors.placement.table import PlaceTable
from atoll.testing.faults import FaultPlan
from atoll.testing.placements import placement_simulation

SEEDS = range(6)


class SupernodeReadsOnlyItsOwnCopy(Leadership):
    def read_enough(self):
        return True


class SupernodeAdoptsTheFirstAnswer(Leadership):
    def adopted(self):
        return next((each.accepted for each in self.told.values() if each.accepted is not None), None)


class SupernodeOverlooksTheEndOfItsLease(Placement):
    def _end(self, epoch):
        return []


class DoneWithoutAMajority(Leadership):
    def held(self, flight):
        return sum(voter in flight.holders for voter in self.voters) >= self.quorum - 1


class HalfIsAMajority(Leadership):
    @property
    def quorum(self):
        return (len(self.voters) + 1) // 2


class MajorityOfTheFirstRoster(Leadership):
    """Of those who voted when this supernode was elected, whoever votes now."""

    first = None

    @property
    def voters(self):
        self.first = self.first or self.lease.voters
        return self.first


class VersionsStandStill(Leadership):
    def _launch(self, table, version, answers, now):
        return super()._launch(table, max(0, version - 1), answers, now)

    def check(self):
        pass


class SwapComparesOnlyTheHost(PlaceTable):
    def as_expected(self, change):
        current, expected = self._placed.get(change.actor), change.expected
        return (current and current.host) == (expected and expected.host)


class RefusedMeansNever(PlaceTable):
    def never(self, change):
        return True


OFTEN = (0.2, 1.5)
CUTS = FaultPlan(weights={"one_way": 1, "partial": 2, "halves": 2}, every_s=OFTEN, cut_s=(0.3, 2), late_ratio=0)
LATE = FaultPlan(
    weights={"halves": 2, "pause": 2, "partial": 1, "slow": 1},
    every_s=OFTEN,
    late_ratio=0.05,
    late_s_max=3.0,
    duplicate_ratio=0.2,
    duplicate_s_max=3.0,
    cut_s=(0.3, 2),
    pause_s=(0.3, 2),
    aim=0.8,
)
TWICE = replace(LATE, duplicate_ratio=0.6)
RESIGNATIONS = FaultPlan(weights={"tell": 2, "halves": 1}, every_s=OFTEN, facts=(Resign("told to"),), aim=1.0)
COMING_AND_GOING = FaultPlan(
    weights={"tell": 2, "crash": 2, "halves": 2, "partial": 1},
    every_s=(0.1, 1.5),
    facts=(Leave("to go home"),),
    crash_s=(0.1, 3),
    cut_s=(0.3, 3),
)


@dataclass(frozen=True)
class Nemesis:
    faults: FaultPlan
    voters: int
    seconds: float
    bystanders: int = 0
    pause_s: float = 0.02

    def violations(self, kind, seed):
        simulation = placement_simulation(
            seed,
            voters=self.voters,
            bystanders=self.bystanders,
            faults=self.faults,
            kind=kind,
            violations_max=1,
            chooses=bool(self.bystanders),
            pause_s=self.pause_s,
        )
        return simulation.run(self.seconds).violations


NEMESES = {
    SupernodeReadsOnlyItsOwnCopy: Nemesis(CUTS, 3, 100),
    SupernodeAdoptsTheFirstAnswer: Nemesis(CUTS, 3, 60),
    SupernodeOverlooksTheEndOfItsLease: Nemesis(RESIGNATIONS, 3, 30),
    DoneWithoutAMajority: Nemesis(CUTS, 3, 80),
    HalfIsAMajority: Nemesis(CUTS, 4, 120),
    MajorityOfTheFirstRoster: Nemesis(COMING_AND_GOING, 3, 40, 4),
    VersionsStandStill: Nemesis(CUTS, 3, 20),
    SwapComparesOnlyTheHost: Nemesis(CUTS, 3, 20),
    RefusedMeansNever: Nemesis(TWICE, 3, 60),
}


def placement_with(mutant):
    if issubclass(mutant, Placement):
        return mutant
    leadership = mutant
    if issubclass(mutant, PlaceTable):
        leadership = type(mutant.__name__, (Leadership,), {"table_kind": mutant})
    return type(mutant.__name__, (Placement,), {"leadership_kind": leadership})


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    nemesis = NEMESES[mutant]
    must_spare(right_seeds, lambda seed: nemesis.violations(Placement, seed))
    must_kill(mutant, SEEDS, lambda seed: nemesis.violations(placement_with(mutant), seed))

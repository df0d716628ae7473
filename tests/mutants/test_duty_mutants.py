"""Each rule of placing duties has a mutant that breaks it, and a nemesis that must notice.

The real board runs under the very same seeds.
"""

from dataclasses import dataclass

import pytest
from kills import must_kill, must_spare

from atoll.actors.duties.board import DutyBoard
from atoll.actors.duties.placing import Placing
from atoll.actors.elector.messages import DrainWanted, Resign
from atoll.testing.faults import FaultPlan
from atoll.testing.site_duties import NoPause, site_simulation

SEEDS = range(6)


class GivesUpAtOnce(DutyBoard):
    def _goes_on(self, _place):
        return False


class ReportsBeforeItDoes(DutyBoard):
    def _own_report(self):
        for held in self._holding.values():
            held.ready = True
        return super()._own_report()


class ForgetsThePlaces(DutyBoard):
    def _inherited(self):
        return ()


class PlacesBeforeItHasListened(DutyBoard):
    def _follow(self, supernode, epoch, now):
        effects = super()._follow(supernode, epoch, now)
        self._gathered = True
        return effects + self._decide(now)


class GoesOnForEver(DutyBoard):
    def _drop(self, _duty):
        return []


class GivesItsStateToNobody(DutyBoard):
    def may_give(self, _duty, _to):
        return False


class WaitsForEver(Placing):
    def _overdue(self, _duty, _now):
        return False


@dataclass(frozen=True, slots=True)
class Nemesis:
    """A plan, and what else must hold under it."""

    faults: FaultPlan
    seconds: float
    no_pause: bool = False
    broken: int = 0

    def violations(self, board, seed):
        probes = [NoPause()] if self.no_pause else []
        site = site_simulation(
            seed,
            voters=(3, 5)[seed % 2],
            faults=self.faults,
            board=board,
            probes=probes,
            broken=self.broken,
            violations_max=1,
        )
        return site.run(self.seconds).violations


ORDERS = (DrainWanted(True), DrainWanted(False), Resign("to drain"))
MOVES = Nemesis(
    FaultPlan(weights={"tell": 1.0}, every_s=(0.3, 2.0), late_ratio=0.0, duplicate_ratio=0.0, facts=ORDERS), 30.0, True
)
LEAD_CHANGES = Nemesis(
    FaultPlan(
        weights={"tell": 1.0}, every_s=(0.5, 2.0), late_ratio=0.0, duplicate_ratio=0.0, facts=(Resign("to drain"),)
    ),
    30.0,
    True,
)
DRAINS = Nemesis(FaultPlan(weights={"tell": 1.0}, every_s=(0.3, 2.0), until_s=8.0, facts=ORDERS), 28.0)
BROKEN = Nemesis(FaultPlan(weights={}, until_s=8.0), 28.0, broken=1)

NEMESES = {
    GivesUpAtOnce: MOVES,
    ReportsBeforeItDoes: MOVES,
    ForgetsThePlaces: LEAD_CHANGES,
    PlacesBeforeItHasListened: LEAD_CHANGES,
    GoesOnForEver: DRAINS,
    GivesItsStateToNobody: MOVES,
    WaitsForEver: BROKEN,
}


def board_with(mutant):
    if issubclass(mutant, Placing):
        return type(mutant.__name__, (DutyBoard,), {"placing_kind": mutant})
    return mutant


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    nemesis = NEMESES[mutant]
    must_spare(right_seeds, lambda seed: nemesis.violations(DutyBoard, seed))
    must_kill(mutant, SEEDS, lambda seed: nemesis.violations(board_with(mutant), seed))

"""Rules of soft actors that are removed, or whose hosts are killed: no store refuses a second owner of theirs."""

import pytest
from kills import must_kill, must_spare
from removals_gone_wrong import HostsTakeSoftCallsOfTheOneBefore, RemovesWhatServes, ServesAgainWithoutAWord

from atoll.actors.hand_over.claims import Claim
from atoll.actors.hand_over.hosting import Hosting
from atoll.testing.faults import EVERYTHING, FaultPlan
from atoll.testing.hand_over_invariants import OneServes
from atoll.testing.hand_overs import hand_over_simulation, world

SEEDS = range(6)
RUNS_S = 20.0
GAMES = 6
REMOVALS_RUN_S = 60.0
"""A tenth of a second; in 20 s removals and cuts meet in a third of the seeds only."""


class BeginsWhereItsFormerSelfWas(Hosting):
    """In the same generation, while a move that it had begun is on its way to the placement."""

    def _place(self, actor, placed, now):
        if placed.host == self.own and actor not in self.tombstones:
            return self._begin(actor, placed, now, Claim())
        return super()._place(actor, placed, now)


def serve_at_once(seed, kind=Hosting):
    """Play some games; a seed of one alone has a move of that kind in one case of four."""
    return [twice for game in range(GAMES) for twice in _serve_at_once(seed * GAMES + game, kind)]


def _serve_at_once(seed, kind):
    kills = {"crash": 4.0, "tear": 1.0}
    plan = FaultPlan(weights=kills, every_s=(0.02, 0.3), aim=1.0, late_ratio=0.2, late_s_max=1.0, crash_s=(0.01, 0.1))
    of = world(4, 0, 3, soft=True, replace_s=None, hosting_kind=kind)
    simulation = hand_over_simulation(seed, plan, of, violations_max=10**6)
    simulation.watch(OneServes())
    return [each for each in simulation.run(RUNS_S).violations if "serve at once" in each]


@pytest.mark.parametrize("mutant", [BeginsWhereItsFormerSelfWas], ids=lambda mutant: mutant.__name__)
def test_two_owners_kill_the_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    must_spare(right_seeds, serve_at_once)
    must_kill(mutant, SEEDS, lambda seed: serve_at_once(seed, mutant))


def wrong_where_actors_are_removed(seed, kind=Hosting):
    """Remove a soft actor and begin it anew, two times a second, under every fault but the death of its host."""
    weights = {fault: 1.0 for fault in EVERYTHING if fault not in ("crash", "tear")}
    times = {"every_s": (0.05, 1.0), "pause_s": (0.1, 2.0), "suspend_s": (0.2, 3.0), "cut_s": (0.1, 2.0)}
    plan = FaultPlan(weights=weights, late_ratio=0.1, late_s_max=1.0, duplicate_ratio=0.1, **times)
    of = world(4, 0, 3, soft=True, replace_s=None, move_s=0.3, remove_s=(0.05, 0.5), hosting_kind=kind)
    return hand_over_simulation(seed, plan, of, violations_max=1).run(REMOVALS_RUN_S).violations


OF_REMOVALS = (RemovesWhatServes, ServesAgainWithoutAWord, HostsTakeSoftCallsOfTheOneBefore)


@pytest.mark.parametrize("mutant", OF_REMOVALS, ids=lambda mutant: mutant.__name__)
def test_quick_removals_kill_the_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    must_spare(right_seeds, wrong_where_actors_are_removed)
    must_kill(mutant, SEEDS, lambda seed: wrong_where_actors_are_removed(seed, mutant))

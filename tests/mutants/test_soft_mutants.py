"""Rules of soft actors whose hosts are killed: nobody refuses a second owner of theirs, so none may begin."""

import pytest
from kills import must_kill, must_spare

from atoll.actors.hand_over.claims import Claim
from atoll.actors.hand_over.hosting import Hosting
from atoll.testing.faults import FaultPlan
from atoll.testing.hand_over_invariants import OneServes
from atoll.testing.hand_overs import hand_over_simulation, world

SEEDS = range(6)
RUNS_S = 20.0
GAMES = 6


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

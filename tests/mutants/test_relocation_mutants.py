"""Each rule of relocation has a mutant that breaks it, and a site on which nobody gets answers any more then.

What is at stake is only that: the placement and the stores see to it that a wrong decision loses nothing.
"""

import pytest
from kills import must_kill, must_spare

from atoll.actors.hand_over.orders import Move
from atoll.actors.hand_over.relocating import Relocating
from atoll.actors.hand_over.relocation import Relocation
from atoll.testing.elections import scores_of
from atoll.testing.faults import Crash, Cut, FaultPlan, Tell
from atoll.testing.hand_over_invariants import Progress
from atoll.testing.hand_overs import ACTOR
from atoll.testing.site_hand_overs import site_hand_over_simulation, site_world

SEEDS = range(6)
FOR_GOOD_S = 1e6
CUT_S = 25.0
"""Longer than anybody waits for a host that is not heard."""
DIES_S, WITHIN_S, RUNS_S = 8.0, 20.0, 35.0
EACH_TRIED_S = 2 * 4
"""A host that cannot run it has it for 4 s, and once more when the lead changes meanwhile: the next one tries anew."""
CALLERS = 2


class NeverLooksForTheDead(Relocating):
    def gone(self, host, site):
        return False


class WaitsForWhoeverLives(Relocating):
    def overdue(self, since, now):
        return False


class GivesItToWhoDidNotTakeIt(Relocating):
    def fittest(self, actor, site, without=()):
        return super().fittest(actor, site, [node for node in without if node in site.gone])


class HearsNobodyElse(Relocation):
    def _hear(self, host, here, now):
        if host == self.own:
            super()._hear(host, here, now)


class NeverDoubtsAnOwner(Relocating):
    def is_over(self, generation, placed):
        return False


MUTANTS = (
    NeverLooksForTheDead,
    WaitsForWhoeverLives,
    GivesItToWhoDidNotTakeIt,
    HearsNobodyElse,
)


def mutated(mutant):
    if mutant is None:
        return Relocation
    if issubclass(mutant, Relocation):
        return mutant
    return type(mutant.__name__, (Relocation,), {"relocating_kind": mutant})


def violations(mutant, seed):
    """Let the host of the actor die for good, and let nobody else be able to run it but the least fit."""
    world = site_world(5)
    scores = scores_of(seed, world.nodes)
    able = min(world.nodes[1:], key=lambda node: (scores[node], node))
    broken = tuple(node for node in world.nodes[1:] if node != able)
    world = site_world(5, move_s=0.0, callers=CALLERS, relocation_kind=mutated(mutant), broken=broken)
    plan = FaultPlan(weights={}, script=[(DIES_S, Crash(0, FOR_GOOD_S))])
    simulation = site_hand_over_simulation(seed, plan, world, violations_max=1)
    simulation.watch(Progress(DIES_S, WITHIN_S + EACH_TRIED_S * len(broken)))
    return simulation.run(RUNS_S + EACH_TRIED_S * len(broken)).violations


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_site_kills_the_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    must_spare(right_seeds, lambda seed: violations(None, seed))
    must_kill(mutant, SEEDS, lambda seed: violations(mutant, seed))


def owners_left(mutant, seed):
    """Cut the host of a soft actor off until it is replaced, and count who has it some time after that."""
    world = site_world(5, soft=True, move_s=0.0, callers=CALLERS, relocation_kind=mutated(mutant))
    alone = frozenset(pair for other in range(4) for pair in ((4, other), (other, 4)))
    script = [(DIES_S / 2, Tell(0, Move(ACTOR, world.nodes[4]))), (DIES_S, Cut(alone, CUT_S))]
    plan = FaultPlan(weights={}, script=script)
    simulation = site_hand_over_simulation(seed, plan, world, violations_max=10**6)
    simulation.run(DIES_S + CUT_S + WITHIN_S)
    assert simulation.relocations.count > 0, "nobody has replaced it"
    return sum(bool(host.machine.hosting.owners) for host in simulation.hosts)


@pytest.mark.deep
def test_two_owners_of_a_soft_actor_kill_the_mutant_that_never_doubts_one(right_seeds):
    must_spare(right_seeds, lambda seed: owners_left(None, seed) > 1)
    must_kill(NeverDoubtsAnOwner, SEEDS, lambda seed: owners_left(NeverDoubtsAnOwner, seed) > 1)

"""The hand-over on a whole site, with a real election and placement: nothing lost, and somebody serves again."""

import pytest

from atoll.actors.elector.messages import Leave
from atoll.actors.hand_over.orders import Move
from atoll.testing.faults import EVERYTHING, Crash, Cut, FaultPlan, Tell
from atoll.testing.hand_over_invariants import Progress
from atoll.testing.hand_overs import ACTOR
from atoll.testing.site_hand_overs import site_hand_over_simulation, site_world

SHORT = {"crash_s": (0.02, 1.0), "pause_s": (0.1, 2.0), "suspend_s": (0.2, 3.0), "cut_s": (0.1, 2.0)}
DEATHS = {**EVERYTHING, "crash": 4.0}
FOR_GOOD_S = 1e6
QUICK_SEEDS = 1
"""Each takes two seconds; `make nightly` has thousands."""
LONG_SEEDS_MAX = 300


def replay(request, seed):
    return f"replay with: python -m pytest tests/sim --sim-seed {seed} -k {request.node.originalname}"


def check(simulation, seconds, request, seed):
    report = simulation.run(seconds)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"
    assert simulation.once.acknowledged > 0, replay(request, seed)
    return report


@pytest.mark.seeds(QUICK_SEEDS, LONG_SEEDS_MAX)
def test_nothing_acknowledged_is_lost_on_a_site_under_every_fault(seed, request):
    plan = FaultPlan(every_s=(0.3, 4.0), until_s=20, **SHORT)
    check(site_hand_over_simulation(seed, plan, site_world(5, voters=(3, 5, 1)[seed % 3])), 35.0, request, seed)


@pytest.mark.seeds(QUICK_SEEDS, LONG_SEEDS_MAX)
def test_nothing_acknowledged_is_lost_while_hosts_die_and_are_replaced(seed, request):
    plan = FaultPlan(weights=DEATHS, every_s=(0.5, 5.0), until_s=40, crash_s=(5.0, 25.0))
    check(site_hand_over_simulation(seed, plan, site_world(5, voters=3 + 2 * (seed % 2))), 55.0, request, seed)


@pytest.mark.seeds(QUICK_SEEDS, LONG_SEEDS_MAX)
def test_nothing_acknowledged_is_lost_while_journals_are_damaged(seed, request):
    plan = FaultPlan(weights={**EVERYTHING, "forget": 0.5}, every_s=(0.5, 4.0), **SHORT)
    report = site_hand_over_simulation(seed, plan, site_world(5, voters=3)).run(30.0)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"


@pytest.mark.parametrize(
    "dies", [pytest.param(0, id="the founder"), pytest.param(1, id="another", marks=pytest.mark.deep)]
)
def test_an_actor_whose_host_died_for_good_is_served_elsewhere(dies):
    plan = FaultPlan(weights={}, script=[(10.0, Crash(dies, FOR_GOOD_S))])
    simulation = site_hand_over_simulation(3, plan, site_world(5, move_s=0.0))
    simulation.run(9.9)
    if dies:
        simulation.watch(Progress(10.0, 2.0))
    else:
        simulation.watch(Progress(10.0, 15.0))
    report = simulation.run(30.0)
    assert not report.violations, report.violations[0]
    assert simulation.relocations.count == (dies == 0)
    owners = [host.index for host in simulation.hosts if host.machine is not None and host.machine.hosting.owners]
    assert len(owners) == 1


@pytest.mark.parametrize("voters", [2, pytest.param(3, marks=pytest.mark.deep)])
def test_a_store_that_leaves_the_site_is_replaced_by_another_voter(voters):
    """It is struck off the roster; the supernode asks the owner to keep the log elsewhere, one store at a time."""
    script = [(8.0, Tell(1, Leave("it is sold"))), (14.0, Crash(1, FOR_GOOD_S))]
    world = site_world(5, voters=voters, callers=2, chooses=True, move_s=20.0)
    simulation = site_hand_over_simulation(5, FaultPlan(weights={}, script=script), world)
    simulation.watch(Progress(8.0, 20.0))
    report = simulation.run(90.0)
    assert not report.violations, report.violations[0]
    (owner,) = [host.machine.hosting.owners[ACTOR] for host in simulation.hosts if owns(host)]
    left = world.nodes[1]
    assert left in world.stores
    assert left not in owner.placed.stores
    assert len(owner.placed.stores) == 3
    assert simulation.once.changes >= 1


def owns(host):
    return host.machine is not None and ACTOR in host.machine.hosting.owners


def test_a_soft_actor_that_was_cut_off_and_replaced_ends_when_its_host_is_back():
    """It has no stores that would refuse it, its callers have their answers, and its host asks nobody."""
    alone = frozenset(pair for other in range(4) for pair in ((4, other), (other, 4)))
    world = site_world(5, soft=True, move_s=0.0)
    script = [(5.0, Tell(0, Move(ACTOR, world.nodes[4]))), (10.0, Cut(alone, 25.0))]
    simulation = site_hand_over_simulation(3, FaultPlan(weights={}, script=script), world, violations_max=10**6)
    simulation.run(34.9)
    assert [host.index for host in simulation.hosts if owns(host)] == [0, 4], "while it is cut off there are two"
    simulation.run(10.0)
    assert [host.index for host in simulation.hosts if owns(host)] == [0]


def test_a_host_that_starts_again_soon_goes_on_with_what_it_had():
    plan = FaultPlan(weights={}, script=[(5.0 + 4 * number, Crash(0, 1.5)) for number in range(4)])
    simulation = site_hand_over_simulation(4, plan, site_world(5, move_s=0.0))
    simulation.watch(Progress(5.0, 5.0))
    report = simulation.run(30.0)
    assert not report.violations, report.violations[0]
    assert simulation.relocations.count == 0
    assert simulation.hosts[0].machine.hosting.owners

"""The placement together with the election it rests on, under every fault at once."""

import pytest

from atoll.actors.elector.messages import Leave, Resign
from atoll.testing.faults import Cut, FaultPlan, Forget
from atoll.testing.placement_clients import ACTORS
from atoll.testing.placements import history, placement_simulation

OFTEN = (0.05, 2.0)
WEIGHTS = FaultPlan().weights
PLANS = (
    FaultPlan(every_s=OFTEN),
    FaultPlan(every_s=(0.5, 8.0)),
    FaultPlan(every_s=OFTEN, weights={**WEIGHTS, "tell": 2.0}, facts=(Resign("to drain"), Leave("to go home"))),
    FaultPlan(every_s=OFTEN, weights={**WEIGHTS, "forget": 2.0, "halves": 3.0, "partial": 3.0}, crash_s=(0.01, 2.0)),
    FaultPlan(every_s=(0.05, 1.0), late_ratio=0.3, duplicate_ratio=0.2),
)
"""Everything; now and then; supernodes that resign and voters that leave; damaged journals; late messages."""
QUIET = {"weights": {}, "late_ratio": 0.0, "duplicate_ratio": 0.0}


def replay(request, seed):
    return f"replay with: python -m pytest tests/sim --sim-seed {seed} -k {request.node.originalname}"


def site_of(seed, plan, **more):
    # Half of the sites change their rosters as members come, go and leave.
    return placement_simulation(
        seed, voters=1 + seed // 5 % 7, bystanders=seed % 3, faults=plan, chooses=bool(seed % 2), **more
    )


@pytest.mark.seeds(40)
def test_places_are_swapped_one_after_the_other_despite_every_fault(seed, sim_seconds, request):
    report = site_of(seed, PLANS[seed % len(PLANS)]).run(sim_seconds / 12)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"


@pytest.mark.parametrize("start", range(0, 20, 10))
def test_the_placement_answers_again_soon_after_the_faults_stop(start, enough):
    for seed in range(start, start + enough(10)):
        plan = FaultPlan(every_s=OFTEN, until_s=4.0)
        simulation = site_of(seed, plan)
        report = simulation.run(9.0)
        assert not report.violations, f"{report.violations[0]}; seed {seed}"
        assert history(simulation).done > 0, f"seed {seed}"


@pytest.mark.parametrize("pause_s", [0.2, 1e6], ids=["busy", "idle"])
@pytest.mark.parametrize("voters", [3, 4, 5, 7])
def test_voters_with_damaged_journals_are_filled_again_while_a_majority_is_sound(voters, pause_s):
    for seed in range(2):
        damaged = range(seed % 2, seed % 2 + (voters - 1) // 2)
        script = [(5.0 + 0.2 * host, Forget(host, 0.1)) for host in damaged]
        plan = FaultPlan(**QUIET, until_s=8.0, script=script)
        simulation = placement_simulation(seed, voters=voters, faults=plan, pause_s=pause_s)
        report = simulation.run(14.0)
        assert not report.violations, f"{report.violations[0]}; seed {seed}"
        assert not [host.node.short for host in simulation.hosts if host.machine.placement.register.forgetful]


def test_a_quiet_site_answers_whoever_asks_whomever():
    simulation = placement_simulation(1, voters=5, bystanders=3, faults=FaultPlan(**QUIET))
    report = simulation.run(10.0)
    told = history(simulation)
    assert not report.violations
    assert all(told.newest[actor] > 5 for actor in ACTORS)
    assert (told.done > 50, told.found > 100, told.refused > 20) == (True, True, True)
    holders = {host.machine.placement.register.newest for host in simulation.hosts[:5]}
    assert len({(holder.epoch, holder.version) for holder in holders}) <= 2


def test_a_side_without_a_majority_says_why_and_keeps_every_place():
    side = [(a, b) for a in range(3) for b in range(3, 5)]
    cut = Cut(frozenset(side + [(b, a) for a, b in side]), 60.0)
    simulation = placement_simulation(2, voters=5, faults=FaultPlan(**QUIET, script=[(4.0, cut)]))
    report = simulation.run(12.0)
    assert not report.violations
    answers = [host.machine.placement.status(simulation.local(host)).listed for host in simulation.hosts]
    assert [bool(answer.why) for answer in answers[3:]] == [True, True]
    for answer in answers[3:]:
        assert answer.why == "no majority of the voters is in reach: every exclusive actor stays where it is"
        assert answer.places
    assert sum(not answer.why for answer in answers[:3]) == 1


def test_the_same_seed_gives_the_same_history():
    first, second = (site_of(8, PLANS[3]).run(15.0) for _ in range(2))
    assert first == second

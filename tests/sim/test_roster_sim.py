"""Rosters that change under every fault at once: members come, go, leave and are damaged; people reform the site."""

import pytest

from atoll.actors.elector.messages import Leave, Reform, Resign
from atoll.actors.elector.settings import ElectionSettings
from atoll.testing.elections import election_simulation
from atoll.testing.faults import FaultPlan

QUICK = ElectionSettings(settle_s=0.5, absent_s=2.0)
"""Voters change every second instead of every day; safety must not care."""
ANY = FaultPlan().weights
COMING_AND_GOING = FaultPlan(
    every_s=(0.05, 2.0), weights={**ANY, "tell": 3.0}, facts=(Leave("it is sold"), Resign("to drain"))
)
DAMAGED = FaultPlan(
    every_s=(0.05, 2.0),
    weights={**ANY, "forget": 2.0, "halves": 3.0, "partial": 3.0, "tell": 2.0},
    facts=(Leave("it is sold"),),
    crash_s=(0.01, 2.0),
)
REFORMED = FaultPlan(
    every_s=(0.05, 2.0), weights={**ANY, "tell": 1.0}, facts=(Leave("it is sold"), Reform("a person says so"))
)
PLANS = (FaultPlan(every_s=(0.05, 2.0)), COMING_AND_GOING, REFORMED)
QUIET = FaultPlan(weights={}, late_ratio=0.0, duplicate_ratio=0.0)


def replay(request, seed):
    return f"replay with: python -m pytest tests/sim --sim-seed {seed} -k {request.node.originalname}"


def site_of(seed, plan, settings=QUICK):
    return election_simulation(
        seed, voters=1 + seed % 4, bystanders=1 + seed % 5, faults=plan, settings=settings, chooses=True
    )


@pytest.mark.seeds(30)
def test_one_roster_of_each_version_and_one_lease_holder_while_voters_come_and_go(seed, sim_seconds, request):
    report = site_of(seed, PLANS[seed % len(PLANS)]).run(sim_seconds / 2)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"


@pytest.mark.seeds(30)
def test_damaged_journals_and_changes_of_the_roster_together_break_nothing(seed, sim_seconds, request):
    report = site_of(seed, DAMAGED).run(sim_seconds / 2)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"


@pytest.mark.seeds(30)
def test_a_supernode_is_back_within_three_leases_though_a_change_was_under_way(seed, request):
    plan = FaultPlan(
        every_s=(0.05, 2.0), until_s=10.0, weights={**ANY, "tell": 3.0}, facts=(Leave("it is sold"), Resign("to drain"))
    )
    report = site_of(seed, plan).run(18.0)
    assert not report.violations, f"{report.violations[0]}; {replay(request, seed)}"


@pytest.mark.parametrize(("members", "voters"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (9, 7)])
def test_a_site_grows_to_an_odd_number_of_voters_and_its_supernode_never_loses_its_lease(members, voters):
    simulation = election_simulation(
        5, voters=1, bystanders=members - 1, faults=QUIET, settings=ElectionSettings(settle_s=5.0), chooses=True
    )
    report = simulation.run(20.0)
    assert not report.violations
    assert report.elections == 1
    assert len(report.gaps_s) <= 1
    rosters = {host.machine.roster for host in simulation.hosts}
    assert len(rosters) == 1
    assert report.changes == next(iter(rosters)).version
    assert len(rosters.pop().voters) == voters


def test_a_site_that_people_reform_at_two_nodes_at_once_ends_with_one_roster(enough):
    for seed in range(enough(20)):
        simulation = site_of(seed, QUIET)
        simulation.run(5.0)
        for host in simulation.hosts[:2]:
            simulation.tell(host, Reform("a person says so"))
        report = simulation.run(15.0)
        assert not report.violations, f"{report.violations[0]}; seed {seed}"
        assert len({host.machine.roster.mark for host in simulation.hosts}) == 1
        assert {host.machine.status(simulation.local(host)).confirmed for host in simulation.hosts} == {True}

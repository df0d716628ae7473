"""Suspicion on simulated sites: who runs stays alive, who died is found, and every run repeats."""

import math

import pytest

from atoll.actors.discoverer.messages import Leaving, Life
from atoll.testing.discovery import (
    LOSS,
    BoundedGossip,
    FewSuspicions,
    NoFalseDeath,
    suspicion_simulation,
    time_to_find,
)
from atoll.testing.faults import Crash, Cut, FaultPlan, Loss

DAY_H = 24
NODES = 50
QUIET = FaultPlan(weights={}, late_ratio=0.0, duplicate_ratio=0.0)


def test_sick_observers_harm_nobody_at_20_percent_loss():
    for seed in range(2):
        report = suspicion_simulation(seed, nodes=20).run(120.0)
        assert not report.violations, f"seed {seed}: {report.violations[0]}"


@pytest.mark.long
def test_at_most_one_false_death_in_a_day_of_50_nodes_with_loss_and_pauses(capsys):
    deaths, rumours, suspicions = NoFalseDeath(allowed=1), BoundedGossip(), FewSuspicions(math.inf)
    report = suspicion_simulation(1, nodes=NODES, probes=(deaths, rumours, suspicions)).run(DAY_H * 3600.0)
    with capsys.disabled():
        print(  # noqa: T201 - the figure is what `make sim` is for
            f"\nR10: {deaths.deaths} false deaths in {DAY_H} simulated hours, {NODES} nodes, {LOSS:.0%} loss, pauses; "
            f"{suspicions.raised} suspicions raised and refuted; "
            f"{rumours.messages / NODES / report.simulated_s:.2f} messages per node and second; {report.events} events"
        )
    assert not report.violations, report.violations[0]


@pytest.mark.parametrize(("nodes", "bound_s"), [(2, 20.0), (5, 20.0), (12, 20.0), (NODES, 25.0)])
def test_a_death_is_known_to_everybody_within_the_bound(nodes, bound_s, enough):
    for seed in range(enough(4)):
        found = time_to_find(seed, nodes=nodes)
        assert found.last_s <= bound_s, f"seed {seed}: {found}"


def test_one_who_comes_back_is_alive_to_everybody_again():
    simulation = suspicion_simulation(4, nodes=8, faults=QUIET, probes=())
    simulation.run(5.0)
    simulation.apply(Crash(0, 20.0))
    simulation.run(15.0)
    back, *others = simulation.hosts
    assert {host.machine.life(back.node) for host in others} == {Life.DEAD}
    simulation.run(10.0)
    assert {host.machine.life(back.node) for host in others} == {Life.ALIVE}


def test_two_halves_that_meet_again_believe_in_each_other_again():
    side, other = range(3), range(3, 6)
    halves = frozenset((a, b) for a in side for b in other) | frozenset((b, a) for a in side for b in other)
    simulation = suspicion_simulation(5, nodes=6, faults=QUIET, probes=())
    simulation.run(5.0)
    simulation.apply(Cut(halves, 40.0))
    simulation.run(35.0)
    left, right = simulation.hosts[0], simulation.hosts[5]
    assert left.machine.life(right.node) is right.machine.life(left.node) is Life.DEAD
    simulation.run(20.0)
    lives = {host.machine.life(each.node) for host in simulation.hosts for each in simulation.hosts if each is not host}
    assert lives == {Life.ALIVE}


def test_who_says_goodbye_has_left_and_is_suspected_by_nobody():
    suspicions = FewSuspicions(0.5)
    simulation = suspicion_simulation(6, nodes=6, faults=QUIET, probes=(suspicions,))
    simulation.run(5.0)
    leaver, *others = simulation.hosts
    simulation.tell(leaver, Leaving())
    simulation.run(0.1)
    simulation.apply(Crash(0, math.inf))
    simulation.run(20.0)
    assert {host.machine.life(leaver.node) for host in others} == {Life.LEFT}
    assert suspicions.raised == 0


def test_at_rest_two_messages_a_second_leave_each_node():
    rumours = BoundedGossip()
    simulation = suspicion_simulation(7, nodes=30, faults=QUIET, probes=(rumours,))
    simulation.run(20.0)
    begun = rumours.messages
    simulation.run(60.0)
    assert (rumours.messages - begun) / 30 / 60 == pytest.approx(2.0, rel=0.05)


def test_the_same_seed_gives_the_same_trace_and_another_seed_another():
    first, second, other = (suspicion_simulation(seed, nodes=10).run(20.0) for seed in (11, 11, 12))
    assert first == second
    assert first.trace_hash != other.trace_hash


def test_while_half_of_all_messages_are_lost_every_node_distrusts_itself_and_no_longer_than_that():
    plan = FaultPlan(weights={}, script=((5.0, Loss(0.5, 20.0)),))
    simulation = suspicion_simulation(8, nodes=12, faults=plan, probes=())
    simulation.run(20.0)
    assert max(host.machine.health.score for host in simulation.hosts) >= 3
    simulation.run(60.0)
    assert {host.machine.health.score for host in simulation.hosts} == {0}

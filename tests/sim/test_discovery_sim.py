"""Suspicion on simulated sites: who runs stays alive, who died is found, and every run repeats."""

import functools
import json
import math

import pytest
from click.testing import CliRunner

from atoll.actors.discoverer.messages import Leaving, Life
from atoll.actors.discoverer.suspicion_settings import SuspicionSettings
from atoll.testing.discovery import (
    BoundedGossip,
    FewSuspicions,
    NoFalseDeath,
    Talks,
    ghosts_of,
    suspicion_simulation,
    time_to_find,
)
from atoll.testing.false_deaths_main import command as false_deaths
from atoll.testing.faults import Crash, Cut, FaultPlan, Loss

NODES = 50
QUIET = FaultPlan(weights={}, late_ratio=0.0, duplicate_ratio=0.0)


def test_sick_observers_harm_nobody_at_20_percent_loss():
    for seed in range(2):
        report = suspicion_simulation(seed, nodes=20).run(120.0)
        assert not report.violations, f"seed {seed}: {report.violations[0]}"


def test_the_day_of_a_large_site_counts_false_deaths_and_is_the_same_in_pieces():
    told = CliRunner().invoke(false_deaths, ["--hours", "0.05", "--nodes", "12", "--json"])
    figures = json.loads(told.stdout)
    assert (told.exit_code, figures["false_deaths"], figures["violations"]) == (0, 0, [])
    assert figures["trace"] == suspicion_simulation(1, nodes=12).run(180.0).trace_hash


def test_the_day_fails_when_more_than_one_is_wrongly_declared_dead(monkeypatch):
    still = FaultPlan(weights={"pause": 1.0}, every_s=(1.0, 5.0), pause_s=(40.0, 60.0))
    standing_still = functools.partial(suspicion_simulation, faults=still)
    monkeypatch.setattr("atoll.testing.false_deaths_main.suspicion_simulation", standing_still)
    told = CliRunner().invoke(false_deaths, ["--hours", "0.05", "--nodes", "12"])
    assert told.exit_code == 1
    assert "which runs" in told.stderr


@pytest.mark.parametrize(("nodes", "bound_s"), [(2, 20.0), (5, 20.0), (12, 20.0), (NODES, 25.0)])
def test_a_death_is_known_to_everybody_within_the_bound(nodes, bound_s, enough):
    for seed in range(enough(4)):
        found = time_to_find(seed, nodes=nodes)
        assert found.last_s <= bound_s, f"seed {seed}: {found}"


def test_nobody_of_a_large_site_at_rest_is_forgotten():
    nodes, settings = 20, SuspicionSettings()
    simulation = suspicion_simulation(9, nodes=nodes, faults=QUIET, probes=(), settings=settings)
    simulation.run(120.0)
    for _ in range(20):
        simulation.run(60.0)
        assert {len(host.machine.described(0.0).members) for host in simulation.hosts} == {nodes - 1}


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


def test_links_that_nobody_talks_over_any_more_are_let_go_and_nobody_is_suspected_for_long():
    late = FewSuspicions(math.inf)
    simulation = suspicion_simulation(6, nodes=30, faults=QUIET, probes=(NoFalseDeath(),))
    talks = Talks(simulation, at_once=60)
    for _ in range(2):
        talks.turn()
        simulation.run(30.0)
    talks.end()
    simulation.run(60.0)
    simulation.watch(late)
    report = simulation.run(300.0)
    assert (report.violations, late.raised) == ((), 0)


@pytest.mark.parametrize(("told", "within_s"), [(True, 120.0), (False, 500.0)])
def test_half_of_a_large_site_dies_with_its_supernode_and_nobody_of_it_passes_for_alive(told, within_s):
    assert ghosts_of(1, nodes=40, within_s=within_s, told=told) == frozenset()

"""The simulator itself, on machines small enough to know what must come out."""

import hashlib

import msgspec
import pytest

from atoll.actors.elector.election import Election
from atoll.actors.runtime.machine import Announce, Arm, Persist, Received, Send, TimerFired
from atoll.testing.elections import election_simulation
from atoll.testing.faults import Crash, Cut, FaultPlan, Forget, Loss, Pause, Suspend, Tear, Tell
from atoll.testing.invariants import Invariant
from atoll.testing.simulator import Simulation
from atoll.transport.codec import Codec, Message
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

A, B = (NodeId(hashlib.sha256(name).digest()) for name in (b"a", b"b"))


class Count(Message, frozen=True, array_like=True, tag="test.count"):
    number: int


class Mark(msgspec.Struct, frozen=True, array_like=True, tag="test.mark"):
    number: int


class Counter:
    """Once a second: persist a number, then send it; raises when told to."""

    def __init__(self, peer):
        self.peer = peer
        self.number = 0

    def start(self, restored, now):
        self.number = len(restored)
        return [Announce(f"starts at {self.number}"), Arm("second", 1.0)]

    def handle(self, event, now):
        if isinstance(event, TimerFired):
            self.number += 1
            return [Persist(Mark(self.number)), Send(self.peer, Count(self.number)), Arm("second", 1.0)]
        if isinstance(event, Received):
            return [Announce(event.message.number)]
        if event.fact == "raise":
            raise ValueError("as told")
        return [Announce((event.fact, now))]

    def check(self):
        pass


class Log(Invariant):
    def __init__(self):
        self.facts = []

    def announced(self, simulation, host, fact):
        self.facts.append((round(simulation.now, 2), host.index, fact))

    def of(self, host):
        return [fact for _, index, fact in self.facts if index == host]


QUIET = {"weights": {}, "late_ratio": 0.0, "duplicate_ratio": 0.0, "drift_max": 0.0}


def run(seconds, *script, **more):
    log = Log()
    plan = FaultPlan(**{**QUIET, **more}, script=script)
    simulation = Simulation(1, {A: lambda _: Counter(B), B: lambda _: Counter(A)}, plan, [log], codec=Codec([Count]))
    return log, simulation.run(seconds), simulation


def test_messages_arrive_through_the_codec_and_timers_fire_on_time():
    log, report, _ = run(3.5)
    assert log.of(1) == ["starts at 0", 1, 2, 3]
    assert (report.violations, report.crashes, report.simulated_s) == ((), 0, 3.5)


def test_after_a_crash_only_what_was_persisted_is_there():
    log, report, _ = run(6.0, (2.5, Crash(0, 1.0)))
    assert log.of(0)[0] == "starts at 0"
    assert "starts at 2" in log.of(0)
    assert report.crashes == 1


def test_a_disk_that_forgets_keeps_a_beginning_and_says_so():
    kept = set()
    for seed in range(30):
        plan = FaultPlan(**QUIET, script=[(3.5, Forget(0, 1.0))])
        nodes = {A: lambda _: Counter(B), B: lambda _: Counter(A)}
        simulation = Simulation(seed, nodes, plan, codec=Codec([Count]), loss=lambda what: Mark(-1))
        simulation.run(4.0)
        disk = [each.number for each in simulation.hosts[0].disk.restored()]
        assert disk[-1] == -1
        assert disk[:-1] == list(range(1, len(disk)))
        kept.add(len(disk) - 1)
    assert kept == {0, 1, 2}
    with pytest.raises(UsageError, match="no record that would say so"):
        Simulation(1, nodes, plan, codec=Codec([Count]))


def test_a_torn_crash_ends_a_list_of_effects_somewhere_in_the_middle():
    marks = set()
    for seed in range(20):
        plan = FaultPlan(**QUIET, script=[(0.5, Tear(0, 0.1))])
        log = Log()
        nodes = {A: lambda _: Counter(B), B: lambda _: Counter(A)}
        Simulation(seed, nodes, plan, [log], codec=Codec([Count])).run(1.5)
        marks.add((log.of(0)[-1], 1 in log.of(1)))
    assert {("starts at 0", False), ("starts at 1", False), ("starts at 1", True)} <= marks


def test_a_paused_host_gets_what_came_meanwhile_and_a_suspended_one_starts_its_timers_late():
    paused, _, _ = run(4.9, (0.5, Pause(1, 4.0)))
    assert sorted(fact for at, host, fact in paused.facts if host == 1 and at >= 4.5) == [1, 2, 3, 4]
    suspended, _, _ = run(5.1, (0.5, Suspend(1, 4.0)))
    assert all(at == pytest.approx(5.0, abs=0.05) for at, host, fact in suspended.facts if host == 0 and fact == 1)
    assert 1 in suspended.of(0)


def test_the_lease_clock_goes_on_during_suspension_unless_the_plan_says_otherwise():
    def clock(**more):
        log, _, _ = run(6.0, (0.5, Tell(0, "before")), (1.0, Suspend(0, 4.0)), (5.5, Tell(0, "after")), **more)
        told = dict(fact for fact in log.of(0) if isinstance(fact, tuple))
        return told["after"] - told["before"]

    assert clock() == pytest.approx(5.0)
    assert clock(lease_clock_sleeps=True) == pytest.approx(1.0)


def test_a_cut_stops_one_direction_and_heals():
    log, report, _ = run(5.5, (0.5, Cut(frozenset({(0, 1)}), 2.0)))
    assert log.of(1) == ["starts at 0", 3, 4, 5]
    assert [fact for fact in log.of(0) if isinstance(fact, int)] == [1, 2, 3, 4, 5]
    assert report.partitions == 1


def test_total_loss_loses_everything():
    log, _, _ = run(3.5, (0.5, Loss(1.0, 60.0)))
    assert log.of(1) == ["starts at 0"]


def test_faults_stop_when_the_plan_says_so():
    log, _, simulation = run(4.5, (0.5, Loss(1.0, 60.0)), (0.6, Crash(0, 60.0)), until_s=2.0)
    assert log.of(1)[-1] == 2
    assert all(host.machine is not None for host in simulation.hosts)


def test_a_machine_that_raises_is_reported_and_started_again():
    log, report, _ = run(3.0, (1.5, Tell(0, "raise")))
    assert "raised ValueError: as told" in report.violations[0]
    assert "starts at 1" in log.of(0)


def test_what_is_no_effect_is_a_violation_and_the_run_goes_on():
    class Absurd(Counter):
        def handle(self, event, now):
            return ["a word", *super().handle(event, now)]

    log = Log()
    nodes = {A: lambda _: Absurd(B), B: lambda _: Counter(A)}
    report = Simulation(1, nodes, FaultPlan(**QUIET), [log], codec=Codec([Count])).run(1.5)
    assert {each.partition(": ")[2] for each in report.violations} == {f"{A.short} wants str, which is no effect"}
    assert 1 in log.of(1)


def test_plans_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="no fault is called meteor"):
        FaultPlan(weights={"meteor": 1.0})
    with pytest.raises(UsageError, match="script goes on"):
        FaultPlan(until_s=1.0, script=[(2.0, Crash(0, 1.0))])
    with pytest.raises(UsageError, match="no facts to tell"):
        FaultPlan(weights={"tell": 1.0})
    with pytest.raises(UsageError, match="0 nodes"):
        Simulation(1, {}, FaultPlan(), codec=Codec([Count]))


def test_a_site_that_never_recovers_is_noticed():
    class NobodyStands(Election):
        def _ask(self, now):
            return []

    plan = FaultPlan(until_s=5.0)
    report = election_simulation(1, voters=3, faults=plan, kind=NobodyStands).run(12.0)
    assert any("no supernode within" in what for what in report.violations)


def test_facts_are_told_to_a_running_machine():
    log, _, simulation = run(1.5)
    simulation.tell(simulation.hosts[0], "hello")
    assert log.of(0)[-1][0] == "hello"

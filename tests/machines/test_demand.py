"""When there is so much to carry that a bearer is worth having, and when it is not any more."""

import hashlib
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.router import demand as limits
from atoll.actors.router.demand import QUIET_PART, SLICE_S, WINDOW_S, Demand, Meter, Thresholds
from atoll.transport.identity import NodeId

PEER, OTHER = (NodeId(hashlib.sha256(name).digest()) for name in (b"peer", b"other"))


def test_one_call_now_and_then_is_not_much_and_the_second_within_seconds_is():
    demand = Demand(Thresholds())
    for number in range(10):
        demand.carried(PEER, 1, 300, 10.0 * number)
        assert demand.of(PEER, 10.0 * number) == ""
    demand.carried(PEER, 1, 300, 92.0)
    assert demand.of(PEER, 92.0) == "more than 0.2 calls a second"
    assert demand.of(OTHER, 92.0) == ""


def test_few_calls_that_are_long_are_much():
    demand = Demand(Thresholds(calls_s=100.0))
    demand.carried(PEER, 1, 100_000, 1.0)
    assert demand.of(PEER, 1.0) == "more than 16.384 KB a second"


def test_without_a_threshold_the_first_call_is_enough():
    demand = Demand(Thresholds(calls_s=0.0))
    assert demand.of(PEER, 0.0) == ""
    demand.carried(PEER, 1, 1, 0.0)
    assert demand.of(PEER, 0.0) == "more than 0 calls a second"


def test_who_is_busy_stays_so_between_the_rate_and_half_of_it():
    meter = Meter(2.0, 1e9)
    for number in range(30):
        meter.carried(1, 1, number / 3.0)
    assert meter.look(10.0)
    for number in range(30):
        meter.carried(1, 1, 10.0 + number / 1.5)
    assert meter.look(30.0), "1.5 calls a second"
    for number in range(30):
        meter.carried(1, 1, 30.0 + number / 0.9)
    assert not meter.look(63.0), "0.9 calls a second"


def test_what_is_counted_while_nobody_looks_takes_no_more_room_than_what_counts():
    meter, looked_at = Meter(0.2, 1e9), Meter(0.2, 1e9)
    for number in range(10_000):
        for each in (meter, looked_at):
            each.carried(1, 1, number * SLICE_S)
        looked_at.look(number * SLICE_S)
    assert len(meter._slices) <= WINDOW_S / SLICE_S
    assert meter._slices == looked_at._slices


def test_many_callers_of_little_each_are_much_to_who_serves():
    demand = Demand(Thresholds())
    for number in range(200):
        demand.served(1, 200, number * 0.05)
    assert demand.of_all(10.0) == "more than 10 calls a second"
    assert demand.of_all(30.0) == ""


def test_what_nobody_uses_is_idle():
    demand = Demand(Thresholds(idle_s=60.0))
    assert demand.is_idle(PEER, 0.0)
    demand.carried(PEER, 0, 10, 5.0)
    assert not demand.is_idle(PEER, 64.9)
    assert demand.is_idle(PEER, 65.0)


def test_no_more_peers_are_counted_than_have_routes(monkeypatch):
    monkeypatch.setattr(limits, "PEERS_MAX", 2)
    demand = Demand(Thresholds(calls_s=0.0))
    peers = [NodeId(hashlib.sha256(b"%d" % number).digest()) for number in range(3)]
    for peer in peers:
        demand.carried(peer, 1, 1, 0.0)
    assert [bool(demand.of(peer, 0.0)) for peer in peers] == [False, True, True]


def rules_broken(kind, events, calls_s, bytes_s):
    """Compare with a model that remembers everything."""
    meter, history, now, busy = kind(calls_s, bytes_s), [], 0.0, False
    for pause, calls, size in events:
        now += pause
        meter.carried(calls, size, now)
        history.append((now, calls, size))
        recent = [each for each in history if each[0] // SLICE_S > now // SLICE_S - WINDOW_S / SLICE_S]
        rates = [sum(each[which] for each in recent) / WINDOW_S for which in (1, 2)]
        if rates[0] > calls_s or rates[1] > bytes_s:
            busy = True
        elif rates[0] <= calls_s * QUIET_PART and rates[1] <= bytes_s * QUIET_PART:
            busy = False
        if bool(meter.look(now)) is not busy or len(meter._slices) > WINDOW_S / SLICE_S:
            return True
    return False


events = st.lists(st.tuples(st.floats(0.0, 4.0), st.integers(0, 3), st.integers(0, 50_000)), min_size=1, max_size=40)


@given(events, st.floats(0.0, 3.0), st.floats(0.0, 20_000.0))
def test_it_says_what_a_model_says_that_forgets_nothing(happens, calls_s, bytes_s):
    assert not rules_broken(Meter, happens, calls_s, bytes_s)


class ForgetsNothing(Meter):
    def look(self, now):
        return super().look(self._slices[0][0] * SLICE_S if self._slices else now)


class HasNoHysteresis(Meter):
    def look(self, now):
        self.busy = ""
        return super().look(now)


class NeverComesToRest(Meter):
    def look(self, now):
        before = self.busy
        return super().look(now) or before


class CountsCallsOnly(Meter):
    def carried(self, calls, size, now):
        super().carried(calls, 0, now)


class CountsBytesOnly(Meter):
    def carried(self, calls, size, now):
        super().carried(0, size, now)


@pytest.mark.parametrize(
    "mutant",
    [ForgetsNothing, HasNoHysteresis, NeverComesToRest, CountsCallsOnly, CountsBytesOnly],
    ids=lambda each: each.__name__,
)
def test_each_rule_is_missed_in_at_least_half_of_the_seeds(mutant):
    killed = 0
    for seed in range(20):
        rng = Random(seed)
        happens = []
        for _ in range(6):
            hasty = rng.random() < 0.5
            happens += [
                (rng.uniform(0.0, 0.6 if hasty else 4.0), rng.randint(0, 3), rng.randint(0, 20_000))
                for _ in range(rng.randint(5, 15))
            ]
        killed += rules_broken(mutant, happens, 1.5, 12_000.0)
        assert not rules_broken(Meter, happens, 1.5, 12_000.0)
    assert killed >= 10

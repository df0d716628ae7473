"""The decision of a supervisor, without anything that runs."""

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.runtime.supervisor import (
    Ending,
    Escalate,
    Forget,
    Restart,
    RestartChildren,
    Strategy,
    Supervision,
)
from atoll.transport.errors import UsageError

P, T, X = Restart.PERMANENT, Restart.TRANSIENT, Restart.TEMPORARY


def supervision(strategy, restarts=(P, P, P, P), **budget):
    made = Supervision(strategy, **budget)
    for name, restart in zip("abcd", restarts, strict=False):
        made.add(name, restart)
    return made


def test_one_for_one_starts_only_the_crashed_child():
    assert supervision(Strategy.ONE_FOR_ONE).child_ended("b", Ending.CRASHED, 0.0) == RestartChildren((), ("b",))


def test_rest_for_one_restarts_the_later_children_stopping_the_last_first():
    decision = supervision(Strategy.REST_FOR_ONE).child_ended("b", Ending.CRASHED, 0.0)
    assert decision == RestartChildren(("d", "c"), ("b", "c", "d"))


def test_one_for_all_restarts_everybody_in_the_order_of_their_first_start():
    decision = supervision(Strategy.ONE_FOR_ALL).child_ended("b", Ending.CRASHED, 0.0)
    assert decision == RestartChildren(("d", "c", "a"), ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("restart", "ending", "healed"),
    [
        (P, Ending.CRASHED, True),
        (P, Ending.NORMAL, True),
        (P, Ending.ORDERED, False),
        (T, Ending.CRASHED, True),
        (T, Ending.NORMAL, False),
        (T, Ending.ORDERED, False),
        (X, Ending.CRASHED, False),
        (X, Ending.NORMAL, False),
        (X, Ending.ORDERED, False),
    ],
)
def test_otp_table_of_restarts(restart, ending, healed):
    made = supervision(Strategy.ONE_FOR_ONE, [restart])
    assert made.child_ended("a", ending, 0.0) == (RestartChildren((), ("a",)) if healed else Forget("a"))
    assert made.children == (("a",) if healed else ())


def test_a_temporary_sibling_that_is_taken_down_stays_down():
    made = supervision(Strategy.ONE_FOR_ALL, [P, X, T, P])
    assert made.child_ended("d", Ending.CRASHED, 0.0) == RestartChildren(("c", "b", "a"), ("a", "c", "d"), ("b",))
    assert made.children == ("a", "c", "d")


def test_the_budget_is_of_the_last_period_only():
    made = supervision(Strategy.ONE_FOR_ONE, intensity=2, period_s=5.0)
    for now in (0.0, 1.0, 5.5, 6.5):
        assert isinstance(made.child_ended("a", Ending.CRASHED, now), RestartChildren)
    decision = made.child_ended("b", Ending.CRASHED, 7.0)
    assert isinstance(decision, Escalate)
    assert "2 restarts in 5 s" in decision.reason
    made = supervision(Strategy.ONE_FOR_ONE, intensity=1, period_s=5.0)
    made.child_ended("a", Ending.CRASHED, 0.0)
    assert isinstance(made.child_ended("a", Ending.CRASHED, 5.0), Escalate)


def test_an_intensity_of_zero_escalates_the_first_crash():
    assert isinstance(supervision(Strategy.ONE_FOR_ONE, intensity=0).child_ended("a", Ending.CRASHED, 0.0), Escalate)


def test_children_that_are_not_healed_cost_no_budget():
    made = supervision(Strategy.ONE_FOR_ONE, [X, T, X, P], intensity=0)
    assert made.child_ended("a", Ending.CRASHED, 0.0) == Forget("a")
    assert made.child_ended("b", Ending.NORMAL, 0.0) == Forget("b")


def test_unknown_and_doubled_names_are_the_callers_fault():
    made = supervision(Strategy.ONE_FOR_ONE)
    with pytest.raises(UsageError, match="not supervised"):
        made.child_ended("z", Ending.CRASHED, 0.0)
    with pytest.raises(UsageError, match="unique"):
        made.add("a", P)
    with pytest.raises(UsageError, match="negative"):
        Supervision(Strategy.ONE_FOR_ONE, intensity=-1)


steps = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(Ending), st.floats(0, 4, allow_nan=False)), max_size=30
)


@settings(max_examples=examples(200))
@given(
    st.sampled_from(Strategy),
    st.lists(st.sampled_from(Restart), min_size=4, max_size=4),
    st.integers(0, 4),
    steps,
)
def test_whatever_happens_the_rules_hold(strategy, restarts, intensity, history):
    policy = dict(zip("abcd", restarts, strict=True))
    made = supervision(strategy, restarts, intensity=intensity, period_s=5.0)
    now, restarted = 0.0, []
    for name, ending, pause in history:
        now += pause
        before = made.children
        if name not in before:
            continue
        decision = made.child_ended(name, ending, now)
        ends_healed = {P: (Ending.CRASHED, Ending.NORMAL), T: (Ending.CRASHED,), X: ()}
        healed = ending in ends_healed[policy[name]]
        if not healed:
            assert decision == Forget(name)
            assert made.children == tuple(each for each in before if each != name)
            continue
        restarted.append(now)
        # The budget, by counting anew: escalate exactly when more than `intensity` lie within the period.
        if sum(now - each <= 5.0 for each in restarted) > intensity:
            assert isinstance(decision, Escalate)
            return
        assert isinstance(decision, RestartChildren)
        # Whoever is running is either untouched, restarted, or stopped for good; starts keep the first order.
        assert decision.start == tuple(each for each in before if each in decision.start)
        assert set(decision.stop) - set(decision.start) == set(decision.forget)
        assert name in decision.start
        assert name not in decision.stop
        assert all(policy[each] is X for each in decision.forget)
        assert not any(policy[each] is X for each in decision.start)
        assert made.children == tuple(each for each in before if each not in decision.forget)

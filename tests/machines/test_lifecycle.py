"""The life of one container, without workers or clocks."""

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.container_manager.lifecycle import (
    BACKOFF_MAX_S,
    GRACE_S,
    CallArrived,
    CallEnded,
    Dispatch,
    EndWorker,
    Fail,
    Launch,
    Lifecycle,
    Limits,
    RemoveOrdered,
    Squeezed,
    StartOrdered,
    State,
    StopOrdered,
    WorkerEnded,
    WorkerReady,
    call_limit,
)
from atoll.actors.runtime.machine import Arm, Disarm, TimerFired


def of(kind, effects):
    return [each for each in effects if isinstance(each, kind)]


def cold(**limits):
    life = Lifecycle(Limits(**limits))
    life.handle(StartOrdered(), 0)
    return life


def running(*calls, **limits):
    life = cold(**limits)
    for call in calls:
        life.handle(CallArrived(call), 0)
    life.handle(WorkerReady(), 0)
    return life


def test_a_container_that_nobody_calls_has_no_worker():
    life = Lifecycle()
    assert life.handle(StartOrdered(), 0) == []
    assert life.state is State.COLD


def test_the_first_call_starts_the_worker_and_waits_for_it():
    life = cold()
    effects = life.handle(CallArrived(1), 0)
    assert of(Launch, effects)
    assert Arm("call:1", life.limits.call_s + GRACE_S) in effects
    assert not of(Dispatch, effects)
    assert not of(Launch, life.handle(CallArrived(2), 0)), "one worker is enough"
    assert of(Dispatch, life.handle(WorkerReady(), 1)) == [Dispatch(1), Dispatch(2)]
    assert life.state is State.RUNNING


def test_a_warm_container_takes_a_call_at_once():
    life = running(1)
    life.handle(CallEnded(1), 1)
    assert life.state is State.IDLE
    effects = life.handle(CallArrived(2), 2)
    assert Dispatch(2) in effects
    assert Disarm("idle") in effects


def test_it_scales_to_zero_after_a_while_without_calls():
    life = running(1, idle_s=60)
    assert Arm("idle", 60) in life.handle(CallEnded(1), 1)
    assert of(EndWorker, life.handle(TimerFired("idle"), 61))
    assert life.state is State.COLD
    assert of(Launch, life.handle(CallArrived(2), 100)), "and comes back with the next call"


def test_an_idle_container_makes_room_and_a_running_one_does_not():
    life = running(1)
    assert life.handle(Squeezed(), 1) == []
    life.handle(CallEnded(1), 1)
    assert of(EndWorker, life.handle(Squeezed(), 1))


def test_a_late_idle_timer_does_not_end_a_worker_in_use():
    life = running(1)
    assert life.handle(TimerFired("idle"), 61) == []
    assert life.state is State.RUNNING


def test_a_call_over_its_limit_fails_and_takes_the_worker_and_its_neighbours_with_it():
    life = running(1, 2, call_s=20)
    effects = life.handle(TimerFired("call:1"), 21)
    assert [(each.call, each.fault) for each in of(Fail, effects)] == [(1, "overran"), (2, "crashed")]
    assert of(EndWorker, effects)
    assert life.state is State.COLD, "it is tried again at once the first time"


def test_a_call_that_waited_too_long_for_the_worker_fails_alone():
    life = cold(call_s=1)
    life.handle(CallArrived(1), 0)
    life.handle(CallArrived(2), 1)
    effects = life.handle(TimerFired("call:1"), 2)
    assert [(each.call, each.fault) for each in of(Fail, effects)] == [(1, "overran")]
    assert not of(EndWorker, effects)
    assert life.waiting == [2]


def test_a_worker_that_is_not_ready_in_time_is_ended():
    life = cold()
    life.handle(CallArrived(1), 0)
    effects = life.handle(TimerFired("launch"), 10)
    assert of(EndWorker, effects)
    assert of(Fail, effects)[0].fault == "crashed"


def test_crashes_in_a_row_are_tried_again_later_and_later():
    life, delays, now = cold(), [], 0.0
    for call in range(20):
        life.handle(CallArrived(call), now)
        effects = life.handle(WorkerEnded("bang"), now)
        assert of(Fail, effects) == [Fail(call, "crashed", "bang")]
        delays += [each.after for each in of(Arm, effects) if each.name == "backoff"]
        if life.state is State.BACKING_OFF:
            refused = life.handle(CallArrived(1000 + call), now)
            assert of(Fail, refused)[0].fault == "busy"
            assert "crashed" in of(Fail, refused)[0].reason
            now += delays[-1]
            life.handle(TimerFired("backoff"), now)
    assert len(delays) == 19, "the first crash costs no delay"
    assert delays == sorted(delays)
    assert delays[-1] == BACKOFF_MAX_S


def test_a_good_answer_forgives_earlier_crashes():
    life = cold()
    for call in (1, 2):
        life.handle(CallArrived(call), 0)
        life.handle(WorkerEnded("bang"), 0)
    life.handle(TimerFired("backoff"), 1)
    life.handle(CallArrived(3), 1)
    life.handle(WorkerReady(), 1)
    life.handle(CallEnded(3, answered=False), 1)
    assert life.crashes == 2, "a fault is no good answer"
    life.handle(CallArrived(4), 1)
    life.handle(CallEnded(4), 1)
    assert life.crashes == 0


def test_more_calls_than_it_takes_are_refused_at_once():
    life = running(1, 2, calls_max=2)
    (refused,) = life.handle(CallArrived(3), 0)
    assert refused.fault == "busy"
    assert "2 calls" in refused.reason


@pytest.mark.parametrize("order", [StopOrdered(), RemoveOrdered()])
def test_stopping_and_removing_fail_what_is_in_hand(order):
    life = running(1)
    effects = life.handle(order, 1)
    assert of(Fail, effects)[0].call == 1
    assert of(EndWorker, effects)
    assert of(Fail, life.handle(CallArrived(2), 2))[0].fault == "busy"


def test_a_stopped_container_starts_again_and_a_removed_one_never():
    life = cold()
    life.handle(StopOrdered(), 0)
    life.handle(StartOrdered(), 1)
    assert life.state is State.COLD
    life.handle(RemoveOrdered(), 2)
    life.handle(StartOrdered(), 3)
    life.handle(StopOrdered(), 4)
    assert life.state is State.REMOVED


def test_a_worker_that_comes_too_late_is_not_given_calls():
    life = cold()
    life.handle(CallArrived(1), 0)
    life.handle(StopOrdered(), 1)
    assert life.handle(WorkerReady(), 2) == []
    assert life.handle(WorkerEnded("gone"), 3) == []


@pytest.mark.parametrize(("asked", "limit"), [(None, 20), ("5", 5), ("120", 120), ("9999", 300), ("0.5", 0.5)])
def test_an_image_may_ask_for_another_time_limit_up_to_a_cap(asked, limit):
    assert call_limit(asked) == limit


@pytest.mark.parametrize("asked", ["", "-1", "0", "nan", "inf", "soon"])
def test_a_time_limit_that_is_none_is_refused(asked):
    with pytest.raises(ValueError):
        call_limit(asked)


FACTS = st.one_of(
    st.just("call"),
    st.sampled_from(["end", "fault", "ready", "worker ended", "stop", "start", "squeeze"]),
    st.sampled_from(["idle", "backoff", "launch", "call timer"]),
)


@settings(max_examples=examples(300))
@given(st.lists(FACTS, max_size=60), st.randoms(use_true_random=False))
def test_every_call_is_answered_once_and_no_call_is_without_a_timer(steps, rng):
    life = cold(calls_max=4)
    armed, dispatched, failed, ended, arrived, worker = set(), set(), [], set(), 0, False
    for now, step in enumerate(steps):
        in_hand = [*life.waiting, *life.running]
        if step == "call":
            arrived += 1
            fact = CallArrived(arrived)
        elif step in ("end", "fault") and in_hand:
            fact = CallEnded(rng.choice(in_hand), answered=step == "end")
            ended.add(fact.call)
        elif step == "call timer" and in_hand:
            fact = TimerFired(f"call:{rng.choice(in_hand)}")
        elif step in ("idle", "backoff", "launch") and step in armed:
            fact = TimerFired(step)
        elif step == "ready" and life.state is State.STARTING:
            fact = WorkerReady()
        elif step == "worker ended" and worker:
            fact = WorkerEnded("bang")
            worker = False
        else:
            facts = {"stop": StopOrdered(), "start": StartOrdered(), "squeeze": Squeezed()}
            if step not in facts:
                continue
            fact = facts[step]
        if isinstance(fact, TimerFired):
            armed.discard(fact.name)
        for effect in life.handle(fact, float(now)):
            match effect:
                case Arm(name):
                    armed.add(name)
                case Disarm(name):
                    armed.discard(name)
                case Launch():
                    assert not worker, "a second worker"
                    worker = True
                case EndWorker():
                    assert worker, "ends a worker that is not there"
                    worker = False
                case Dispatch(call):
                    assert worker, "a call for a worker that is not there"
                    assert call not in dispatched
                    dispatched.add(call)
                case Fail(call):
                    failed.append(call)
        life.check()
        in_hand = {*life.waiting, *life.running}
        assert {f"call:{call}" for call in in_hand} == {name for name in armed if name.startswith("call:")}
        assert len(failed) == len(set(failed)), "a call failed twice"
        assert not set(failed) & ended
        assert in_hand | set(failed) | ended == set(range(1, arrived + 1)), "a call was lost"
        assert worker == (life.state in (State.STARTING, State.RUNNING, State.IDLE))
        assert ("launch" in armed) == (life.state is State.STARTING)
        assert ("idle" in armed) == (life.state is State.IDLE)
        assert ("backoff" in armed) == (life.state is State.BACKING_OFF)

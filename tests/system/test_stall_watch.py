"""A process that stands still says so, and where; one whose host slept does not."""

import os
import re
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from atoll.actors.runtime import stall_watch
from atoll.actors.runtime.stall_watch import BEAT_S, STILL_S, Stillness, watchdog_s

STEP_S = 0.5


def looks(stillness, times, *, busy=1.0, start=0.0):
    return [stillness.look(start + at, busy * at, lambda: "ledger.py:23 in pay") for at in times]


def test_a_loop_that_beats_is_never_spoken_of():
    stillness = Stillness(0.0)
    for tick in range(1, 100):
        stillness.beat(tick * STEP_S)
        assert not stillness.look(tick * STEP_S + 0.1, tick * STEP_S, lambda: "nowhere")


def test_it_is_said_once_where_it_stands_still_and_once_that_it_goes_on():
    stillness = Stillness(0.0)
    said = looks(stillness, [tick * STEP_S for tick in range(1, 21)])
    assert [each for each in said if each] == ["this process has stood still for 2.0 s: ledger.py:23 in pay"]
    stillness.beat(10.1)
    assert stillness.look(10.5, 10.5, str) == "it goes on, after it stood still for about 10 s"
    assert not stillness.look(11.0, 11.0, str)


@given(st.floats(STILL_S, 1e6))
def test_a_host_that_slept_is_no_fault_of_the_process(slept_s):
    stillness = Stillness(0.0)
    assert not stillness.look(slept_s, 0.0, str)
    stillness.beat(slept_s + 0.1)
    assert not stillness.look(slept_s + BEAT_S, 0.1, str)


@given(st.floats(STILL_S, 1e6))
def test_what_holds_python_s_lock_is_found_by_the_time_it_used(held_s):
    """The thread that looks had no turn either; nobody can say where it was, for the loop may have gone on already."""
    stillness = Stillness(0.0)
    stillness.beat(held_s)
    assert "holds Python's lock" in stillness.look(held_s, held_s, str)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_a_service_manager_is_told_where_it_wants_to_be(environ, expected):
    assert watchdog_s(environ) == expected


async def test_a_handler_without_an_end_is_named_with_its_line(anyio_backend, monkeypatch):
    monkeypatch.setattr(stall_watch, "STILL_S", 0.2)
    monkeypatch.setattr(stall_watch, "BEAT_S", 0.02)
    said, signs = [], []
    monkeypatch.setattr(stall_watch.log, "warning", lambda text, *words: said.append(text % words))
    monkeypatch.setenv("WATCHDOG_USEC", "60000")
    async with stall_watch.stall_watch(signs.append):
        await until(lambda: len(signs) > 3)
        ended = time.monotonic() + 5
        while not said and time.monotonic() < ended:
            pass
        await until(lambda: len(said) > 1)
    assert re.match(rf"this process has stood still for \S+ s: {re.escape(__file__)}:\d+ in test_a_han", said[0])
    assert said[1].startswith("it goes on")
    assert set(signs) == {"WATCHDOG=1"}
    assert "stall watch" not in {each.name for each in threading.enumerate()}

"""Naps end on a tick of uvloop's clock, and no nap is cut short by more than floats are inexact."""

import anyio
import pytest
from anyio._backends._asyncio import CancelScope
from hypothesis import given
from hypothesis import strategies as st

from atoll.transport.naps import SLACK_S, TICKS_PER_S, beat, nap_s, until_beat_s


@given(st.floats(0, 1e4))
def test_a_nap_is_whole_ticks_and_less_than_one_too_long(seconds):
    nap = nap_s(seconds)
    ticks = (nap + SLACK_S) * TICKS_PER_S
    assert nap == 0 or abs(ticks - round(ticks)) < 1e-6 * max(1, ticks)
    assert seconds - 2 * SLACK_S <= nap < seconds + 1 / TICKS_PER_S


def test_what_is_over_is_not_waited_for():
    assert nap_s(-1.0) == nap_s(0.0) == 0.0


@pytest.mark.parametrize("fraction", [0.0001, 0.0003, 0.0004, 0.0006, 0.0009])
async def test_a_loop_that_naps_does_not_spin_until_the_next_tick(anyio_backend, monkeypatch, fraction):
    """Of uvloop's naps some begin within a tick: with `move_on_after` alone it looks at the time hundreds of times."""
    looks = []
    genuine = CancelScope._timeout
    monkeypatch.setattr(CancelScope, "_timeout", lambda scope: (looks.append(scope), genuine(scope))[1])
    for _ in range(10):
        began = anyio.current_time()
        with anyio.move_on_after(nap_s(0.003 + fraction)) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert anyio.current_time() - began >= 0.003 + fraction - 2 * SLACK_S
    # One as it begins, one when it is over, and seldom one that came too early all the same.
    assert len(looks) <= 10 * 3


periods = st.sampled_from([0.25, 0.5, 1.0, 10.0])


@given(st.floats(0, 1e6), periods, periods)
def test_beats_are_multiples_of_their_period_so_that_those_of_others_fall_on_them(now, period_s, slower_s):
    at = now + until_beat_s(now, period_s)
    assert abs(at / period_s - round(at / period_s)) < 1e-6
    assert 0.5 * period_s - 1e-6 <= at - now <= 1.5 * period_s + 1e-6
    if slower_s >= period_s:
        slow = now + until_beat_s(now, slower_s)
        assert abs(slow / period_s - round(slow / period_s)) < 1e-6


@given(st.integers(0, 10**6), periods, st.floats(-0.2, 0.2))
def test_a_beat_that_came_a_little_early_or_late_is_over(number, period_s, off):
    now = (number + off) * period_s
    assert abs(now + until_beat_s(now, period_s) - (number + 1) * period_s) < 1e-6 * period_s + 1e-9 * (now + 1)


async def test_a_beat_ends(anyio_backend):
    began = anyio.current_time()
    await beat(0.02)
    assert anyio.current_time() > began

"""Naps end on a tick of uvloop's clock, and no nap is cut short by more than floats are inexact."""

import anyio
import pytest
from anyio._backends._asyncio import CancelScope
from hypothesis import given
from hypothesis import strategies as st

from atoll.transport.naps import SLACK_S, TICKS_PER_S, nap_s


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

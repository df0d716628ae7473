"""A token bucket: in the long run no more than its rate, at once no more than its burst, and it never starves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.tunnel_relay.bucket import BURST_BYTES_MIN, BURST_S, Bucket

RATES = st.integers(1, 2**32 - 1)
STEPS = st.lists(st.tuples(st.floats(-1, 3), st.integers(0, 200_000)), max_size=60)


@given(rate=RATES, steps=STEPS, full=st.booleans())
def test_over_any_stretch_no_more_than_burst_and_rate_passes(rate, steps, full):
    bucket, now = Bucket(rate_bytes_s=rate, now=0.0, full=full), 0.0
    passed = [(0.0, 0)]
    for seconds, wanted in steps:
        now += max(0.0, seconds)
        taken = min(wanted, bucket.available(now))
        assert taken >= 0
        bucket.take(taken)
        passed.append((now, passed[-1][1] + taken))
    for begin, (since, before) in enumerate(passed):
        for until, after in passed[begin:]:
            burst = 0 if begin == 0 and not full else bucket.burst_bytes
            assert after - before <= burst + rate * (until - since) * 1.000001 + 1


@given(rate=RATES, taken=st.integers(0, 2**31))
def test_after_the_wait_that_it_names_something_may_pass(rate, taken):
    bucket = Bucket(rate_bytes_s=rate, now=5.0)
    bucket.take(min(taken, bucket.available(5.0)))
    wait_s = bucket.wait_s()
    assert 0 <= wait_s <= 1
    assert bucket.available(5.0 + wait_s + 1e-6) >= 1


def test_a_rest_saves_up_one_burst_and_no_more():
    bucket = Bucket(rate_bytes_s=10_000_000, now=0.0)
    assert bucket.available(0.0) == bucket.burst_bytes == 10_000_000 * BURST_S
    bucket.take(1_000_000)
    assert bucket.available(0.0) == 0
    assert bucket.available(0.05) == 500_000
    assert bucket.available(3600.0) == bucket.burst_bytes


def test_a_low_rate_lets_a_whole_record_through_at_once():
    assert Bucket(rate_bytes_s=1, now=0.0).available(0.0) == BURST_BYTES_MIN


@pytest.mark.parametrize("back_s", [0.001, 1e9])
def test_a_clock_that_is_set_back_gives_nothing_and_then_goes_on(back_s):
    bucket = Bucket(rate_bytes_s=1000, now=1e10, full=False)
    assert bucket.available(1e10 - back_s) == 0
    assert bucket.available(1e10 - back_s + 1) == 1000

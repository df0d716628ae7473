"""What looks from outside prove about leases, and what they do not."""

import math

from atoll.testing.failovers import Figures
from atoll.testing.lease_watch import CONTRADICTIONS_MAX, LeaseWatch, Look


def told(*looks):
    watch = LeaseWatch()
    for look in looks:
        watch.take(look)
    return watch.contradictions


def claim(node, epoch, asked_at, told_at=None):
    return Look(node, asked_at, asked_at + 0.01 if told_at is None else told_at, node, epoch, confirmed=True)


def test_reigns_one_after_the_other_are_well():
    assert (
        told(claim("a", 1, 0.0), claim("a", 1, 1.0), claim("b", 2, 1.5), claim("b", 2, 3.0), claim("a", 3, 4.0)) == []
    )


def test_one_reign_within_another_is_a_contradiction():
    (said,) = told(claim("a", 1, 0.0), claim("b", 2, 1.0), claim("a", 1, 2.0))
    assert said.startswith("a held epoch 1 from 0.010 to 2.000 s, b held epoch 2")


def test_reigns_that_certainly_overlap_are_a_contradiction():
    assert told(claim("a", 1, 0.0), claim("b", 2, 1.0), claim("b", 2, 3.0), claim("a", 1, 0.9, 4.0)) == []
    assert told(claim("a", 1, 0.0), claim("b", 2, 1.0), claim("a", 1, 2.0), claim("b", 2, 3.0))


def test_an_answer_that_took_long_proves_nothing_as_it_may_be_old():
    stopped = claim("a", 1, 0.5, 4.0)
    assert told(claim("a", 1, 0.0), claim("b", 2, 1.0), stopped, claim("b", 2, 5.0)) == []


def test_a_stopped_one_that_still_claims_its_lease_when_it_goes_on_is_a_contradiction():
    assert told(claim("a", 1, 0.0), claim("b", 2, 1.0), claim("a", 1, 4.0), claim("b", 2, 5.0))


def test_two_names_in_one_epoch_are_a_contradiction_whoever_says_them():
    named = Look("c", 0.0, 0.1, "a", 7, confirmed=True)
    (said,) = told(named, Look("d", 9.0, 9.1, "b", 7, confirmed=True))
    assert said == "epoch 7: d names b, c named a"
    assert told(named, Look("d", 9.0, 9.1, "b", 7, confirmed=False)) == [], "sides of a cut have provisional ones"


def test_what_is_kept_is_bounded():
    watch = LeaseWatch()
    for number in range(3 * CONTRADICTIONS_MAX):
        watch.take(Look("c", number, number, "a", number // 2, confirmed=True))
        watch.take(Look("d", number, number, "b", number // 2, confirmed=True))
    assert len(watch.contradictions) == CONTRADICTIONS_MAX


def test_figures_are_by_nearest_rank():
    figures = Figures.of(number / 100 for number in range(1, 301))
    assert (figures.n, figures.least, figures.p50, figures.p99, figures.most) == (300, 0.01, 1.5, 2.97, 3.0)
    assert Figures.of([]).n == 0
    assert math.isnan(Figures.of([]).p99)

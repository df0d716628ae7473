"""The peak of a process's memory: found when it is long over, and not when it was somebody else's."""

import pytest

from atoll.testing import fuzz, soak_main
from atoll.testing.memory import Peak, most_mb, resident_mb

BLOCK_BYTES = 96 * 2**20


def bulge():
    return len(bytes(bytearray(b"x") * BLOCK_BYTES))


@pytest.fixture
def peak():
    measured = Peak()
    measured.begin()
    if not measured.known:
        pytest.skip("THIS SYSTEM DOES NOT FORGET A PEAK, SO NONE IS MEASURED")
    return measured


def test_what_was_needed_for_a_moment_is_found_afterwards(peak):
    before_mb = resident_mb()
    assert bulge() == BLOCK_BYTES
    assert peak.above_mb > 80
    assert resident_mb() < before_mb + 60


def test_what_is_left_out_is_not_counted_but_what_goes_before_and_after_it_is(peak):
    left_out = peak.without(bulge)
    left_out()
    assert peak.above_mb < 60
    kept = bytearray(b"y") * BLOCK_BYTES
    assert peak.above_mb > 80
    del kept
    left_out()
    assert peak.above_mb < 2 * BLOCK_BYTES / 2**20


def test_where_it_cannot_be_forgotten_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr("atoll.testing.memory._CLEAR_REFS", tmp_path / "no" / "clear_refs")
    peak = Peak()
    peak.begin()
    assert not peak.known
    peak.without(bulge)()
    assert peak.above_mb == 0
    assert most_mb() > 0


class Greedy:
    """A target that handles everything well, and needs a lot for it."""

    def __init__(self, seed):
        self.findings, self.fates, self.cases = [], soak_main.Counter(), 0

    def run(self, cases):
        self.cases = cases
        bulge()


def test_a_soak_is_not_passed_by_who_needs_too_much_for_a_moment(monkeypatch, capsys, peak):
    monkeypatch.setitem(soak_main.TARGETS, "greedy", Greedy)
    monkeypatch.setattr(soak_main, "SHARE", 2)
    assert not soak_main.main("greedy", 20, 0)
    assert "MB for a moment" in capsys.readouterr().out
    monkeypatch.setattr(soak_main, "PEAK_MB_MAX", 400.0)
    assert soak_main.main("greedy", 20, 0)


def test_what_the_mutator_needs_is_left_out():
    assert fuzz.Mutator.variant.__wrapped__ is not None

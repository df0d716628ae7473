"""A relay that drops, replays, reorders, swaps, cuts and bends records; a million deeds of it are in `make soak`."""

import pytest

from atoll.testing.relay_fuzz import DEEDS, RelayFuzz
from atoll.transport.fragments import FRAME, Assembly
from atoll.transport.noise import TAG_BYTES
from atoll.transport.records import HEADER, Fault, Opener
from atoll.transport.session import Session
from atoll.transport.session_keys import SessionKeys


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_relay_does_only_what_was_said_is_delivered_and_what_it_keeps_comes_over_another(seed):
    fuzz = RelayFuzz(seed)
    fuzz.run(4000)
    assert fuzz.findings == []
    assert set(DEEDS) <= set(fuzz.fates)
    assert min(fuzz.fates[each] for each in ("replayed", "forged", "malformed", "messages")) > 0


class TakesWhatCameBefore(Opener):
    """Forgets the counters."""

    def open(self, record, now):
        self._seen = [-1] * len(self._seen)
        return super().open(record, now)


class TakesPartsOfRecords(Opener):
    """Opens what it can and believes it."""

    def open(self, record, now):
        opened = super().open(record, now)
        return record[HEADER.size : -TAG_BYTES] if opened is Fault.FORGED else opened


class TakesAnyNumber(Assembly):
    """Leaves it to the counters of records that nothing comes twice."""

    def take_whole(self, plain):
        if len(plain) >= FRAME.size:
            self._next = FRAME.unpack_from(plain)[2]
        return super().take_whole(plain)


class NothingIsLate(Session):
    """Neither of the two things that keep what comes twice away."""

    class keys_kind(SessionKeys):  # noqa: N801
        opener_kind = TakesWhatCameBefore

    def __init__(self, **how):
        super().__init__(**how)
        self._assemblies = [TakesAnyNumber() for _ in self._assemblies]


class NothingIsForged(Session):
    class keys_kind(SessionKeys):  # noqa: N801
        opener_kind = TakesPartsOfRecords


@pytest.mark.parametrize("mutant", [NothingIsLate, NothingIsForged])
def test_the_fuzz_would_notice(mutant):
    fuzz = RelayFuzz(0, mutant)
    fuzz.run(4000)
    assert fuzz.findings

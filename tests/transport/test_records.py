"""Sealed records: on streams, over key phases, and on paths that overtake each other."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_pair import Pair

from atoll.transport import records
from atoll.transport.errors import Expired, MalformedFrame, UsageError
from atoll.transport.record_stream import RecordStream, frame_record
from atoll.transport.records import (
    EPOCH_S_MAX,
    EPOCHS,
    OLD_KEY_S,
    PATHS_MAX,
    PHASE_S,
    PHASES,
    PHASES_AHEAD_MAX,
    Fault,
    Opener,
    Sealer,
)
from atoll.transport.session_opening import opens_session, session_id_of


def test_a_record_names_its_session():
    pair = Pair()
    session = pair.caller
    (first,) = pair.outgoing(session)
    assert session_id_of(first) == session.session_id
    assert opens_session(first)
    with pytest.raises(MalformedFrame):
        session_id_of(b"short")


@given(st.lists(st.binary(min_size=9, max_size=300), max_size=20), st.integers(1, 50))
def test_a_stream_gives_back_the_records_whatever_the_pieces(records, piece):
    stream, data, found = RecordStream(300), b"".join(map(frame_record, records)), []
    for start in range(0, len(data), piece):
        found += stream.feed(data[start : start + piece])
    assert found == records


@pytest.mark.parametrize("length", [0, 8, 301, 2**32 - 1])
def test_a_stream_with_an_impossible_length_is_malformed(length):
    with pytest.raises(MalformedFrame, match="at most 300"):
        RecordStream(300).feed(length.to_bytes(4, "big") + b"x")


def sealed_pair():
    key = os.urandom(32)
    return Sealer(bytes(8), key, 0.0), Opener(key, 0.0)


@pytest.mark.parametrize("ahead", [1, 2, PHASES_AHEAD_MAX, PHASES_AHEAD_MAX + 1])
def test_a_receiver_follows_over_phases_it_missed_up_to_a_limit(ahead):
    sealer, opener = sealed_pair()
    for phase in range(1, ahead + 1):
        record = sealer.seal(b"x", 0, phase * PHASE_S)
    now = ahead * PHASE_S
    assert opener.open(record, now) == (b"x" if ahead <= PHASES_AHEAD_MAX else Fault.FORGED)
    assert opener.phase == (ahead if ahead <= PHASES_AHEAD_MAX else 0)


def test_epochs_go_round_and_old_records_stay_closed():
    sealer, opener = sealed_pair()
    first, now = sealer.seal(b"first", 1, 0.0), 0.0
    for epoch in range(3 * EPOCHS):
        for _ in range(PHASES - 1):
            now += PHASE_S
            late = sealer.seal(b"late", 1, now - 1)
            assert opener.open(sealer.seal(b"now", 0, now), now) == b"now"
            assert opener.open(late, now) == b"late"
            opener.forget_old(now + OLD_KEY_S)
            assert opener.deadline is None
        key = os.urandom(32)
        late = sealer.seal(b"late", 1, now)
        opener.expect(key)
        assert opener.open(sealer.seal(b"before it is used", 0, now), now) == b"before it is used"
        sealer.renew(key, now)
        assert opener.open(sealer.seal(b"now", 0, now), now) == b"now"
        assert (sealer.epoch, opener.epoch, opener.phase) == (epoch + 1, epoch + 1, 0)
        assert opener.open(late, now) == b"late"
    assert opener.open(first, now) is Fault.REPLAYED
    sealer, opener = sealed_pair()
    late = sealer.seal(b"late", 1, 0.0)
    opener.open(sealer.seal(b"now", 0, PHASE_S), PHASE_S)
    opener.forget_old(PHASE_S + OLD_KEY_S)
    assert opener.open(late, PHASE_S + OLD_KEY_S) is Fault.FORGED


def test_keys_wear_out_and_only_a_goodbye_is_sealed_then():
    sealer, opener = sealed_pair()
    for phase in range(1, PHASES):
        assert opener.open(sealer.seal(b"x", 0, phase * PHASE_S), phase * PHASE_S) == b"x"
    assert (sealer.phase, sealer.worn) == (PHASES - 1, False)
    for _ in range(2):
        with pytest.raises(Expired):
            sealer.seal(b"x", 0, PHASES * PHASE_S)
    goodbye = sealer.seal(b"bye", 0, PHASES * PHASE_S, goodbye=True)
    assert sealer.worn
    assert opener.open(goodbye, EPOCH_S_MAX + OLD_KEY_S) is Fault.WORN
    assert opener.open(goodbye, EPOCH_S_MAX) == b"bye"


def test_keys_that_hardly_seal_anything_wear_out_by_their_age():
    sealer, _ = sealed_pair()
    sealer.seal(b"x", 0, PHASE_S)
    with pytest.raises(Expired):
        sealer.seal(b"x", 0, EPOCH_S_MAX)
    sealer.renew(os.urandom(32), EPOCH_S_MAX)
    assert sealer.seal(b"x", 0, EPOCH_S_MAX)


def test_keys_wear_out_by_records(monkeypatch):
    monkeypatch.setattr(records, "PHASE_RECORDS", 3)
    sealer, opener = sealed_pair()
    for number in range(3 * PHASES):
        assert opener.open(sealer.seal(b"x", 0, 0.0), 0.0) == b"x"
        assert opener.phase == number // 3
    with pytest.raises(Expired):
        sealer.seal(b"x", 0, 0.0)


def test_a_key_of_the_next_epoch_is_taken_only_where_one_is_expected():
    sealer, opener = sealed_pair()
    key = os.urandom(32)
    sealer.renew(key, 0.0)
    record = sealer.seal(b"x", 0, 0.0)
    assert opener.open(record, 0.0) is Fault.FORGED
    opener.expect(os.urandom(32))
    assert opener.open(record, 0.0) is Fault.FORGED
    opener.expect(key)
    assert opener.open(record, 0.0) == b"x"


def test_what_is_done_with_is_overwritten():
    sealer, opener = sealed_pair()
    keys = [sealer._ratchet._key, opener._ratchet._key]
    before = [bytes(each) for each in keys]
    assert opener.open(sealer.seal(b"x", 0, PHASE_S), PHASE_S) == b"x"
    assert opener._ratchet._key != before[1] == before[0] != sealer._ratchet._key
    assert keys[1] == bytes(32), "of the receiver, which took a copy ahead"
    key, phase = os.urandom(32), sealer._ratchet._key
    opener.expect(key)
    sealer.renew(key, PHASE_S)
    keys += [phase, opener._ratchet._key, opener._next._key]
    assert opener.open(sealer.seal(b"x", 0, PHASE_S), PHASE_S) == b"x"
    assert [bytes(each) for each in keys[2:]] == [bytes(32)] * 3
    keys = [sealer._ratchet._key, opener._ratchet._key]
    sealer.erase()
    opener.erase()
    assert keys == [bytes(32)] * 2


def test_a_forged_phase_moves_nothing():
    sealer, opener = sealed_pair()
    record = bytearray(sealer.seal(b"x", 0, 0.0))
    for phase in range(1, 256):
        record[8] = phase
        assert opener.open(bytes(record), 0.0) is Fault.FORGED
    opener.expect(os.urandom(32))
    for phase in range(1, 256):
        record[8] = phase
        assert opener.open(bytes(record), 0.0) is Fault.FORGED
    record[8] = 0
    assert opener.open(bytes(record), 0.0) == b"x"


def test_paths_overtake_each_other_but_nothing_is_opened_twice():
    sealer, opener = sealed_pair()
    sealed = [sealer.seal(b"%d" % number, number % PATHS_MAX, 0.0) for number in range(4 * PATHS_MAX)]
    by_path = sorted(sealed, key=lambda record: -record[9])
    assert all(isinstance(opener.open(record, 0.0), bytes) for record in by_path)
    assert {opener.open(record, 0.0) for record in sealed} == {Fault.REPLAYED}
    with pytest.raises(UsageError, match="paths"):
        sealer.seal(b"", PATHS_MAX, 0.0)
    strange = bytearray(sealer.seal(b"", 0, 0.0))
    strange[9] = PATHS_MAX
    assert opener.open(bytes(strange), 0.0) is Fault.MALFORMED
    assert opener.open(bytes(strange[:33]), 0.0) is Fault.MALFORMED

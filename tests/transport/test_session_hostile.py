"""Sessions under attack: forged, altered, repeated and mixed records, and peers that seal nonsense."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_pair import CALLEE, CALLER, RECORD_BYTES_MAX, Pair, accept

from atoll.transport import noise
from atoll.transport.fragments import Channel, frame
from atoll.transport.records import EVERYWHERE
from atoll.transport.session import REASON_BYTES_MAX, Session
from atoll.transport.session_events import Closed, Established, MessageArrived, State
from atoll.transport.session_opening import SESSION_ID_BYTES
from atoll.transport.stream_credit import FIRST_WINDOW_BYTES
from atoll.transport.stream_frames import (
    PathVerb,
    StreamVerb,
    answer_frame,
    data_head,
    path_frame,
    probe_frame,
    text_frame,
)

MUTATIONS = int(os.environ.get("ATOLL_MUTATIONS", "4000"))
"""Hostile records per stage of a session; more of them are for long runs."""


@given(st.integers(0, 2**32), st.sampled_from(["lose", "repeat", "swap", "alter", "cut"]))
def test_nothing_altered_repeated_or_swapped_is_ever_delivered(seed, fault):
    rng = random.Random(seed)
    pair = Pair(record_bytes_max=600).carry()
    sent = [b"%d:" % number + rng.randbytes(rng.randrange(1500)) for number in range(12)]
    for message in sent:
        pair.caller.send(message)

    def disturb(records):
        records = list(records)
        if len(records) > 1:
            index = rng.randrange(len(records) - 1)
            if fault == "lose":
                del records[index]
            elif fault == "repeat":
                records.insert(rng.randrange(len(records)), records[index])
            elif fault == "swap":
                records[index], records[index + 1] = records[index + 1], records[index]
            elif fault == "alter":
                changed = bytearray(records[index])
                changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
                records[index] = bytes(changed)
            else:
                records[index] = records[index][: rng.randrange(len(records[index]))]
        return records

    pair.carry(disturb)
    delivered = pair.messages(pair.callee)
    assert len(set(delivered)) == len(delivered)
    positions = [sent.index(message) for message in delivered]
    assert positions == sorted(positions)
    if fault == "repeat":
        assert set(delivered) <= set(sent)
    assert pair.callee.state is State.OPEN


@given(st.binary(max_size=200))
def test_garbage_changes_nothing(garbage):
    pair = Pair()
    for prefix in (b"", pair.caller.session_id, pair.caller.session_id + b"\xff", pair.caller.session_id + b"\xff\x00"):
        assert pair.callee.receive(prefix + garbage, 0.0) == []
    pair.carry()
    for prefix in (b"", pair.caller.session_id, pair.caller.session_id + b"\x00\x00"):
        assert pair.callee.receive(prefix + garbage, 0.0) == []
    pair.caller.send(b"still here")
    pair.carry()
    assert pair.messages(pair.callee) == [b"still here"]


def mutated(rng, genuine, others):
    """Give a record that resembles `genuine` and is not it."""
    while True:
        data = bytearray(genuine)
        kind = rng.randrange(7)
        if kind == 0:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[rng.randrange(len(data)) :]
        elif kind == 2:
            data += rng.randbytes(rng.randrange(1, 100))
        elif kind == 3:
            start = rng.randrange(len(data))
            data[start : start + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(40))
        elif kind == 4:
            data[SESSION_ID_BYTES + 2 :] = rng.randbytes(len(data) - SESSION_ID_BYTES - 2)
        elif kind == 5:
            other = rng.choice(others)
            data[SESSION_ID_BYTES:] = other[SESSION_ID_BYTES:]
        else:
            start, end = sorted(rng.randrange(len(data)) for _ in range(2))
            data[start:end] = bytes(end - start)
        if data != genuine:
            return bytes(data)


def memory(session):
    """Everything a session knows, but its counters and its clock."""
    state = {name: value for name, value in vars(session).items() if name not in ("_counts", "_now", "_opening")}
    opening = {name: value for name, value in vars(session._opening).items() if name != "handshake"}
    return state | opening | vars(session._opening.handshake)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_forged_handshake_messages_change_nothing_and_the_genuine_one_still_finds_its_session(stage):
    rng = random.Random(stage)
    pair, strangers = Pair(), Pair()
    others = strangers.outgoing(strangers.caller)
    assert strangers.callee.receive(others[0], 0.0) == []
    others += strangers.outgoing(strangers.callee)
    ends = (pair.caller, pair.callee)
    for turn in range(stage):
        for record in pair.outgoing(ends[turn % 2]):
            assert ends[1 - turn % 2].receive(record, 0.0) == []
    (genuine,) = pair.outgoing(ends[stage % 2])
    receiver = ends[1 - stage % 2]
    before = memory(receiver)
    for _ in range(MUTATIONS):
        assert receiver.receive(mutated(rng, genuine, others), 0.0) == []
    assert memory(receiver) == before
    assert pair.outgoing(receiver) == []
    pair.events[receiver] += receiver.receive(genuine, 0.0)
    pair.carry()
    assert pair.events[pair.callee] == [Established(CALLER.node_id, ("verdict", b"good"))]
    assert pair.caller.state is State.OPEN


def test_hostile_sealed_records_deliver_nothing_and_the_genuine_one_still_does():
    rng = random.Random(3)
    pair, strangers = Pair().carry(), Pair().carry()
    opened = pair.callee.records_opened
    strangers.caller.send(b"another session's")
    others = strangers.outgoing(strangers.caller)
    pair.callee.send(b"reflected")
    others += pair.outgoing(pair.callee)
    pair.caller.send(b"genuine")
    (genuine,) = pair.outgoing(pair.caller)
    for _ in range(MUTATIONS):
        assert pair.callee.receive(mutated(rng, genuine, others), 0.0) == []
    assert pair.callee.records_opened == opened
    assert pair.callee.receive(genuine, 0.0) == [MessageArrived(b"genuine")]
    assert pair.callee.records_opened == opened + 1
    assert pair.callee.receive(genuine, 0.0) == []
    assert pair.callee.statistics()["replayed"] > 0


def test_a_forged_proof_costs_the_responder_no_key_agreement(monkeypatch):
    pair, agreed = Pair(), []
    (hello,) = pair.outgoing(pair.caller)
    pair.callee.receive(hello, 0.0)
    (answer,) = pair.outgoing(pair.callee)
    pair.caller.receive(answer, 0.0)
    (proof,) = pair.outgoing(pair.caller)
    genuine = noise._agree
    monkeypatch.setattr(noise, "_agree", lambda *keys: agreed.append(keys) or genuine(*keys))
    for forged in (proof[:20] + b"\x00\x01" + proof[22:], proof[:10] + os.urandom(len(proof) - 10)):
        assert pair.callee.receive(forged, 0.0) == []
    assert agreed == []
    assert pair.callee.statistics()["handshake_forged"] == 2
    assert isinstance(pair.callee.receive(proof, 0.0)[0], Established)
    assert len(agreed) == 1


def test_an_end_takes_nothing_of_its_own_back():
    pair = Pair()
    (hello,) = pair.outgoing(pair.caller)
    assert pair.caller.receive(hello, 0.0) == []
    assert pair.caller.statistics()["handshake_unexpected"] == 1
    pair.callee.receive(hello, 0.0)
    pair.carry()
    for _ in range(3):
        pair.caller.send(b"once")
        (record,) = pair.outgoing(pair.caller)
        assert pair.caller.receive(record, 0.0) == []
    assert pair.caller.statistics()["forged"] > 0


def test_a_repeated_handshake_message_fetches_nothing_longer_than_itself():
    pair = Pair(grant=b"good" + bytes(2000))
    (hello,) = pair.outgoing(pair.caller)
    for _ in range(3):
        pair.callee.receive(hello, 0.0)
    answers = pair.outgoing(pair.callee)
    assert len(set(answers)) == 1
    assert sum(map(len, answers)) <= 3 * len(hello)
    pair.caller.receive(answers[0], 0.0)
    (proof,) = pair.outgoing(pair.caller)
    for _ in range(3):
        pair.caller.receive(answers[0], 0.0)
    assert pair.outgoing(pair.caller) == [], "the long message is repeated by the clock alone"
    pair.callee.receive(proof, 0.0)
    pair.outgoing(pair.callee)
    assert pair.callee.receive(proof, 0.0) == []
    (confirmation,) = pair.outgoing(pair.callee)
    assert len(confirmation) < len(hello)
    pair.caller.receive(confirmation, 0.0)
    assert pair.caller.state is State.OPEN


def test_a_path_cannot_give_the_two_ends_different_session_ids():
    pair, renamed = Pair(), os.urandom(SESSION_ID_BYTES)
    (hello,) = pair.outgoing(pair.caller)
    callee = Session.answer(key=CALLEE, judge=accept, session_id=renamed, record_bytes_max=RECORD_BYTES_MAX, now=0.0)
    assert callee.receive(renamed + hello[SESSION_ID_BYTES:], 0.0) == []
    assert callee.statistics()["handshake_forged"] == 1


def test_a_handshake_of_another_session_is_not_even_read():
    one, other = Pair(), Pair()
    (hello,) = one.outgoing(one.caller)
    assert other.callee.receive(hello, 0.0) == []
    assert other.callee.receive(hello[:SESSION_ID_BYTES], 0.0) == []
    assert other.callee.statistics()["malformed"] == 2
    for odd in (b"\xff", b"\xff\x02", b"\xff\x07"):
        assert other.callee.receive(other.callee.session_id + odd, 0.0) == []
    assert other.callee.statistics()["handshake_unexpected"] == 3


def from_peer(pair, plain):
    """Hand the caller a genuine record of the callee with this inside."""
    return pair.caller.receive(pair.callee._keys.sealer.seal(plain, 0, pair.now), pair.now)


@pytest.mark.parametrize(
    "plain",
    [
        b"\x01",
        b"\x00",
        frame(Channel.CALLS, b"cut")[:-1],
        frame(Channel.CALLS, b"x")[:6] + b"\xff\xff\xff\xf0" + (16).to_bytes(4, "big") + bytes(16),
    ],
)
def test_frames_that_make_no_sense_end_the_session(plain):
    pair = Pair().carry()
    (closed,) = from_peer(pair, plain)
    assert "make no sense" in closed.reason
    pair.carry()
    assert pair.events[pair.callee][-1].by_peer


BEYOND = text_frame(StreamVerb.OPEN, 1, "echo") + data_head(1, FIRST_WINDOW_BYTES, 1, last=False) + b"x"
"""A stream of the callee, and a byte behind its credit."""


@pytest.mark.parametrize(
    ("path", "plain", "words"),
    [
        (0, path_frame(PathVerb.OPEN, 0, []), "not its to open"),
        (1, path_frame(PathVerb.OPEN, 3, []), "came over path 1"),
        (EVERYWHERE, path_frame(PathVerb.OPEN, EVERYWHERE, []), "not its to open"),
        (1, path_frame(PathVerb.OPEN, 2**32 - 1, []), "came over path 1"),
        (1, path_frame(PathVerb.OPEN, 1, [(0, 1)]), "never opened"),
        (1, path_frame(PathVerb.OPEN, 1, []) + probe_frame(PathVerb.ECHO, 1, 9), "never sent"),
        (1, BEYOND, "more than its credit"),
        (EVERYWHERE, BEYOND, "more than its credit"),
        (1, text_frame(StreamVerb.OPEN, 0, "echo"), "a number of ours"),
        (1, text_frame(StreamVerb.OPEN, 1, "echo") + answer_frame(StreamVerb.ACK, 1, 5, 5), "never sent"),
        (1, text_frame(StreamVerb.OPEN, 1, "echo") + answer_frame(StreamVerb.ACK, 1, 0, 2**40), "given credit"),
    ],
)
def test_peers_that_break_the_rules_of_streams_and_paths_lose_the_session_and_are_counted(path, plain, words):
    pair = Pair().carry()
    record = pair.callee._keys.sealer.seal(plain, path, pair.now)
    closed = pair.caller.receive(record, pair.now)[-1]
    assert words in closed.reason
    assert (closed.broken, pair.caller.state) == (True, State.CLOSED)
    assert pair.caller.statistics()["malformed"] == 1
    pair.carry()
    assert pair.events[pair.callee][-1].by_peer


def test_channels_of_later_versions_are_counted_and_left_alone():
    pair = Pair().carry()
    later = b"\x09" + frame(Channel.CALLS, b"what")[1:]
    assert from_peer(pair, later + frame(Channel.CALLS, b"known")) == [MessageArrived(b"known")]
    assert pair.caller.statistics()["unknown_channel"] == 1


def test_nothing_after_a_goodbye_is_delivered():
    pair = Pair().carry()
    events = from_peer(pair, frame(Channel.CLOSE, b"bye") + frame(Channel.CALLS, b"more"))
    assert events == [Closed("bye", by_peer=True)]
    assert pair.caller.receive(bytes(60), 0.0) == []
    assert pair.caller.statistics()["after_close"] == 1


def test_a_reason_is_bounded_and_fit_to_be_shown():
    pair = Pair().carry()
    pair.caller.close("é" * REASON_BYTES_MAX)
    pair.carry()
    assert pair.events[pair.callee][-1].reason == "é" * (REASON_BYTES_MAX // 2)
    pair = Pair().carry()
    pair.caller.close("\x1b[31mred\nnew line")
    pair.carry()
    assert pair.events[pair.callee][-1].reason == "\ufffd[31mred\ufffdnew line"
    pair = Pair().carry()
    (closed,) = from_peer(pair, frame(Channel.CLOSE, b"x" * 10_000))
    assert len(closed.reason) == REASON_BYTES_MAX

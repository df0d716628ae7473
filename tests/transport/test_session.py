"""Sessions over paths that lose, repeat, reorder and alter records."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.transport import session as module
from atoll.transport.base import MESSAGE_BYTES_MAX, QUEUE_BYTES_MAX
from atoll.transport.errors import Congested, Expired, MalformedFrame, Refused, UsageError
from atoll.transport.keys import NodeKey
from atoll.transport.record_stream import RecordStream, frame_record
from atoll.transport.session import (
    HANDSHAKE_S,
    IDLE_S,
    PHASE_S,
    Closed,
    Established,
    MessageArrived,
    Session,
    State,
    opens_session,
    session_id_of,
)

RECORD_BYTES_MAX = 48 * 1024
CALLER, CALLEE = NodeKey.generate(), NodeKey.generate()


def accept(peer, grant):
    if grant == b"bad":
        raise Refused("this grant is bad")
    return ("verdict", grant)


class Pair:
    """Two ends and the path between them, in virtual time."""

    def __init__(self, *, grant=b"good", callee=CALLEE, target=CALLEE, record_bytes_max=RECORD_BYTES_MAX):
        self.now = 0.0
        self.caller = Session.dial(
            key=CALLER, peer=target.node_id, grant=grant, record_bytes_max=record_bytes_max, now=0.0
        )
        self.callee = Session.answer(
            key=callee,
            judge=accept,
            session_id=self.caller.session_id,
            record_bytes_max=record_bytes_max,
            now=0.0,
        )
        self.events = {self.caller: [], self.callee: []}

    def carry(self, alter=lambda records: records):
        """Carry records to and fro until nobody has any."""
        for _ in range(1000):
            moved = False
            for sender, receiver in ((self.caller, self.callee), (self.callee, self.caller)):
                records = sender.outgoing()
                moved = moved or bool(records)
                for record in alter(records):
                    self.events[receiver] += receiver.receive(record, self.now)
            if not moved:
                return self
        raise AssertionError("the two ends never come to rest")

    def wait(self, seconds, alter=lambda records: records):
        self.now += seconds
        for end in (self.caller, self.callee):
            self.events[end] += end.tick(self.now)
        return self.carry(alter)

    def messages(self, end):
        return [event.data for event in self.events[end] if isinstance(event, MessageArrived)]


def test_both_ends_learn_of_each_other():
    pair = Pair().carry()
    assert pair.events[pair.callee] == [Established(CALLER.node_id, ("verdict", b"good"))]
    assert pair.events[pair.caller] == [Established(CALLEE.node_id, None)]


@pytest.mark.parametrize("size", [0, 1, RECORD_BYTES_MAX - 48, RECORD_BYTES_MAX, 1_000_000, MESSAGE_BYTES_MAX])
def test_messages_of_every_size_arrive_whole_both_ways(size):
    pair, data = Pair().carry(), os.urandom(size)
    pair.caller.send(data)
    pair.callee.send(data[::-1])
    pair.carry()
    assert pair.messages(pair.callee) == [data]
    assert pair.messages(pair.caller) == [data[::-1]]


def test_what_is_sent_before_the_handshake_goes_with_its_last_message():
    pair = Pair()
    pair.caller.send(b"early")
    pair.carry()
    assert pair.messages(pair.callee) == [b"early"]


def test_records_keep_their_bound_and_small_messages_share_one():
    pair = Pair().carry()
    for number in range(100):
        pair.caller.send(b"%d" % number)
    (record,) = pair.caller.outgoing()
    assert len(record) <= RECORD_BYTES_MAX
    events = pair.callee.receive(record, 0.0)
    assert [event.data for event in events] == [b"%d" % number for number in range(100)]
    pair.caller.send(os.urandom(500_000))
    assert max(map(len, pair.caller.outgoing())) == RECORD_BYTES_MAX


def test_a_bad_grant_is_refused_with_its_reason_at_both_ends():
    pair = Pair(grant=b"bad").carry()
    assert pair.events[pair.callee] == [Closed("this grant is bad", by_peer=False)]
    assert pair.events[pair.caller] == [Closed("this grant is bad", by_peer=True)]
    assert not any(isinstance(event, Established) for event in pair.events[pair.caller])


def test_another_node_cannot_answer_for_the_peer():
    pair = Pair(callee=NodeKey.generate()).carry()
    pair.wait(HANDSHAKE_S)
    assert pair.events[pair.callee] == [Closed(f"no handshake within {HANDSHAKE_S:g} s", by_peer=False)]
    assert pair.messages(pair.callee) == []


def test_a_borrowed_node_id_is_refused():
    pair = Pair()
    pair.caller._opening = NodeKey.generate().node_id + b"good"
    pair.carry()
    (event,) = pair.events[pair.callee]
    assert "does not belong to the key" in event.reason


def test_lost_handshake_messages_are_sent_again():
    for lost in range(4):
        left = [lost]

        def drop_one(records, left=left):
            kept = []
            for record in records:
                left[0] -= 1
                if left[0] != -1:
                    kept.append(record)
            return kept

        pair = Pair().carry(drop_one)
        pair.caller.send(b"hello")
        for _ in range(3):
            pair.wait(1.0)
        assert pair.messages(pair.callee)[-1:] == [b"hello"], f"record {lost} was lost"
        assert pair.caller.state is State.OPEN


def test_a_goodbye_tells_the_peer_why_and_ends_both():
    pair = Pair().carry()
    pair.caller.close("moving away")
    pair.carry()
    assert pair.events[pair.callee][-1] == Closed("moving away", by_peer=True)
    with pytest.raises(Expired):
        pair.callee.send(b"more")


def test_silence_ends_a_session():
    pair = Pair().carry()
    assert pair.caller.deadline == pytest.approx(IDLE_S)
    pair.wait(IDLE_S)
    assert pair.caller.state is State.CLOSED
    assert pair.caller.deadline is None


def test_keys_change_with_time_without_a_pause_and_the_old_ones_are_erased():
    pair = Pair().carry()
    before = pair.caller._sending._key
    pair.now += PHASE_S
    pair.caller._heard_at = pair.callee._heard_at = pair.now
    pair.caller.tick(pair.now)
    pair.caller.send(b"new phase")
    (record,) = pair.caller.outgoing()
    assert record[8] == 1
    assert pair.callee.receive(record, pair.now) == [MessageArrived(b"new phase")]
    assert pair.caller._sending._key != before
    assert pair.callee._receiving._key == pair.caller._sending._key
    pair.callee.tick(pair.now + module.OLD_KEY_S)
    assert pair.callee._receiving.old is None


def test_a_full_queue_is_said_and_takes_nothing():
    pair = Pair()
    for _ in range(QUEUE_BYTES_MAX // MESSAGE_BYTES_MAX):
        pair.caller.send(bytes(MESSAGE_BYTES_MAX))
    with pytest.raises(Congested):
        pair.caller.send(b"one more")
    with pytest.raises(UsageError):
        pair.caller.send(bytes(MESSAGE_BYTES_MAX + 1))


def test_a_message_that_lost_a_piece_is_dropped_whole_and_the_next_one_arrives():
    pair = Pair().carry()
    pair.caller.send(os.urandom(200_000))
    records = pair.caller.outgoing()
    del records[2]
    for record in records:
        assert pair.callee.receive(record, 0.0) == []
    pair.caller.send(b"next")
    pair.carry()
    assert pair.messages(pair.callee) == [b"next"]
    assert pair.callee.statistics()["messages_lost"] == 1


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


def test_a_record_names_its_session():
    session = Pair().caller
    (first,) = session.outgoing()
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

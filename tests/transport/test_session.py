"""Sessions: handshake, messages, early messages, refusals, and what time asks for."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_pair import CALLEE, CALLER, RECORD_BYTES_MAX, Pair

from atoll.transport.base import MESSAGE_BYTES_MAX, QUEUE_BYTES_MAX
from atoll.transport.errors import Congested, Expired, UsageError
from atoll.transport.keys import NodeKey
from atoll.transport.records import OLD_KEY_S, PHASE_S
from atoll.transport.session import CONFIRM_S, EARLY_BYTES_MAX, HANDSHAKE_S, IDLE_S, RECORD_BYTES_MIN, RESEND_S
from atoll.transport.session import RECORD_BYTES_MAX as RECORD_BYTES_LIMIT
from atoll.transport.session_events import Closed, Established, MessageArrived, State
from atoll.transport.session_opening import SESSION_ID_BYTES


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
    (record,) = pair.outgoing(pair.caller)
    assert len(record) <= RECORD_BYTES_MAX
    events = pair.callee.receive(record, 0.0)
    assert [event.data for event in events] == [b"%d" % number for number in range(100)]
    pair.caller.send(os.urandom(500_000))
    assert max(map(len, pair.outgoing(pair.caller))) == RECORD_BYTES_MAX


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
    pair.caller._opening.proof = NodeKey.generate().node_id + b"good"
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
    before = bytes(pair.caller._keys.sealer._ratchet._key)
    pair.now += PHASE_S
    for end in (pair.caller, pair.callee):
        end._heard_at = end._used_at = pair.now
    pair.caller.send(b"new phase")
    *_, last = pair.outgoing(pair.caller)
    assert last[SESSION_ID_BYTES] == 1
    assert pair.callee.receive(last, pair.now) == [MessageArrived(b"new phase")]
    assert before != pair.callee._keys.opener._ratchet._key == pair.caller._keys.sealer._ratchet._key
    assert pair.callee._keys.opener._old is not None
    pair.callee.tick(pair.now + OLD_KEY_S)
    assert pair.callee._keys.opener._old is None


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
    records = pair.outgoing(pair.caller)
    del records[2]
    for record in records:
        assert pair.callee.receive(record, 0.0) == []
    pair.caller.send(b"next")
    pair.carry()
    assert pair.messages(pair.callee) == [b"next"]
    assert pair.callee.statistics()["messages_lost"] == 1


def test_a_grant_that_fits_into_no_record_is_said_at_once():
    for size, record_bytes_max in ((RECORD_BYTES_MIN, RECORD_BYTES_MIN), (8192, RECORD_BYTES_MAX)):
        with pytest.raises(UsageError, match="does not fit"):
            Pair(grant=bytes(size), record_bytes_max=record_bytes_max)
    for record_bytes_max in (RECORD_BYTES_MIN - 1, RECORD_BYTES_LIMIT + 1):
        with pytest.raises(UsageError, match="records have"):
            Pair(record_bytes_max=record_bytes_max)
    longest = RECORD_BYTES_MIN - 106
    pair = Pair(grant=bytes(longest), record_bytes_max=RECORD_BYTES_MIN).carry()
    assert pair.caller.state is State.OPEN


def proving(pair):
    """Bring the caller to where it has written message 3, which is in what it gives next."""
    (hello,) = pair.outgoing(pair.caller)
    pair.callee.receive(hello, pair.now)
    (answer,) = pair.outgoing(pair.callee)
    pair.caller.receive(answer, pair.now)
    assert pair.caller.state is State.PROVING


def test_early_messages_travel_with_message_3_and_again_with_it():
    pair = Pair()
    pair.caller.send(b"early")
    proving(pair)
    lost = pair.outgoing(pair.caller)
    assert len(lost) == 2
    pair.now = RESEND_S
    pair.caller.tick(pair.now)
    assert pair.outgoing(pair.caller) == lost
    for record in (*lost, *lost):
        pair.events[pair.callee] += pair.callee.receive(record, pair.now)
    assert pair.messages(pair.callee) == [b"early"], "and only once, however often it comes"
    pair.carry()
    assert pair.caller.state is State.OPEN
    assert pair.caller._opening.early == []


def test_early_messages_are_bounded_and_the_rest_waits_for_the_answer():
    pair, sent = Pair(), [os.urandom(30_000) for _ in range(10)]
    for message in sent:
        pair.caller.send(message)
    proving(pair)
    early = pair.outgoing(pair.caller)
    assert sum(map(len, early[1:])) <= EARLY_BYTES_MAX
    assert pair.outgoing(pair.caller) == []
    pair.caller.tick(RESEND_S)
    assert pair.outgoing(pair.caller) == early
    for record in early:
        pair.events[pair.callee] += pair.callee.receive(record, 0.0)
    pair.carry()
    assert pair.messages(pair.callee) == sent


def test_the_longest_record_may_be_early():
    pair = Pair(record_bytes_max=RECORD_BYTES_LIMIT)
    pair.caller.send(os.urandom(2 * RECORD_BYTES_LIMIT))
    proving(pair)
    assert len(pair.outgoing(pair.caller)) == 2


def test_two_ends_may_cut_their_records_differently():
    pair, long = Pair(record_bytes_max=RECORD_BYTES_MIN), os.urandom(200_000)
    pair.callee._record_bytes_max = RECORD_BYTES_LIMIT
    pair.carry().callee.send(long)
    pair.caller.send(long)
    pair.carry()
    assert pair.messages(pair.caller) == pair.messages(pair.callee) == [long]
    assert pair.callee.receive(pair.callee.session_id + bytes(RECORD_BYTES_LIMIT), 0.0) == []
    assert pair.callee.statistics()["malformed"] == 1


def test_nothing_early_is_read_before_the_proof():
    pair = Pair()
    pair.caller.send(b"early")
    proving(pair)
    _, early = pair.outgoing(pair.caller)
    assert pair.callee.receive(early, 0.0) == []
    assert pair.callee.statistics()["early"] == 1
    assert pair.callee.state is State.ANSWERING


def test_who_only_listens_confirms_so_that_a_one_sided_session_lives():
    pair = Pair().carry()
    for _ in range(3 * int(IDLE_S / CONFIRM_S)):
        pair.caller.send(b"measured")
        pair.wait(CONFIRM_S)
    assert pair.caller.state is pair.callee.state is State.OPEN
    assert pair.callee.statistics()["records_sealed"] < pair.caller.statistics()["records_sealed"] + 3


def test_two_idle_ends_do_not_keep_each_other_awake():
    pair = Pair().carry()
    before = pair.caller.statistics()["records_sealed"], pair.callee.statistics()["records_sealed"]
    pair.caller.send(b"last")
    pair.wait(CONFIRM_S)
    for _ in range(int(IDLE_S / CONFIRM_S)):
        pair.wait(CONFIRM_S)
    after = pair.caller.statistics()["records_sealed"], pair.callee.statistics()["records_sealed"]
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
    assert pair.caller.state is pair.callee.state is State.CLOSED


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_a_deadline_once_served_lies_ahead_and_every_life_ends(seed, loss):
    rng, pair = random.Random(seed), Pair()

    def lossy(records):
        return [record for record in records if rng.random() >= loss]

    pair.caller.send(b"hello")
    pair.carry(lossy)
    for _ in range(100):
        deadlines = [end.deadline for end in (pair.caller, pair.callee) if end.deadline is not None]
        if not deadlines:
            break
        if rng.random() < 0.2 and pair.caller.state is State.OPEN and pair.now < 2 * PHASE_S:
            pair.now += rng.random() * IDLE_S / 2
            pair.caller.send(b"more")
        pair.now = max(pair.now, min(deadlines))
        pair.wait(0.0, lossy)
        for end in (pair.caller, pair.callee):
            assert end.deadline is None or end.deadline > pair.now
    assert pair.caller.state is pair.callee.state is State.CLOSED
    assert [type(event) for event in pair.events[pair.caller]].count(Closed) == 1
    assert isinstance(pair.events[pair.caller][-1], Closed)

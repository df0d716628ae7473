"""Sessions over paths that lose, repeat, reorder and alter records."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.transport import noise
from atoll.transport.base import MESSAGE_BYTES_MAX, QUEUE_BYTES_MAX
from atoll.transport.errors import Congested, Expired, MalformedFrame, Refused, UsageError
from atoll.transport.fragments import QUEUE_MESSAGES_MAX, Assembly, Channel, Outbox, frame, frames_of
from atoll.transport.keys import NodeKey
from atoll.transport.record_stream import RecordStream, frame_record
from atoll.transport.records import OLD_KEY_S, PATHS_MAX, PHASE_S, PHASES_AHEAD_MAX, Fault, Opener, Sealer
from atoll.transport.session import (
    CONFIRM_S,
    EARLY_BYTES_MAX,
    HANDSHAKE_S,
    IDLE_S,
    PROBE_S,
    REASON_BYTES_MAX,
    RECORD_BYTES_MIN,
    RECORD_OVERHEAD_BYTES,
    RESEND_S,
    SESSION_ID_BYTES,
    Closed,
    Established,
    MessageArrived,
    Session,
    State,
    opens_session,
    session_id_of,
)
from atoll.transport.session import RECORD_BYTES_MAX as RECORD_BYTES_LIMIT

RECORD_BYTES_MAX = 48 * 1024
MUTATIONS = int(os.environ.get("ATOLL_MUTATIONS", "4000"))
"""Hostile records per stage of a session; more of them are for long runs."""
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
    before = pair.caller._sealer._key
    pair.now += PHASE_S
    pair.caller._heard_at = pair.callee._heard_at = pair.now
    pair.caller.tick(pair.now)
    pair.caller.send(b"new phase")
    (record,) = pair.caller.outgoing()
    assert record[SESSION_ID_BYTES] == 1
    assert pair.callee.receive(record, pair.now) == [MessageArrived(b"new phase")]
    assert pair.caller._sealer._key != before
    assert pair.callee._opener._key == pair.caller._sealer._key
    assert pair.callee.deadline == pair.now + OLD_KEY_S
    pair.callee.tick(pair.now + OLD_KEY_S)
    assert pair.callee._opener._old is None
    assert pair.callee.deadline == pair.now + IDLE_S


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


# Forged and repeated handshakes


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
    state = {name: value for name, value in vars(session).items() if name not in ("_counts", "_now", "_handshake")}
    return state | vars(session._handshake)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_forged_handshake_messages_change_nothing_and_the_genuine_one_still_finds_its_session(stage):
    rng = random.Random(stage)
    pair, strangers = Pair(), Pair()
    others = strangers.caller.outgoing()
    assert strangers.callee.receive(others[0], 0.0) == []
    others += strangers.callee.outgoing()
    ends = (pair.caller, pair.callee)
    for turn in range(stage):
        for record in ends[turn % 2].outgoing():
            assert ends[1 - turn % 2].receive(record, 0.0) == []
    (genuine,) = ends[stage % 2].outgoing()
    receiver = ends[1 - stage % 2]
    before = memory(receiver)
    for _ in range(MUTATIONS):
        assert receiver.receive(mutated(rng, genuine, others), 0.0) == []
    assert memory(receiver) == before
    assert receiver.outgoing() == []
    pair.events[receiver] += receiver.receive(genuine, 0.0)
    pair.carry()
    assert pair.events[pair.callee] == [Established(CALLER.node_id, ("verdict", b"good"))]
    assert pair.caller.state is State.OPEN


def test_hostile_sealed_records_deliver_nothing_and_the_genuine_one_still_does():
    rng = random.Random(3)
    pair, strangers = Pair().carry(), Pair().carry()
    opened = pair.callee.records_opened
    strangers.caller.send(b"another session's")
    others = strangers.caller.outgoing()
    pair.callee.send(b"reflected")
    others += pair.callee.outgoing()
    pair.caller.send(b"genuine")
    (genuine,) = pair.caller.outgoing()
    for _ in range(MUTATIONS):
        assert pair.callee.receive(mutated(rng, genuine, others), 0.0) == []
    assert pair.callee.records_opened == opened
    assert pair.callee.receive(genuine, 0.0) == [MessageArrived(b"genuine")]
    assert pair.callee.records_opened == opened + 1
    assert pair.callee.receive(genuine, 0.0) == []
    assert pair.callee.statistics()["replayed"] > 0


def test_a_forged_proof_costs_the_responder_no_key_agreement(monkeypatch):
    pair, agreed = Pair(), []
    (hello,) = pair.caller.outgoing()
    pair.callee.receive(hello, 0.0)
    (answer,) = pair.callee.outgoing()
    pair.caller.receive(answer, 0.0)
    (proof,) = pair.caller.outgoing()
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
    (hello,) = pair.caller.outgoing()
    assert pair.caller.receive(hello, 0.0) == []
    assert pair.caller.statistics()["handshake_unexpected"] == 1
    pair.callee.receive(hello, 0.0)
    pair.carry()
    for _ in range(3):
        pair.caller.send(b"once")
        (record,) = pair.caller.outgoing()
        assert pair.caller.receive(record, 0.0) == []
    assert pair.caller.statistics()["forged"] > 0


def test_a_repeated_handshake_message_fetches_nothing_longer_than_itself():
    pair = Pair(grant=b"good" + bytes(2000))
    (hello,) = pair.caller.outgoing()
    for _ in range(3):
        pair.callee.receive(hello, 0.0)
    answers = pair.callee.outgoing()
    assert len(set(answers)) == 1
    assert sum(map(len, answers)) <= 3 * len(hello)
    pair.caller.receive(answers[0], 0.0)
    (proof,) = pair.caller.outgoing()
    for _ in range(3):
        pair.caller.receive(answers[0], 0.0)
    assert pair.caller.outgoing() == [], "the long message is repeated by the clock alone"
    pair.callee.receive(proof, 0.0)
    pair.callee.outgoing()
    assert pair.callee.receive(proof, 0.0) == []
    (confirmation,) = pair.callee.outgoing()
    assert len(confirmation) < len(hello)
    pair.caller.receive(confirmation, 0.0)
    assert pair.caller.state is State.OPEN


def test_a_path_cannot_give_the_two_ends_different_session_ids():
    pair, renamed = Pair(), os.urandom(SESSION_ID_BYTES)
    (hello,) = pair.caller.outgoing()
    callee = Session.answer(key=CALLEE, judge=accept, session_id=renamed, record_bytes_max=RECORD_BYTES_MAX, now=0.0)
    assert callee.receive(renamed + hello[SESSION_ID_BYTES:], 0.0) == []
    assert callee.statistics()["handshake_forged"] == 1


def test_a_handshake_of_another_session_is_not_even_read():
    one, other = Pair(), Pair()
    (hello,) = one.caller.outgoing()
    assert other.callee.receive(hello, 0.0) == []
    assert other.callee.receive(hello[:SESSION_ID_BYTES], 0.0) == []
    assert other.callee.statistics()["malformed"] == 2
    for odd in (b"\xff", b"\xff\x02", b"\xff\x07"):
        assert other.callee.receive(other.callee.session_id + odd, 0.0) == []
    assert other.callee.statistics()["handshake_unexpected"] == 3


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


# Early messages


def proving(pair):
    """Bring the caller to where it has written message 3, which is in what it gives next."""
    (hello,) = pair.caller.outgoing()
    pair.callee.receive(hello, pair.now)
    (answer,) = pair.callee.outgoing()
    pair.caller.receive(answer, pair.now)
    assert pair.caller.state is State.PROVING


def test_early_messages_travel_with_message_3_and_again_with_it():
    pair = Pair()
    pair.caller.send(b"early")
    proving(pair)
    lost = pair.caller.outgoing()
    assert len(lost) == 2
    pair.now = RESEND_S
    pair.caller.tick(pair.now)
    assert pair.caller.outgoing() == lost
    for record in (*lost, *lost):
        pair.events[pair.callee] += pair.callee.receive(record, pair.now)
    assert pair.messages(pair.callee) == [b"early"], "and only once, however often it comes"
    pair.carry()
    assert pair.caller.state is State.OPEN
    assert pair.caller._early == []


def test_early_messages_are_bounded_and_the_rest_waits_for_the_answer():
    pair, sent = Pair(), [os.urandom(30_000) for _ in range(10)]
    for message in sent:
        pair.caller.send(message)
    proving(pair)
    early = pair.caller.outgoing()
    assert sum(map(len, early[1:])) <= EARLY_BYTES_MAX
    assert pair.caller.outgoing() == []
    pair.caller.tick(RESEND_S)
    assert pair.caller.outgoing() == early
    for record in early:
        pair.events[pair.callee] += pair.callee.receive(record, 0.0)
    pair.carry()
    assert pair.messages(pair.callee) == sent


def test_the_longest_record_may_be_early():
    pair = Pair(record_bytes_max=RECORD_BYTES_LIMIT)
    pair.caller.send(os.urandom(2 * RECORD_BYTES_LIMIT))
    proving(pair)
    assert len(pair.caller.outgoing()) == 2


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
    _, early = pair.caller.outgoing()
    assert pair.callee.receive(early, 0.0) == []
    assert pair.callee.statistics()["early"] == 1
    assert pair.callee.state is State.ANSWERING


# Time


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


@pytest.mark.parametrize("who", ["caller", "callee"])
def test_who_has_spoken_asks_for_a_sign_of_life_and_gets_one(who):
    pair = Pair().carry()
    end = getattr(pair, who)
    pair.wait(PROBE_S / 2)
    end.send(b"said")
    pair.carry()
    for _ in range(30):
        pair.wait(PROBE_S / 2)
        assert end.unheard_s(pair.now) < 2 * PROBE_S
    assert end.statistics()["probes"] == 1, "once it was heard, nothing is waited for"


def test_a_path_that_swallows_everything_is_told_by_how_long_nothing_was_heard():
    pair = Pair().carry()
    pair.caller.send(b"lost")
    for _ in range(8):
        pair.wait(PROBE_S / 2, alter=lambda records: [])
    assert pair.caller.unheard_s(pair.now) == pytest.approx(3 * PROBE_S)
    pair.caller.moved(pair.now)
    assert pair.caller.unheard_s(pair.now) == 0.0
    pair.wait(0.0)
    assert pair.caller.unheard_s(pair.now + 10 * PROBE_S) == 0.0, "over another path the probe is answered"


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


# Key phases and paths


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


def test_phases_go_round_and_old_records_stay_closed():
    sealer, opener = sealed_pair()
    first = sealer.seal(b"first", 1, 0.0)
    for phase in range(1, 300):
        now = phase * PHASE_S
        late = sealer.seal(b"late", 1, now - 1)
        assert opener.open(sealer.seal(b"now", 0, now), now) == b"now"
        assert opener.open(late, now) == b"late"
        opener.forget_old(now + OLD_KEY_S)
        assert opener.deadline is None
    assert opener.open(first, now) is Fault.REPLAYED
    sealer, opener = sealed_pair()
    late = sealer.seal(b"late", 1, 0.0)
    opener.open(sealer.seal(b"now", 0, PHASE_S), PHASE_S)
    opener.forget_old(PHASE_S + OLD_KEY_S)
    assert opener.open(late, PHASE_S + OLD_KEY_S) is Fault.FORGED


def test_a_forged_phase_moves_nothing():
    sealer, opener = sealed_pair()
    record = bytearray(sealer.seal(b"x", 0, 0.0))
    for phase in range(1, 256):
        record[8] = phase
        assert opener.open(bytes(record), 0.0) is Fault.FORGED
    record[8] = 0
    assert opener.open(bytes(record), 0.0) == b"x"


def test_paths_overtake_each_other_but_nothing_is_opened_twice():
    sealer, opener = sealed_pair()
    records = [sealer.seal(b"%d" % number, number % PATHS_MAX, 0.0) for number in range(4 * PATHS_MAX)]
    by_path = sorted(records, key=lambda record: -record[9])
    assert all(isinstance(opener.open(record, 0.0), bytes) for record in by_path)
    assert {opener.open(record, 0.0) for record in records} == {Fault.REPLAYED}
    with pytest.raises(UsageError, match="paths"):
        sealer.seal(b"", PATHS_MAX, 0.0)
    strange = bytearray(sealer.seal(b"", 0, 0.0))
    strange[9] = PATHS_MAX
    assert opener.open(bytes(strange), 0.0) is Fault.MALFORMED
    assert opener.open(bytes(strange[:33]), 0.0) is Fault.MALFORMED


# What the peer's own keys seal, and is still wrong


def from_peer(pair, plain):
    """Hand the caller a genuine record of the callee with this inside."""
    return pair.caller.receive(pair.callee._sealer.seal(plain, 0, pair.now), pair.now)


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


# Messages and frames


@given(st.lists(st.binary(max_size=1500), max_size=20), st.integers(RECORD_BYTES_MIN - RECORD_OVERHEAD_BYTES, 3000))
def test_an_assembly_gives_back_what_an_outbox_took(messages, room):
    outbox, assembly, found = Outbox(), Assembly(), []
    for message in messages:
        outbox.put(message)
    while outbox:
        plain = outbox.take(room)
        assert 0 < len(plain) <= room
        for _, *rest in frames_of(plain):
            message = assembly.take(*rest)
            found += [] if message is None else [message]
    assert found == messages
    assert assembly.lost == 0


@given(st.lists(st.integers(0, 60), min_size=1, max_size=20), st.integers(0, 2**32))
def test_what_lost_a_piece_is_counted_once_and_never_mixed(sizes, seed):
    rng, outbox, assembly = random.Random(seed), Outbox(), Assembly()
    messages = [b"%d:" % number + rng.randbytes(size * 10) for number, size in enumerate(sizes)]
    for message in messages:
        outbox.put(message)
    frames = []
    while outbox:
        frames += frames_of(outbox.take(100))
    broken = {number for _, _, number, _, _ in frames if rng.random() < 0.2}
    dropped = {number: rng.choice([f for f in frames if f[2] == number]) for number in broken}
    found = [assembly.take(*f[1:]) for f in frames if dropped.get(f[2]) is not f]
    delivered = [message for message in found if message is not None]
    assert delivered == [message for number, message in enumerate(messages) if number not in broken]
    outbox.put(b"last")
    (last,) = (assembly.take(*f[1:]) for f in frames_of(outbox.take(100)))
    assert last == b"last"
    assert assembly.lost == len(broken)


def test_an_assembly_holds_one_message_at_most_and_none_that_is_too_long():
    assembly, piece = Assembly(), memoryview(bytes(1024))
    assert assembly.take(1, 0, 0, piece) is None
    assert assembly.take(1, 1, 0, piece) is None
    assert (len(assembly._pieces), assembly.lost) == (1024, 1)
    with pytest.raises(MalformedFrame, match="longer"):
        assembly.take(0, 1, MESSAGE_BYTES_MAX - 1023, piece)
    assert assembly.take(1, 0, 0, piece) is None, "one that was given up does not begin anew"
    assert assembly._current is None


def test_message_numbers_go_round():
    outbox, assembly = Outbox(), Assembly()
    outbox._number = assembly._next = 2**32 - 1
    for message in (b"last", b"first"):
        outbox.put(message)
    assert [assembly.take(*rest) for _, *rest in frames_of(outbox.take(1000))] == [b"last", b"first"]
    assert assembly.lost == 0


def test_empty_messages_fill_a_queue_too():
    outbox = Outbox()
    for _ in range(QUEUE_MESSAGES_MAX):
        outbox.put(b"")
    with pytest.raises(Congested):
        outbox.put(b"")
    outbox.clear()
    outbox.put(b"")

"""Messages cut into frames and put together again, with pieces lost on the way."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.transport.base import MESSAGE_BYTES_MAX
from atoll.transport.errors import Congested, MalformedFrame
from atoll.transport.fragments import QUEUE_MESSAGES_MAX, Assembly, Outbox, frames_of
from atoll.transport.records import OVERHEAD_BYTES
from atoll.transport.session import (
    RECORD_BYTES_MIN,
)


@given(st.lists(st.binary(max_size=1500), max_size=20), st.integers(RECORD_BYTES_MIN - OVERHEAD_BYTES, 3000))
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


def test_a_message_that_is_whole_in_the_next_record_is_not_cut_for_this_one():
    outbox = Outbox()
    for size in (600, 600, 300, 300, 1500, 600):
        outbox.put(bytes(size))
    records = []
    while outbox:
        records.append([(len(piece), flags) for _, flags, _, _, piece in frames_of(outbox.take(1000))])
    whole, first, last = 3, 1, 2
    assert records == [
        [(600, whole)],
        [(600, whole), (300, whole)],
        # 1,500 bytes fit nowhere, so they are cut to fill what is left.
        [(300, whole), (672, first)],
        [(828, last)],
        [(600, whole)],
    ]
    for size in (400, 800):
        outbox.put(bytes(size))
    assert [len(piece) for *_, piece in frames_of(outbox.take(1000))] == [400, 572]


@given(
    st.lists(st.binary(max_size=300), max_size=20),
    st.integers(RECORD_BYTES_MIN - OVERHEAD_BYTES, 1500),
    st.integers(0, 2**32 - 1),
)
def test_a_record_of_whole_messages_taken_at_once_gives_what_its_frames_give(messages, room, first):
    outbox, at_once, one_by_one = Outbox(), Assembly(), Assembly()
    outbox._numbers[0] = at_once._next = one_by_one._next = first
    for message in messages:
        outbox.put(message)
    while outbox:
        plain = outbox.take(room)
        found = at_once.take_whole(plain)
        assert found == [one_by_one.take(*rest) for _, *rest in frames_of(plain)]
        assert (at_once._next, at_once.lost) == (one_by_one._next, one_by_one.lost)


@given(st.data())
def test_what_is_not_whole_or_not_next_is_left_to_be_read_frame_by_frame(data):
    outbox, assembly = Outbox(), Assembly()
    for size in data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=5)):
        outbox.put(bytes(size))
    intact = outbox.take(2000)
    plain = bytearray(intact)
    position = data.draw(st.integers(0, 13))
    plain[position] ^= data.draw(st.integers(1, 255))
    assert assembly.take_whole(intact[:-1]) is None
    # The first frame's header was changed: another kind, another number, no whole message, or lengths that do not fit.
    for changed in (bytes(plain), bytes(plain[:-1])):
        found = assembly.take_whole(changed)
        if found is not None:
            assert found == [bytes(piece) for *_, piece in frames_of(changed)]
            assert position >= 10, "only the length may be another, and then the frames behind it fit by chance"
            assembly = Assembly()
        else:
            assert assembly._next == 0
    assert assembly.take_whole(b"") == []


def test_no_record_is_taken_at_once_while_a_message_is_unfinished():
    outbox, assembly = Outbox(), Assembly()
    for size in (900, 10):
        outbox.put(bytes(size))
    first, *others = (outbox.take(500) for _ in range(3))
    assert assembly.take_whole(first) is None
    assert [assembly.take(*rest) for _, *rest in frames_of(first)] == [None]
    outbox.put(b"alone")
    alone = outbox.take(500)
    assert assembly.take_whole(alone) is None
    assert [frame for frame in others if frame]


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
    outbox._numbers[0] = assembly._next = 2**32 - 1
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

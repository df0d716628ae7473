"""A peer that breaks the rules of streams: every breach is told apart, and none makes an end grow."""

import struct

import pytest
from stream_ends import Ends

from atoll.transport.errors import MalformedFrame
from atoll.transport.stream_credit import FIRST_WINDOW_BYTES, WINDOW_BYTES
from atoll.transport.stream_frames import StreamVerb


def data(offset, length=10):
    return struct.pack(">Q", offset) + bytes(length)


def answer(received, limit):
    return struct.pack(">QQ", received, limit)


@pytest.fixture
def victim():
    """An end with a stream of its own (0), one of the peer (1), and 100 bytes sent on the first."""
    world = Ends()
    world.ends[1].open("echo")
    world.opened()
    world.ends[0].write(0, bytes(100))
    world.carry()
    return world.ends[0]


WINDOW = FIRST_WINDOW_BYTES
BREACHES = {
    "more than its credit": (StreamVerb.DATA, 1, data(WINDOW - 5), "credit"),
    "far beyond its credit": (StreamVerb.DATA, 1, data(2**64 - 1), "credit"),
    "an end beyond its credit": (StreamVerb.LAST, 1, data(WINDOW + 1, 0), "credit"),
    "no offset": (StreamVerb.DATA, 1, b"1234567", "offset"),
    "an acknowledgement of what was never sent": (StreamVerb.ACK, 0, answer(101, 200), "never sent"),
    "an acknowledgement of an end that was not sent": (StreamVerb.GAP, 0, answer(101, 101), "never sent"),
    "credit that nobody can mean": (StreamVerb.ACK, 0, answer(100, 101 + WINDOW_BYTES), "credit for"),
    "a number of ours opened": (StreamVerb.OPEN, 2, b"echo", "number of ours"),
    "bytes for a stream of ours never opened": (StreamVerb.DATA, 2, data(0), "never opened"),
    "an answer for a stream of ours never opened": (StreamVerb.ACK, 2, answer(0, 0), "never opened"),
    "an answer for a stream of its own never opened": (StreamVerb.ACK, 3, answer(0, 0), "never opened"),
    "a reset of a stream of ours never opened": (StreamVerb.RESET, 2, b"", "never opened"),
    "forgetting a stream never opened": (StreamVerb.GONE, 3, b"", "never opened"),
    "forgetting a stream before its end": (StreamVerb.GONE, 0, b"", "before its end"),
    "no service": (StreamVerb.OPEN, 3, b"", "no service"),
    "a service with an endless name": (StreamVerb.OPEN, 3, bytes(201), "at most 200"),
    "half an answer": (StreamVerb.ACK, 0, bytes(15), "two offsets"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_ends_the_session(victim, breach):
    verb, stream, piece, words = BREACHES[breach]
    with pytest.raises(MalformedFrame, match=words):
        victim.receive(verb, stream, memoryview(piece), 0.0)


def test_a_stream_does_not_go_on_behind_its_end(victim):
    victim.receive(StreamVerb.LAST, 1, memoryview(data(0)), 0.0)
    for verb, piece in ((StreamVerb.DATA, data(5)), (StreamVerb.LAST, data(0, 11)), (StreamVerb.LAST, data(0, 9))):
        with pytest.raises(MalformedFrame, match="end"):
            victim.receive(verb, 1, memoryview(piece), 0.0)


def test_a_stream_does_not_end_before_what_it_has_brought(victim):
    victim.receive(StreamVerb.DATA, 1, memoryview(data(0)), 0.0)
    with pytest.raises(MalformedFrame, match="ends before"):
        victim.receive(StreamVerb.LAST, 1, memoryview(data(0, 9)), 0.0)


def test_who_opens_and_leaves_without_end_makes_nothing_grow(victim):
    for number in range(1, 20_001, 2):
        victim.receive(StreamVerb.OPEN, number, memoryview(b"echo"), 0.0)
        victim.receive(StreamVerb.RESET, number, memoryview(b"no"), 0.0)
        victim.check()
    assert len(victim.numbers()) == 1
    for number in range(1, 20_001, 2):
        victim.receive(StreamVerb.DATA, number, memoryview(data(0)), 0.0)
        victim.check()


def test_a_piece_keeps_no_record_alive_that_is_much_larger_than_itself(victim):
    record = memoryview(bytes(65_536))
    for number in range(12):
        piece = bytearray(struct.pack(">Q", number * 5000)) + bytes(5000)
        padded = memoryview(bytes(piece) + bytes(60_000))[: len(piece)]
        victim.receive(StreamVerb.DATA, 1, padded, 0.0)
    kept = victim._streams[1].receive._chunks
    assert all(isinstance(each, bytearray) for each in kept)
    assert len(record) == 65_536


def test_old_answers_change_nothing(victim):
    before = victim.held(0)
    victim.receive(StreamVerb.ACK, 0, memoryview(answer(5, 50)), 0.0)
    assert victim.held(0) == before

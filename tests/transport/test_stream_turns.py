"""Which stream sends next: orders before bytes, and streams in turns."""

from atoll.transport.stream_frames import StreamVerb, text_frame
from atoll.transport.stream_halves import SendHalf
from atoll.transport.stream_turns import DATA_BYTES_MIN, StreamTurns

ROOM = 1024


def ready(turns, *streams):
    """Streams with more to send than a record holds."""
    halves = {}
    for stream in streams:
        halves[stream] = half = SendHalf(1 << 20)
        half.write(bytes([stream]) * 5000)
        turns.may_send(stream, half)
    return halves


def taken(turns, halves, room=ROOM):
    return b"".join(turns.take(room, lambda _, stream: f"service {stream}", halves.__getitem__))


def test_orders_go_before_bytes_and_in_the_order_of_their_streams():
    turns = StreamTurns()
    halves = ready(turns, 2)
    turns.order(StreamVerb.RESET, 4)
    turns.order(StreamVerb.OPEN, 2)
    first = text_frame(StreamVerb.OPEN, 2, "service 2") + text_frame(StreamVerb.RESET, 4, "service 4")
    assert taken(turns, halves).startswith(first)
    assert not turns.is_ordered(2)


def test_an_order_that_does_not_fit_holds_back_all_bytes():
    turns = StreamTurns()
    halves = ready(turns, 2)
    turns.order(StreamVerb.OPEN, 2)
    assert taken(turns, halves, room=len(text_frame(StreamVerb.OPEN, 2, "service 2")) - 1) == b""
    assert turns.is_ordered(2)


def test_streams_take_turns_record_by_record():
    turns = StreamTurns()
    halves = ready(turns, 2, 4, 6)
    sent = [taken(turns, halves)[-1] for _ in range(6)]
    assert sent == [2, 4, 6, 2, 4, 6]


def test_what_is_forgotten_taken_back_or_done_has_no_turn():
    turns = StreamTurns()
    halves = ready(turns, 2, 4)
    turns.order(StreamVerb.OPEN, 2, 6)
    turns.forget(2)
    turns.take_back(6)
    assert taken(turns, halves)[-1] == 4
    halves[4].take(ROOM * 100)
    turns.may_send(4, halves[4])
    assert not turns


def test_a_record_with_hardly_any_room_left_is_not_filled_up():
    turns = StreamTurns()
    halves = ready(turns, 2)
    assert taken(turns, halves, room=DATA_BYTES_MIN - 1) == b""
    assert len(taken(turns, halves, room=DATA_BYTES_MIN)) == DATA_BYTES_MIN

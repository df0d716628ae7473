"""Byte streams of a session: whatever is lost, late or doubled, the bytes that are read are those that were written."""

import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_ends import ROOM, Ends

from atoll.transport.errors import Congested, UsageError
from atoll.transport.stream_answers import ANSWER_S
from atoll.transport.stream_credit import FIRST_WINDOW_BYTES, STREAMS_MAX
from atoll.transport.stream_events import Readable, StreamClosed, StreamOpened, Writable
from atoll.transport.stream_frames import StreamVerb
from atoll.transport.streams import UNACKNOWLEDGED_BYTES

ACTIONS = ("open", "write", "write", "write", "read", "read", "finish", "pull", "deliver", "deliver", "late", "twice")
LOSSES = ("drop", "lose all", "resend", "probe", "wait")
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS + LOSSES), st.integers(0, 1), st.integers(0, 5000)), max_size=120)


class Users:
    """Who writes and reads at both ends, and what."""

    def __init__(self, kind=None):
        self.world = Ends() if kind is None else Ends(kind)
        self.said, self.heard, self.finished = {}, {}, set()
        self.marks = [None, None]

    def step(self, action, who, number):
        world, end = self.world, self.world.ends[who]
        known = [stream for stream in end.numbers() if stream in self.said or self.note(stream)]
        stream = known[number % len(known)] if known else None
        if action == "open":
            if len(self.said) < 6:
                self.note(end.open("echo"))
        elif action == "write" and stream is not None and (who, stream) not in self.finished:
            data = bytes((number + each) % 251 for each in range(number))
            taken = end.write(stream, data)
            self.said[stream][who] += data[:taken]
        elif action == "read" and stream is not None:
            self.read(who, stream, 1 + number)
        elif action == "finish" and stream is not None:
            end.finish(stream)
            self.finished.add((who, stream))
        elif action == "pull":
            world.pull(who)
        elif action in ("deliver", "late", "twice"):
            world.deliver(who, number if action == "late" else 0, keep=action == "twice")
        elif action == "drop" and world.records[who]:
            world.records[who].pop(number % len(world.records[who]))
        elif action == "lose all":
            world.records[who].clear()
        elif action == "resend":
            end.resend()
        elif action == "probe":
            # A probe right behind what was sent, and its echo: what is not acknowledged by then is lost.
            end.mark()
            world.ends[1 - who].answer_all()
            end.echoed()
        elif action == "wait":
            world.now += 0.1
            end.tick(world.now)

    def note(self, stream):
        self.said.setdefault(stream, [bytearray(), bytearray()])
        self.heard.setdefault(stream, [bytearray(), bytearray()])
        return True

    def read(self, who, stream, bytes_max):
        end = self.world.ends[who]
        piece = end.read(stream, bytes_max)
        self.heard[stream][who] += piece
        if end.at_end(stream):
            self.world.events[who] += end.settle(stream)
        return len(piece)

    def compare(self):
        for stream, (first, second) in self.heard.items():
            assert self.said[stream][1].startswith(first)
            assert self.said[stream][0].startswith(second)

    def settle(self):
        """Stop losing, finish everything, and read it to the end."""
        for _ in range(200):
            for who, end in enumerate(self.world.ends):
                end.resend()
                for stream in end.numbers():
                    self.note(stream)
                    end.finish(stream)
                    self.finished.add((who, stream))
            self.world.carry()
            for who, end in enumerate(self.world.ends):
                for stream in end.numbers():
                    while stream in end.numbers() and self.read(who, stream, 1 << 20):
                        pass
            if not any(end.numbers() for end in self.world.ends):
                return
        raise AssertionError("streams are never over")


@settings(max_examples=examples(300))
@given(STEPS)
def test_any_loss_order_and_repetition_leaves_the_bytes_as_they_were_written(steps):
    users = Users()
    for step in steps:
        users.step(*step)
        users.compare()
    users.settle()
    for stream, (first, second) in users.heard.items():
        assert (first, second) == (users.said[stream][1], users.said[stream][0])
    for who, events in enumerate(users.world.events):
        closed = [event for event in events if isinstance(event, StreamClosed)]
        assert sorted(closed, key=lambda each: each.stream) == [StreamClosed(each) for each in sorted(users.said)], who


def test_a_stream_is_opened_filled_answered_and_forgotten():
    world = Ends()
    stream = world.ends[0].open("echo")
    assert world.ends[0].write(stream, b"question") == 8
    world.ends[0].finish(stream)
    world.carry()
    assert world.events[1] == [StreamOpened(stream, "echo"), Readable(stream)]
    assert world.read_all(1, stream) == b"question"
    assert world.ends[1].at_end(stream)
    assert world.ends[1].settle(stream) == [], "its own direction is open still"
    world.ends[1].write(stream, b"answer")
    world.ends[1].finish(stream)
    world.carry()
    assert world.read_all(0, stream) == b"answer"
    assert world.ends[0].settle(stream) == [StreamClosed(stream)]
    assert world.events[1][-1] == StreamClosed(stream)
    assert world.ends[0].numbers() == world.ends[1].numbers() == []


def test_each_end_has_numbers_of_its_own_and_none_comes_back():
    world = Ends()
    assert [world.ends[0].open("a"), world.ends[0].open("b"), world.ends[1].open("c")] == [0, 2, 1]
    world.ends[0].reset(0, "no")
    world.carry()
    assert world.ends[0].open("d") == 4


def test_nothing_is_sent_beyond_the_credit_and_reading_gives_more():
    world, stream = Ends(), 0
    world.opened()
    data = bytes(range(256)) * 1024
    assert world.ends[0].write(stream, data) == len(data)
    world.carry()
    assert world.ends[1].held(stream) == (0, FIRST_WINDOW_BYTES)
    assert world.ends[0].unacknowledged, "it waits for credit, and must go on asking"
    heard = bytearray()
    while piece := world.read_all(1, stream):
        heard += piece
        world.carry()
    assert heard == data
    assert not world.ends[0].unacknowledged


def test_a_writer_waits_when_too_much_is_unacknowledged_and_is_told_to_go_on():
    world, stream = Ends(), 0
    world.opened()
    taken = world.ends[0].write(stream, bytes(UNACKNOWLEDGED_BYTES + 1))
    assert taken == UNACKNOWLEDGED_BYTES
    assert world.ends[0].write(stream, b"more") == 0
    world.carry()
    assert Writable(stream) in world.events[0]


def test_all_windows_together_fit_into_the_buffer_and_every_stream_has_its_first():
    world = Ends()
    own = [world.ends[0].open("echo") for _ in range(STREAMS_MAX)]
    world.carry()
    for stream in own:
        world.ends[0].write(stream, bytes(FIRST_WINDOW_BYTES))
    world.carry()
    for stream in own:
        assert len(world.read_all(1, stream)) == FIRST_WINDOW_BYTES
        world.ends[1].check()
    world.carry()
    for stream in own:
        assert world.ends[0].write(stream, bytes(FIRST_WINDOW_BYTES)) == FIRST_WINDOW_BYTES
    world.carry()
    # Less than a quarter of a window may be read and not lent again yet.
    assert all(world.ends[1].held(stream)[1] > FIRST_WINDOW_BYTES * 3 // 4 for stream in own)


def test_too_many_streams_are_refused_here_and_wait_there():
    world = Ends()
    for _ in range(STREAMS_MAX):
        world.ends[0].open("echo")
    with pytest.raises(Congested, match="64 streams"):
        world.ends[0].open("echo")
    world.carry()
    # An end that forgets its own limit is made to wait: what it opens is taken for lost.
    world.ends[0]._streams.pop(0)
    late = world.ends[0].open("echo")
    world.carry()
    assert StreamOpened(late, "echo") not in world.events[1]
    world.ends[1].reset(0, "make room")
    world.ends[0].resend()
    world.carry()
    world.ends[0].resend()
    world.carry()
    assert StreamOpened(late, "echo") in world.events[1]


def test_a_reset_drops_everything_on_both_sides_and_gives_the_reason():
    world, stream = Ends(), 0
    world.opened()
    world.ends[0].write(stream, bytes(5000))
    world.pull(0)
    world.ends[1].reset(stream, "no such service")
    world.carry()
    assert world.events[0][-1] == StreamClosed(stream, "no such service")
    assert not world.ends[1].unacknowledged
    with pytest.raises(UsageError, match="not open"):
        world.ends[0].write(stream, b"more")


def test_a_reset_that_is_lost_comes_again_and_one_whose_open_was_lost_takes_its_place():
    world = Ends()
    first, second = world.ends[0].open("echo"), world.ends[0].open("echo")
    world.pull(0)
    world.lose_all()
    world.ends[0].reset(first, "changed its mind")
    world.pull(0)
    world.lose_all()
    assert world.ends[0].unacknowledged
    world.ends[0].resend()
    world.carry()
    assert world.events[1] == [StreamOpened(second, "echo")]
    assert not world.ends[0].unacknowledged
    third = world.ends[0].open("echo")
    world.carry()
    assert StreamOpened(third, "echo") in world.events[1]


def test_a_lost_piece_is_asked_for_once_and_what_follows_it_is_not_kept():
    world, stream = Ends(), 0
    world.opened()
    world.ends[0].write(stream, bytes(5 * ROOM))
    world.pull(0)
    world.records[0].pop(1)
    while world.records[0]:
        world.deliver(0)
    assert world.ends[1].held(stream)[1] < ROOM
    world.carry()
    assert world.ends[0].counts["gaps"] == 1
    assert len(world.read_all(1, stream)) == 5 * ROOM


def test_an_echo_shows_that_the_last_piece_was_lost():
    world, stream = Ends(), 0
    world.opened()
    world.ends[0].write(stream, b"the end")
    world.ends[0].finish(stream)
    world.pull(0)
    world.lose_all()
    world.ends[0].mark()
    world.ends[1].answer_all()
    world.carry()
    assert world.read_all(1, stream) == b""
    assert world.ends[0].echoed() == 1
    world.carry()
    assert world.read_all(1, stream) == b"the end"


def test_what_came_is_acknowledged_after_a_moment_at_the_latest():
    world, stream = Ends(), 0
    world.opened()
    world.ends[0].write(stream, b"x")
    world.pull(0)
    world.deliver(0)
    assert world.ends[1].deadline == pytest.approx(world.now + ANSWER_S)
    assert not world.ends[1].answering
    world.ends[1].tick(world.ends[1].deadline)
    assert world.ends[1].answering
    assert world.ends[1].deadline is None


def test_many_small_pieces_cost_little_more_than_their_bytes():
    world, stream = Ends(), 0
    world.opened()
    for _ in range(20_000):
        world.ends[0].write(stream, b"abc")
        world.now += 0.001
        for who in (0, 1):
            world.ends[who].tick(world.now)
            world.pull(who)
            world.deliver(who)
    assert len(world.ends[1]._streams[stream].receive._chunks) == 1
    assert world.read_all(1, stream) == b"abc" * 20_000


def test_a_stream_in_too_many_pieces_takes_no_more():
    world, stream = Ends(), 0
    world.opened()
    for _ in range(FIRST_WINDOW_BYTES):
        world.ends[0].write(stream, b"x")
        world.pull(0)
        if world.ends[0]._streams[stream].blocked:
            break
    assert len(world.ends[0]._streams[stream].send._chunks) == 4096
    world.carry()
    assert Writable(stream) in world.events[0]


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_a_service_has_a_name_that_fits(name):
    with pytest.raises(UsageError, match="1 to 200"):
        Ends().ends[0].open(name)


def test_behind_the_end_of_a_stream_nothing_is_written():
    world = Ends()
    stream = world.ends[0].open("echo")
    world.ends[0].finish(stream)
    with pytest.raises(UsageError, match="finished"):
        world.ends[0].write(stream, b"more")


def test_streams_take_turns():
    world = Ends()
    first, second = world.opened(), world.opened()
    for stream in (first, second):
        world.ends[0].write(stream, bytes(10 * ROOM))
    world.pull(0)
    turns = [int.from_bytes(record[2:6], "big") for record in world.records[0]]
    assert turns[:4] == [first, second, first, second]


def test_an_unknown_verb_is_skipped_and_counted():
    world = Ends()
    assert world.ends[1].receive(99, 0, memoryview(b""), 0.0) == []
    assert world.ends[1].counts["unknown_verb"] == 1
    assert max(StreamVerb) < 99

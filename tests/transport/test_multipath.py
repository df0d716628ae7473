"""Streams over paths: what goes into which record, and what a change of path does to it."""

import pytest

from atoll.transport.errors import MalformedFrame
from atoll.transport.fragments import Channel, frames_of
from atoll.transport.multipath import Multipath, Via
from atoll.transport.path_set import Rank, Switched
from atoll.transport.stream_credit import FIRST_WINDOW_BYTES
from atoll.transport.stream_events import StreamOpened
from atoll.transport.stream_frames import PathVerb, StreamVerb

ROOM = 4096
VIAS = {0: Via(Rank.BEARER, "relay-1"), 2: Via(Rank.SIGNALING, "relay-2"), 4: Via(Rank.BEARER, "relay-3")}


class Both:
    """Two ends, and the paths between them that are whole."""

    def __init__(self):
        self.now, self.whole = 0.0, {0, 2}
        self.ends = [Multipath(initiator=True), Multipath(initiator=False)]
        self.events = [[], []]
        for number in (0, 2):
            via = VIAS[number]
            assert self.ends[0].paths.add(via.rank, via.name, 0.0) == number
        self.run(1.0)

    def turn(self, who, records_max=100):
        self.events[who] += self.ends[who].tick(self.now)
        records = self.ends[who].outgoing(ROOM, self.now, records_max)
        said = []
        for path, parts in records:
            record = b"".join(parts)
            assert len(record) <= ROOM
            for frame in frames_of(record):
                said.append((path, Channel(frame[0]), frame[1]))
                if path in self.whole:
                    self.events[1 - who] += self.ends[1 - who].receive(frame, path, VIAS[path], self.now)
        return said

    def run(self, seconds):
        said = []
        until = self.now + seconds
        while self.now < until:
            self.now += 0.02
            for who in (0, 1):
                said += [(who, *each) for each in self.turn(who)]
        return said


def test_both_ends_use_the_bearer_and_bytes_go_over_it_alone():
    both = Both()
    assert [end.paths.current for end in both.ends] == [0, 0]
    stream = both.ends[0].streams.open("echo")
    both.ends[0].streams.write(stream, bytes(20_000))
    said = both.run(0.2)
    assert StreamOpened(stream, "echo") in both.events[1]
    assert {path for _, path, channel, _ in said if channel is Channel.STREAMS} == {0}
    assert both.ends[1].streams.held(stream) == (0, 20_000)


def test_a_path_is_opened_with_how_far_the_bytes_have_come():
    both = Both()
    stream = both.ends[1].streams.open("echo")
    both.ends[1].streams.write(stream, bytes(1000))
    both.run(0.2)
    both.ends[0].path_lost(2, "reset", both.now)
    both.ends[0].paths.add(Rank.SIGNALING, "relay-3", both.now)
    (path, parts), (_, gone) = both.ends[0].outgoing(ROOM, both.now)
    assert [(each[1], bytes(each[4])) for each in frames_of(b"".join(gone))] == [(PathVerb.GONE, b"\0\0\0\2")]
    opening = next(frame for frame in frames_of(b"".join(parts)) if frame[1] == PathVerb.OPEN)
    assert path == 4
    assert bytes(opening[4]) == bytes.fromhex("0000000100000000000003e8")


def test_a_silent_path_is_left_and_what_it_swallowed_comes_over_the_next():
    both = Both()
    stream = both.ends[0].streams.open("echo")
    both.run(0.2)
    both.whole = {2}
    both.ends[0].streams.write(stream, b"question")
    both.run(1.3)
    assert [end.paths.current for end in both.ends] == [2, 2], "the other follows"
    assert bytes(both.ends[1].streams.read(stream, 100)) == b"question"
    assert [each for each in both.events[0] if isinstance(each, Switched)][-1].path == 2


def test_a_full_path_gets_probes_and_answers_but_no_bytes():
    both = Both()
    stream = both.ends[0].streams.open("echo")
    both.run(0.2)
    both.ends[0].streams.write(stream, bytes(1000))
    both.now += 0.1
    assert both.turn(0, records_max=0) == []
    both.now += 0.3
    assert [(channel, verb) for _, channel, verb in both.turn(0, records_max=0)] == [(Channel.PATHS, PathVerb.PROBE)]


def test_what_is_given_at_once_is_bounded():
    both = Both()
    stream = both.ends[0].streams.open("echo")
    both.ends[0].streams.write(stream, bytes(FIRST_WINDOW_BYTES))
    records = both.ends[0].outgoing(ROOM, both.now)
    assert len(records) == 16
    assert both.ends[0].streams.sending


def test_an_echo_stands_behind_the_answers_for_what_came_before_it():
    both = Both()
    stream = both.ends[0].streams.open("echo")
    both.run(0.2)
    both.ends[0].streams.write(stream, b"x")
    both.turn(0)
    both.now += 0.3
    both.turn(0)
    said = [(channel, verb) for _, channel, verb in both.turn(1)]
    assert said.index((Channel.STREAMS, StreamVerb.ACK)) < said.index((Channel.PATHS, PathVerb.ECHO))


def test_without_a_path_everything_waits_for_the_next():
    both = Both()
    stream = both.ends[0].streams.open("echo")
    both.run(0.1)
    for path in (0, 2):
        for who in (0, 1):
            both.events[who] += both.ends[who].path_lost(path, "reset", both.now)
    both.ends[0].streams.write(stream, b"patience")
    assert both.run(2.0) == []
    both.whole.add(both.ends[0].paths.add(Rank.BEARER, "relay-1", both.now))
    both.run(0.2)
    assert bytes(both.ends[1].streams.read(stream, 100)) == b"patience"


def test_a_frame_about_another_path_than_its_own_is_a_breach():
    both = Both()
    probe = (Channel.PATHS, PathVerb.PROBE, 2, 0, memoryview(bytes(4)))
    with pytest.raises(MalformedFrame, match="came over path 0"):
        both.ends[0].receive(probe, 0, VIAS[0], both.now)

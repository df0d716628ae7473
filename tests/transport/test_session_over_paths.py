"""One session over several paths: where its records go, what waits, and what a path that is slow or lost brings."""

import pytest
from session_pair import Pair

from atoll.transport.multipath import Via
from atoll.transport.path_set import IDLE_PROBE_S, PROBE_S, SILENCE_S, PathFrame, PathGivenUp, Rank, Switched
from atoll.transport.session import IDLE_S
from atoll.transport.session_events import MessageArrived, State
from atoll.transport.stream_events import PathOpened, Readable, StreamOpened
from atoll.transport.stream_frames import PathVerb

BEARER, SIGNALING = Via(Rank.BEARER, "relay-1"), Via(Rank.SIGNALING, "relay-2")


class Ways(Pair):
    """A session between two ends, and two connections between them: 0 and 2 at the caller."""

    def __init__(self):
        super().__init__()
        self.carry()
        self.vias = {0: BEARER, 2: SIGNALING, None: SIGNALING}
        self.dead, self.late, self.sent = set(), [], []
        for via in (BEARER, SIGNALING):
            self.caller.add_path(via.rank, via.name, self.now)
        self.pump()

    def pump(self):
        """Carry what there is, over the paths that are whole."""
        for _ in range(100):
            moved = False
            for sender, receiver in ((self.caller, self.callee), (self.callee, self.caller)):
                for path, record in sender.outgoing(self.now):
                    moved = True
                    self.sent.append((sender, path))
                    if path not in self.dead:
                        self.take(receiver, path, record)
            if not moved:
                return self
        raise AssertionError("the two ends never come to rest")

    def take(self, receiver, path, record):
        self.events[receiver] += receiver.receive(record, self.now, self.vias[path])

    def run(self, seconds):
        until = self.now + seconds
        while self.now < until:
            self.now += 0.05
            for end in (self.caller, self.callee):
                self.events[end] += end.tick(self.now)
            self.pump()
        return self

    def used(self, end):
        return {path for sender, path in self.sent if sender is end}


@pytest.fixture
def ways():
    return Ways()


def test_both_ends_learn_the_paths_and_use_the_better_one_for_calls(ways):
    assert (ways.caller.paths.current, ways.callee.paths.current) == (0, 0)
    assert [event for event in ways.events[ways.callee] if isinstance(event, PathOpened)] == [
        PathOpened(0),
        PathOpened(2),
    ]
    ways.sent.clear()
    ways.caller.send(b"question")
    ways.pump()
    ways.callee.send(b"answer")
    ways.pump()
    assert (ways.messages(ways.callee), ways.messages(ways.caller)) == ([b"question"], [b"answer"])
    assert ways.used(ways.caller) == ways.used(ways.callee) == {0}


def test_before_a_path_is_in_use_records_go_everywhere_and_count_once():
    pair = Pair().carry()
    pair.caller.send(b"early")
    ((path, record),) = pair.caller.outgoing(pair.now)
    assert path is None
    for via in (BEARER, SIGNALING):
        pair.events[pair.callee] += pair.callee.receive(record, pair.now, via)
    assert pair.messages(pair.callee) == [b"early"]
    assert pair.callee.statistics()["replayed"] == 1


def test_a_copy_that_went_everywhere_makes_no_later_record_of_a_path_a_replayed_one(ways):
    for number in (0, 2):
        ways.caller.path_lost(number, "reset", ways.now)
    ways.caller.add_path(BEARER.rank, BEARER.name, ways.now)
    ways.caller.send(b"everywhere")
    records = ways.caller.outgoing(ways.now)
    assert {path for path, _ in records} == {None, 4}
    for _, record in sorted(records, key=lambda each: each[0] is not None):
        ways.take(ways.callee, None, record)
    assert ways.callee.statistics()["replayed"] == 0
    assert ways.callee.paths.get(4) is not None


def test_a_call_that_the_slower_path_brings_late_is_not_lost(ways):
    ways.caller.send(b"first")
    late = ways.caller.outgoing(ways.now)
    ways.events[ways.caller] += ways.caller.path_lost(0, "reset", ways.now)
    ways.caller.send(b"second")
    ways.pump()
    for path, record in late:
        ways.take(ways.callee, path, record)
    assert ways.messages(ways.callee) == [b"second", b"first"]
    assert ways.callee.statistics()["messages_lost"] == 0


def test_a_message_that_was_cut_when_its_path_was_lost_comes_whole_over_the_next(ways):
    long = bytes(range(256)) * 1000
    ways.caller.send(long)
    ways.caller._outbox.take(10_000, 0)
    ways.events[ways.caller] += ways.caller.path_lost(0, "reset", ways.now)
    ways.pump()
    assert ways.messages(ways.callee) == [long]


def test_a_call_waits_for_a_sign_of_life_and_leaves_a_path_that_gives_none(ways):
    ways.dead = {0}
    ways.run(IDLE_PROBE_S / 2)
    assert ways.caller.paths.current == 0, "nobody waits for anything"
    ways.caller.send(b"question")
    ways.run(SILENCE_S + 2 * PROBE_S)
    switched = [event for event in ways.events[ways.caller] if isinstance(event, Switched)][-1]
    assert (switched.path, switched.lost) == (2, True)
    assert "nothing came back through relay-1 for 1 s" in switched.reason
    ways.caller.send(b"once more")
    ways.pump()
    ways.callee.send(b"answer")
    ways.run(0.1)
    assert ways.messages(ways.callee) == [b"once more"]
    assert ways.messages(ways.caller) == [b"answer"], "the answer follows the question"


def test_a_call_that_is_answered_late_costs_one_probe_and_no_path(ways):
    ways.caller.send(b"a long question")
    ways.run(0.01).sent.clear()
    ways.run(5.0)
    assert ways.caller.paths.current == 0
    assert len([1 for sender, path in ways.sent if sender is ways.caller and path == 0]) == 1


def test_who_loses_a_path_says_so_and_the_other_end_answers_over_the_next(ways):
    ways.dead = {0}
    ways.events[ways.caller] += ways.caller.path_lost(0, "reset", ways.now)
    ways.caller.send(b"question")
    ways.pump()
    ways.callee.send(b"answer")
    ways.pump()
    assert ways.messages(ways.caller) == [b"answer"], "though nothing told the callee but its peer"
    assert PathGivenUp(0, "the peer has lost relay-1") in ways.events[ways.callee]


def test_a_number_that_the_peer_gives_to_another_connection_is_a_new_path(ways):
    before = ways.callee.paths.get(0)
    other = Via(Rank.SIGNALING, "relay-3")
    ways.caller.paths._frames.append(PathFrame(0, PathVerb.OPEN))
    for _path, record in ways.caller.outgoing(ways.now):
        ways.events[ways.callee] += ways.callee.receive(record, ways.now, other)
    assert ways.callee.paths.get(0) is not before
    assert ways.callee.paths.get(0).name == "relay-3"
    assert any(isinstance(event, Switched) for event in ways.events[ways.callee])


def test_calls_go_before_bytes_and_wait_with_them_while_the_path_is_full(ways):
    stream = ways.caller.streams.open("echo")
    ways.pump()
    ways.caller.streams.write(stream, bytes(60_000))
    ways.caller.send(b"urgent")
    ways.caller.paths._send_probe(ways.caller.paths.get(0), ways.now)
    assert len(ways.caller.outgoing(ways.now, full=True)) == 1, "signs of life only"
    assert ways.caller.waits_to_send
    for path, record in ways.caller.outgoing(ways.now):
        ways.take(ways.callee, path, record)
    kinds = [type(event) for event in ways.events[ways.callee]]
    assert kinds.index(StreamOpened) < kinds.index(MessageArrived) < kinds.index(Readable)
    assert not ways.caller.waits_to_send


def test_a_session_that_nobody_uses_ends_though_its_paths_are_alive_and_one_with_a_stream_does_not(ways):
    idle = Ways()
    ways.caller.streams.open("echo")
    for each in (ways, idle):
        each.run(IDLE_S + 1)
    assert ways.caller.state is State.OPEN
    assert idle.caller.state is State.CLOSED
    assert "nobody has used it for 300 s" in idle.events[idle.caller][-1].reason


def test_records_are_no_longer_than_the_narrowest_path_takes(ways):
    ways.caller.narrow(2000)
    ways.caller.narrow(60_000)
    ways.caller.send(bytes(100_000))
    assert max(len(record) for _, record in ways.caller.outgoing(ways.now)) == 2000

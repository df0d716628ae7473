"""Which path a session uses: proved before it is used, left when it is silent, and always for a reason."""

import pytest

from atoll.transport import path_set as limits
from atoll.transport.errors import Congested, MalformedFrame
from atoll.transport.path_set import Condition, PathFrame, PathGivenUp, PathSet, Rank, Switched
from atoll.transport.stream_frames import PathVerb


class Paths:
    """One end, and what it has said; `alive` paths answer every probe after 10 ms."""

    def __init__(self, *, initiator=True):
        self.now = 100.0
        self.set = PathSet(initiator)
        self.alive, self.events, self.said = set(), [], []
        self.waiting = self.listens = False

    def open(self, rank, name):
        number = self.set.add(rank, name, self.now)
        self.alive.add(number)
        return number

    def run(self, seconds):
        until = self.now + seconds
        while self.now < until:
            self.now += 0.01
            due = self.set.deadline is not None and self.now >= self.set.deadline
            if due or self.waiting or self.set.listens != self.listens:
                self.events += self.set.tick(self.now, waiting=self.waiting, listens=self.listens)
            frames = self.set.outgoing()
            self.said += [(round(self.now, 2), each) for each in frames]
            self.now += 0.01
            for each in frames:
                if each.verb is PathVerb.PROBE and each.path in self.alive:
                    self.events += self.set.echoed(each.path, each.probe, self.now)[1]
            self.set.check()
        return self

    def probes(self, number):
        return [at for at, each in self.said if each.path == number and each.verb is PathVerb.PROBE]

    def conditions(self):
        return {each.number: each.condition for each in self.set.all()}


@pytest.fixture
def two():
    """A session with a bearer (0) in use and a path over signaling (2)."""
    paths = Paths()
    assert paths.open(Rank.BEARER, "relay-1") == 0
    assert paths.open(Rank.SIGNALING, "relay-2") == 2
    paths.run(0.1)
    assert paths.set.current == 0
    return paths


def test_a_path_is_used_once_it_has_answered_and_no_sooner():
    paths = Paths()
    number = paths.open(Rank.BEARER, "relay-1")
    paths.alive.clear()
    assert paths.run(1.0).set.current is None
    paths.alive.add(number)
    assert paths.run(0.5).events == [Switched(number, "relay-1 answers")]
    assert paths.set.all()[0].round_trip_s == pytest.approx(0.01)


def test_an_opened_answer_is_enough():
    paths = Paths()
    number = paths.open(Rank.BEARER, "relay-1")
    assert paths.set.answered(number, paths.now) == [Switched(number, "relay-1 answers")]
    assert paths.set.answered(number, paths.now) == []


def test_a_path_that_does_not_open_is_asked_again_and_given_up():
    paths = Paths()
    number = paths.open(Rank.BEARER, "relay-1")
    paths.alive.clear()
    paths.run(limits.OPENING_S + limits.PROBE_S)
    assert sum(each.verb is PathVerb.OPEN for _, each in paths.said) > 30
    assert paths.events == [PathGivenUp(number, "relay-1 did not open within 10 s")]


def test_nothing_is_probed_often_while_nothing_waits(two):
    two.said.clear()
    two.run(limits.IDLE_PROBE_S + 1.0)
    assert len(two.probes(0)) == len(two.probes(2)) == 1


def test_the_path_in_use_is_probed_four_times_a_second_while_bytes_wait(two):
    two.said.clear()
    two.waiting = True
    two.run(1.0)
    assert 3 <= len(two.probes(0)) <= 4
    two.set.progressed(0, two.now)
    two.run(1.0)
    assert 7 <= len(two.probes(0)) <= 8, "an acknowledgement puts no probe off"


def test_a_silent_path_is_left_after_a_second_for_one_that_is_alive(two):
    two.alive = {2}
    two.waiting = True
    begun = two.now
    while two.set.current == 0:
        two.run(0.02)
    assert 1.0 <= two.now - begun <= 1.1
    assert two.events[-1] == Switched(2, "relay-2, because nothing came back through relay-1 for 1 s")
    assert two.set.reason == two.events[-1].reason
    assert two.conditions() == {0: Condition.SILENT, 2: Condition.USABLE}


def test_silence_is_nothing_to_somebody_who_waits_for_nothing(two):
    two.alive = {2}
    two.run(15.0)
    assert two.set.current == 0


def test_of_two_paths_the_one_that_is_alive_is_taken_whatever_its_kind(two):
    second = two.open(Rank.BEARER, "relay-3")
    two.run(0.5)
    two.alive, two.waiting = {2}, True
    two.run(1.2)
    assert (two.set.current, second in two.conditions()) == (2, True)


def test_a_path_that_answers_again_is_trusted_after_a_while(two):
    two.alive, two.waiting = {2}, True
    two.run(1.5)
    two.alive = {0, 2}
    begun = two.now
    two.run(limits.TRUST_S - 0.5)
    assert two.set.current == 2
    while two.set.current == 2:
        two.run(0.02)
        assert two.now - begun < limits.TRUST_S + 2 * limits.SILENT_PROBE_S
    assert two.events[-1].reason == "relay-1: a bearer path is better"


def test_when_all_are_silent_the_first_that_answers_is_taken(two):
    two.alive, two.waiting = set(), True
    two.run(5.0)
    assert set(two.conditions().values()) == {Condition.SILENT}
    two.alive = {2}
    two.run(1.2)
    assert two.set.current == 2


def test_a_lost_path_is_left_at_once_and_without_another_there_is_none(two):
    assert two.set.lost(0, "reset", two.now) == [Switched(2, "relay-2, because relay-1 was lost: reset")]
    assert two.set.lost(2, "reset", two.now) == [Switched(None, "relay-2 was lost: reset")]
    assert two.set.current is None
    assert two.set.lost(2, "reset", two.now) == []
    number = two.open(Rank.SIGNALING, "relay-2")
    two.run(0.1)
    assert (number, two.set.current) == (4, 4), "a number that was never used goes before one that is free again"
    for expected in (6, 10, 12, 14, 0, 2, 4):
        two.set.lost(number, "reset", two.now)
        number = two.open(Rank.SIGNALING, "relay-2")
        assert number == expected


def test_the_peer_is_followed_when_our_path_shows_no_sign(two):
    two.run(1.0)
    assert two.set.bytes_came(2, two.now) == [Switched(2, "relay-2: the peer has left relay-1")]
    two.run(1.0)
    assert two.set.current == 2, "and not back again at once"


def test_the_peer_is_not_followed_away_from_a_path_that_answers(two):
    two.waiting = True
    two.run(1.0)
    assert two.set.bytes_came(2, two.now) == []
    assert two.set.bytes_came(0, two.now) == []
    assert two.set.bytes_came(7, two.now) == []


def test_probes_are_echoed_over_their_own_path(two):
    two.set.probed(2, 77)
    two.set.probed(5, 78)
    assert two.set.outgoing() == [PathFrame(2, PathVerb.ECHO, 77)]


def test_who_probes_without_end_is_answered_so_often_and_no_more(two):
    for probe in range(10_000):
        two.set.probed(0, probe)
    for _ in range(100):
        two.set.opened(1, Rank.BEARER, "relay-9", two.now)
    assert limits.FRAMES_MAX <= len(two.set.outgoing()) <= limits.FRAMES_MAX + 2
    assert two.set.counts["probes_ignored"] == 10_000 - limits.FRAMES_MAX
    assert two.set.probed(0, 1), "and is answered again"


def test_an_echo_counts_once_and_for_its_path_only(two):
    two.waiting = True
    two.alive.clear()
    two.run(0.5)
    probe = next(each.probe for _, each in two.said if each.verb is PathVerb.PROBE and each.path == 0)
    latest = max(each.probe for _, each in two.said if each.verb is PathVerb.PROBE and each.path == 0)
    assert two.set.echoed(2, latest, two.now)[0] is False
    assert two.set.echoed(0, latest, two.now)[0] is True
    assert two.set.echoed(0, latest, two.now)[0] is False
    assert two.set.echoed(0, probe, two.now)[0] is False, "older ones went with it"
    assert two.set.counts["echoes_late"] == 3


def test_hostile_numbers_are_refused(two):
    with pytest.raises(MalformedFrame, match="never sent"):
        two.set.echoed(0, 10_000, two.now)
    for number in (0, 2, 8, 255):
        with pytest.raises(MalformedFrame, match="not its to open"):
            two.set.opened(number, Rank.BEARER, "relay-9", two.now)


def test_a_path_that_the_peer_opens_is_answered_probed_and_used(two):
    two.set.lost(0, "reset", two.now)
    two.set.opened(1, Rank.BEARER, "relay-9", two.now)
    two.set.opened(1, Rank.BEARER, "relay-9", two.now)
    two.alive.add(1)
    two.run(0.3)
    frames = [each for _, each in two.said if each.path == 1]
    assert [each.verb for each in frames].count(PathVerb.OPENED) == 1
    assert all(each.verb is not PathVerb.OPEN for each in frames)
    assert two.set.current == 1


@pytest.mark.parametrize(("initiator", "numbers"), [(True, [0, 2, 4, 6, 10, 12, 14]), (False, [1, 3, 5, 7, 9, 11, 13])])
def test_an_end_opens_seven_paths_at_most_and_none_that_means_every_connection(initiator, numbers):
    paths = Paths(initiator=initiator)
    assert [paths.open(Rank.BEARER, "relay") for _ in range(7)] == numbers
    with pytest.raises(Congested, match="7 paths"):
        paths.open(Rank.BEARER, "relay")


def test_a_path_that_is_retired_is_left_as_soon_as_another_answers(two):
    fresh = two.open(Rank.BEARER, "relay-3")
    two.run(0.1)
    assert two.set.current == 0, "of two of a kind the one in use stays"
    two.set.retire(0, "the ticket of relay-1 expires", two.now)
    two.set.retire(0, "said twice", two.now)
    two.run(0.1)
    assert two.set.current == fresh
    assert two.set.reason == "relay-3, because the ticket of relay-1 expires"
    (moved,) = [each for each in two.events if isinstance(each, Switched) and each.path == fresh]
    assert not moved.lost
    told = [each for _, each in two.said if each.verb is PathVerb.LEAVING]
    assert told == [PathFrame(0, PathVerb.LEAVING)] or [each.probe for each in told] == [0]
    two.run(30.0)
    assert two.set.current == fresh, "what is left is not gone back to"


def test_a_retired_path_goes_on_while_no_other_answers(two):
    two.alive = {0}
    two.waiting = True
    two.set.retire(0, "its relay is drained", two.now)
    two.run(5.0)
    assert two.set.current == 0
    two.alive = {0, 2}
    two.run(8.0)
    assert two.set.current == 2


def test_a_path_that_the_peer_retires_is_left_and_not_told_back(two):
    assert two.set.peer_retires(0, two.now)
    assert not two.set.peer_retires(0, two.now)
    assert not two.set.peer_retires(7, two.now), "there is no such path"
    two.run(limits.OTHERS_S / 2)
    assert two.set.current == 0, "another bearer may come"
    two.run(limits.OTHERS_S)
    assert two.set.current == 2
    assert not [each for _, each in two.said if each.verb is PathVerb.LEAVING]


def test_a_path_on_its_way_out_is_the_last_that_a_loss_falls_back_on(two):
    second = two.open(Rank.BEARER, "relay-3")
    two.run(0.1)
    two.set.retire(second, "its ticket expires", two.now)
    two.set.lost(0, "reset", two.now)
    assert two.set.current == 2, "though it is of a worse kind"
    two.set.lost(2, "reset", two.now)
    assert two.set.current == second


def test_probes_without_an_answer_are_forgotten_after_a_while(two):
    two.alive, two.waiting = set(), True
    two.run(30.0)
    assert all(len(each.probes) <= limits.PROBES_MAX for each in two.set.all())


def test_who_only_listens_asks_more_often_and_finds_a_dead_peer_soon(two):
    two.run(limits.IDLE_PROBE_S)
    two.listens = True
    began = two.now
    two.run(4 * limits.LISTENING_PROBE_S)
    assert 4 <= len([at for at in two.probes(0) if at > began]) <= 5
    two.alive.clear()
    two.run(limits.LISTENING_PROBE_S + 2 * limits.SILENCE_S + limits.PROBE_S)
    assert two.conditions()[0] is Condition.SILENT


def test_one_lost_sign_of_life_is_no_reason_to_leave(two):
    two.listens = True
    two.run(limits.LISTENING_PROBE_S)
    two.alive.remove(0)
    lost = len(two.probes(0))
    while len(two.probes(0)) == lost:
        two.run(0.02)
    two.alive.add(0)
    two.run(2 * limits.SILENCE_S)
    assert (two.set.current, two.conditions()[0]) == (0, Condition.USABLE)
    assert len(two.probes(0)) - lost <= 3


def test_who_neither_waits_nor_listens_leaves_a_dead_path_alone(two):
    two.alive.clear()
    two.run(2 * limits.IDLE_PROBE_S)
    assert set(two.conditions().values()) == {Condition.USABLE}


def test_a_path_that_takes_the_place_of_a_lost_one_must_show_itself_alive(two):
    two.run(limits.IDLE_PROBE_S / 2)
    two.alive.clear()
    two.set.lost(0, "reset", two.now)
    began = two.now
    two.run(limits.SILENCE_S + 2 * limits.PROBE_S)
    assert two.set.current == 2
    assert two.conditions()[2] is Condition.SILENT
    two.alive.add(2)
    two.run(limits.SILENT_PROBE_S + limits.PROBE_S)
    assert two.conditions()[2] is Condition.USABLE
    proved = two.now
    two.run(limits.IDLE_PROBE_S / 2)
    assert not [at for at in two.probes(2) if at > proved + limits.PROBE_S]
    assert len([at for at in two.probes(2) if at > began]) > 2


def test_where_none_has_answered_lately_one_over_another_relay_is_taken():
    paths = Paths()
    paths.open(Rank.BEARER, "relay-1")
    paths.open(Rank.SIGNALING, "relay-1")
    other = paths.open(Rank.SIGNALING, "relay-2")
    paths.run(0.1)
    # As on a host that stands still while the echoes of all of them come in.
    paths.now += 3.0
    assert paths.set.lost(0, "reset", paths.now) == [Switched(other, "relay-2, because relay-1 was lost: reset")]


def test_one_that_was_taken_without_a_sign_of_life_is_left_for_the_first_that_shows_one(two):
    answers = two.open(Rank.SIGNALING, "relay-3")
    two.run(0.5)
    two.now += 3.0
    two.alive, two.waiting = {answers}, True
    two.set.lost(0, "reset", two.now)
    assert two.set.current == 2
    began = two.now
    while two.set.current == 2:
        two.run(0.02)
    assert limits.OTHERS_S <= two.now - began <= limits.OTHERS_S + 0.2
    assert two.set.current == answers
    assert two.set.reason == "relay-3 answers, and relay-2, which took over, does not"
    assert two.conditions()[2] is Condition.SILENT


def test_one_that_took_over_and_answers_is_not_left(two):
    two.open(Rank.SIGNALING, "relay-3")
    two.run(0.5)
    two.now += 3.0
    two.waiting = True
    two.set.lost(0, "reset", two.now)
    two.run(5.0)
    assert two.set.current == 2

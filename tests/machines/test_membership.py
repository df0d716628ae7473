"""Whom the Discoverer dials, where and when; and who is shown as near."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.actors.discoverer import membership
from atoll.actors.discoverer.membership import (
    CANDIDATES_MAX,
    DIAL_S,
    DIALS_MAX,
    FALLBACK_S,
    LOOK_S,
    MOVED_S,
    NEIGHBOUR_DIALS_MAX,
    NEIGHBOUR_LINKS_MAX,
    PAUSE_S_MAX,
    RING_LINKS,
    SMALL_SITE_MAX,
    STABLE_S,
    Membership,
)
from atoll.actors.discoverer.messages import (
    MESSAGES,
    DialWanted,
    ListSeen,
    NodeLost,
    NodeSeen,
    Seed,
    SeenNode,
    SeenNodes,
    Wanted,
)
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime.machine import Announce, Arm, Received, Reply, TimerFired, Told
from atoll.transport.base import DialFailed, Standing
from atoll.transport.beacon_packet import FORGET_S, Heard
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId

GOLDEN = Path(__file__).parent.parent / "golden" / "discoverer.txt"
PORT = 8085


def node(number):
    return NodeId(number.to_bytes(2, "big") * 16)


LOW, OWN, HIGH = node(1), node(1000), node(2000)
OTHERS = [node(number) for number in range(2001, 2600)]


class Bench:
    """A machine with its one timer, in virtual time."""

    def __init__(self, *, own=OWN, seeds=()):
        self.machine = Membership(own, rng=Random(7), seeds=seeds)
        self.now = 100.0
        self.look_at = None
        self.dials, self.seen, self.lost = [], [], []
        self.sequence = 0
        self._take(self.machine.start([], self.now))

    def _take(self, effects):
        for effect in effects:
            match effect:
                case Arm("look", after):
                    assert after > 0
                    self.look_at = self.now + after
                case Announce(DialWanted() as wanted):
                    self.dials.append((self.now, wanted))
                case Announce(NodeSeen(node=who)):
                    self.seen.append(who)
                case Announce(NodeLost(node=who)):
                    self.lost.append(who)
                case _:
                    pytest.fail(f"{effect} was not expected")
        self.machine.check()

    def tell(self, fact):
        self._take(self.machine.handle(Told(fact), self.now))

    def hear(self, who=HIGH, host="192.0.2.7", *, member=True, boot=1):
        self.sequence += 1
        self.tell(Heard(who, host, PORT, boot, self.sequence, member, "tv", "0.1.0"))

    def up(self, who=HIGH, standing=Standing.MEMBER):
        self.tell(PeerUp(who, standing, "tv", "192.0.2.7"))

    def wait(self, seconds, hearing=()):
        """Let time pass; whoever is in `hearing` (node, host) is heard each second."""
        until, beat = self.now + seconds, self.now + 1.0
        while True:
            at = min(self.look_at, beat if hearing else until, until)
            self.now = at
            if at == self.look_at:
                self._take(self.machine.handle(TimerFired("look"), at))
            if hearing and at == beat:
                beat += 1.0
                for who, host in hearing:
                    self.hear(who, host)
            if at >= until:
                return

    @property
    def dialled(self):
        return [wanted.peer for _, wanted in self.dials]

    def line(self, who=HIGH):
        return next((each for each in self.machine.seen(self.now).nodes if each.node == who), None)


@pytest.fixture
def bench():
    return Bench()


# Whose turn


def test_the_lower_id_dials_at_once_and_once(bench):
    bench.hear(HIGH)
    assert bench.dials == [(bench.now, DialWanted(HIGH, "192.0.2.7", PORT))]
    bench.hear(HIGH)
    assert len(bench.dials) == 1
    bench.up(HIGH)
    bench.wait(60, hearing=[(HIGH, "192.0.2.7")])
    assert len(bench.dials) == 1


def test_the_higher_id_waits_for_the_other_and_says_so(bench):
    bench.hear(LOW)
    assert bench.dials == []
    assert "lower id" in bench.line(LOW).why
    bench.wait(FALLBACK_S - 0.1)
    bench.hear(LOW)
    bench.up(LOW)
    bench.wait(60, hearing=[(LOW, "192.0.2.7")])
    assert bench.dials == []


def test_the_higher_id_dials_when_the_lower_one_is_heard_but_does_not_come(bench):
    bench.hear(LOW)
    bench.wait(FALLBACK_S + 1, hearing=[(LOW, "192.0.2.7")])
    assert bench.dialled == [LOW]


def test_one_beacon_is_not_enough_to_dial_a_lower_id(bench):
    bench.hear(LOW)
    bench.wait(FORGET_S - 1)
    assert bench.dials == []


def test_a_beat_over_two_interfaces_is_one_beat(bench):
    for host in ("192.0.2.7", "192.0.2.8"):
        bench.tell(Heard(LOW, host, PORT, 1, 1, True, "", ""))
    bench.wait(FALLBACK_S * 2)
    assert bench.dials == []


def test_nobody_dials_itself():
    bench = Bench(seeds=[Seed(OWN, "192.0.2.1", PORT)])
    bench.hear(OWN)
    bench.up(OWN)
    bench.wait(30)
    assert (bench.dials, bench.seen) == ([], [])


# Addresses and pauses


def test_of_one_beat_loopback_goes_first_and_link_local_last(bench):
    bench.up(HIGH)
    for host in ("fe80::1%eth0", "192.0.2.7", "127.0.0.1"):
        bench.tell(Heard(HIGH, host, PORT, 1, 1, True, "", ""))
    assert [host for host, _ in bench.line().addresses] == ["127.0.0.1", "192.0.2.7", "fe80::1%eth0"]


def test_the_address_of_the_newest_beat_goes_first(bench):
    bench.up(HIGH)
    bench.hear(HIGH, "127.0.0.1")
    bench.hear(HIGH, "198.51.100.7")
    assert [host for host, _ in bench.line().addresses] == ["198.51.100.7", "127.0.0.1"]


def test_an_address_that_says_nothing_makes_place_for_the_next(bench):
    bench.hear(HIGH, "192.0.2.7")
    bench.hear(HIGH, "192.0.2.8")
    assert [wanted.host for _, wanted in bench.dials] == ["192.0.2.7"]
    bench.wait(DIAL_S + LOOK_S)
    assert [wanted.host for _, wanted in bench.dials] == ["192.0.2.7", "192.0.2.8"]


def test_a_failed_dial_makes_place_for_the_next_address_at_once(bench):
    bench.hear(HIGH, "192.0.2.7")
    bench.hear(HIGH, "192.0.2.8")
    bench.tell(DialFailed(HIGH, "nobody there"))
    assert [wanted.host for _, wanted in bench.dials] == ["192.0.2.7", "192.0.2.8"]
    bench.tell(DialFailed(HIGH, "another key there"))
    bench.wait(0.01)
    assert "another key there" in bench.line().why


def test_a_failure_that_belongs_to_no_dial_changes_nothing(bench):
    bench.tell(DialFailed(HIGH, "?"))
    bench.hear(LOW)
    bench.tell(DialFailed(LOW, "?"))
    assert bench.dials == []


def test_the_pause_between_rounds_grows_and_is_bounded(bench):
    bench.hear(HIGH)
    bench.wait(200, hearing=[(HIGH, "192.0.2.7")])
    gaps = [later - sooner for (sooner, _), (later, _) in zip(bench.dials, bench.dials[1:], strict=False)]
    assert gaps[0] < gaps[3] < 2 * PAUSE_S_MAX
    assert max(gaps) <= DIAL_S + PAUSE_S_MAX + 2 * LOOK_S
    assert min(gaps[5:]) >= PAUSE_S_MAX / 2


def test_a_new_address_cuts_the_pause_short(bench):
    bench.hear(HIGH)
    bench.wait(60, hearing=[(HIGH, "192.0.2.7")])
    before = len(bench.dials)
    moved_at = bench.now
    bench.hear(HIGH, "198.51.100.7")
    bench.wait(DIAL_S + MOVED_S, hearing=[(HIGH, "198.51.100.7")])
    at, wanted = next((at, each) for at, each in bench.dials[before:] if each.host == "198.51.100.7")
    # At worst a dial of the old address has just begun, and nobody says that it failed.
    assert at - moved_at <= DIAL_S + MOVED_S
    assert wanted.peer == HIGH


def test_a_restart_of_the_peer_cuts_the_pause_short(bench):
    bench.hear(HIGH)
    bench.wait(60, hearing=[(HIGH, "192.0.2.7")])
    before = len(bench.dials)
    bench.wait(DIAL_S)
    bench.hear(HIGH, boot=2)
    bench.wait(MOVED_S + 2 * LOOK_S)
    assert len(bench.dials) > before


def test_addresses_are_bounded_and_the_oldest_goes_first(bench):
    bench.up(HIGH)
    for number in range(50):
        bench.hear(HIGH, f"192.0.2.{number}")
        bench.now += 0.01
    assert {host for host, _ in bench.line().addresses} == {f"192.0.2.{number}" for number in range(42, 50)}
    assert len(bench.line().addresses) == CANDIDATES_MAX


def test_an_address_unheard_for_ten_seconds_is_forgotten(bench):
    bench.up(HIGH)
    bench.hear(HIGH, "127.0.0.1")
    bench.wait(FORGET_S + 2, hearing=[(HIGH, "192.0.2.9")])
    assert [host for host, _ in bench.line().addresses] == ["192.0.2.9"]


# Links


def test_after_a_lost_link_the_lower_id_dials_again_soon(bench):
    bench.hear(HIGH)
    bench.up(HIGH)
    bench.wait(STABLE_S + 1, hearing=[(HIGH, "192.0.2.7")])
    bench.tell(PeerDown(HIGH, "silent for 3 s"))
    bench.wait(0.5)
    assert len(bench.dials) == 2


def test_a_link_that_breaks_at_once_again_and_again_is_not_dialled_in_a_rush(bench):
    bench.hear(HIGH)
    for _ in range(200):
        if bench.dials and bench.line().standing == "":
            bench.up(HIGH)
            bench.tell(PeerDown(HIGH, "refused"))
        bench.wait(0.5, hearing=[(HIGH, "192.0.2.7")])
        bench.hear(HIGH)
    assert len(bench.dials) < 40


def test_a_linked_peer_that_is_not_heard_stays(bench):
    bench.hear(HIGH)
    bench.up(HIGH)
    bench.wait(60)
    assert bench.line().standing == "member"
    assert bench.lost == []


def test_an_inbound_link_of_somebody_unheard_is_shown(bench):
    bench.up(HIGH, Standing.GRANTED)
    assert (bench.line().standing, bench.line().member, bench.line().heard_s_ago) == ("granted", False, -1.0)
    assert bench.seen == [HIGH]
    bench.tell(PeerDown(HIGH, "closed"))
    bench.wait(FORGET_S + 2)
    assert bench.line() is None


def test_whoever_is_unheard_for_ten_seconds_is_forgotten_and_announced_once_more_when_back(bench):
    bench.hear(LOW)
    bench.wait(FORGET_S + 2)
    assert bench.lost == [LOW]
    assert bench.machine.seen(bench.now).nodes == ()
    bench.hear(LOW)
    assert bench.seen == [LOW, LOW]


# Seeds


def test_a_seed_is_dialled_without_any_beacon_by_both_sides_and_never_forgotten():
    for seed in (HIGH, LOW):
        bench = Bench(seeds=[Seed(seed, "198.51.100.7", PORT)])
        bench.wait(FALLBACK_S + 1)
        assert bench.dials[0][1] == DialWanted(seed, "198.51.100.7", PORT)
        bench.wait(300)
        assert len(bench.dials) > 10
        assert bench.lost == []


# Limits


def test_a_small_site_has_links_to_everybody(bench):
    for other in OTHERS[: SMALL_SITE_MAX - 1]:
        bench.hear(other)
        bench.up(other)
    assert set(bench.dialled) == set(OTHERS[: SMALL_SITE_MAX - 1])


def test_a_large_site_dials_the_next_few_and_those_wanted(bench):
    # While everybody is linked the rule is looked at with all of them known.
    members = OTHERS[:200]
    for other in members:
        bench.up(other)
    for other in members:
        bench.tell(PeerDown(other, "the switch restarted"))
    bench.dials.clear()
    heard = [(other, "192.0.2.7") for other in members]
    bench.tell(Wanted.of([OTHERS[100], OTHERS[150], node(7)]))
    bench.wait(30, hearing=heard)
    assert set(bench.dialled) == {*members[:RING_LINKS], OTHERS[100], OTHERS[150]}
    assert "large site" in bench.line(OTHERS[50]).why
    bench.tell(Wanted.of([OTHERS[50]]))
    bench.wait(5, hearing=heard)
    assert OTHERS[50] in bench.dialled


def test_the_ring_goes_round(bench):
    members = [node(number) for number in range(1, 40)]
    for other in members:
        bench.up(other)
    for other in members:
        bench.tell(PeerDown(other, "the switch restarted"))
    bench.wait(10, hearing=[(other, "192.0.2.7") for other in members])
    assert set(bench.dialled) == set(members[:RING_LINKS])


def test_dials_under_way_are_bounded_and_members_go_first():
    bench = Bench(seeds=[Seed(each, "192.0.2.9", PORT) for each in OTHERS[:40]])
    assert len(bench.dials) == DIALS_MAX
    bench.wait(120)
    assert set(bench.dialled) == set(OTHERS[:40])


def test_neighbours_leave_room_for_members(bench):
    for other in OTHERS[:50]:
        bench.hear(other, member=False)
    assert len(bench.dials) == NEIGHBOUR_DIALS_MAX
    bench.hear(HIGH)
    assert bench.dialled[-1] == HIGH
    assert "neighbours are being dialled" in bench.line(OTHERS[20]).why


def test_the_cloud_is_no_neighbour(bench):
    bench.up(HIGH, Standing.CLOUD)
    bench.tell(PeerDown(HIGH, "gone"))
    assert bench.line(HIGH) is None
    assert bench.seen == []


def test_links_to_neighbours_are_limited(bench):
    for other in OTHERS[:NEIGHBOUR_LINKS_MAX]:
        bench.up(other, Standing.NEIGHBOUR)
    bench.hear(OTHERS[-1], member=False)
    assert bench.dials == []
    assert "enough" in bench.line(OTHERS[-1]).why
    bench.tell(PeerDown(OTHERS[0], "gone"))
    bench.wait(1)
    assert OTHERS[-1] in bench.dialled


def test_invented_neighbours_do_not_grow_the_table_nor_keep_members_out(bench, monkeypatch):
    monkeypatch.setattr(membership, "NEIGHBOURS_MAX", 8)
    for other in OTHERS[:100]:
        bench.hear(other, member=False)
    assert len(bench.machine.seen(bench.now).nodes) == 8
    bench.hear(HIGH)
    assert bench.line(HIGH).member
    assert bench.machine.statistics(bench.now)["refused"] == 92


def test_broken_links_do_not_overfill_the_table(bench, monkeypatch):
    monkeypatch.setattr(membership, "NEIGHBOURS_MAX", 3)
    for other in OTHERS[:6]:
        bench.up(other, Standing.NEIGHBOUR)
    for other in OTHERS[:6]:
        bench.tell(PeerDown(other, "gone"))
    assert len(bench.machine.seen(bench.now).nodes) == 3
    assert len(bench.lost) == 3


def test_a_beacon_can_claim_membership_but_the_link_decides(bench):
    bench.hear(HIGH, member=True)
    bench.up(HIGH, Standing.NEIGHBOUR)
    bench.hear(HIGH, member=True)
    assert (bench.line().member, bench.line().standing) == (False, "neighbour")


# What is shown


class Answered:
    pass


def test_list_seen_is_answered_sorted_and_with_the_notes(bench):
    bench.machine.notes = ("no multicast here",)
    bench.hear(HIGH)
    bench.hear(LOW)
    to = Answered()
    (reply,) = bench.machine.handle(Received(OWN, ListSeen(), "", to), bench.now + 0.5)
    assert isinstance(reply, Reply)
    assert reply.to is to
    assert [each.node for each in reply.message.nodes] == [LOW, HIGH]
    assert reply.message.nodes[1] == SeenNode(
        HIGH, "tv", "0.1.0", True, "", (("192.0.2.7", PORT),), 0.5, "dialling 192.0.2.7 port 8085"
    )
    assert reply.message.notes == ("no multicast here",)


def test_a_list_nobody_asked_for_and_other_messages_are_ignored(bench):
    bench._take(bench.machine.handle(Received(HIGH, ListSeen()), bench.now))
    bench._take(bench.machine.handle(Received(HIGH, SeenNodes()), bench.now))
    bench.tell("gossip")
    assert bench.machine.statistics(bench.now)["ignored"] == 3


EXAMPLES = (
    ListSeen(),
    SeenNodes((SeenNode(HIGH, "tv", "0.1.0", True, "member", (("192.0.2.7", 8085),), 0.5, ""),), ("note",)),
)
CODEC = Codec(MESSAGES)


def test_the_bytes_of_the_messages_stay():
    golden = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    assert {type(message).__name__: CODEC.encode(message).hex() for message in EXAMPLES} == golden
    assert [CODEC.decode(CODEC.encode(message)) for message in EXAMPLES] == list(EXAMPLES)


# Properties

NODES = [LOW, OWN, HIGH, *OTHERS[:3]]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hear"), st.sampled_from(NODES), st.integers(1, 12), st.booleans()),
        st.tuples(st.just("up"), st.sampled_from(NODES), st.sampled_from(list(Standing))),
        st.tuples(st.just("down"), st.sampled_from(NODES)),
        st.tuples(st.just("failed"), st.sampled_from(NODES)),
        st.tuples(st.just("wait"), st.floats(0.01, 12)),
    ),
    max_size=40,
)


def play(bench, steps, linked):
    for step in steps:
        match step:
            case ("hear", who, address, member):
                bench.hear(who, f"192.0.2.{address}", member=member)
            case ("up", who, standing):
                bench.up(who, standing)
                if standing is not Standing.CLOUD:  # Its link says nothing about a node nearby.
                    linked.add(who)
            case ("down", who):
                bench.tell(PeerDown(who, "gone"))
                linked.discard(who)
            case ("failed", who):
                bench.tell(DialFailed(who, "refused"))
            case ("wait", seconds):
                bench.wait(seconds)
        linked.discard(OWN)


@given(STEPS)
@settings(max_examples=60)
def test_whatever_happened_a_node_that_is_heard_is_dialled_before_long(steps):
    bench, linked = Bench(), set()
    play(bench, steps, linked)
    assert OWN not in bench.dialled
    for who in (LOW, HIGH):
        if who not in linked:
            bench.dials.clear()
            heard_from = bench.now
            bench.wait(PAUSE_S_MAX + CANDIDATES_MAX * (DIAL_S + LOOK_S), hearing=[(who, "192.0.2.77")])
            assert who in bench.dialled, f"{bench.line(who)} since {heard_from}"


@given(STEPS)
@settings(max_examples=60)
def test_whatever_happens_nobody_linked_is_dialled_and_nobody_is_dialled_in_a_rush(steps):
    bench, linked = Bench(), set()
    for step in steps:
        before, dials = set(linked), len(bench.dials)
        play(bench, [step], linked)
        assert not before.intersection(bench.dialled[dials:]) - {step[1]}
    for who in NODES:
        times = [at for at, wanted in bench.dials if wanted.peer == who]
        # Every dial is paid for: by time, by a failure that was told, by a link that broke, or by a new address.
        told = sum(step[0] != "wait" and step[1] == who for step in steps)
        assert len(times) <= 1 + told + (bench.now - 100.0) / MOVED_S

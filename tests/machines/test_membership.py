"""Membership: whose turn it is to dial, where, and when again."""

from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from membership_bench import HIGH, LOW, OTHERS, OWN, PORT, Bench

from atoll.actors.discoverer.membership import (
    CANDIDATES_MAX,
    DIAL_S,
    FALLBACK_S,
    HEAD_START_S,
    LOOK_S,
    MOVED_S,
    PAUSE_S_MAX,
    PAUSE_S_MIN,
    RELINK_S_MAX,
    STABLE_S,
)
from atoll.actors.discoverer.messages import (
    DialWanted,
    Seed,
)
from atoll.actors.router.messages import PeerDown
from atoll.transport.base import DialFailed, Standing
from atoll.transport.beacon_packet import FORGET_S, Heard
from atoll.transport.network_watch import NetworkChanged


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


def test_more_addresses_join_a_dial_one_by_one():
    bench = Bench()
    bench.tell(Heard(HIGH, "192.0.2.1", PORT, 1, 1, True, "tv", ""))
    for number in range(2, 6):
        bench.tell(Heard(HIGH, f"192.0.2.{number}", PORT, 1, 1, True, "tv", ""))
    begun = bench.now
    assert [wanted.host for _, wanted in bench.dials] == ["192.0.2.1"]
    bench.wait(1.4)
    assert sorted(wanted.host for _, wanted in bench.dials) == [f"192.0.2.{number}" for number in range(1, 6)]
    assert max(at for at, _ in bench.dials) - begun <= 4 * max(HEAD_START_S, LOOK_S) + 0.01
    # They are one dial, and fail together.
    bench.tell(DialFailed(HIGH, "nobody there"))
    assert len(bench.dials) == 5
    assert "nobody there" in bench.line().why


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


def test_pauses_are_drawn_in_the_order_of_ids_or_a_seed_would_not_replay():
    class Rising:
        drawn = 0.0

        def uniform(self, _low, _high):
            self.drawn += 1.0
            return self.drawn

    nodes = OTHERS[:8]
    bench = Bench(seeds=[Seed(who, "192.0.2.7", PORT) for who in reversed(nodes)])
    bench.machine.rng = Rising()
    bench.wait(DIAL_S + PAUSE_S_MIN * 8 + 2 * LOOK_S)
    assert [wanted.peer for _, wanted in bench.dials[8:16]] == nodes


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


def moved(*gone):
    return NetworkChanged(frozenset({"192.0.2.9"}), frozenset(gone), "an interface changed")


def test_after_a_change_of_our_addresses_links_are_dialled_again_at_once_whoever_has_the_lower_id(bench):
    for who, host in ((LOW, "192.0.2.1"), (HIGH, "192.0.2.7")):
        bench.hear(who, host)
        bench.up(who)
    bench.tell(moved("192.0.2.8"))
    for who in (LOW, HIGH):
        bench.tell(PeerDown(who, "this host has lost the address that the link ended at"))
    bench.wait(RELINK_S_MAX + 2 * LOOK_S)
    assert bench.dialled[-2:] == [LOW, HIGH]


def test_a_change_of_our_addresses_cuts_every_pause_short(bench):
    bench.hear(HIGH)
    bench.wait(60, hearing=[(HIGH, "192.0.2.7")])
    bench.wait(DIAL_S)
    bench.hear(HIGH)
    before = len(bench.dials)
    bench.tell(moved())
    bench.wait(DIAL_S + RELINK_S_MAX + LOOK_S)
    assert len(bench.dials) > before


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


def test_a_seed_is_dialled_without_any_beacon_by_both_sides_and_never_forgotten():
    for seed in (HIGH, LOW):
        bench = Bench(seeds=[Seed(seed, "198.51.100.7", PORT)])
        bench.wait(FALLBACK_S + 1)
        assert bench.dials[0][1] == DialWanted(seed, "198.51.100.7", PORT)
        bench.wait(300)
        assert len(bench.dials) > 10
        assert bench.lost == []


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
@settings(max_examples=examples(60))
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
@settings(max_examples=examples(60))
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

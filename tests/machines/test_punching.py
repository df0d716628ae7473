"""Attempts to punch through NAT: through which NATs they get, and what a hostile peer or stranger cannot do."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.actors.tunnel_relay.candidates import CANDIDATES_MAX, NatMapping, Policy, View
from atoll.actors.tunnel_relay.messages import MESSAGES, PunchAgreed, PunchCandidate, PunchRequest
from atoll.actors.tunnel_relay.punching import DIALS_MAX, RETRY_S, WINDOW_S, Fail, Punch, Role
from atoll.testing.punch_adversary import BAD, MAPPED, OWN, RELAY, PunchAdversary
from atoll.testing.punch_world import NatKind, PunchWorld
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame
from atoll.transport.tcp_address import TcpAddress

SEEDS = range(30)
KEEPS, REJECTS, DRAWS, LENIENT = NatKind(), NatKind(rejects=True), NatKind(dependent=True), NatKind(lenient=True)
FIREWALL = NatKind(changes=False)
PASSABLE = [
    (one, other) for one in (KEEPS, REJECTS, LENIENT, FIREWALL) for other in (KEEPS, REJECTS, LENIENT, FIREWALL)
]
CODEC = Codec(MESSAGES)


@pytest.mark.parametrize("nats", [*PASSABLE, (DRAWS, LENIENT), (LENIENT, DRAWS)], ids=str)
def test_whoever_keeps_a_port_for_all_gets_through_to_whoever_does(nats):
    for seed in SEEDS:
        assert PunchWorld(seed, nats).run().punched


@pytest.mark.parametrize("nats", PASSABLE, ids=str)
def test_a_lost_syn_costs_a_second_and_no_more_than_that(nats):
    worlds = [PunchWorld(seed, nats, loss=0.1).run() for seed in SEEDS]
    assert sum(world.punched for world in worlds) >= len(SEEDS) - 2


@pytest.mark.parametrize("other", [KEEPS, REJECTS, FIREWALL], ids=str)
def test_a_nat_that_draws_a_port_for_each_destination_is_named_and_not_tried_for_long(other):
    for seed in SEEDS:
        world = PunchWorld(seed, (DRAWS, other)).run()
        assert not world.punched
        assert [end.failed for end in world.ends.values()] == [
            "the NAT of this node gives each destination another port",
            "the NAT of the peer gives each destination another port",
        ]
        assert world.ends[Role.INITIATOR].over_at < WINDOW_S


def test_two_such_nats_are_not_tried_at_all():
    for seed in SEEDS:
        world = PunchWorld(seed, (DRAWS, DRAWS)).run()
        assert not world.punched
        assert {end.failed for end in world.ends.values()} == {
            "the NATs of both ends give each destination another port"
        }


@pytest.mark.parametrize("role", list(Role))
def test_a_hostile_peer_or_stranger_gets_nothing_done_that_must_not_be(role, enough):
    came_to = [PunchAdversary(seed, role).run() for seed in range(enough(300, least=150))]
    # The genuine peer is found often enough for the other checks to mean something.
    assert sum(each.used for each in came_to) > len(came_to) / 5
    assert sum(bool(each.failed) for each in came_to) > len(came_to) / 5


def test_a_port_that_always_refuses_is_dialled_again_so_many_times_and_the_reason_is_said():
    target = TcpAddress("203.0.113.2", 41_000)
    view = View(NatMapping.INDEPENDENT, (target,))
    punch = Punch(Role.INITIATOR, (bytes(16), bytes(16)), view, view, [target], began_at=0.0)
    dials, now = len(punch.start()), 0.0
    while not punch.over:
        punch.refused(target, now)
        now = punch.deadline
        effects = punch.tick(now)
        dials += len(effects)
    assert effects == [Fail(f"nothing came through within {WINDOW_S:g} s: what is in between lets nobody in")]
    assert dials - 1 <= min(DIALS_MAX, WINDOW_S / RETRY_S + 1)
    assert (punch.deadline, punch.start.__self__.tick(now), punch.connected(1, dialled=True)[1:]) == (None, [], [])


# What is shown, and what is dialled


def test_two_relays_tell_what_a_nat_does():
    one, two = TcpAddress("203.0.113.1", 40_000), TcpAddress("203.0.113.1", 40_001)
    assert View.of(OWN, [one, one], show_private=False) == View(NatMapping.INDEPENDENT, (one,))
    assert View.of(OWN, [one, two], show_private=False) == View(NatMapping.DEPENDENT, (one, two))
    assert View.of(OWN, [one], show_private=False) == View(NatMapping.UNKNOWN, (one,))
    assert View.of(one, [one, one], show_private=False) == View(NatMapping.NONE, (one,))
    assert View.of(OWN, [one, one], show_private=True) == View(NatMapping.INDEPENDENT, (one, OWN))
    assert View.of(one, [one], show_private=True) == View(NatMapping.NONE, (one,))


ADDRESSES = st.builds(lambda ip, port: TcpAddress.parse(str(ip), port), st.ip_addresses(), st.integers(1, 65_535))


@given(st.lists(ADDRESSES | st.sampled_from(BAD), max_size=50))
def test_whatever_a_peer_shows_only_hosts_elsewhere_are_dialled_and_few(shown):
    policy = Policy(frozenset({OWN, MAPPED}), frozenset({RELAY}))
    targets = policy.admitted(View(NatMapping.INDEPENDENT, tuple(shown)), View(NatMapping.INDEPENDENT, (MAPPED,)))
    assert len(targets) == len(set(targets)) <= CANDIDATES_MAX
    for each in targets:
        ip = ipaddress.ip_address(each.host)
        assert each in shown
        assert each not in BAD
        assert each.port >= 1024
        assert ip.version == 4
        assert not any((ip.is_loopback, ip.is_multicast, ip.is_unspecified, ip.is_link_local))


def test_private_addresses_are_dialled_behind_the_same_nat_where_the_owner_says_so():
    near, same, other = (
        TcpAddress("10.0.0.9", 41_000),
        TcpAddress(MAPPED.host, 41_000),
        TcpAddress("198.51.100.1", 5000),
    )
    own = View(NatMapping.INDEPENDENT, (MAPPED, OWN))
    allowing, strict = (Policy(frozenset({OWN, MAPPED}), private=private) for private in (True, False))
    together, apart = (View(NatMapping.INDEPENDENT, (outside, near)) for outside in (same, other))
    assert allowing.admitted(together, own) == [same, near]
    assert allowing.admitted(apart, own) == [other]
    assert strict.admitted(together, own) == [same]
    # Two claims about one private network prove nothing.
    assert allowing.admitted(View(NatMapping.INDEPENDENT, (TcpAddress(OWN.host, 41_000), near)), own) == []


def test_where_relays_are_in_the_private_network_too_its_addresses_are_as_good_as_others():
    policy = Policy(frozenset({OWN}), frozenset({TcpAddress("10.0.0.2", 8089)}))
    peer = View(NatMapping.NONE, (TcpAddress("10.9.0.9", 41_000), TcpAddress("127.0.0.1", 41_000)))
    assert policy.admitted(peer, View(NatMapping.NONE, (OWN,))) == [TcpAddress("10.9.0.9", 41_000)]
    assert Policy(frozenset()).admitted(peer, peer) == []


# Words of a peer


@pytest.mark.parametrize(
    "hostile",
    [
        PunchRequest(b"t" * 15, 2, ()),
        PunchRequest(b"t" * 16, 4, ()),
        PunchRequest(b"t" * 16, -1, ()),
        PunchAgreed(b"t" * 17, 2, ()),
        PunchAgreed(b"t" * 16, 2, (PunchCandidate(bytes(4), 1),) * 5),
        PunchAgreed(b"t" * 16, 2, (PunchCandidate(bytes(4), 1),) * 5000),
        PunchAgreed(b"t" * 16, 2, (PunchCandidate(bytes(3), 1),)),
        PunchAgreed(b"t" * 16, 2, (PunchCandidate(bytes(17), 1),)),
        PunchAgreed(b"t" * 16, 2, (PunchCandidate(bytes(4), 0),)),
        PunchAgreed(b"t" * 16, 2, (PunchCandidate(bytes(4), 65_536),)),
    ],
    ids=lambda each: repr(each)[:90],
)
def test_impossible_words_of_a_peer_are_refused(hostile):
    data = CODEC.encode(hostile)
    with pytest.raises(MalformedFrame):
        CODEC.decode(data)

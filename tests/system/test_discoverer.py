"""Discoverers on real loops with real beacons on loopback."""

import contextlib
import socket

import anyio
import pytest
from ports import free_port
from waiting import until

from atoll.actors.discoverer import membership
from atoll.actors.discoverer.discoverer import Discoverer
from atoll.actors.discoverer.messages import MESSAGES, PATH, DialWanted, LinkWanted, ListSeen, Seed
from atoll.actors.elector.messages import (
    DescribeElection,
    ElectionStatus,
    RosterInForce,
    SupernodeElected,
    SupernodeLost,
)
from atoll.actors.router.messages import DescribeRoutes, LinkSeen, PeerDown, PeerUp, RoutesDescribed
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, Address, AskDeclined, AskRefused, Declined, handles
from atoll.transport.base import Standing
from atoll.transport.beacon import Beacon
from atoll.transport.codec import Codec
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.network_watch import NetworkChanged

pytestmark = pytest.mark.anyio
CODEC = Codec([*RUNTIME_MESSAGES, *MESSAGES])
SITE = SiteKeys.generate()
WITHIN_S = 20


class Dials(Actor):
    """Stands where the Router stands: writes down whom the Discoverer wants dialled."""

    def __init__(self, lan):
        self.lan = lan

    async def started(self):
        self.system.subscribe(DialWanted, self.ref)

    @handles
    async def describe(self, _message: DescribeRoutes) -> RoutesDescribed:
        if self.lan.router_is_dumb:
            raise Declined("not today")
        links = self.lan.linked.get(self.system.node_id, {})
        return RoutesDescribed(tuple(LinkSeen(peer, Standing.MEMBER, "", "", 0.0) for peer in links), (), {})

    @handles
    async def wanted(self, message: DialWanted) -> None:
        self.lan.dial(self.system, message)


class Lan:
    """Several nodes' systems in one process, on a beacon port of their own; links come up as soon as they are dialled.

    Envelopes go from one to the other with the standing of the test's choice.
    """

    def __init__(self):
        self.port = free_port(socket.SOCK_DGRAM)
        self.systems = {}
        self.dials = []
        self.links = True
        self.linked = {}
        self.router_is_dumb = False
        self.standing = Standing.MEMBER
        self._changed = anyio.Event()

    def dial(self, system, wanted):
        self.dials.append((system.node_id, wanted.peer))
        if self.links:
            for one, other in ((system.node_id, wanted.peer), (wanted.peer, system.node_id)):
                self.linked.setdefault(one, {})[other] = None
                self.systems[one].announce(PeerUp(other, Standing.MEMBER, "", wanted.host))
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_dials(self, count):
        with anyio.fail_after(WITHIN_S):
            while len(self.dials) < count:
                await self._changed.wait()

    def outlet(self, envelope):
        self.systems[envelope.header.target_node].deliver(envelope, self.standing)

    @contextlib.asynccontextmanager
    async def node(self, key, site=SITE, *, seeds=(), label="", interfaces=("lo",)):
        def beacon():
            return Beacon(key, 1000, site, beacon_port=self.port, interfaces=interfaces, period_s=0.1, label=label)

        async with ActorSystem(key.node_id, CODEC, self.outlet) as system:
            self.systems[key.node_id] = system
            await system.spawn(lambda: Dials(self), "router")
            await system.spawn(lambda: Discoverer(key.node_id, beacon, seeds=seeds), PATH)
            yield system


def two_keys():
    return sorted((NodeKey.generate() for _ in range(2)), key=lambda key: key.node_id)


async def seen(system):
    return await system.ask(system.find(PATH), ListSeen())


async def wait_seen(system, wanted):
    with anyio.fail_after(WITHIN_S):
        while not wanted(answer := await seen(system)):  # noqa: ASYNC110 - a list that is asked for has no event
            await anyio.sleep(0.01)
    return answer


async def test_two_nodes_see_each_other_and_the_lower_one_dials_once():
    lan = Lan()
    low, high = two_keys()
    async with lan.node(low, label="tv") as first, lan.node(high, label="desk") as second:
        await lan.wait_dials(1)
        for system, peer, label in ((first, high, "desk"), (second, low, "tv")):
            answer = await wait_seen(system, lambda each: each.nodes and each.nodes[0].heard_s_ago >= 0)
            (line,) = answer.nodes
            assert (line.node, line.label, line.member, line.standing) == (peer.node_id, label, True, "member")
            assert line.addresses == (("127.0.0.1", 1000),)
            assert answer.notes == ()
        # As long again as it took: a second dial would have come with the next beacons.
        statistics = first._cells[PATH].actor.statistics
        heard = statistics()["beacon heard"]
        await until(lambda: statistics()["beacon heard"] >= heard + 5)
    assert lan.dials == [(low.node_id, high.node_id)]


async def test_a_node_of_another_site_is_seen_as_a_neighbour():
    lan = Lan()
    lan.links = False
    low, high = two_keys()
    async with lan.node(low) as first, lan.node(high, SiteKeys.generate()):
        (line,) = (await wait_seen(first, lambda each: each.nodes)).nodes
        assert not line.member


async def test_after_a_lost_link_it_is_dialled_again():
    lan = Lan()
    low, high = two_keys()
    async with lan.node(low) as first, lan.node(high) as second:
        await lan.wait_dials(1)
        first.announce(PeerDown(high.node_id, "silent for 3 s"))
        second.announce(PeerDown(low.node_id, "silent for 3 s"))
        await lan.wait_dials(2)


async def test_a_higher_node_dials_when_the_lower_one_does_not_come(monkeypatch):
    monkeypatch.setattr(membership, "FALLBACK_S", 0.3)
    lan = Lan()
    lan.links = False
    low, high = two_keys()
    async with lan.node(low), lan.node(high):
        with anyio.fail_after(WITHIN_S):
            while (high.node_id, low.node_id) not in lan.dials:
                await lan.wait_dials(len(lan.dials) + 1)
        assert lan.dials[0] == (low.node_id, high.node_id)


async def test_without_multicast_the_seeds_are_dialled_and_the_list_says_why():
    lan = Lan()
    lan.links = False
    low, high = two_keys()
    seed = Seed(high.node_id, "192.0.2.7", 8085)
    async with lan.node(low, seeds=[seed], interfaces=("nowhere0",)) as first:
        await lan.wait_dials(1)
        answer = await wait_seen(first, lambda each: each.notes)
        assert "no interface takes multicast" in answer.notes[0]
        assert answer.nodes[0].addresses == (("192.0.2.7", 8085),)


async def test_a_node_without_beacons_is_quiet_and_answers():
    key = NodeKey.generate()
    async with ActorSystem(key.node_id, CODEC) as system:
        await system.spawn(lambda: Discoverer(key.node_id, None), PATH)
        assert (await seen(system)).nodes == ()


async def test_a_change_of_the_network_is_announced_and_a_beacon_said_at_once():
    key, told, witnessed = NodeKey.generate(), [], []
    port = free_port(socket.SOCK_DGRAM)

    class Watch:
        def __init__(self, tell):
            told.append(tell)

        async def run(self):
            await anyio.sleep_forever()

    class Witness(Actor):
        async def started(self):
            self.system.subscribe(NetworkChanged, self.ref)

        async def receive(self, delivery):
            witnessed.append(delivery.message)

    def beacon():
        # The next one by itself would come when this test is long over.
        return Beacon(key, 1000, SITE, beacon_port=port, interfaces=("lo",), period_s=3600.0)

    async with ActorSystem(key.node_id, CODEC) as system:
        await system.spawn(Witness, "witness")
        await system.spawn(lambda: Discoverer(key.node_id, beacon, watch=Watch), PATH)
        statistics = system._cells[PATH].actor.statistics
        await until(lambda: statistics().get("beacon sent"))
        sent = statistics()["beacon sent"]
        change = NetworkChanged(frozenset({"127.0.0.1"}), frozenset(), "awake after 60 s")
        told[0](change)
        await until(lambda: statistics()["beacon sent"] == 2 * sent)
        assert witnessed == [change]
        assert statistics()["network_changes"] == 1


async def test_links_are_wanted_as_the_election_says():
    key, others = NodeKey.generate(), [NodeKey.generate().node_id for _ in range(4)]

    class Votes(Actor):
        async def receive(self, delivery):
            assert isinstance(delivery.message, DescribeElection)
            return ElectionStatus("follower", 3, others[0], True, 0.0, "", 1, tuple(others[:3]), 3)

    async with ActorSystem(key.node_id, CODEC) as system:
        await system.spawn(Votes, "elector")
        await system.spawn(lambda: Discoverer(key.node_id, None), PATH)
        membership = system._cells[PATH].actor.membership
        assert membership._wanted == {others[0]}
        system.announce(SupernodeLost(others[0], 3, "the lease ran out"))
        await until(lambda: membership._wanted == set(others[:3]))
        system.announce(SupernodeElected(others[3], 4, True, "best"))
        await until(lambda: membership._wanted == {others[3]})
        system.announce(RosterInForce(1, 2, (key.node_id, others[1]), "one left"))
        await until(lambda: membership._wanted == {others[1], others[3]})
        assert not membership._everybody
        system.announce(SupernodeElected(key.node_id, 5, True, "best"))
        await until(lambda: membership._everybody)


async def test_a_link_is_wanted_by_whoever_on_this_node_announces_it(monkeypatch):
    key, other = NodeKey.generate(), NodeKey.generate().node_id
    wishes = []
    async with ActorSystem(key.node_id, CODEC) as system:
        await system.spawn(lambda: Discoverer(key.node_id, None), PATH)
        membership = system._cells[PATH].actor.membership
        monkeypatch.setattr(membership, "_on_wish", lambda wish, _now: wishes.append(wish) or [])
        system.announce(LinkWanted(other))
        await until(lambda: wishes == [LinkWanted(other)])


async def test_only_members_are_told_who_is_near():
    lan = Lan()
    low, high = two_keys()
    async with lan.node(low) as first, lan.node(high):
        there = Address(high.node_id, PATH)
        await wait_seen(first, lambda each: each.nodes)
        answer = await first.ask(there, ListSeen())
        assert [each.node for each in answer.nodes] in ([low.node_id], [])
        lan.standing = Standing.NEIGHBOUR
        with pytest.raises((AskDeclined, AskRefused), match="members"):
            await first.ask(there, ListSeen())


@pytest.mark.parametrize("dumb", [False, True])
async def test_a_crashed_discoverer_comes_back_and_learns_which_links_are_up(dumb):
    lan = Lan()
    low, high = two_keys()
    async with lan.node(low) as first, lan.node(high) as second:
        await lan.wait_dials(1)
        await wait_seen(second, lambda each: each.nodes)
        lan.router_is_dumb = dumb
        actor = second._cells[PATH].actor
        actor.tasks.start_soon(crash)
        await until(lambda: second._cells[PATH].actor not in (actor, None))
        if dumb:
            answer = await wait_seen(second, lambda each: each.nodes)
            assert answer.nodes[0].standing == ""
        else:
            # Also before the first beacon is heard again.
            assert (await seen(second)).nodes[0].standing == "member"
            assert len(lan.dials) == 1
        await wait_seen(first, lambda each: each.nodes and each.nodes[0].heard_s_ago < 0.1)


async def crash():
    raise RuntimeError("crashed on purpose")

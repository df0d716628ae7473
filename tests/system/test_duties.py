"""Duties on real loops: who holds registrar and proxy, what every member learns, and what goes to the cloud."""

import contextlib

import pytest
from waiting import until

from atoll.actors.cloud import messages as cloud_messages
from atoll.actors.cloud.messages import AnnounceSite, NodeRecord, OfferedService, SiteAnnounced
from atoll.actors.discoverer.messages import MemberDied, MemberLeft
from atoll.actors.duties import duties as module
from atoll.actors.duties import messages as duties_messages
from atoll.actors.duties import registrar as registrar_module
from atoll.actors.duties.duties import HELD, Duties
from atoll.actors.duties.messages import (
    DUTIES,
    PATH,
    DescribeSite,
    LabelsChanged,
    MemberHere,
    SiteKnown,
    SiteRoll,
)
from atoll.actors.duties.offer import Offer
from atoll.actors.elector.messages import DescribeElection, SupernodeElected, SupernodeLost
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, Address, Declined, SupervisorSpec
from atoll.actors.runtime.actor import LATER
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.tunnel_relay.messages import ServeSite, SiteServed, StopServing
from atoll.actors.uplink.messages import AskCloud
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio

CODEC = Codec([*RUNTIME_MESSAGES, *duties_messages.MESSAGES, *cloud_messages.MESSAGES])
PATIENCE_S = 10
RELAYS = tuple(NodeKey(bytes([number]) * 32).node_id for number in (100, 101))


class Votes(Actor):
    """Stands where the Elector stands."""

    def __init__(self, world):
        self.world = world

    async def receive(self, delivery):
        if isinstance(delivery.message, DescribeElection):
            if self.world.election is None:
                raise Declined("no election yet")
            return self.world.election
        return LATER


class Tunnels(Actor):
    """Stands where the TunnelRelay stands."""

    def __init__(self):
        self.told = []

    async def receive(self, delivery):
        self.told.append(delivery.message)
        return LATER


class Cloud(Actor):
    """Stands where the Uplink stands: takes announcements when the test lets it."""

    def __init__(self, world):
        self.world = world
        self.announced = []

    async def receive(self, delivery):
        message = delivery.message
        assert isinstance(message, AskCloud)
        assert message.actor == "directory"
        assert isinstance(message.message, AnnounceSite)
        if self.world.cloud_away:
            self.world.turned_away += 1
            raise Declined("the cloud cannot be reached: nobody answers")
        self.announced.append(message.message)
        return SiteAnnounced(15.0, self.world.left_out)


class Witness(Actor):
    def __init__(self):
        self.seen = []

    async def started(self):
        self.system.subscribe(SiteKnown, self.ref)
        self.system.subscribe(LabelsChanged, self.ref)

    async def receive(self, delivery):
        self.seen.append(delivery.message)
        return LATER


class Node:
    """One member, with the words that tests need."""

    def __init__(self, world, system, record):
        self.world, self.system, self.record = world, system, record
        self.id = record.node

    def actor(self, path):
        return self.system._cells[path].actor

    @property
    def announced(self):
        return self.actor("uplink").announced

    @property
    def told(self):
        return self.actor("tunnel_relay").told

    @property
    def held(self):
        return {name for name in DUTIES if self.system.find(name) is not None}

    def known(self):
        """What the site is, as the last fact says."""
        facts = [each for each in self.actor("witness").seen if isinstance(each, SiteKnown)]
        return facts[-1] if facts else SiteKnown((), None, ())

    def names(self):
        return [each.name for each in self.known().records]

    async def described(self):
        return await self.system.ask(self.system.find(PATH), DescribeSite())

    def elect(self, node, epoch=1):
        self.system.announce(SupernodeElected(node.id, epoch, confirmed=True, reason="a test said so"))

    def say(self, peer, message):
        self.system.tell(Address(peer.id, PATH), message)


class World:
    """A site in one process; links are up where the test says, and envelopes pass only there."""

    def __init__(self):
        self.nodes = {}
        self.election = None
        self.standing = Standing.MEMBER
        self.cloud_away = False
        self.turned_away = 0
        self.left_out = ()
        self.cut = set()

    def outlet(self, envelope):
        ends = frozenset((envelope.header.source_node, envelope.header.target_node))
        if ends in self.cut or envelope.header.target_node not in self.nodes:
            raise Unreachable("no link to it")
        self.nodes[envelope.header.target_node].system.deliver(envelope, self.standing)

    @contextlib.asynccontextmanager
    async def node(self, name, *, has_cloud=True, site="home"):
        key = NodeKey.generate()
        record = NodeRecord(key.node_id, name, site, "1.0")
        async with ActorSystem(key.node_id, CODEC, self.outlet) as system:
            node = self.nodes[key.node_id] = Node(self, system, record)
            await system.spawn(Witness, "witness")
            await system.spawn(lambda: Votes(self), "elector")
            await system.spawn(Tunnels, "tunnel_relay")
            await system.spawn(lambda: Cloud(self), "uplink")
            await system.supervise(SupervisorSpec(name=HELD))
            await system.spawn(lambda: Duties(record, has_cloud=has_cloud), PATH)
            yield node
            del self.nodes[key.node_id]

    def link(self, *nodes):
        for one in nodes:
            for other in nodes:
                if one is not other:
                    one.system.announce(PeerUp(other.id, Standing.MEMBER, other.record.name, "127.0.0.1"))

    def elect(self, node, *nodes, epoch=1):
        for each in (node, *nodes):
            each.elect(node, epoch)


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(module, "REPORT_S", 0.2)
    monkeypatch.setattr(registrar_module, "ANNOUNCE_S", 0.2)
    return World()


async def test_only_the_supernode_holds_the_duties_and_every_member_knows_the_site(world):
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("desk") as desk:
        world.link(tv, phone, desk)
        world.elect(tv, phone, desk)
        for node in (tv, phone, desk):
            await until(lambda node=node: node.names() == ["desk", "phone", "tv"])
            assert node.known().holder == tv.id
            assert node.known().held == DUTIES
            described = await node.described()
            assert (described.records, described.holder) == (node.known().records, tv.id)
        assert (tv.held, phone.held, desk.held) == (set(DUTIES), set(), set())
        assert phone.announced == desk.announced == []
        assert phone.told == desk.told == []


async def test_the_proxy_labels_every_member_and_the_registrar_announces_them_where_the_site_is(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.told and set(tv.told[-1].labels) == {tv.id, phone.id})
        labels = tv.told[-1].labels
        assert tv.told[-1].site == "home"
        assert all(len(label) == 16 for label in labels.values())
        assert len(set(labels.values())) == 2
        # Who was there before keeps its label: callers hold it.
        assert tv.told[0].labels == {tv.id: labels[tv.id]}
        await until(lambda: tv.announced and len(tv.announced[-1].nodes) == 2)
        assert tv.announced[-1].labels == ()
        tv.system.announce(SiteServed(RELAYS))
        await until(lambda: tv.announced[-1].labels)
        assert {(each.node, each.relay, each.label) for each in tv.announced[-1].labels} == {
            (node, relay, labels[node]) for node in (tv.id, phone.id) for relay in RELAYS
        }
        tv.system.announce(SiteServed(RELAYS[:1]))
        await until(lambda: {each.relay for each in tv.announced[-1].labels} == {RELAYS[0]})
        world.cut.add(frozenset((tv.id, phone.id)))
        tv.system.announce(MemberDied(phone.id, "silent though suspected"))
        await until(lambda: set(tv.told[-1].labels) == {tv.id})
        await until(lambda: [each.node for each in tv.announced[-1].nodes] == [tv.id])
        assert {each.node for each in tv.announced[-1].labels} == {tv.id}


async def test_a_lost_supernode_gives_its_duties_up_and_the_next_one_takes_them(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: phone.names() == ["phone", "tv"])
        for node in (tv, phone):
            node.system.announce(SupernodeLost(tv.id, 1, "the lease ran out"))
        await until(lambda: tv.held == set())
        assert isinstance(tv.told[-1], StopServing)
        await until(lambda: phone.known().holder is None)
        assert phone.names() == ["phone"]
        assert tv.known().held == ()
        count = len(tv.announced)
        world.elect(phone, tv, epoch=2)
        await until(lambda: phone.held == set(DUTIES) and tv.names() == ["phone", "tv"])
        assert tv.known().holder == phone.id
        await until(lambda: phone.announced and len(phone.announced[-1].nodes) == 2)
        assert len(tv.announced) == count


async def test_being_elected_again_starts_nothing_twice(world):
    async with world.node("tv") as tv:
        tv.elect(tv)
        await until(lambda: tv.held == set(DUTIES))
        proxy = tv.actor("proxy")
        tv.elect(tv, epoch=2)
        await tv.described()
        assert tv.actor("proxy") is proxy


@pytest.mark.parametrize("end", [lambda node: MemberDied(node, "silent though suspected"), MemberLeft])
async def test_a_member_that_falls_silent_is_struck_off_and_one_that_dies_or_leaves_at_once(world, end, monkeypatch):
    monkeypatch.setattr("atoll.actors.duties.roll.RECORD_S", 0.6)
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("desk") as desk:
        world.link(tv, phone, desk)
        world.elect(tv, phone, desk)
        await until(lambda: desk.names() == ["desk", "phone", "tv"])
        # A link that is down is a suspicion, and strikes nobody off.
        tv.system.announce(PeerDown(phone.id, "silent for 3 s"))
        await tv.described()
        assert tv.names() == ["desk", "phone", "tv"]
        world.link(tv, phone)
        world.cut.add(frozenset((tv.id, phone.id)))
        tv.system.announce(end(phone.id))
        await until(lambda: desk.names() == ["desk", "tv"])
        world.cut.add(frozenset((tv.id, desk.id)))
        await until(lambda: tv.names() == ["tv"])


async def test_what_a_member_offers_is_known_everywhere_at_once(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.names() == ["phone", "tv"])
        echo = OfferedService("echo", "/echo/v1")
        offer = Offer(phone.system)
        offer.set_services([echo])
        offer.set_actors({"thermostat"})
        for node in (tv, phone):
            await until(
                lambda node=node: (
                    [(each.services, each.actors) for each in node.known().records if each.name == "phone"]
                    == [((echo,), ("thermostat",))]
                )
            )
        await until(lambda: tv.announced and any(each.services == (echo,) for each in tv.announced[-1].nodes))


@pytest.mark.parametrize("who", ["anothers id", "another site", "insane"])
async def test_a_record_that_is_not_the_senders_own_or_not_sane_is_refused(world, who):
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("desk") as desk:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.names() == ["phone", "tv"])
        record = {
            "anothers id": desk.record,
            "another site": NodeRecord(phone.id, "phone", "office"),
            "insane": NodeRecord(phone.id, "pho\x1bne", "home"),
        }[who]
        phone.say(tv, MemberHere(record))
        await until(lambda: tv.actor(PATH)._counts["records_refused"] == 1)
        assert tv.names() == ["phone", "tv"]


async def test_a_roll_is_believed_of_the_supernode_only(world):
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("desk") as desk:
        world.link(tv, phone, desk)
        world.elect(tv, phone, desk)
        await until(lambda: phone.names() == ["desk", "phone", "tv"])
        desk.say(phone, SiteRoll((desk.record,), ()))
        await until(lambda: phone.actor(PATH)._counts["rolls_of_others"] == 1)
        assert phone.names() == ["desk", "phone", "tv"]


async def test_no_stranger_is_heard(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        tv.elect(tv)
        await until(lambda: tv.held)
        for standing in (Standing.NEIGHBOUR, Standing.GRANTED, Standing.CLOUD):
            world.standing = standing
            with pytest.raises(AskFailed, match=f"not open to a {standing.value}"):
                await phone.system.ask(Address(tv.id, PATH), MemberHere(phone.record))
        await until(lambda: tv.names() == ["tv"])


async def test_without_a_cloud_the_supernode_keeps_the_roll_and_holds_nothing(world):
    async with world.node("tv", has_cloud=False) as tv, world.node("phone", has_cloud=False) as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: phone.names() == ["phone", "tv"])
        assert tv.held == set()
        assert phone.known().held == ()
        assert tv.told == tv.announced == []


async def test_a_cloud_that_is_away_holds_nothing_up_and_is_told_when_it_is_back(world, caplog, monkeypatch):
    monkeypatch.setattr("atoll.actors.duties.registrar.ANNOUNCE_S", 0.02)
    world.cloud_away = True
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: phone.names() == ["phone", "tv"])
        await until(lambda: "the site could not be announced to the cloud" in caplog.text)
        tried = world.turned_away
        await until(lambda: world.turned_away >= tried + 3)
        # Said once, not with every attempt.
        assert caplog.text.count("could not be announced") == 1
        world.cloud_away = False
        await until(lambda: tv.announced and len(tv.announced[-1].nodes) == 2)
        world.left_out = ("phone is not enrolled",)
        await until(lambda: "left out by the cloud: phone is not enrolled" in caplog.text)


async def test_a_crashed_proxy_comes_back_with_the_site_it_had(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        world.link(tv, phone)
        world.elect(tv, phone)
        await until(lambda: tv.told and isinstance(tv.told[-1], ServeSite) and len(tv.told[-1].labels) == 2)
        told = len(tv.told)
        crashed = tv.actor("proxy")
        crashed.tasks.start_soon(crash)
        await until(lambda: tv.actor("proxy") not in (None, crashed))
        await until(lambda: len(tv.told) > told and isinstance(tv.told[-1], ServeSite) and len(tv.told[-1].labels) == 2)
        assert any(isinstance(each, StopServing) for each in tv.told[told:])


async def test_crashed_duties_learn_the_election_again(world):
    class Status:
        supernode, epoch, confirmed, why = None, 1, True, "elected before"

    async with world.node("tv") as tv:
        world.election = Status()
        Status.supernode = tv.id
        crashed = tv.actor(PATH)
        crashed.tasks.start_soon(crash)
        await until(lambda: tv.actor(PATH) not in (None, crashed))
        await until(lambda: tv.held == set(DUTIES))
        await until(lambda: tv.names() == ["tv"])


async def crash():
    raise RuntimeError("crashed on purpose")

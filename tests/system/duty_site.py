"""A site whose nodes have nothing but their Duties; the test elects, and stands for tunnels and the cloud."""

import contextlib

from atoll.actors.cloud import messages as cloud_messages
from atoll.actors.cloud.messages import AnnounceSite, NodeRecord, SiteAnnounced
from atoll.actors.duties import messages as duties_messages
from atoll.actors.duties.duties import HELD, Duties
from atoll.actors.duties.messages import (
    PATH,
    PROXY,
    REGISTRAR,
    DescribeSite,
    LabelsChanged,
    SiteKnown,
)
from atoll.actors.duties.proxy import Proxy
from atoll.actors.duties.registrar import Registrar
from atoll.actors.elector.messages import DescribeElection, SupernodeElected
from atoll.actors.router.messages import PeerUp
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, Address, Declined, SupervisorSpec
from atoll.actors.runtime.actor import LATER
from atoll.actors.uplink.messages import AskCloud
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey

CODEC = Codec([*RUNTIME_MESSAGES, *duties_messages.MESSAGES, *cloud_messages.MESSAGES])
PATIENCE_S = 10
DUTIES = (REGISTRAR, PROXY)
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

    def __init__(self, world):
        self.world = world
        self.told = []

    async def receive(self, delivery):
        self.told.append(delivery.message)
        self.world.told.append((self.system.node_id, delivery.message))
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

    def holders(self):
        """Who holds what, as far as this node knows."""
        return {place.duty: place.holder for place in self.known().places}

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
        self.told = []
        """What the tunnels of all nodes were told, in order."""

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
            await system.spawn(lambda: Tunnels(self), "tunnel_relay")
            await system.spawn(lambda: Cloud(self), "uplink")
            await system.supervise(SupervisorSpec(name=HELD))
            makers = {REGISTRAR: lambda: Registrar(site), PROXY: lambda: Proxy(key.node_id, site)}
            await system.spawn(lambda: Duties(record, makers if has_cloud else {}), PATH)
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

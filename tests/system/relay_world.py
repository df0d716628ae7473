"""TunnelRelays at real relays, with a cloud of plain objects behind them."""

import contextlib
import os
import time
from random import Random

import anyio
from waiting import until

from atoll.actors.cloud import messages as cloud_messages
from atoll.actors.cloud.directory import Directory
from atoll.actors.cloud.messages import AnnounceSite, LookUp, NodeRecord, PlaceSep, RelayReport, SepLabel, TunnelRequest
from atoll.actors.cloud.signaling import Signaling
from atoll.actors.cloud.store import CloudStore
from atoll.actors.router import messages as router_messages
from atoll.actors.router.messages import SepDelivery
from atoll.actors.router.paths import PathFound, PathLost, RecordsArrived
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, Address, Declined
from atoll.actors.runtime.actor import LATER
from atoll.actors.tunnel_relay import messages as tunnel_messages
from atoll.actors.tunnel_relay.messages import (
    DescribeTunnels,
    ServeSite,
    SiteServed,
)
from atoll.actors.tunnel_relay.relay import Relay
from atoll.actors.tunnel_relay.tunnel_relay import TunnelRelay
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import PeerError, Unreachable, WorldError
from atoll.transport.keys import NodeKey

CODEC = Codec([*RUNTIME_MESSAGES, *router_messages.MESSAGES, *tunnel_messages.MESSAGES, *cloud_messages.MESSAGES])
HOST = "127.0.0.1"
PATIENCE_S = 10


class Cloud(Actor):
    """Stands where the Uplink stands, with the cloud's own decisions behind it."""

    open_to = frozenset()

    def __init__(self, world):
        self.world = world

    async def receive(self, delivery):
        world, message = self.world, delivery.message.message
        world.asked.append(type(message).__name__)
        if world.cloud_out_of_reach:
            raise Declined("the cloud at cloud.example:8087 cannot be reached: nobody answers")
        sender = world.store.enrolled(self.system.node_id)
        try:
            match message:
                case LookUp():
                    return world.directory.look_up(message)
                case PlaceSep():
                    return world.signaling.place(sender, message)
                case TunnelRequest():
                    return world.signaling.tunnels(sender, message)
        except (PeerError, WorldError) as error:
            raise Declined(str(error)) from error


class Rooted(Actor):
    """Stands where the Router stands: keeps what it is told."""

    def __init__(self):
        self.records, self.lost, self.found, self.deliveries = [], [], [], []
        self.close_lost = False

    async def receive(self, delivery):
        match delivery.message:
            case RecordsArrived(path, records):
                self.records += [(path, record) for record in records]
                if b"goodbye, then" in records:
                    path.close()
            case PathLost(path, reason):
                self.lost.append((path, reason))
                return None
            case PathFound(beside, path):
                self.found.append((beside, path))
            case SepDelivery() as message:
                self.deliveries.append((delivery.sender, message))
        return LATER


class Witness(Actor):
    """Keeps what was served."""

    def __init__(self):
        self.served = []

    async def started(self):
        self.system.subscribe(SiteServed, self.ref)

    async def receive(self, delivery):
        self.served.append(delivery.message.relays)
        return LATER


class RunningRelay:
    """A relay in a task of its own, so that it can end in the middle of a test."""

    def __init__(self, key, issuer, *, sep_port=0, bearer_port=0):
        self.key, self.issuer = key, issuer
        self.sep_port, self.bearer_port = sep_port, bearer_port
        self.relay = None

    async def run(self, *, task_status):
        self._stop, self._ended = anyio.Event(), anyio.Event()
        async with Relay(
            self.key, self.issuer, sep_port=self.sep_port, bearer_port=self.bearer_port, host=HOST
        ) as relay:
            self.relay, self.sep_port, self.bearer_port = relay, relay.sep_port, relay.bearer_port
            task_status.started()
            await self._stop.wait()
        self._ended.set()

    async def stop(self):
        self._stop.set()
        await self._ended.wait()

    def counted(self, name):
        return self.relay.statistics().get(name, 0)


class World:
    """A cloud of plain objects, relays, and the systems of nodes of two sites."""

    def __init__(self, group):
        self.group = group
        self.key = NodeKey.generate()
        self.store = CloudStore(None)
        self.signaling = Signaling(self.store, self.key, time.time)
        self.directory = Directory(self.store, self.signaling, time.time)
        self.relays = {}
        self.systems = {}
        self.asked = []
        self.cloud_out_of_reach = False
        self.standing = Standing.GRANTED

    def enrol(self, name, *, site="home", kind="node"):
        key, secret = NodeKey.generate(), os.urandom(32)
        self.store.expect(secret, kind=kind, site=site, name=name)
        assert self.store.enrol(key.node_id, secret)
        return key

    async def relay(self, name, *, issuer=None, load=0.0):
        key = self.enrol(name, site="", kind="relay")
        running = RunningRelay(key, (issuer or self.key).node_id)
        await self.group.start(running.run)
        self.relays[name] = running
        self.report(name, load=load)
        return running

    def report(self, name, **fields):
        running = self.relays[name]
        fields = {"load": 0.0} | fields
        self.signaling.report(
            self.store.enrolled(running.key.node_id),
            RelayReport(HOST, running.sep_port, running.bearer_port, **fields),
        )

    def forget(self, name):
        """Let the cloud know that this relay takes nobody; it is placed on no more."""
        self.report(name, draining=True)

    def id_of(self, name):
        return self.relays[name].key.node_id

    def outlet(self, envelope):
        system = self.systems.get(envelope.header.target_node)
        if system is None:
            raise Unreachable("no such node in this test")
        system.deliver(envelope, self.standing)

    @contextlib.asynccontextmanager
    async def node(self, name, site="home"):
        key = self.enrol(name, site=site)
        node = Node(self, key, name, site)
        async with ActorSystem(key.node_id, CODEC, self.outlet) as system:
            node.system = self.systems[key.node_id] = system
            await system.spawn(Rooted, "router")
            await system.spawn(lambda: Cloud(self), "uplink")
            await system.spawn(Witness, "witness")
            await system.spawn(lambda: TunnelRelay(key.node_id, Random(1)), "tunnel_relay")
            yield node
            del self.systems[key.node_id]


class Node:
    """One node, with the words that tests need."""

    def __init__(self, world, key, name, site):
        self.world, self.id, self.name, self.site = world, key.node_id, name, site
        self.system = None
        self.labels = {}

    @property
    def router(self):
        return self.system._cells["router"].actor

    @property
    def served(self):
        return set(self.system._cells["witness"].actor.served[-1:] and self.system._cells["witness"].actor.served[-1])

    async def ask(self, message, timeout_s=PATIENCE_S):
        return await self.system.ask(self.system.find("tunnel_relay"), message, timeout_s=timeout_s)

    async def described(self):
        return await self.ask(DescribeTunnels())

    def tell(self, message):
        self.system.tell(Address(self.id, "tunnel_relay"), message)

    def serve(self, *others):
        """Keep the site registered, and announce its nodes wherever it is."""
        self.labels = {node: os.urandom(16) for node in (self.id, *others)}
        self.tell(ServeSite(self.site, dict(self.labels)))

    async def wait_served(self, *names):
        await until(lambda: self.served == {self.world.id_of(name) for name in names})
        self.announce()

    def announce(self):
        labels = tuple(SepLabel(self.id, relay, self.labels[self.id]) for relay in sorted(self.served))
        record = NodeRecord(self.id, self.name, self.site)
        self.world.directory.announce(self.world.store.enrolled(self.id), AnnounceSite(self.site, (record,), labels))

    async def problem(self, *words):
        with anyio.fail_after(PATIENCE_S):
            while True:
                problem = (await self.described()).problem
                if all(word in problem for word in words) and bool(words) == bool(problem):
                    return problem
                await anyio.sleep(0.01)


@contextlib.asynccontextmanager
async def living_world():
    """Live not much longer than a test may wait for anything."""
    with anyio.fail_after(3 * PATIENCE_S):
        async with anyio.create_task_group() as group:
            world = World(group)
            with world.store:
                yield world
                group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def two_sites(world, *relays):
    """A site that is served at the relays, and a caller elsewhere."""
    for name in relays:
        await world.relay(name)
    async with world.node("server", "office") as server, world.node("tv") as tv:
        server.serve()
        await server.wait_served(*relays)
        yield server, tv

"""Nodes of one site with real links, Routers and TunnelRelays, and what streams between them need."""

import contextlib
import itertools

import anyio
from waiting import until

from atoll.actors.discoverer.messages import DialWanted
from atoll.actors.router import messages as router_messages
from atoll.actors.router.messages import DescribeRoutes, PeerUp, ServeStreams, StreamArrived
from atoll.actors.router.router import Router
from atoll.actors.router.streams import open_stream
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem
from atoll.actors.runtime.actor import LATER
from atoll.actors.tunnel_relay import messages as tunnel_messages
from atoll.actors.tunnel_relay.tunnel_relay import TunnelRelay
from atoll.transport.admission import SiteAdmission
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.zeromq import ZeroMqTransport

CODEC = Codec([*RUNTIME_MESSAGES, *router_messages.MESSAGES, *tunnel_messages.MESSAGES])
HOST = "127.0.0.1"
HOME, ELSEWHERE = SiteKeys.generate(), SiteKeys.generate()


class Server(Actor):
    """Serves streams, and leaves them to the test."""

    open_to = frozenset({Standing.MEMBER})

    def __init__(self):
        self.arrived = []
        self.links = []

    async def started(self):
        self.system.subscribe(PeerUp, self.ref)
        await self.system.ask(self.system.find("router"), ServeStreams("echo", "server"))

    async def receive(self, delivery):
        match delivery.message:
            case StreamArrived() as arrived:
                self.arrived.append(arrived)
            case PeerUp(peer):
                self.links.append(peer)
        return LATER


class World:
    """Nodes in one process."""

    def __init__(self):
        self.keys = itertools.count(10)
        self.transports = {}

    @contextlib.asynccontextmanager
    async def node(self, site=HOME):
        key = NodeKey(bytes([next(self.keys)]) * 32)
        admission = SiteAdmission(keys=site, own=key.node_id, clouds=frozenset())

        def transport():
            made = self.transports[key.node_id] = ZeroMqTransport(key, admission, label="node", host=HOST)
            return made

        async with ActorSystem(key.node_id, CODEC) as system:
            await system.spawn(lambda: Router(key, transport), "router")
            await system.spawn(lambda: TunnelRelay(key.node_id), "tunnel_relay")
            await system.spawn(Server, "server")
            yield system

    async def link(self, one, other):
        one.announce(DialWanted(other.node_id, HOST, self.transports[other.node_id].port))
        await until(lambda: server(one).links and server(other).links)

    @contextlib.asynccontextmanager
    async def pair(self):
        """Two nodes with a link."""
        async with self.node() as one, self.node() as other:
            await self.link(one, other)
            yield one, other


def server(system):
    return system._cells["server"].actor


def router(system):
    return system._cells["router"].actor


async def arrived(system, count=1):
    await until(lambda: len(server(system).arrived) >= count)
    return server(system).arrived[count - 1].stream


async def streams(one, other, service="echo"):
    """Both ends of a stream."""
    before = len(server(other).arrived)
    here = await open_stream(one, other.node_id, service)
    return here, await arrived(other, before + 1)


async def seen(system, peer):
    described = await system.ask(system.find("router"), DescribeRoutes())
    return next(each for each in described.routes if each.peer == peer)


async def read_all(stream, piece=65_536):
    data = bytearray()
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            data += await stream.receive(piece)
    return bytes(data)


async def write_all(stream, data, piece=100_000):
    for start in range(0, len(data), piece):
        await stream.send(data[start : start + piece])
    await stream.send_eof()

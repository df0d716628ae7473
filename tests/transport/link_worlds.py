"""Every kind of link transport, and the wires between their nodes that tests hold in their hands."""

import contextlib
import socket

import anyio
import anyio.abc
import anyio.lowlevel

from atoll.transport.admission import SiteAdmission
from atoll.transport.base import (
    Delivered,
    LinkUp,
)
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.memory import MemoryNetwork, MemoryTransport
from atoll.transport.zeromq import ZeroMqTransport

SITE = SiteKeys.generate()
HANDSHAKE_S = 2.0
"""Far beyond what it takes: hosts stand still for a second."""
BUFFERS_BYTES_MAX = 64 * 1024 * 1024
"""What a slow peer may hold back between two nodes: the sender's queue, the receiver's inbox, the kernel's buffers."""


class Node:
    def __init__(self, transport, key):
        self.transport, self.key = transport, key
        self.enough, self.ended = anyio.Event(), anyio.Event()

    async def live(self, *, task_status):
        async with self.transport:
            task_status.started()
            await self.enough.wait()
        self.ended.set()

    async def close(self):
        self.enough.set()
        with anyio.fail_after(10):
            await self.ended.wait()

    @property
    def id(self):
        return self.key.node_id

    async def next(self, kind):
        """The next event, which must be of this kind."""
        with anyio.fail_after(10):
            event = await self.transport.receive()
        assert isinstance(event, kind), event
        return event

    async def messages(self, count):
        return [(await self.next(Delivered)).data for _ in range(count)]


class World:
    """Opens nodes on one kind of transport, joins them, and does to the wire what the world does."""

    async def __aenter__(self):
        self.stack = contextlib.AsyncExitStack()
        self.group = await self.stack.enter_async_context(anyio.create_task_group())
        self.stack.callback(self.group.cancel_scope.cancel)
        await self.start()
        return self

    async def __aexit__(self, *error):
        return await self.stack.__aexit__(*error)

    async def start(self):
        pass

    async def open(self, *, site=SITE, admission=None, key=None, label="", port=0):
        """A node whose transport lives in a task of its own, as in a supervision tree."""
        key = key or NodeKey.generate()
        admission = admission or SiteAdmission(keys=site, own=key.node_id)
        node = Node(self.make(key, admission, label, port), key)
        await self.group.start(node.live)
        return node

    async def join(self, first, second, *, breakable=False):
        first.transport.dial(second.id, *await self.way(first, second, breakable=breakable))
        return await first.next(LinkUp), await second.next(LinkUp)

    async def pair(self, *, breakable=False):
        first, second = await self.open(), await self.open()
        await self.join(first, second, breakable=breakable)
        return first, second


class MemoryWorld(World):
    silence_s = 2.0
    """A host that stands still for a second lets no link go down."""

    async def start(self):
        self.network = MemoryNetwork(silence_s=self.silence_s, connect_s=HANDSHAKE_S)

    def make(self, key, admission, label, port):
        return MemoryTransport(self.network, key, admission, label=label, host="127.0.0.1", port=port)

    async def way(self, _first, second, *, breakable=False):
        return "127.0.0.1", second.transport.port

    async def freeze(self, first, second):
        self.network.cut(first.id, second.id)

    async def thaw(self, first, second):
        self.network.heal(first.id, second.id)

    async def kill(self, node):
        node.transport.crash()

    async def black_hole(self, node, peer):
        await self.open(key=peer, port=9)
        self.network.cut(node.id, peer.node_id)
        return 9


class Wire:
    """A TCP proxy between two nodes that can stop carrying, or break."""

    def __init__(self, port):
        self.port, self.flows, self.sockets = port, anyio.Event(), []
        self.flows.set()

    async def live(self, *, task_status):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
            await listener.serve(self.serve)

    async def serve(self, client):
        server = await anyio.connect_tcp("127.0.0.1", self.port)
        self.sockets += [client, server]
        async with client, server, anyio.create_task_group() as group:
            group.start_soon(self.carry, client, server, group)
            group.start_soon(self.carry, server, client, group)

    async def carry(self, source, target, group):
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await source.receive()
                await self.flows.wait()
                await target.send(data)
        group.cancel_scope.cancel()

    async def sever(self):
        for each in self.sockets:
            await anyio.aclose_forcefully(each)


class ZeroMqWorld(World):
    silence_s = 2.0
    """A host that stands still for a second lets no link go down."""

    async def start(self):
        self.wires = {}

    def make(self, key, admission, label, port):
        return ZeroMqTransport(
            key,
            admission,
            label=label,
            host="127.0.0.1",
            port=port,
            handshake_s=HANDSHAKE_S,
            silence_s=self.silence_s,
        )

    async def way(self, first, second, *, breakable=False):
        if not breakable:
            return "127.0.0.1", second.transport.port
        wire = self.wires[frozenset((first.id, second.id))] = Wire(second.transport.port)
        return "127.0.0.1", await self.group.start(wire.live)

    async def freeze(self, first, second):
        self.wires[frozenset((first.id, second.id))].flows = anyio.Event()

    async def thaw(self, first, second):
        self.wires[frozenset((first.id, second.id))].flows.set()

    async def kill(self, node):
        # What the kernel does for a process that was killed; the process itself is killed in test_zeromq.py.
        for pair, wire in self.wires.items():
            if node.id in pair:
                await wire.sever()

    async def black_hole(self, _node, _peer):
        hole = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return hole.getsockname()[1]

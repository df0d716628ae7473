"""Nodes with real links, and ends that speak to them without keeping the rules."""

import contextlib
import os

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import zmq

from atoll.transport.admission import SiteAdmission
from atoll.transport.base import LinkUp, Standing
from atoll.transport.credit import (
    WINDOW_BYTES,
)
from atoll.transport.errors import Congested, Unreachable
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.link_frames import (
    VERSION,
    FrameKind,
    Hello,
    hello_frame,
    read_bye,
    read_hello,
    ready_frame,
)
from atoll.transport.zeromq import ZeroMqTransport
from atoll.transport.zmq_socket import SocketLimits

SITE = SiteKeys.generate()
HANDSHAKE_S = 5.0
"""Long: what is not about handshakes must not fail because the host is busy; who is slow in a test says how slow."""


class Node(ZeroMqTransport):
    def __init__(self, key=None, **options):
        self.key = key or NodeKey.generate()
        self.id = self.key.node_id
        rules = SiteAdmission(keys=SITE, own=self.id)
        super().__init__(self.key, rules, **{"label": "", "host": "127.0.0.1", "handshake_s": HANDSHAKE_S, **options})

    async def next(self, kind):
        with anyio.fail_after(10):
            event = await self.receive()
        assert isinstance(event, kind), event
        return event

    def count(self, name):
        return self.statistics().get(name, 0)

    async def until(self, **wanted):
        """Wait until these counters have these values."""
        with anyio.move_on_after(10):
            while {name: self.count(name) for name in wanted} != wanted:  # noqa: ASYNC110 - nobody tells of counters
                await anyio.sleep(0.01)
        assert {name: self.count(name) for name in wanted} == wanted


async def join(first, second):
    first.dial(second.id, "127.0.0.1", second.port)
    await first.next(LinkUp)
    await second.next(LinkUp)


class Raw:
    """A peer that speaks libzmq and CURVE, and then whatever it likes."""

    def __init__(self, server, port, *, key=None, **options):
        self.key = key or NodeKey.generate()
        self.id = self.key.node_id
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = 3_600_000
        self.socket.curve_publickey, self.socket.curve_secretkey = self.id.curve_key, self.key.curve_secret
        self.socket.curve_serverkey = server.id.curve_key
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.destroy(0)

    def hello(self, **changes):
        fields = {
            "version": VERSION,
            "node": self.id,
            "boot": bytes(16),
            "label": "",
            "credential": b"",
            "window": WINDOW_BYTES,
            "silence_ms": 3000,
        }
        return hello_frame(Hello(**{**fields, **changes}))

    async def say(self, *frames):
        for frame in frames:
            await patiently(lambda parts: self.socket.send_multipart(parts, zmq.DONTWAIT), [frame])

    async def hear(self):
        return await patiently(lambda: self.socket.recv(zmq.DONTWAIT))

    async def greet(self, server):
        await self.say(self.hello())
        assert read_hello(await self.hear()).node == server.id
        await self.say(ready_frame(WINDOW_BYTES))
        assert (await server.next(LinkUp)).standing is Standing.NEIGHBOUR

    async def bye(self):
        """What the other end says last."""
        while (frame := await self.hear())[0] != FrameKind.BYE:
            pass
        return read_bye(frame)


async def patiently(act, *arguments):
    with anyio.fail_after(10):
        while True:
            with contextlib.suppress(zmq.Again):
                return act(*arguments)
            await anyio.sleep(0.002)


def open_files():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only how many


def limits():
    return SocketLimits(message_bytes_max=1000, send_frames=4, handshake_ms=300)


class Valve:
    """A TCP proxy that lets only so many bytes pass towards the server, and so many back."""

    def __init__(self, port, *, there=1 << 40, back=1 << 40):
        self.port, self.there, self.back = port, there, back

    async def live(self, *, task_status):
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
            await listener.serve(self.serve)

    async def serve(self, client):
        server = await anyio.connect_tcp("127.0.0.1", self.port)
        async with client, server, anyio.create_task_group() as group:
            group.start_soon(self.carry, client, server, self.there, group)
            group.start_soon(self.carry, server, client, self.back, group)

    async def carry(self, source, target, left, group):
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while left > 0:
                data = (await source.receive())[:left]
                left -= len(data)
                await target.send(data)
            await anyio.sleep_forever()
        group.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def valve(port, **limits):
    async with anyio.create_task_group() as group:
        yield await group.start(Valve(port, **limits).live)
        group.cancel_scope.cancel()


class RawServer:
    """The listening end of a link that does what it likes."""

    def __enter__(self):
        self.key = NodeKey.generate()
        self.id = self.key.node_id
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.curve_server, self.socket.curve_secretkey = True, self.key.curve_secret
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        return self

    def __exit__(self, *error):
        self.context.destroy(0)

    async def dialled(self):
        self.name, frame = await patiently(lambda: self.socket.recv_multipart(zmq.DONTWAIT))
        return read_hello(frame)

    def say(self, *frames):
        for frame in frames:
            self.socket.send_multipart([self.name, frame], zmq.DONTWAIT)

    hello = Raw.hello


async def fill(talker, listener, size=100_000):
    """Send until nothing more is taken, or the link is gone; how many messages were."""
    taken = 0
    for _ in range(60):
        with contextlib.suppress(Congested, Unreachable):
            while True:
                talker.send(listener.id, b"%d " % taken + bytes(size))
                taken += 1
        await anyio.sleep(0.002)
    return taken


async def late_join(late, node):
    late.dial(node.id, "127.0.0.1", node.port)
    await late.next(LinkUp)

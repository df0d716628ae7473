"""The other process of `atoll bench actors`: an echo actor, and beside it the barest TCP echo.

    python -m atoll.bench.actor_ends LOOP

prints three ports and serves until whoever started it is gone. The first is TCP, and what a connection is for is its
first byte: `A` for envelopes behind their length (4 bytes, big-endian), `E` for bytes that come back as they are. The
second is that of a node's links: ZeroMQ, CURVE and admission as between any two nodes. The third is the barest that
ZeroMQ can be: a ROUTER with CURVE that a thread of its own reads and answers, blocking.
"""

import socket
import struct
import sys
import threading
from collections import deque

import anyio
import anyio.abc
import msgspec
import zmq

from atoll.actors.runtime import MESSAGES, Actor, ActorSystem, handles
from atoll.bench.loops import run_on
from atoll.bench.processes import end_with_parent
from atoll.transport.admission import SiteAdmission
from atoll.transport.base import Delivered, LinkUp, Standing
from atoll.transport.codec import Codec, Message
from atoll.transport.envelope import Envelope, decode_envelope, encode_envelope
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.zeromq import ZeroMqTransport

HOST = "127.0.0.1"
ENVELOPES, ECHO = b"A", b"E"
ASKER_KEY, ANSWERER_KEY = NodeKey(b"bench asker".ljust(32)), NodeKey(b"bench answerer".ljust(32))
ASKER, ANSWERER = ASKER_KEY.node_id, ANSWERER_KEY.node_id
MAILBOX_MAX = 1_000_000
ECHO_BYTES = 64
ZEROMQ_SILENCE_MS = 20_000
RECEIVE_BYTES = 256 * 1024
_LENGTH = struct.Struct(">I")


class Ping(Message, frozen=True, array_like=True, tag="bench.ping"):
    """Give the number back."""

    number: int


class Pong(Message, frozen=True, array_like=True, tag="bench.pong"):
    """The number."""

    number: int


class Tick(msgspec.Struct):
    """Nothing to give back."""


CODEC = Codec([Ping, Pong, *MESSAGES])


class Echo(Actor):
    """Answers, and counts what it is told."""

    def __init__(self) -> None:
        self.told = 0

    @handles
    async def ping(self, message: Ping) -> Pong:
        """Give the number back."""
        return Pong(message.number)

    @handles
    async def tick(self, _message: Tick) -> None:
        """Count."""
        self.told += 1


class Pipe:
    """Carries one system's envelopes over one TCP connection; one turn of the loop is one write."""

    def __init__(self, system: ActorSystem, stream: anyio.abc.ByteStream) -> None:
        self._system = system
        self._stream = stream
        self._queue: deque[bytes] = deque()
        self._filled = anyio.Event()
        system.outlet = self.put

    def put(self, envelope: Envelope) -> None:
        """Queue one envelope."""
        data = encode_envelope(envelope)
        self._queue.append(_LENGTH.pack(len(data)) + data)
        self._filled.set()

    async def send(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._filled.wait()
            self._filled = anyio.Event()
            data = b"".join(self._queue)
            self._queue.clear()
            await self._stream.send(data)

    async def receive(self) -> None:
        """Deliver what arrives, until the other end closes."""
        rest = b""
        while True:
            try:
                data = rest + await self._stream.receive(RECEIVE_BYTES)
            except anyio.EndOfStream:
                return
            start = 0
            while len(data) - start >= _LENGTH.size:
                end = start + _LENGTH.size + _LENGTH.unpack_from(data, start)[0]
                if end > len(data):
                    break
                self._system.deliver(decode_envelope(data[start + _LENGTH.size : end]), Standing.MEMBER)
                start = end
            rest = data[start:]


def open_links(key: NodeKey) -> ZeroMqTransport:
    """Make the links of a node of the benchmark's site."""
    admission = SiteAdmission(keys=SiteKeys(bytes(32)), own=key.node_id)
    return ZeroMqTransport(key, admission, label="bench", host=HOST)


class Links:
    """Carries one system's envelopes over links, as a node's Router does."""

    def __init__(self, system: ActorSystem, transport: ZeroMqTransport) -> None:
        self._system = system
        self._transport = transport
        self.up = anyio.Event()
        system.outlet = self.put

    def put(self, envelope: Envelope) -> None:
        """Send one envelope to the node it is for."""
        self._transport.send_envelope(envelope.header.target_node, envelope)

    async def receive(self) -> None:
        """Deliver what arrives, until the link goes down.

        Raises:
            Unreachable: The link did not come up, or not as a member's.
        """
        while True:
            event = await self._transport.receive()
            if isinstance(event, Delivered):
                self._system.deliver(decode_envelope(event.data), Standing.MEMBER)
            elif isinstance(event, LinkUp) and event.standing is Standing.MEMBER:
                self.up.set()
            elif self.up.is_set():
                # The other end has what it wanted; if not, its asks tell.
                return
            else:
                raise Unreachable(f"a link of the benchmark is not there: {event}")


async def _serve(stream: anyio.abc.SocketStream) -> None:
    stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(  # noqa: S610 - anyio's, not Django's
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )
    async with stream:
        if await stream.receive(1) == ECHO:
            try:
                while True:
                    await stream.send(await stream.receive(RECEIVE_BYTES))
            except anyio.EndOfStream:
                return
        async with ActorSystem(ANSWERER, CODEC) as system, anyio.create_task_group() as tasks:
            pipe = Pipe(system, stream)
            await system.spawn(Echo, "echo", mailbox_max=MAILBOX_MAX)
            tasks.start_soon(pipe.send)
            await pipe.receive()
            tasks.cancel_scope.cancel()


def _echo_by_zeromq(sock: "zmq.Socket[bytes]") -> None:
    while True:
        name, data = sock.recv(), sock.recv()
        sock.send(name, zmq.SNDMORE)
        sock.send(data)


def _zeromq_echo() -> int:
    """Start the thread, and give its port."""
    sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    sock.setsockopt(zmq.CURVE_SERVER, 1)
    sock.setsockopt(zmq.CURVE_SECRETKEY, ANSWERER_KEY.curve_secret)
    port = sock.bind_to_random_port(f"tcp://{HOST}")
    threading.Thread(target=_echo_by_zeromq, args=(sock,), daemon=True).start()
    return port


class ZeroMqEcho:
    """A blocking round trip to that thread; it holds up the event loop, as nothing but a baseline may."""

    def __init__(self, port: int) -> None:
        self._sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._sock.setsockopt(zmq.CURVE_SERVERKEY, ANSWERER.curve_key)
        self._sock.setsockopt(zmq.CURVE_PUBLICKEY, ASKER.curve_key)
        self._sock.setsockopt(zmq.CURVE_SECRETKEY, ASKER_KEY.curve_secret)
        self._sock.setsockopt(zmq.LINGER, 0)
        self._sock.setsockopt(zmq.RCVTIMEO, ZEROMQ_SILENCE_MS)
        self._sock.connect(f"tcp://{HOST}:{port}")

    async def once(self, count: int = 1) -> None:
        """Send so many messages, and wait until all have come back."""
        data = bytes(ECHO_BYTES)
        for _ in range(count):
            self._sock.send(data)
        for _ in range(count):
            self._sock.recv()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


async def _main() -> None:
    listener = await anyio.create_tcp_listener(local_host=HOST, local_port=0)
    async with (
        open_links(ANSWERER_KEY) as transport,
        ActorSystem(ANSWERER, CODEC) as system,
        anyio.create_task_group() as tasks,
    ):
        await system.spawn(Echo, "echo", mailbox_max=MAILBOX_MAX)
        tasks.start_soon(Links(system, transport).receive)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - as above
        print(port, transport.port, _zeromq_echo(), flush=True)
        await listener.serve(_serve)


if __name__ == "__main__":
    end_with_parent()
    run_on(sys.argv[1], _main)

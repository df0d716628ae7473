"""ZeroMQ links against those who do not play by the rules: wrong frames, wrong keys, garbage, floods, silence."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pytest
import zmq

from atoll.transport import inbox, zeromq, zmq_socket
from atoll.transport.admission import SiteAdmission
from atoll.transport.base import QUEUE_BYTES_MAX, Delivered, DialFailed, LinkDown, LinkUp, Standing
from atoll.transport.connection import Stage
from atoll.transport.credit import (
    MESSAGE_COST_BYTES,
    NEIGHBOUR_WINDOW_BYTES,
    WINDOW_BYTES,
    WINDOW_BYTES_MAX,
)
from atoll.transport.errors import Congested, Unreachable, UsageError
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.link_frames import (
    BACKLOG_BYTES_MAX,
    BATCH_MESSAGES_MAX,
    FRAME_BYTES_MAX,
    PIECE_BYTES_MAX,
    VERSION,
    FrameKind,
    Hello,
    alive_frame,
    bye_frame,
    credit_frame,
    hello_frame,
    read_bye,
    read_credit,
    read_hello,
    ready_frame,
)
from atoll.transport.zeromq import FRAME_LENGTH_MAX, ZeroMqTransport
from atoll.transport.zmq_socket import KeyedRouter, SocketLimits

pytestmark = pytest.mark.anyio

SITE = SiteKeys.generate()
HANDSHAKE_S = 0.4


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


# Every option of the design's list, on the real sockets.

OPTIONS = [
    ("MAXMSGSIZE", FRAME_LENGTH_MAX, FRAME_LENGTH_MAX),
    ("HANDSHAKE_IVL", 1_000, 1_000),
    ("HEARTBEAT_IVL", 0, 0),
    ("SNDHWM", zeromq.SEND_QUEUE_FRAMES, zeromq.SEND_QUEUE_FRAMES),
    ("RCVHWM", 0, 0),
    ("LINGER", 0, 0),
    ("MECHANISM", zmq.CURVE, zmq.CURVE),
    ("CURVE_SERVER", 1, 0),
    ("SOCKS_PROXY", b"", b""),
    ("BACKLOG", 1024, None),
    ("ZAP_DOMAIN", b"atoll", None),
    ("RECONNECT_IVL", None, 3_600_000),
]


async def test_every_socket_has_every_option_of_the_design():
    async with Node(handshake_s=1.0) as node, Node(handshake_s=1.0) as peer:
        await join(node, peer)
        (dialled,) = node._dialled
        for name, router, dealer in OPTIONS:
            option = getattr(zmq, name)
            for sock, wanted in ((node._router._router, router), (dialled.dealer._sock, dealer)):
                if wanted is not None:
                    found = sock.getsockopt(option)
                    assert (found.rstrip(b"\0") if isinstance(found, bytes) else found) == wanted, name


def test_queues_are_bounded_in_bytes_by_what_they_hold_in_frames():
    assert zeromq.SEND_QUEUE_FRAMES * FRAME_BYTES_MAX + BACKLOG_BYTES_MAX <= QUEUE_BYTES_MAX
    assert FRAME_BYTES_MAX <= FRAME_LENGTH_MAX


async def test_towards_the_cloud_handshakes_may_take_longer():
    async with Node(handshake_s=10.0) as node:
        assert node._router._router.getsockopt(zmq.HANDSHAKE_IVL) == 10_000


@pytest.mark.parametrize("wrong", [{"handshake_s": 0}, {"handshake_s": 61}, {"silence_s": 0.1}, {"silence_s": 1e9}])
def test_times_outside_their_limits_are_refused(wrong):
    with pytest.raises(UsageError, match=r"handshake_s is 0.05 to 60 and silence_s 0.3 to 60 seconds"):
        Node(**wrong)


def limits():
    return SocketLimits(message_bytes_max=1000, send_frames=4, handshake_ms=300)


async def test_a_router_says_when_a_connection_is_not_there_instead_of_dropping_in_silence():
    router = KeyedRouter(NodeKey.generate(), "127.0.0.1", 0, limits(), silent_s=1)
    try:
        with pytest.raises(Unreachable, match="the connection is gone"):
            router.try_send(b"\0nobody", b"lost?")
    finally:
        router.close(0)
        router.context.term()


async def test_who_chooses_its_own_name_is_cut_and_takes_nobodys_place():
    async with Node() as node:
        with Raw(node, node.port, routing_id=b"chosen") as raw, Raw(node, node.port) as honest:
            await honest.greet(node)
            await raw.say(raw.hello())
            await node.until(names_refused=1, connections=1)
            (name,) = node._accepted
            assert name[:1] == b"\0"
            node.send(honest.id, b"for you")
            assert msgspec.msgpack.decode((await honest.hear())[1:]) == [b"for you"]


# Frames that break the protocol.

AFRESH = [
    ("nothing", [b""], "is empty, or came in several parts"),
    ("unknown kind", [b"\x09"], "unknown kind 9"),
    ("another protocol", [b"GET / HTTP/1.1\r\n\r\n"], "unknown kind 71"),
    ("HELLO without body", [b"\0"], "does not have the form"),
    ("HELLO that is garbage", [b"\0" + bytes(range(200, 256)) * 20], "does not have the form"),
    ("HELLO nested deeply", [b"\0" + b"\x91" * 100_000], "does not have the form"),
    ("HELLO that promises 4 GiB", [b"\0\x95\x01\xc6\xff\xff\xff\xff"], "does not have the form"),
    ("another version", [lambda raw: raw.hello(version=1)], "speaks version 1 of links, this one 2: update one"),
    ("label too long", [lambda raw: raw.hello(label="x" * 65)], "64 printable characters"),
    ("label of control characters", [lambda raw: raw.hello(label="\x1b[2J")], "64 printable characters"),
    ("credential too long", [lambda raw: raw.hello(credential=bytes(4097))], "wrong length"),
    ("boot id too short", [lambda raw: raw.hello(boot=b"123")], "wrong length"),
    ("somebody else's id", [lambda raw: raw.hello(node=NodeKey.generate().node_id)], "not that of the key"),
    ("an id that is no key", [lambda raw: raw.hello(node=type(raw.id)(b"\xff" * 32))], "not a point of Ed25519"),
    ("READY first", [ready_frame(WINDOW_BYTES)], "must be HELLO"),
    ("a message first", [b"\x02\x91\xc4\x01x"], "must be HELLO"),
    ("a piece first", [b"\x03piece"], "must be HELLO"),
    ("HELLO twice", [Raw.hello, Raw.hello], "must be READY"),
    ("a message before READY", [Raw.hello, b"\x02\x91\xc4\x01x"], "must be READY"),
    (
        "READY and more",
        [Raw.hello, ready_frame(WINDOW_BYTES) + b"more"],
        "must be READY with its window, and nothing else",
    ),
    ("READY without window", [Raw.hello, b"\x01"], "must be READY with its window"),
    ("too small a window", [Raw.hello, ready_frame(NEIGHBOUR_WINDOW_BYTES - 1)], "a window has 524288 to"),
    ("too large a window", [Raw.hello, ready_frame(WINDOW_BYTES_MAX + 1)], "a window has 524288 to"),
    ("too short a silence", [lambda raw: raw.hello(silence_ms=299)], "300 to 60000 ms"),
    ("too long a silence", [lambda raw: raw.hello(silence_ms=1 << 60)], "300 to 60000 ms"),
]
UP = [
    ("HELLO again", [Raw.hello], "HELLO came where it may not"),
    ("READY again", [ready_frame(WINDOW_BYTES)], "READY came where it may not"),
    ("nothing", [b""], "is empty"),
    ("unknown kind", [b"\xff"], "unknown kind 255"),
    ("numbers for messages", [b"\x02\x92\x01\x02"], "does not have the form"),
    ("a map of messages", [b"\x02\x80"], "does not have the form"),
    ("half a batch", [b"\x02\x92\xc4\x01x"], "does not have the form"),
    ("a batch and more", [b"\x02\x91\xc4\x01x\x00"], "does not have the form"),
    ("too large a batch", [b"\x02" + msgspec.msgpack.encode([b""] * (BATCH_MESSAGES_MAX + 1))], "at most 1024"),
    ("an empty piece", [b"\x03"], "piece of a message is empty"),
    ("an empty last piece", [b"\x03x", b"\x04"], "piece of a message is empty"),
    ("messages between pieces", [b"\x03x", b"\x02\x91\xc4\x01x"], "MESSAGES came where it may not"),
    ("pieces without end", [b"\x03" + bytes(PIECE_BYTES_MAX)] * 3, "than it had credit for"),
    ("a CREDIT of nothing", [b"\x06"], "four bytes"),
    ("a CREDIT too long", [b"\x06" + bytes(5)], "four bytes"),
    ("an ALIVE that says something", [b"\x07hello"], "nothing behind its kind"),
]


async def test_whoever_begins_with_a_wrong_frame_is_told_what_is_wrong_and_counted_and_never_a_link():
    async with Node() as node, Node() as friend:
        await join(friend, node)
        for number, (case, frames, words) in enumerate(AFRESH, 1):
            with Raw(node, node.port) as raw:
                await raw.say(*(each(raw) if callable(each) else each for each in frames))
                assert words in await raw.bye(), case
                assert node.count("malformed_frames") == number, case
        assert node.count("links_up") == 1
        assert node.count("impersonations") == 1
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"
        await node.until(connections=1)


async def test_a_link_that_carries_a_wrong_frame_ends_with_the_reason_at_both_ends_and_no_other_does():
    async with Node() as node, Node() as friend:
        await join(friend, node)
        for number, (case, frames, words) in enumerate(UP, 1):
            with Raw(node, node.port) as raw:
                await raw.greet(node)
                await raw.say(b"\x02\x91\xc4\x04good", *(each(raw) if callable(each) else each for each in frames))
                assert await node.next(Delivered) == Delivered(raw.id, b"good")
                down = await node.next(LinkDown)
                assert down.peer == raw.id
                assert words in down.reason, case
                assert words in await raw.bye(), case
                assert node.count("malformed_frames") == number, case
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"
        assert node.count("links") == 1


async def test_a_frame_in_several_parts_ends_its_link():
    async with Node() as node:
        for parts in ([b"", b""], [b"\x02\x91\xc4\x01x", b"more"], [b"\x02"] * 50):
            with Raw(node, node.port) as raw:
                await raw.greet(node)
                raw.socket.send_multipart(parts)
                assert "several parts" in (await node.next(LinkDown)).reason


async def test_a_frame_over_zeromqs_limit_is_never_read_and_cuts_its_sender():
    async with Node() as node, Node() as friend:
        await join(friend, node)
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            await raw.say(b"\x02" + bytes(FRAME_LENGTH_MAX))
            assert (await node.next(LinkDown)).peer == raw.id
        assert node.count("bytes_received") == 0
        assert node.count("links") == 1


async def test_a_peer_with_our_own_key_is_refused():
    async with Node() as node:
        with Raw(node, node.port, key=node.key) as raw:
            await raw.say(raw.hello())
            assert "two nodes must not share a key" in await raw.bye()
        assert (node.count("refused_peers"), node.count("links_up")) == (1, 0)


async def test_one_key_has_one_greeting_under_way_however_often_it_dials():
    async with Node() as node:
        key = NodeKey.generate()
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                last = stack.enter_context(Raw(node, node.port, key=key))
                await last.say(last.hello())
                await last.hear()
            await node.until(connections=1)
            await last.say(ready_frame(WINDOW_BYTES))
            assert (await node.next(LinkUp)).peer == key.node_id
            assert node.count("links_up") == 1


async def test_a_reason_that_would_fool_a_terminal_is_made_harmless():
    async with Node() as node:
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            await raw.say(bye_frame("\x1b[2Jbye\r\n\x00" + "x" * 5000))
            reason = (await node.next(LinkDown)).reason
            assert reason.isprintable()
            assert len(reason) < 600


# Messages without end: what libzmq itself does not bound.


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


async def test_a_message_without_end_is_cut_before_it_fills_the_memory():
    async with Node() as node, Node() as friend, valve(node.port, there=12_000_000) as port:
        await join(friend, node)
        with Raw(node, port) as raw:
            await raw.greet(node)
            raw.socket.send_multipart([b"\x03" + bytes(1_000_000)] * 30)
            down = await node.next(LinkDown)
            assert down.peer == raw.id
            assert "no whole frame" in down.reason
        assert node.count("flooding_cut") == 1
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"


async def test_a_stranger_may_hold_even_less():
    async with Node() as node, valve(node.port, there=200_000) as port:
        with Raw(node, port) as raw:
            raw.socket.send_multipart([bytes(50_000)] * 30)
            await node.until(flooding_cut=1, connections=0)


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


async def test_a_dialled_peer_that_answers_wrong_is_a_failed_dial_with_the_reason():
    cases = [
        (lambda _: b"", "is empty"),
        (lambda _: b"\x63", "unknown kind 99"),
        (lambda _: ready_frame(WINDOW_BYTES), "must be HELLO"),
        (lambda server: server.hello(node=NodeKey.generate().node_id), "not the one that was dialled"),
        (lambda server: server.hello(version=0), "speaks version 0"),
        (lambda _: bye_frame("not today"), "the other end refused: not today"),
    ]
    async with Node() as node:
        for answer, words in cases:
            with RawServer() as server:
                node.dial(server.id, "127.0.0.1", server.port)
                assert (await server.dialled()).node == node.id
                server.say(answer(server))
                assert words in (await node.next(DialFailed)).reason
        assert node.count("malformed_frames") == len(cases) - 1
        await node.until(connections=0)


async def test_the_lower_id_keeps_the_others_greeting_back_while_its_own_dial_is_under_way():
    with RawServer() as server:
        key = NodeKey.generate()
        while key.node_id > server.id:
            key = NodeKey.generate()
        async with Node(key) as node:
            node.dial(server.id, "127.0.0.1", server.port)
            await server.dialled()
            with Raw(node, node.port, key=server.key) as raw:
                await raw.say(raw.hello())
                with anyio.fail_after(10):
                    while not node._table._theirs:  # noqa: ASYNC110 - nothing is told of it
                        await anyio.sleep(0.005)
                assert node._table._theirs[server.id].stage is Stage.HELD
                server.say(server.hello())
                await node.next(LinkUp)
                # Its first frame: it was never answered.
                assert read_bye(await raw.hear()) == "a link is up already"
                assert node.count("links_up") == 1


async def test_a_dialled_peer_is_bounded_like_one_that_dials():
    async with Node() as node:
        with RawServer() as server:
            async with valve(server.port, back=12_000_000) as port:
                node.dial(server.id, "127.0.0.1", port)
                await server.dialled()
                server.say(server.hello())
                await node.next(LinkUp)
                server.socket.send_multipart([server.name, *[bytes(1_000_000)] * 30], zmq.DONTWAIT)
                assert "no whole frame" in (await node.next(LinkDown)).reason
        assert node.count("flooding_cut") == 1


async def test_a_dialled_peer_that_proves_its_key_and_falls_silent_fails_the_dial_in_time():
    async with Node(handshake_s=0.1) as node:
        with RawServer() as server:
            node.dial(server.id, "127.0.0.1", server.port)
            assert "proved its key and then fell silent" in (await node.next(DialFailed)).reason


async def test_who_listens_and_speaks_another_protocol_is_said():
    async def answer(client):
        async with client:
            await client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)
            with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await client.receive()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, Node() as node, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        node.dial(NodeKey.generate().node_id, "127.0.0.1", port)
        assert "speaks no CURVE" in (await node.next(DialFailed)).reason
        group.cancel_scope.cancel()


async def test_a_name_that_has_no_address_is_said():
    async with Node() as node:
        node.dial(NodeKey.generate().node_id, "x" * 70, 8086)
        assert "has no address that can be found" in (await node.next(DialFailed)).reason


async def test_a_name_is_looked_up_and_every_address_tried():
    async with Node() as node, Node() as peer:
        # It may stand for ::1 first, where nobody listens.
        node.dial(peer.id, "localhost", peer.port)
        assert (await node.next(LinkUp)).host == "127.0.0.1"


async def test_a_node_on_every_interface_hears_both_families():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        async with Node(host="0.0.0.0") as node, Node() as four, Node() as six:
            four.dial(node.id, "127.0.0.1", node.port)
            assert (await node.next(LinkUp)).host == "127.0.0.1"
            six.dial(node.id, "::1", node.port)
            assert (await node.next(LinkUp)).host == "::1"
        return
    pytest.skip("this host has no IPv6")


# Who does not even speak CURVE.

ZMTP = b"\xff" + bytes(8) + b"\x7f\x03\x01"
CURVE = ZMTP + b"CURVE" + bytes(15) + bytes(32)


async def test_garbage_over_tcp_is_counted_and_harms_nobody():
    garbage = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"x" * 200,
        b"\x16\x03\x01" + os.urandom(300),
        os.urandom(500),
        bytes(500),
        b"\xff" * 500,
        ZMTP[:5],
        ZMTP + b"NULL" + bytes(16) + bytes(32) + b"\x04\x19\x05READY" + bytes(19),
        ZMTP + b"PLAIN" + bytes(15) + bytes(32),
        CURVE + b"\x04\xc8\x05HELLO" + os.urandom(194),
        CURVE + b"\x04\x20\x05HELLO" + bytes(26),
        CURVE + b"\x06\xff\xff\xff\xff\xff\xff\xff\xff",
    ]
    async with Node() as node, Node() as friend:
        await join(friend, node)
        with contextlib.ExitStack() as stack:
            for each in garbage:
                stack.enter_context(socket.create_connection(("127.0.0.1", node.port))).sendall(each)
            await node.until(handshakes_failed=len(garbage), connections=1)
        assert node.count("handshakes_malformed") >= 4
        assert node.count("links_up") == 1
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"


async def test_another_server_key_and_no_key_at_all_fail_the_handshake():
    async with Node() as node, Node() as other:
        with Raw(other, node.port):
            await node.until(handshakes_malformed=1)
        context = zmq.Context()
        with context.socket(zmq.DEALER) as plain:
            plain.linger, plain.reconnect_ivl = 0, 3_600_000
            plain.connect(f"tcp://127.0.0.1:{node.port}")
            plain.send(b"\0hello?")
            await node.until(handshakes_failed=2, connections=0)
        context.term()


async def test_who_proves_a_key_and_says_nothing_is_cut():
    async with Node(handshake_s=0.2) as node:
        with Raw(node, node.port):
            await node.until(connections=1)
            await node.until(silent_cut=1, connections=0)


async def test_who_says_hello_and_nothing_more_is_cut():
    async with Node(handshake_s=0.1) as node:
        with Raw(node, node.port) as raw:
            await raw.say(raw.hello())
            assert "took too long" in await raw.bye()
            await node.until(connections=0)


async def test_a_flood_of_handshakes_and_idle_connections_leaves_good_peers_their_links():
    async with Node() as node, Node() as friend, Node() as late:
        await join(friend, node)
        files = open_files()
        with contextlib.ExitStack() as stack:
            for n in range(300):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", node.port)))
                if n % 3:
                    sock.sendall(CURVE + b"\x04\xc8\x05HELLO" + os.urandom(194) if n % 3 == 1 else os.urandom(64))
                if n % 10 == 0:
                    friend.send(node.id, b"%d" % n)
                    assert (await node.next(Delivered)).data == b"%d" % n
            await join(late, node)
            await node.until(connections=2)
        assert node.count("handshakes_failed") + node.count("silent_cut") == 300
        # The link of `late` has two ends here, each with its socket and their inner pipes.
        assert open_files() <= files + 10


async def test_no_more_connections_than_the_limit(monkeypatch):
    monkeypatch.setattr(zmq_socket, "CONNECTIONS_MAX", 3)
    async with Node() as node:
        with contextlib.ExitStack() as stack:
            first = [stack.enter_context(Raw(node, node.port)) for _ in range(3)]
            for raw in first:
                await raw.greet(node)
            stack.enter_context(Raw(node, node.port))
            await node.until(names_refused=1, connections=3)
            assert node.count("links") == 3


# What the owner of a transport may rely on.


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


async def test_a_reader_that_takes_nothing_neither_spins_nor_counts_as_a_flood_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(zeromq, "FLOOD_LOOK_S", 0.02)
    async with Node() as node, Node() as peer, Node() as late:
        await join(peer, node)
        taken = await fill(peer, node)
        assert WINDOW_BYTES // 2 < node._inbox.bytes <= WINDOW_BYTES
        # Somebody new is served all the same.
        await late_join(late, node)
        looks, drain = [], node.drain
        monkeypatch.setattr(node, "drain", lambda source: looks.append(source) or drain(source))
        await anyio.sleep(0.3)
        assert len(looks) < 50
        got = [await node.receive() for _ in range(taken + 1)]
        assert [int(each.data.split()[0]) for each in got if isinstance(each, Delivered)] == list(range(taken))
        assert [each.peer for each in got if isinstance(each, LinkUp)] == [late.id]
        assert node.count("flooding_cut") == 0


async def late_join(late, node):
    late.dial(node.id, "127.0.0.1", node.port)
    await late.next(LinkUp)


async def test_who_does_not_read_can_still_send():
    async with Node() as node, Node() as peer:
        await join(peer, node)
        taken = {peer: await fill(peer, node), node: await fill(node, peer)}
        # The peer reads, this end does not: what waits here goes on all the same.
        for _ in range(taken[node]):
            await peer.next(Delivered)
        assert peer.count("messages_received") == taken[node]


async def test_who_sends_more_than_it_has_credit_for_is_cut_with_the_reason_and_what_it_had_credit_for_is_kept():
    batch = b"\x02" + msgspec.msgpack.encode([bytes(100_000 - MESSAGE_COST_BYTES)])
    async with Node() as node, Node() as friend:
        await join(friend, node)
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            await raw.say(*[batch] * 6)
            assert "than it had credit for" in await raw.bye()
        for _ in range(5):
            assert (await node.next(Delivered)).peer == raw.id
        down = await node.next(LinkDown)
        assert (down.peer, "75712 bytes more than it had credit for" in down.reason) == (raw.id, True)
        assert node.count("overdrawn") == 1
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"


async def test_credit_comes_back_in_quarters_as_the_reader_takes_messages():
    quarter = NEIGHBOUR_WINDOW_BYTES // 4
    message = b"\x02" + msgspec.msgpack.encode([bytes(quarter - MESSAGE_COST_BYTES)])
    async with Node() as node:
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            for _ in range(12):
                await raw.say(message)
                await node.next(Delivered)
                while (frame := await raw.hear()) == alive_frame():
                    pass
                assert read_credit(frame) == quarter
            assert node.count("overdrawn") == 0


async def test_no_credit_that_a_peer_can_give_is_more_than_a_window_can_be():
    async with Node() as node:
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            await raw.say(*[credit_frame((1 << 32) - 1)] * 3, b"\x02\x91\xc4\x04done")
            await node.next(Delivered)
            assert node._table.links[raw.id].credit == WINDOW_BYTES_MAX


async def test_when_too_much_waits_in_all_those_go_who_sent_more_than_their_share(monkeypatch):
    monkeypatch.setattr(inbox, "INBOX_BYTES_MAX", 1_000_000)
    async with Node() as node, Node() as greedy, Node() as modest:
        for each in (greedy, modest):
            await join(each, node)
        sent = await fill(greedy, node)
        await node.until(crowded_out=1, links=1)
        modest.send(node.id, b"not much")
        got = [await node.receive() for _ in range(node.count("messages_received") + 1)]
        assert [each.peer for each in got if isinstance(each, LinkDown)] == [greedy.id]
        assert sum(isinstance(each, Delivered) for each in got) < sent
        while isinstance(event := await node.receive(), LinkDown):
            pass
        assert event == Delivered(modest.id, b"not much")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_life_is_shown_as_often_as_the_peer_asks_for_and_asked_for_in_return():
    async with Node(silence_s=0.6) as node:
        with Raw(node, node.port) as raw:
            await raw.say(raw.hello(silence_ms=300))
            assert read_hello(await raw.hear()).silence_ms == 600
            await raw.say(ready_frame(WINDOW_BYTES))
            await node.next(LinkUp)
            began = time.monotonic()
            for _ in range(5):
                assert await raw.hear() == alive_frame()
                # Any frame proves life.
                await raw.say(alive_frame())
            assert time.monotonic() - began >= 0.2
            # Nothing is said from here on.
            assert "silent for too long" in (await node.next(LinkDown)).reason


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_time_that_this_process_is_held_up_is_not_held_against_its_peers():
    async with Node(silence_s=0.6) as node, Node(silence_s=0.6) as peer:
        await join(peer, node)
        for _ in range(2):
            time.sleep(0.7)  # noqa: ASYNC251 - just that is tried
            await anyio.sleep(0.1)
        peer.send(node.id, b"still here")
        assert (await node.next(Delivered)).data == b"still here"
        assert node.count("links_up") == 1


async def test_a_message_that_no_credit_will_ever_be_enough_for_is_refused_to_its_sender():
    async with Node() as node:
        with Raw(node, node.port) as raw:
            await raw.say(raw.hello())
            assert read_hello(await raw.hear()).window == NEIGHBOUR_WINDOW_BYTES
            await raw.say(ready_frame(NEIGHBOUR_WINDOW_BYTES))
            await node.next(LinkUp)
            most = NEIGHBOUR_WINDOW_BYTES * 3 // 4 - MESSAGE_COST_BYTES
            with pytest.raises(UsageError, match=f"at most {most} bytes, this one has {most + 1}"):
                node.send(raw.id, bytes(most + 1))
            node.send(raw.id, bytes(most))
            frames = [await raw.hear(), await raw.hear()]
            assert [frame[0] for frame in frames] == [FrameKind.PIECE, FrameKind.LAST]


async def test_a_peer_that_restarts_unseen_replaces_its_link():
    async with Node() as node:
        key = NodeKey.generate()
        with Raw(node, node.port, key=key) as before, Raw(node, node.port, key=key) as after:
            await before.greet(node)
            await after.say(after.hello())
            await after.hear()
            await after.say(ready_frame(WINDOW_BYTES), b"\x02\x91\xc4\x05after")
            assert "newer link" in (await node.next(LinkDown)).reason
            assert (await node.next(LinkUp)).peer == key.node_id
            await before.say(b"\x02\x91\xc4\x06before")
            assert await node.next(Delivered) == Delivered(key.node_id, b"after")
            assert "newer link" in await before.bye()
            await node.until(links=1, connections=1)


CHILD = """
import anyio, sys
from atoll.transport.admission import SiteAdmission
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.zeromq import ZeroMqTransport

async def main():
    key = NodeKey(bytes.fromhex(sys.argv[1]))
    rules = SiteAdmission(keys=SiteKeys(bytes.fromhex(sys.argv[2])), own=key.node_id)
    async with ZeroMqTransport(key, rules, label="child", host="127.0.0.1") as transport:
        print(transport.port, flush=True)
        await anyio.sleep(60)

anyio.run(main)
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_process_killed_or_stopped_is_noticed(anyio_backend):
    async with Node(silence_s=0.6, handshake_s=1.0) as node:
        for blow, words in ((signal.SIGKILL, "lost"), (signal.SIGSTOP, "silent")):
            key = NodeKey.generate()
            command = [sys.executable, "-c", CHILD, key.seed.hex(), SITE.secret.hex()]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as child:  # noqa: ASYNC220 - one test, one loop
                try:
                    port = int(await anyio.to_thread.run_sync(child.stdout.readline))
                    node.dial(key.node_id, "127.0.0.1", port)
                    assert (await node.next(LinkUp)).standing is Standing.MEMBER
                    child.send_signal(blow)
                    assert words in (await node.next(LinkDown)).reason
                finally:
                    child.kill()


async def test_nothing_is_left_open_after_all_the_ways_a_link_and_a_transport_can_end():
    async def once():
        with anyio.CancelScope() as scope:
            async with Node() as node, Node() as peer:
                await join(node, peer)
                node.hang_up(peer.id, "again")
                await node.next(LinkDown)
                await peer.next(LinkDown)
                await join(peer, node)
                node.dial(NodeKey.generate().node_id, "127.0.0.1", peer.port)
                with contextlib.suppress(UsageError):
                    async with Node(port=peer.port):
                        pass
                with Raw(node, node.port) as raw:
                    await raw.say(b"")
                    await raw.bye()
                node.dial(NodeKey.generate().node_id, "127.0.0.1", 9)
                # Cancelled in the middle, with dials under way.
                scope.cancel()
                await anyio.sleep_forever()

    await once()
    before = open_files()
    for _ in range(4):
        await once()
    assert open_files() <= before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "192.0.2.7"}, "192.0.2.7 is no address of this host: choose one of its own, or 0.0.0.0"),
        ({"host": "no.such.interface"}, "no.such.interface is no address of this host"),
    ],
)
async def test_an_address_that_cannot_be_bound_is_said_with_what_to_do(options, words):
    with pytest.raises(UsageError) as told:
        await Node(**options).__aenter__()
    assert words in str(told.value)


def test_a_port_that_needs_rights_is_said_with_what_to_do():
    words = zmq_socket._bind_failure("0.0.0.0", 80, zmq.ZMQError(13))
    assert "port 80 needs rights" in words
    assert "above 1023" in words

"""Links over ZeroMQ: who speaks no CURVE, another one, or nothing, and how many of them."""

import contextlib
import os
import socket

import pytest
import zmq
from link_ends import (
    Node,
    Raw,
    join,
    open_files,
)

from atoll.transport import zeromq
from atoll.transport.base import Delivered

pytestmark = pytest.mark.anyio


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
    async with Node(handshake_s=1.0) as node, Node() as friend:
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
    async with Node(handshake_s=1.0) as node:
        with Raw(node, node.port):
            await node.until(connections=1)
            await node.until(silent_cut=1, connections=0)


async def test_who_says_hello_and_nothing_more_is_cut():
    async with Node(handshake_s=0.5) as node:
        with Raw(node, node.port) as raw:
            await raw.say(raw.hello())
            assert "took too long" in await raw.bye()
            await node.until(connections=0)


async def test_a_flood_of_handshakes_and_idle_connections_leaves_good_peers_their_links():
    async with Node(handshake_s=1.0) as node, Node() as friend, Node() as late:
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
    monkeypatch.setattr(zeromq, "CONNECTIONS_MAX", 3)
    async with Node() as node:
        with contextlib.ExitStack() as stack:
            first = [stack.enter_context(Raw(node, node.port)) for _ in range(3)]
            for raw in first:
                await raw.greet(node)
            stack.enter_context(Raw(node, node.port))
            await node.until(names_refused=1, connections=3)
            assert node.count("links") == 3

"""Links over ZeroMQ: what a dial meets, and what it says of it."""

import contextlib
import socket

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
import zmq
from link_ends import (
    Node,
    Raw,
    RawServer,
    valve,
)
from ports import black_holes

from atoll.transport.base import DialFailed, LinkDown, LinkUp
from atoll.transport.connection import Stage
from atoll.transport.credit import (
    WINDOW_BYTES,
)
from atoll.transport.keys import NodeKey
from atoll.transport.link_frames import (
    bye_frame,
    read_bye,
    ready_frame,
)

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("place", range(5))
async def test_dead_addresses_hold_up_no_living_one(place):
    # Each of them alone would take a minute.
    async with Node(handshake_s=30.0) as node, Node() as peer:
        with black_holes(3) as holes, socket.create_server(("127.0.0.1", 0)) as closed:
            refuses = closed.getsockname()[1]
            closed.close()
            ports = [*holes, refuses]
            ports.insert(place, peer.port)
            for port in ports:
                node.dial(peer.id, "127.0.0.1", port)
            assert (await node.next(LinkUp)).peer == peer.id
            assert node.count("links_up") == 1
        await peer.next(LinkUp)
        assert peer.count("links_up") == 1


async def test_a_dial_of_many_addresses_fails_once_and_when_all_have_failed():
    async with Node(handshake_s=0.4) as node:
        peer = NodeKey.generate().node_id
        with black_holes(2) as holes:
            for port in holes:
                node.dial(peer, "127.0.0.1", port)
            assert (await node.next(DialFailed)).peer == peer
        assert node.count("dials_failed") == node.count("dials") == 1


async def test_another_node_at_an_address_that_joined_does_not_end_the_dial():
    async with Node() as node, Node() as peer, Node() as stranger:
        with black_holes(1) as holes:
            node.dial(peer.id, "127.0.0.1", holes[0])
            node.dial(peer.id, "127.0.0.1", stranger.port)
            node.dial(peer.id, "127.0.0.1", peer.port)
            assert (await node.next(LinkUp)).peer == peer.id


async def test_a_node_on_every_interface_hears_both_families():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        async with Node(host="0.0.0.0") as node, Node() as four, Node() as six:
            four.dial(node.id, "127.0.0.1", node.port)
            assert (await node.next(LinkUp)).host == "127.0.0.1"
            six.dial(node.id, "::1", node.port)
            assert (await node.next(LinkUp)).host == "::1"
        return
    pytest.skip("this host has no IPv6")

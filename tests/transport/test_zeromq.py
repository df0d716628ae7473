"""Links over ZeroMQ: the options of their sockets, their limits, restarts, killed peers, and what is left open."""

import contextlib
import signal
import subprocess
import sys

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
import zmq
from link_ends import (
    SITE,
    Node,
    Raw,
    join,
    limits,
    open_files,
)
from waiting import block_until

from atoll.transport import zeromq, zmq_router
from atoll.transport.arrivals import Arrived, Gone
from atoll.transport.base import QUEUE_BYTES_MAX, Delivered, LinkDown, LinkUp, Standing
from atoll.transport.credit import (
    WINDOW_BYTES,
)
from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.keys import NodeKey
from atoll.transport.link_frames import (
    BACKLOG_BYTES_MAX,
    FRAME_BYTES_MAX,
    ready_frame,
)
from atoll.transport.zeromq import FRAME_LENGTH_MAX
from atoll.transport.zmq_router import KeyedRouter

pytestmark = pytest.mark.anyio


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


async def test_a_router_says_when_a_connection_is_not_there_instead_of_dropping_in_silence():
    router = KeyedRouter(NodeKey.generate(), "127.0.0.1", 0, limits(), silent_s=1, connections_max=8)
    try:
        with pytest.raises(Unreachable, match="the connection is gone"):
            router.try_send(b"\0nobody", b"lost?")
    finally:
        router.close(0)
        router.context.term()


def test_who_has_gone_before_its_first_word_was_read_is_heard_and_then_gone():
    server, key = NodeKey.generate(), NodeKey.generate()
    router = KeyedRouter(server, "127.0.0.1", 0, limits(), silent_s=20, connections_max=8)
    try:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.CURVE_SERVERKEY, server.node_id.curve_key)
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, key.node_id.curve_key)
            dealer.setsockopt(zmq.CURVE_SECRETKEY, key.curve_secret)
            dealer.setsockopt(zmq.LINGER, 10_000)
            dealer.connect(f"tcp://127.0.0.1:{router.port}")
            dealer.send_multipart([b"two", b"parts"])
            dealer.send(b"goodbye")
            block_until(lambda: router.admit() or router.watch() or router.connections)
            dealer.close()
            block_until(lambda: router.admit() or router.watch() or not router.connections)
        told = [block_until(router.receive_nowait) for _ in range(3)]
        name = told[0].connection
        assert told == [
            Arrived(name, key.node_id.curve_key, b""),
            Arrived(name, key.node_id.curve_key, b"goodbye"),
            Gone(name),
        ]
        assert router.receive_nowait() is None
        assert (router.host_of(name), router.own_address_of(name), router.pending) == ("", "", False)
    finally:
        router.close(0)
        router.context.term()


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
    words = zmq_router._bind_failure("0.0.0.0", 80, zmq.ZMQError(13))
    assert "port 80 needs rights" in words
    assert "above 1023" in words


async def test_links_are_told_by_the_address_they_end_at():
    async with Node(host="0.0.0.0") as node, Node(host="0.0.0.0") as peer:
        node.dial(peer.id, "127.0.0.2", peer.port)
        await node.next(LinkUp)
        await peer.next(LinkUp)
        assert peer.links_over(frozenset({"127.0.0.2"})) == [node.id]
        assert peer.links_over(frozenset({"127.0.0.1"})) == []
        assert node.links_over(frozenset({"127.0.0.1", "192.0.2.7"})) == [peer.id]
        assert node.links_over(frozenset({"127.0.0.2"})) == []

"""Peers that write a heap of small messages with PINGs between them, and reset the connection in the same moment.

libzmq 4.3.5 aborts the whole process then, if a receive queue was full (docs/decisions/0013). Each victim is a process
of its own that naps when it is told to: so all of the heap is there before it is read. A mutant has the options that we
do not set.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import time

import anyio
import anyio.to_thread
import nacl.bindings as sodium
import pytest
from curve_peer import CurvePeer

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.frames import Pong
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient
from atoll.actors.tunnel_relay.tickets import UNLIMITED, Role, issue
from atoll.transport.admission import SiteAdmission
from atoll.transport.base import Delivered, LinkUp
from atoll.transport.credit import WINDOW_BYTES
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.link_frames import VERSION, Hello, hello_frame, ready_frame
from atoll.transport.zeromq import ZeroMqTransport

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

VICTIM, SITE, ISSUER = NodeKey(bytes([7]) * 32), SiteKeys(bytes([9]) * 32), NodeKey(bytes([1]) * 32)
NAP_S = 0.25
ATTACKS = 2
SMALL_MESSAGES = 1500
"""More than a receive queue of libzmq's default length takes."""
ECHOLESS = b"\x02\x91\xc4\x01y"
"""A link's frame with a message that is not answered."""
PROGRAM = """
import signal, sys, time
import anyio, zmq
from atoll.actors.tunnel_relay.relay import Relay
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient
from atoll.transport.admission import CloudAdmission, SiteAdmission
from atoll.transport.base import Delivered, Standing
from atoll.transport.errors import TransportError
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.zeromq import ZeroMqTransport

kind, nap_s, options, port, server = sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(nap_s))
key, HOST = NodeKey(bytes([7]) * 32), "127.0.0.1"
set_option, wanted = zmq.Socket.setsockopt, {}
for each in filter(None, options.split(",")):
    name, _, value = each.partition("=")
    wanted[getattr(zmq, name)] = int(value)

def mutated(sock, option, value):
    set_option(sock, option, wanted.get(option, value) if sock.type in (zmq.ROUTER, zmq.DEALER) else value)

zmq.Socket.setsockopt = mutated

async def link():
    rules = SiteAdmission(keys=SiteKeys(bytes([9]) * 32), own=key.node_id)
    if kind == "cloud":
        rules = CloudAdmission(lambda peer, credential: Standing.NEIGHBOUR)
    async with ZeroMqTransport(key, rules, label="", host=HOST) as transport:
        print(transport.port, flush=True)
        if kind == "deaf":
            await anyio.sleep_forever()
        if server:
            transport.dial(NodeKey(bytes.fromhex(server)).node_id, HOST, port)
        while True:
            event = await transport.receive()
            if isinstance(event, Delivered) and event.data != b"y":
                transport.send(event.peer, event.data)

async def relay():
    async with Relay(key, NodeKey(bytes([1]) * 32).node_id, sep_port=0, bearer_port=0, host=HOST) as running:
        print(running.sep_port, flush=True)
        await anyio.sleep_forever()

async def sep_client():
    print(0, flush=True)
    client = SepClient(HOST, port, NodeKey(bytes.fromhex(server)).node_id, b"ticket", FreshKey.generate(), dial_s=9)
    try:
        async with client:
            while True:
                await client.receive()
    except TransportError:
        await anyio.sleep_forever()

anyio.run({"relay": relay, "sep_client": sep_client}.get(kind, link))
"""


@contextlib.contextmanager
def victim(kind, *, options="", port=0, server=""):
    command = [sys.executable, "-c", PROGRAM, kind, str(NAP_S), options, str(port), server]
    # A mutant that aborts says so; nobody needs to read that.
    said = subprocess.DEVNULL if options else None
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as process:
        try:
            process.port = int(process.stdout.readline())
            yield process
        finally:
            process.kill()


def break_off(process, peer, message):
    """Write small messages with a PING behind each twenty, and reset, while the victim naps."""
    heap = [peer.ping() if n % 20 == 19 else peer.message(message) for n in range(SMALL_MESSAGES)]
    process.send_signal(signal.SIGUSR1)
    time.sleep(NAP_S / 4)
    peer.break_off(*heap)


def break_in(process, *, greeted=False):
    """Connect, write the heap and reset; a link is brought up before when `greeted`."""
    key = NodeKey.generate()
    pair = (key.node_id.curve_key, key.curve_secret) if greeted else sodium.crypto_box_keypair()
    peer = CurvePeer.dial(VICTIM.node_id.curve_key, process.port, pair)
    if greeted:
        peer.say(hello_frame(Hello(VERSION, key.node_id, bytes(16), "", b"", 0, 3000)))
        peer.hear()
        peer.say(ready_frame(WINDOW_BYTES))
    break_off(process, peer, ECHOLESS if greeted else b"x")


def died(process, within_s):
    """Whether the process has ended by itself."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if process.poll() is not None:
            return True
        time.sleep(0.02)
    return False


async def attacked(process, act):
    """Attack, and give the process time to read what it was sent."""

    def attack():
        for _ in range(ATTACKS):
            act()
            if died(process, 2 * NAP_S):
                break

    await anyio.to_thread.run_sync(attack)


@pytest.mark.parametrize(("kind", "greeted"), [("site", True), ("site", False), ("cloud", False)])
async def test_a_link_listener_survives_and_serves_others(kind, greeted):
    key = NodeKey.generate()
    rules = SiteAdmission(keys=SITE, own=key.node_id)
    with victim(kind) as process, anyio.fail_after(20):
        async with ZeroMqTransport(key, rules, label="", host="127.0.0.1", handshake_s=5.0) as friend:
            friend.dial(VICTIM.node_id, "127.0.0.1", process.port)
            assert isinstance(await friend.receive(), LinkUp)
            await attacked(process, lambda: break_in(process, greeted=greeted))
            friend.send(VICTIM.node_id, b"as ever")
            assert await friend.receive() == Delivered(VICTIM.node_id, b"as ever")
        assert process.poll() is None


async def test_a_listener_whose_reader_takes_nothing_survives():
    with victim("deaf") as process:
        await attacked(process, lambda: break_in(process, greeted=True))
        assert not died(process, 1.2)


async def test_a_relay_survives_and_serves_others():
    key = FreshKey.generate()
    ticket = issue(
        ISSUER,
        role=Role.REACH,
        subject=b"s" * 16,
        relay=VICTIM.node_id,
        expires_at=int(time.time() + 600),
        quota_bytes=UNLIMITED,
        holder=key.public,
    )
    with victim("relay") as process, anyio.fail_after(20):
        async with SepClient("127.0.0.1", process.port, VICTIM.node_id, ticket, key) as friend:
            await attacked(process, lambda: break_in(process))
            friend.ping()
            assert await friend.receive() == Pong()
        assert process.poll() is None


def be_dialled(process, listener, key, kind):
    """Take a connection, answer its first frame, write the heap and reset."""
    peer = CurvePeer.take(listener, (key.node_id.curve_key, key.curve_secret))
    answer, small = DIALLED[kind]
    peer.hear()
    peer.say(answer(key))
    break_off(process, peer, small)


DIALLED = {
    "site": (lambda key: hello_frame(Hello(VERSION, key.node_id, bytes(16), "", b"", WINDOW_BYTES, 3000)), ECHOLESS),
    "sep_client": (lambda _: bytes((frames.OK, frames.TICKET)), bytes((frames.PONG,))),
}
"""What a hostile listener answers to the first frame, and what its heap is made of."""


@pytest.mark.parametrize("kind", sorted(DIALLED))
async def test_who_dials_a_hostile_listener_survives(kind):
    key = NodeKey.generate()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        with victim(kind, port=listener.getsockname()[1], server=key.seed.hex()) as process:
            await anyio.to_thread.run_sync(be_dialled, process, listener, key, kind)
            assert not died(process, 4 * NAP_S)


MUTANTS = [
    ("site", "RCVHWM=1000"),
    ("relay", "RCVHWM=1000"),
    ("relay", "RCVHWM=16,HEARTBEAT_IVL=100"),
]


@pytest.mark.parametrize(("kind", "options"), MUTANTS)
async def test_mutants_with_the_options_that_we_do_not_set_are_aborted(kind, options):
    with victim(kind, options=options) as process:
        await attacked(process, lambda: break_in(process))
        assert process.poll() == -signal.SIGABRT


@pytest.mark.parametrize("kind", sorted(DIALLED))
async def test_dialling_mutants_are_aborted_as_well(kind):
    key = NodeKey.generate()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]
        with victim(kind, options="RCVHWM=1000", port=port, server=key.seed.hex()) as process:
            await anyio.to_thread.run_sync(be_dialled, process, listener, key, kind)
            assert died(process, 4 * NAP_S)
            assert process.poll() == -signal.SIGABRT

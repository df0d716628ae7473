"""TunnelRelays punch over real sockets and relays: what they need, who gets in, and what a hostile peer gets.

Both ends are on one host here, whose addresses nodes refuse; so the tests let them be dialled.
"""

import contextlib
import socket

import anyio
import pytest
from relay_world import living_world
from waiting import until

from atoll.actors.router.paths import OpenPunched
from atoll.actors.router.routes import Way
from atoll.actors.runtime.errors import AskDeclined, AskRefused
from atoll.actors.runtime.machine import Address
from atoll.actors.tunnel_relay import knocking, puncher, punching
from atoll.actors.tunnel_relay.candidates import Policy
from atoll.actors.tunnel_relay.messages import PunchAgreed, PunchCandidate, PunchRequest
from atoll.actors.tunnel_relay.puncher import PunchSettings
from atoll.actors.tunnel_relay.punching import Role, proof_of
from atoll.transport import simultaneous_open
from atoll.transport.base import Standing
from atoll.transport.bearer import OK, encode_preamble
from atoll.transport.simultaneous_open import receive, send_all
from atoll.transport.tcp_address import TcpAddress

pytestmark = pytest.mark.anyio
PATIENCE_S = 20
HOST = "127.0.0.1"
TICKET = bytes(16)


@pytest.fixture
async def world(anyio_backend):
    del anyio_backend
    async with living_world() as made:
        yield made


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy host is no NAT."""
    monkeypatch.setattr(simultaneous_open, "ASK_S", PATIENCE_S)
    monkeypatch.setattr(punching, "WINDOW_S", PATIENCE_S)


@pytest.fixture
def loopback(monkeypatch):
    """Let addresses of this host be dialled; a port of one's own never is."""
    monkeypatch.setattr(Policy, "objection", lambda self, address, **_: "itself" if address in self.own else "")


@contextlib.asynccontextmanager
async def two_nodes(world):
    await world.relay("relay-1")
    async with world.node("server", "office") as server, world.node("tv") as tv:
        yield server, tv


async def until_counted(node, name):
    with anyio.fail_after(PATIENCE_S):
        while not await counted(node, name):  # noqa: ASYNC110 - counters have no event
            await anyio.sleep(0.01)


async def counted(node, name):
    return (await node.described()).counters.get(name, 0)


@pytest.mark.usefixtures("loopback")
async def test_a_punched_connection_is_a_path_of_both_ends_and_carries_records(world):
    async with two_nodes(world) as (server, tv):
        here = await tv.ask(OpenPunched(server.id), PATIENCE_S)
        assert (here.way, here.relay, here.peer) == (Way.PUNCHED, "punched", server.id)
        sent = [b"record  " + bytes([number % 256]) * (1 + number * 600) for number in range(100)]
        for record in sent:
            here.send(record)
        await until(lambda: len(server.router.records) == len(sent))
        assert [record for _, record in server.router.records] == sent
        there = server.router.records[0][0]
        assert (there.way, there.peer) == (Way.PUNCHED, tv.id)
        there.send(b"and back again")
        await until(lambda: tv.router.records)
        assert [await counted(node, "punched") for node in (server, tv)] == [1, 1]
        assert await counted(server, "punches_answered") == 1
        assert await counted(tv, "bearers_open") == 1
        here.close()
        await until(lambda: server.router.lost)
        assert server.router.lost[0][0] is there


async def test_addresses_of_this_very_host_are_not_dialled_and_that_is_said(world):
    async with two_nodes(world) as (server, tv):
        with pytest.raises(AskDeclined, match="the peer shows no address that this node dials"):
            await tv.ask(OpenPunched(server.id), PATIENCE_S)
        assert await counted(tv, "punch_addresses_refused") == 1
        assert await counted(tv, "punches_failed") == 1


async def test_who_turns_it_off_neither_tries_nor_answers(world):
    async with two_nodes(world) as (server, tv):
        cell = server.system._cells["tunnel_relay"].actor
        cell._punched._puncher._settings = PunchSettings(enabled=False)
        for node, peer in ((tv, server), (server, tv)):
            with pytest.raises(AskDeclined, match=r"switched off there \(punching.enabled\)"):
                await node.ask(OpenPunched(peer.id), PATIENCE_S)


async def test_without_a_relay_that_says_what_it_sees_nothing_is_tried(world):
    async with world.node("server", "office") as server, world.node("tv") as tv:
        with pytest.raises(AskDeclined, match="no relay is known"):
            await tv.ask(OpenPunched(server.id), PATIENCE_S)
        await world.relay("relay-1")
        await world.relays["relay-1"].stop()
        with pytest.raises(AskDeclined, match=r"no relay says how this node is seen: .*refused"):
            await tv.ask(OpenPunched(server.id), PATIENCE_S)


@pytest.mark.usefixtures("loopback")
async def test_an_attempt_that_one_peer_asks_for_again_at_once_is_declined(world, monkeypatch):
    monkeypatch.setattr(puncher, "ANSWER_PAUSE_S", 1000.0)
    async with two_nodes(world) as (server, tv):
        (await tv.ask(OpenPunched(server.id), PATIENCE_S)).close()
        with pytest.raises(AskDeclined, match="a moment ago"):
            await tv.ask(OpenPunched(server.id), PATIENCE_S)
        monkeypatch.setattr(puncher, "ANSWER_PAUSE_S", 0.0)
        monkeypatch.setattr(puncher, "UNDER_WAY_MAX", 0)
        with pytest.raises(AskDeclined, match="too many"):
            await tv.ask(OpenPunched(server.id), PATIENCE_S)


async def test_neighbours_and_orders_from_elsewhere_are_refused(world):
    async with two_nodes(world) as (server, tv):
        elsewhere = Address(server.id, "tunnel_relay")
        world.standing = Standing.NEIGHBOUR
        with pytest.raises(AskRefused, match="not open to a neighbour"):
            await tv.system.ask(elsewhere, PunchRequest(TICKET, 2, ()), timeout_s=PATIENCE_S)


class Peer:
    """A hostile peer of a node that answers: it has asked for an attempt, and knows both tickets."""

    def __init__(self, agreed):
        self.address = TcpAddress.unpacked(agreed.candidates[0].address, agreed.candidates[0].port)
        self.proof = encode_preamble(proof_of(Role.INITIATOR, (TICKET, agreed.ticket)))
        self.sockets = []

    async def connect(self, said):
        sock = socket.create_connection((self.address.host, self.address.port), PATIENCE_S)
        sock.setblocking(False)
        self.sockets.append(sock)
        await send_all(sock, said)
        return sock


@contextlib.asynccontextmanager
async def attacked(world, *candidates):
    """A node that takes part in an attempt of a hostile peer."""
    async with two_nodes(world) as (server, tv):
        shown = tuple(PunchCandidate(each.packed, each.port) for each in candidates)
        agreed = await tv.system.ask(
            Address(server.id, "tunnel_relay"), PunchRequest(TICKET, 2, shown), timeout_s=PATIENCE_S
        )
        assert isinstance(agreed, PunchAgreed)
        peer = Peer(agreed)
        try:
            yield server, peer
        finally:
            for each in peer.sockets:
                each.close()


async def ended(sock):
    """Read a connection until it is over."""
    with contextlib.suppress(OSError):
        while await receive(sock, 100):
            pass


@pytest.mark.usefixtures("loopback")
async def test_strangers_hear_nothing_and_the_peer_still_comes_in_once(world):
    nobody = TcpAddress(HOST, 1024)
    async with attacked(world, nobody) as (server, peer):
        silent = await peer.connect(b"")
        forged = peer.proof[:-1] + bytes([peer.proof[-1] ^ 1])
        for lie in (encode_preamble(bytes(32)), encode_preamble(b"short"), b"GET / HTTP/1.1\r\n\r\n", forged):
            await ended(await peer.connect(lie))
        first, second = [await peer.connect(peer.proof) for _ in range(2)]
        # It has proved itself twice, and now hears the proof of the other end; one of the two it chooses.
        assert len(await receive(first, 100)) == len(await receive(second, 100)) == len(peer.proof)
        await send_all(second, OK + b"\0\0\0\x10goodbye, not yet")
        await until(lambda: server.router.records)
        assert server.router.records[0][1] == b"goodbye, not yet"
        await ended(first)
        await ended(silent)
        assert await counted(server, "punch_strangers") == 4
        assert await counted(server, "punched") == 1


@pytest.mark.usefixtures("loopback")
async def test_a_peer_that_never_dials_costs_the_time_of_the_attempt_and_is_counted(world, monkeypatch):
    monkeypatch.setattr(punching, "WINDOW_S", 0.1)
    monkeypatch.setattr(punching, "HEAD_START_S", 0.1)
    async with attacked(world, TcpAddress(HOST, 1024)) as (server, _):
        await until_counted(server, "punches_failed")


@pytest.mark.usefixtures("loopback")
async def test_a_stranger_who_is_dialled_is_let_go_of_and_no_record_of_its_is_taken(world, monkeypatch):
    with socket.create_server((HOST, 0)) as listener:
        listener.setblocking(False)
        async with attacked(world, TcpAddress(HOST, listener.getsockname()[1])) as (server, peer):
            await anyio.wait_readable(listener)
            stranger, _ = listener.accept()
            stranger.setblocking(False)
            with stranger:
                # It sends back what it hears, as an echo service does.
                heard = await receive(stranger, 100)
                await send_all(stranger, heard + OK + b"\0\0\0\x10goodbye, not yet")
                await ended(stranger)
            monkeypatch.setattr(punching, "WINDOW_S", 0.0)
            monkeypatch.setattr(punching, "HEAD_START_S", 0.0)
            # Whoever comes now lets it look at the time.
            await peer.connect(b"")
            await until_counted(server, "punches_failed")
            assert await counted(server, "punch_strangers") >= 1
            assert server.router.records == []


async def test_what_was_punched_is_closed_when_the_attempt_is_given_up_in_that_moment(monkeypatch):
    found, other = socket.socketpair()

    def begin(self, tasks):
        self.found = found
        tasks.start_soon(anyio.sleep_forever)

    async def keep_time(_self):
        scope.cancel()

    monkeypatch.setattr(knocking._Knocking, "begin", begin)
    monkeypatch.setattr(knocking._Knocking, "keep_time", keep_time)
    with found, other:
        with anyio.CancelScope() as scope:
            await knocking.knock(None, None, anyio.current_time)
        assert scope.cancelled_caught
        assert found.fileno() < 0

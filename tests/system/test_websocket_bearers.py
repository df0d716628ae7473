"""Bearers as WebSockets over TLS: the same tickets, pairing and limits, and the other end may have come by TCP."""

import contextlib
import hashlib
import os
import socket
import ssl
import time

import anyio
import anyio.to_thread
import pytest
import trustme
from relay_keys import ISSUER, RELAY
from waiting import until
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.uri import parse_uri

from atoll.actors.tunnel_relay import websocket_server
from atoll.actors.tunnel_relay.bearer_server import BearerLimits
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.relay import Relay
from atoll.actors.tunnel_relay.tickets import Role, issue
from atoll.actors.tunnel_relay.websocket_server import WebSocketSettings
from atoll.transport.bearer import DIAL_TIMEOUT_S, BearerRefused, dial_bearer, encode_preamble, show_ticket
from atoll.transport.errors import Expired, MalformedFrame, Refused, Unreachable, UsageError
from atoll.transport.websocket_bearer import fingerprint_of, open_websocket

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
PATIENCE_S = 20


class Papers:
    """A certificate for this host, who signed it, and the files."""

    def __init__(self, folder):
        self.authority = trustme.CA()
        made = self.authority.issue_cert(HOST, "localhost")
        self.certificate, self.key = folder / "certificate.pem", folder / "certificate.key"
        self.certificate.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
        self.key.write_bytes(made.private_key_pem.bytes())
        self.fingerprint = fingerprint_of(ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode()))

    def trusting(self):
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def settings(self):
        return WebSocketSettings(port=0, host=HOST, certificate=self.certificate, key=self.key)


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return Papers(tmp_path_factory.mktemp("papers"))


@contextlib.asynccontextmanager
async def relaying(papers, **limits):
    with anyio.fail_after(2 * PATIENCE_S):
        ports = {"sep_port": 0, "bearer_port": 0, "host": HOST}
        limits = BearerLimits(**limits)
        async with Relay(RELAY, ISSUER.node_id, **ports, limits=limits, websocket=papers.settings()) as relay:
            yield relay


def halves(**fields):
    fields = {"subject": os.urandom(16), "relay": RELAY.node_id, "expires_at": int(time.time()) + 600} | fields
    return [issue(ISSUER, role=role, **fields) for role in (Role.OFFER, Role.CALL)]


async def dial_by_websocket(port, ticket, fingerprint, *, timeout_s=DIAL_TIMEOUT_S):
    def connect():
        return open_websocket(HOST, port, fingerprint)

    return await show_ticket(ticket, connect, f"the relay's WebSocket port {HOST}:{port}", timeout_s=timeout_s)


@contextlib.asynccontextmanager
async def tunnel(relay, papers, *, both=False, **fields):
    """The end that came by WebSocket, and the other one."""
    ends = {}

    async def by_websocket(name, half):
        ends[name] = await dial_by_websocket(relay.websocket_port, half, papers.fingerprint)

    async def by_tcp(name, half):
        ends[name] = await dial_bearer(HOST, relay.bearer_port, half)

    offer, call = halves(**fields)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(by_websocket, "here", offer)
            group.start_soon(by_websocket if both else by_tcp, "there", call)
        yield ends["here"], ends["there"]
    finally:
        # Whoever is cancelled would close the first of them only.
        with anyio.CancelScope(shield=True):
            for end in ends.values():
                await anyio.aclose_forcefully(end)


async def all_of(stream):
    pieces = []
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            pieces.append(await stream.receive())
    return b"".join(pieces)


async def said(stream, data):
    await stream.send(data)
    await stream.send_eof()


def counted(relay, name):
    return relay.statistics().get(name, 0)


@pytest.mark.parametrize("both", [False, True], ids=["the other by TCP", "both"])
async def test_bytes_arrive_unchanged_both_ways_and_each_direction_ends_by_itself(papers, both):
    data = os.urandom(1 << 20) * 5 + b"odd"
    async with relaying(papers) as relay, tunnel(relay, papers, both=both) as (here, there):
        for sender, receiver in ((here, there), (there, here)):
            async with anyio.create_task_group() as group:
                group.start_soon(said, sender, data)
                received = await all_of(receiver)
            assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        await until(lambda: counted(relay, "bearer_tunnels_ended_done") == 1)
        await until(lambda: counted(relay, "websocket_open") == 0)
        assert counted(relay, "bearer_forwarded_bytes") == 2 * len(data)


async def test_what_is_asked_for_is_what_comes_and_nothing_is_lost_between(papers):
    async with relaying(papers) as relay, tunnel(relay, papers) as (here, there):
        await there.send(bytes(range(200)))
        received = b"".join([await here.receive(7) for _ in range(20)])
        while len(received) < 200:
            piece = await here.receive(50)
            assert 0 < len(piece) <= 50
            received += piece
        assert received == bytes(range(200))


async def test_the_relays_reasons_arrive_and_nobody_who_was_refused_keeps_a_place(papers):
    async with relaying(papers) as relay:
        spent = halves(quota_bytes=0)[0]
        with pytest.raises(BearerRefused, match="used up") as refusal:
            await dial_by_websocket(relay.websocket_port, spent, papers.fingerprint)
        assert refusal.value.reason == Reason.OVER_QUOTA
        await until(lambda: counted(relay, "websocket_open") == 0)
        relay.drain(5)
        with pytest.raises(BearerRefused, match="drained"):
            await dial_by_websocket(relay.websocket_port, halves()[0], papers.fingerprint)


async def test_a_quota_holds_for_a_websocket_too_and_its_end_is_no_orderly_one(papers):
    async with relaying(papers) as relay, tunnel(relay, papers, quota_bytes=100_000) as (here, there):
        await there.send(bytes(90_000))
        received = 0
        while received < 90_000:
            received += len(await here.receive())
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)) as ended:  # noqa: PT012 - it may break at either
            await there.send(bytes(90_000))
            while True:
                received += len(await here.receive())
        assert ended.type is anyio.BrokenResourceError
        assert received <= 100_000


async def test_who_is_cut_at_one_end_is_cut_at_the_other(papers):
    async with relaying(papers) as relay:
        async with tunnel(relay, papers) as (here, there):
            await here.cut()
            with pytest.raises(anyio.BrokenResourceError):
                await there.receive()
        async with tunnel(relay, papers) as (here, there):
            raw = there.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await anyio.aclose_forcefully(there)
            with pytest.raises(anyio.BrokenResourceError):
                await here.receive()
        await until(lambda: counted(relay, "websocket_open") == counted(relay, "bearer_tunnels") == 0)


async def test_a_reader_that_stops_stops_its_sender_and_nobody_else(papers):
    async with relaying(papers) as relay, tunnel(relay, papers) as (here, there):
        sent = 0
        with anyio.move_on_after(1.0):
            while True:
                await there.send(bytes(1 << 16))
                sent += 1 << 16
        # What sockets hold on the way, and not what memory has.
        assert sent < 64 * 2**20
        async with tunnel(relay, papers) as (one, other):
            await one.send(b"others go on")
            assert await other.receive() == b"others go on"
        received = 0
        while received < sent:
            received += len(await here.receive())


async def test_pings_are_sent_and_answered_while_nothing_else_happens(papers, monkeypatch):
    monkeypatch.setattr(websocket_server, "PING_S", 0.05)
    async with relaying(papers) as relay, tunnel(relay, papers) as (here, there):
        pongs = []
        answer = here._protocol.send_frame
        monkeypatch.setattr(here._protocol, "send_frame", lambda frame: (pongs.append(frame.opcode), answer(frame)))
        async with anyio.create_task_group() as group:
            group.start_soon(all_of, here)
            await until(lambda: len(pongs) >= 3)
            await there.send_eof()
        await said(here, b"and still there")
        assert await all_of(there) == b"and still there"


# Who it is


async def test_no_ticket_is_shown_to_a_relay_with_another_certificate(papers):
    offer, _ = halves()
    async with relaying(papers, waiting_s=0.2) as relay:
        with pytest.raises(BearerRefused, match="other end"):
            await dial_by_websocket(relay.websocket_port, offer, papers.fingerprint)
        shown = counted(relay, "bearer_accepted")
        assert shown == 1
        with pytest.raises(Refused, match="another certificate"):
            await dial_by_websocket(relay.websocket_port, offer, bytes(32))
        assert counted(relay, "bearer_accepted") == shown


async def test_dialling_raises_what_went_wrong(papers):
    async with relaying(papers) as relay:
        port = relay.websocket_port
        with pytest.raises(Expired, match="no answer within"):
            await dial_by_websocket(port, halves()[0], papers.fingerprint, timeout_s=0.5)
        with pytest.raises((Unreachable, MalformedFrame)):
            await dial_by_websocket(relay.bearer_port, halves()[0], papers.fingerprint)
    with pytest.raises(Unreachable, match=str(port)):
        await dial_by_websocket(port, halves()[0], papers.fingerprint)


# Who is no bearer


@contextlib.contextmanager
def tls_to(papers, port):
    with (
        socket.create_connection((HOST, port), PATIENCE_S) as sock,
        papers.trusting().wrap_socket(sock, server_hostname=HOST) as tls,
    ):
        yield tls


def https(papers, port, request):
    with tls_to(papers, port) as tls:
        tls.sendall(request)
        answer = b""
        with contextlib.suppress(ssl.SSLError, ConnectionResetError):
            while piece := tls.recv(4096):
                answer += piece
    return answer


async def test_other_requests_and_other_protocols_are_let_go_and_counted(papers):
    async with relaying(papers) as relay:
        port = relay.websocket_port
        upgrade = (
            b"GET /other HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        run = anyio.to_thread.run_sync
        assert (await run(https, papers, port, upgrade)).startswith(b"HTTP/1.1 404")
        assert (await run(https, papers, port, b"GET /bearer HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 4")
        assert (await run(https, papers, port, b"\x00" * 20_000)).startswith(b"HTTP/1.1 4")
        async with await anyio.connect_tcp(HOST, port) as plain:
            await plain.send(encode_preamble(halves()[0]))
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    await plain.receive()
        await until(lambda: counted(relay, "websocket_refused_malformed") == 4)
        assert counted(relay, "bearer_accepted") == 0


def spoil(papers, port, ticket, send, message):
    """Be a bearer, send what no bearer sends, and hear nothing but the end.

    In one thread: `websockets.sync` reads in one and writes in another on one SSL object, which Python 3.11 does not
    lock, and with TLS 1.3 some of its handshakes stalled.
    """
    protocol = ClientProtocol(parse_uri(f"wss://{HOST}:{port}/bearer"))

    def answers():
        tls.sendall(b"".join(protocol.data_to_send()))
        while not (events := protocol.events_received()):
            piece = tls.recv(4096)
            assert piece, "it was cut before it was spoilt"
            protocol.receive_data(piece)
        return events

    with tls_to(papers, port) as tls:
        protocol.send_request(protocol.connect())
        (response,) = answers()
        assert response.status_code == 101
        protocol.send_binary(encode_preamble(ticket))
        (answer,) = answers()
        assert answer.data == b"OK"
        send(protocol, message)
        # It may be cut while it still sends. A TimeoutError is neither of these: then it was not cut.
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            tls.sendall(b"".join(protocol.data_to_send()))
            while piece := tls.recv(4096):
                protocol.receive_data(piece)
    assert {event.opcode for event in protocol.events_received()} <= {Opcode.CLOSE}


async def test_texts_and_messages_without_end_cut_the_bearer(papers):
    async with relaying(papers) as relay:
        port = relay.websocket_port
        for send, message in ((ClientProtocol.send_text, b"a text"), (ClientProtocol.send_binary, bytes(2 << 20))):
            offer, call = halves()
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.to_thread.run_sync, spoil, papers, port, offer, send, message)
                async with await dial_bearer(HOST, relay.bearer_port, call) as there:
                    with pytest.raises(anyio.BrokenResourceError):
                        await all_of(there)


async def test_connections_that_are_reset_at_once_harm_nobody(papers, caplog):
    def reset(port, count):
        for number in range(count):
            sock = socket.create_connection((HOST, port), PATIENCE_S)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            with contextlib.suppress(OSError):
                sock.send(b"x" * (number % 3))
            sock.close()

    async with relaying(papers) as relay:
        await anyio.to_thread.run_sync(reset, relay.websocket_port, 600)
        async with tunnel(relay, papers) as (here, there):
            await here.send(b"in spite of them")
            assert await there.receive() == b"in spite of them"
        await until(lambda: counted(relay, "websocket_handshakes") == 0)
        assert counted(relay, "websocket_refused_error") == 0, caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_is_slow_to_shake_hands_makes_room_for_others(papers, monkeypatch):
    monkeypatch.setattr(websocket_server, "HANDSHAKES_MAX", 4)
    monkeypatch.setattr(websocket_server, "HANDSHAKE_S", 1.0)
    async with relaying(papers) as relay, contextlib.AsyncExitStack() as stack:
        for _ in range(12):
            await stack.enter_async_context(await anyio.connect_tcp(HOST, relay.websocket_port))
        async with tunnel(relay, papers) as (here, there):
            await here.send(b"in spite of them")
            assert await there.receive() == b"in spite of them"
        await until(lambda: counted(relay, "websocket_refused_too_slow") == 12)
        assert counted(relay, "websocket_handshakes") == 0


async def test_a_certificate_that_cannot_be_used_is_said_with_its_settings(papers, tmp_path):
    settings = WebSocketSettings(port=0, host=HOST, certificate=tmp_path / "none.pem", key=papers.key)
    with pytest.raises(UsageError, match=r"none\.pem.*websocket\.certificate"):
        async with Relay(RELAY, ISSUER.node_id, sep_port=0, bearer_port=0, host=HOST, websocket=settings):
            pass

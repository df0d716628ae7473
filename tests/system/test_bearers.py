"""The bearer port over real sockets: admission, pairing, splicing, and what goes wrong."""

import contextlib
import hashlib
import os
import resource
import select
import socket
import struct
import threading
import time

import anyio
import pytest
from relay_keys import ISSUER, RELAY, STRANGER
from waiting import block_until

from atoll.actors.tunnel_relay.bearer_server import BearerLimits, BearerServer
from atoll.actors.tunnel_relay.bucket import BURST_BYTES_MIN, STEP_S
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import UNLIMITED, Role, issue
from atoll.transport.bearer import BearerRefused, dial_bearer, encode_preamble
from atoll.transport.errors import Expired, MalformedFrame, Unreachable, UsageError

HOST = "127.0.0.1"
PATIENCE_S = 20


def ticket(role, tunnel=None, *, key=ISSUER, relay=RELAY, life_s=600.0, quota=UNLIMITED, **fields):
    subject = tunnel or os.urandom(16)
    return issue(
        key,
        role=role,
        subject=subject,
        relay=relay.node_id,
        expires_at=int(time.time() + life_s),
        quota_bytes=quota,
        **fields,
    )


def halves(**fields):
    tunnel = os.urandom(16)
    return ticket(Role.OFFER, tunnel, **fields), ticket(Role.CALL, tunnel, **fields)


@contextlib.contextmanager
def serving(**limits):
    server = BearerServer(relay=RELAY.node_id, issuer=ISSUER.node_id, host=HOST, port=0, limits=BearerLimits(**limits))
    failures = []

    def run():
        try:
            server.run()
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        server.close()
    assert failures == []


def connect(server, preamble):
    sock = socket.create_connection((HOST, server.port), PATIENCE_S)
    sock.sendall(preamble)
    return sock


def joined(server, offer, call):
    """Both ends of a tunnel as blocking sockets, past their OK."""
    ends = [connect(server, encode_preamble(offer)), connect(server, encode_preamble(call))]
    for end in ends:
        assert end.recv(2) == b"OK"
    return ends


def forged(data):
    """Change a bit of the signature, whatever it is: its last byte is zero in one of sixteen."""
    return data[:-1] + bytes([data[-1] ^ 1])


def all_of(sock):
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def answer_of(sock):
    """What the relay said before it closed: its number and sentence."""
    data = all_of(sock)
    assert data[:2] == b"NO"
    assert len(data) == 4 + data[3]
    return Reason(data[2]), data[4:].decode()


def pass_through(sender, receiver, data):
    """Send, half-close, and read to the end on the other side."""
    writer = threading.Thread(target=lambda: (sender.sendall(data), sender.shutdown(socket.SHUT_WR)))
    writer.start()
    received = all_of(receiver)
    writer.join(PATIENCE_S)
    return received


@pytest.mark.parametrize("pipes", [{}, {"pipes_max": 1}], ids=["pool", "one pipe"])
def test_fifty_megabytes_arrive_unchanged_and_a_half_close_leaves_the_other_way_open(pipes):
    data = os.urandom(1 << 20) * 50
    with serving(**pipes) as server:
        offer, call = joined(server, *halves())
        with offer, call:
            received = pass_through(offer, call, data)
            assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
            answer = pass_through(call, offer, data[:3_000_001])
            assert answer == data[:3_000_001]
        block_until(lambda: server.statistics().get("tunnels_ended_done") == 1)
        assert server.statistics()["tunnels"] == 0
        assert server.statistics()["forwarded_bytes"] == len(data) + 3_000_001


def test_pipes_of_one_page_carry_the_same_bytes():
    data = os.urandom(5_000_000)
    with serving(pipe_bytes=4096) as server:
        offer, call = joined(server, *halves())
        with offer, call:
            assert pass_through(offer, call, data) == data


@pytest.mark.parametrize("pipes_max", [1, 2, 256])
def test_readers_that_stop_reading_stall_nobody_else(pipes_max):
    data = os.urandom(1 << 20) * 4
    with serving(pipes_max=pipes_max) as server, contextlib.ExitStack() as stack:
        stuck = []
        for _ in range(4):
            offer, call = (stack.enter_context(end) for end in joined(server, *halves()))
            offer.setblocking(False)
            stuck.append((offer, call, bytearray()))
        for offer, _, sent in stuck:
            # Until neither this socket, nor the relay, nor the reader's socket takes more.
            while select.select([], [offer], [], 0.2)[1]:
                sent.extend(data[: offer.send(data)])
        offer, call = joined(server, *halves())
        with offer, call:
            assert pass_through(offer, call, data * 3) == data * 3
        if pipes_max == 1:
            assert server.statistics()["spills"] >= 4
        assert server.statistics()["pipes"] <= pipes_max
        for offer, call, sent in stuck:
            offer.shutdown(socket.SHUT_WR)
            assert all_of(call) == sent
        block_until(lambda: server.statistics()["spilled_bytes"] == 0)


@pytest.mark.parametrize(
    ("preamble", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n", Reason.MALFORMED),
        (b"ATB1\x00\x00", Reason.MALFORMED),
        (b"ATB1\xff\xff", Reason.MALFORMED),
        (encode_preamble(b"x" * 150), Reason.MALFORMED),
        (encode_preamble(b"x" * 255), Reason.MALFORMED),
        (encode_preamble(ticket(Role.OFFER, life_s=-1)), Reason.EXPIRED),
        (encode_preamble(ticket(Role.OFFER, key=STRANGER)), Reason.FOREIGN_ISSUER),
        (encode_preamble(ticket(Role.OFFER, relay=STRANGER)), Reason.FOREIGN_RELAY),
        (encode_preamble(forged(ticket(Role.OFFER))), Reason.FORGED),
        (encode_preamble(ticket(Role.OFFER, quota=0)), Reason.OVER_QUOTA),
        (
            encode_preamble(
                issue(
                    ISSUER,
                    role=Role.REACH,
                    subject=bytes(16),
                    relay=RELAY.node_id,
                    expires_at=2**32 - 1,
                    holder=b"h" * 32,
                )
            ),
            Reason.WRONG_ROLE,
        ),
    ],
)
def test_who_has_no_good_ticket_hears_why_and_nothing_of_it_is_passed_on(preamble, reason):
    with serving() as server, connect(server, preamble) as sock:
        assert answer_of(sock) == (reason, reason.sentence)
        assert server.statistics()[f"refused_{reason.name.lower()}"] == 1
        assert server.statistics()["forwarded_bytes"] == 0
        assert server.statistics()["tunnels"] == 0


def test_a_preamble_that_drips_is_cut_in_time():
    with serving(preamble_s=0.3) as server, connect(server, b"ATB1") as sock, connect(server, b"") as silent:
        sock.sendall(b"\x00")
        assert answer_of(sock)[0] is Reason.TOO_SLOW
        assert answer_of(silent)[0] is Reason.NO_TICKET
        assert server.statistics()["preambles"] == 0


def test_a_flood_of_silent_connections_does_not_keep_an_honest_one_out():
    with serving(preambles_max=8) as server, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(server, b""))
        for end in joined(server, *halves()):
            end.close()
        assert server.statistics()["preambles"] <= 8


def test_a_preamble_in_single_bytes_is_as_good_as_one_piece():
    offer, call = halves()
    with serving() as server, connect(server, encode_preamble(call)) as other, connect(server, b"") as dripping:
        dripping.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in encode_preamble(offer):
            dripping.sendall(bytes([byte]))
        assert dripping.recv(2) == other.recv(2) == b"OK"


def test_ok_is_said_to_both_only_when_both_are_there():
    offer, call = halves()
    with serving() as server, connect(server, encode_preamble(offer)) as first:
        block_until(lambda: server.statistics()["waiting"] == 1)
        assert select.select([first], [], [], 0.05)[0] == []
        with connect(server, encode_preamble(call)) as second:
            assert first.recv(2) == second.recv(2) == b"OK"


def test_a_half_that_waits_in_vain_is_told_so():
    with serving(waiting_s=0.2) as server, connect(server, encode_preamble(ticket(Role.OFFER))) as sock:
        assert answer_of(sock)[0] is Reason.NO_PARTNER


def test_a_half_that_hangs_up_leaves_no_trace():
    offer, call = halves()
    with serving() as server:
        connect(server, encode_preamble(offer)).close()
        block_until(lambda: server.statistics().get("waiting_left") == 1)
        ends = joined(server, offer, call)
        for end in ends:
            end.close()


def test_the_newest_connection_of_a_role_replaces_the_waiting_and_the_live_one():
    offer, call = halves()
    with serving() as server:
        with connect(server, encode_preamble(offer)) as old:
            block_until(lambda: server.statistics()["waiting"] == 1)
            old_ends = joined(server, offer, call)
            assert answer_of(old)[0] is Reason.REPLACED
        with connect(server, encode_preamble(call)) as newest:
            for end in old_ends:
                with end, pytest.raises(ConnectionResetError):
                    end.recv(1)
            with connect(server, encode_preamble(offer)) as partner:
                assert newest.recv(2) == partner.recv(2) == b"OK"
                newest.sendall(b"hello")
                assert partner.recv(5) == b"hello"


def test_not_one_byte_past_the_quota_is_forwarded_and_dialling_again_buys_none():
    offer, call = halves(quota=100_000)
    with serving() as server:
        one, other = joined(server, offer, call)
        with one, other:
            one.sendall(b"x" * 60_000)
            received = b""
            while len(received) < 60_000:
                received += other.recv(60_000)
            other.sendall(b"y" * 60_000)
            with pytest.raises(ConnectionResetError):
                assert len(all_of(one)) <= 40_000
        block_until(lambda: server.statistics().get("tunnels_ended_over_quota") == 1)
        assert server.statistics()["forwarded_bytes"] == 100_000
        with connect(server, encode_preamble(offer)) as again:
            assert answer_of(again)[0] is Reason.OVER_QUOTA


def test_a_rate_holds_for_both_directions_and_dialling_again_buys_no_second_burst():
    rate = 400_000
    offer, call = halves(rate_bytes_s=rate)
    with serving() as server:
        began = time.monotonic()
        one, other = joined(server, offer, call)
        with one, other:
            assert pass_through(one, other, bytes(200_000)) == bytes(200_000)
            assert pass_through(other, one, bytes(100_000)) == bytes(100_000)
        assert time.monotonic() - began > (300_000 - BURST_BYTES_MIN) / rate
        assert server.statistics()["pauses"] > 0
        block_until(lambda: server.statistics()["tunnels"] == 0)
        began = time.monotonic()
        one, other = joined(server, offer, call)
        with one, other:
            assert pass_through(one, other, bytes(100_000)) == bytes(100_000)
        assert time.monotonic() - began > 100_000 / rate * 0.99


def test_a_tunnel_that_is_held_to_its_rate_holds_up_nobody_else_and_never_spins():
    with serving() as server, contextlib.ExitStack() as stack:
        one, _ = (stack.enter_context(end) for end in joined(server, *halves(rate_bytes_s=50_000)))
        one.setblocking(False)
        while select.select([], [one], [], 0.2)[1]:
            one.send(bytes(1 << 20))
        pauses, began = server.statistics()["pauses"], time.monotonic()
        fast = [stack.enter_context(end) for end in joined(server, *halves())]
        assert pass_through(*fast, bytes(1 << 20)) == bytes(1 << 20)
        block_until(lambda: server.statistics()["pauses"] > pauses + 5)
        # One wake-up for each step of the rate, however much waits.
        assert server.statistics()["pauses"] - pauses <= (time.monotonic() - began) / STEP_S + 2


def test_the_tunnels_of_one_purse_are_counted_together():
    shared = {"purse": b"p" * 8, "tunnels_max": 2}
    with serving() as server, contextlib.ExitStack() as stack:
        pairs = [[stack.enter_context(end) for end in joined(server, *halves(**shared))] for _ in range(2)]
        with connect(server, encode_preamble(ticket(Role.CALL, **shared))) as third:
            assert answer_of(third) == (Reason.TOO_MANY, Reason.TOO_MANY.sentence)
        for end in pairs[0]:
            end.close()
        block_until(lambda: server.statistics()["tunnels"] == 1)
        for end in joined(server, *halves(**shared)):
            stack.enter_context(end)


def test_exactly_the_quota_with_its_end_passes():
    with serving() as server:
        one, other = joined(server, *halves(quota=100_000))
        with one, other:
            assert pass_through(one, other, b"x" * 100_000) == b"x" * 100_000


def test_a_tunnel_ends_with_its_tickets():
    with serving() as server:
        ends = joined(server, *halves(life_s=1.5))
        for end in ends:
            with end, pytest.raises(ConnectionResetError):
                end.recv(1)
        block_until(lambda: server.statistics().get("tunnels_ended_expired") == 1)


def test_a_reset_at_one_end_is_a_reset_at_the_other():
    with serving() as server:
        one, other = joined(server, *halves())
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        with other, pytest.raises(ConnectionResetError):
            other.recv(1)
        block_until(lambda: server.statistics()["tunnels"] == 0)


def test_a_draining_port_keeps_its_tunnels_and_takes_no_more():
    with serving() as server:
        one, other = joined(server, *halves())
        server.drain()
        with connect(server, encode_preamble(ticket(Role.CALL))) as late:
            assert answer_of(late)[0] is Reason.DRAINING
        with one, other:
            assert pass_through(one, other, b"still here") == b"still here"


def test_out_of_descriptors_the_port_sheds_and_recovers():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server, contextlib.ExitStack() as stack:
        ends = [stack.enter_context(end) for end in joined(server, *halves())]
        clients = [stack.enter_context(socket.socket()) for _ in range(8)]
        fillers = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(client.fileno() for client in clients) + 8, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.open(os.devnull, os.O_RDONLY))
            for client in clients:
                client.settimeout(PATIENCE_S)
                client.connect((HOST, server.port))
            # Each is shed, one after the other: nobody is left waiting for a descriptor that does not come.
            for client in clients:
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1) == b""
            assert server.statistics()["accept_failed"] >= len(clients)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for filler in fillers:
                os.close(filler)
        assert pass_through(*ends, b"the live tunnel lives") == b"the live tunnel lives"
        for end in joined(server, *halves()):
            end.close()


def test_a_port_in_use_is_named():
    with serving() as server, pytest.raises(UsageError, match=f"{server.port} on {HOST} cannot be opened"):
        BearerServer(relay=RELAY.node_id, issuer=ISSUER.node_id, host=HOST, port=server.port)


def test_too_few_open_files_are_named():
    with pytest.raises(UsageError, match="ulimit"):
        BearerLimits(waiting_max=10**9).tunnels_allowed()


@pytest.mark.anyio
async def test_dialled_ends_talk_to_each_other():
    with serving() as server:
        ends = {}

        async def dial(name, half):
            ends[name] = await dial_bearer(HOST, server.port, half, timeout_s=PATIENCE_S)

        offer, call = halves()
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(dial, "offer", offer)
                group.start_soon(dial, "call", call)
            async with ends["offer"] as one, ends["call"] as other:
                await one.send(b"question")
                assert await other.receive() == b"question"
                await other.send(b"answer")
                assert await one.receive() == b"answer"
            with pytest.raises((anyio.ClosedResourceError, anyio.EndOfStream)):
                await one.receive()


@pytest.mark.anyio
async def test_dialling_raises_what_went_wrong():
    with serving(waiting_s=5) as server:
        with pytest.raises(BearerRefused, match="used up") as refusal:
            await dial_bearer(HOST, server.port, ticket(Role.CALL, quota=0), timeout_s=PATIENCE_S)
        assert refusal.value.reason == Reason.OVER_QUOTA
        with pytest.raises(Expired, match="no answer within"):
            await dial_bearer(HOST, server.port, ticket(Role.CALL), timeout_s=0.1)
        with pytest.raises(UsageError):
            await dial_bearer(HOST, server.port, b"")
        port = server.port
    with pytest.raises(Unreachable, match=str(port)):
        await dial_bearer(HOST, port, ticket(Role.CALL), timeout_s=PATIENCE_S)


@pytest.mark.anyio
async def test_a_port_that_is_no_relay_is_recognised():
    async def answer(stream):
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    listener = await anyio.create_tcp_listener(local_host=HOST)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        with pytest.raises(MalformedFrame, match="bearer port"):
            await dial_bearer(HOST, port, ticket(Role.CALL), timeout_s=PATIENCE_S)
        group.cancel_scope.cancel()

"""A whole relay: both ports, real ZeroMQ clients, and clients that are none."""

import contextlib
import os
import signal
import socket
import sys
import time
from subprocess import PIPE

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import zmq
from curve_peer import CurvePeer
from relay_keys import ISSUER, RELAY, STRANGER
from waiting import until

from atoll.actors.tunnel_relay import frames, sep_client, sep_socket
from atoll.actors.tunnel_relay.frames import Accepted, Going, Inbound, Pong, Returned, Undelivered
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.relay import Relay
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient, SepRefused
from atoll.actors.tunnel_relay.tickets import UNLIMITED, Role, issue
from atoll.transport.bearer import dial_bearer
from atoll.transport.errors import Congested, Expired, Unreachable, UsageError

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
SITE = b"s" * 16
LABEL, OTHER_LABEL = b"l" * 16, b"o" * 16
PATIENCE_S = 20
ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For what takes its time and is the same on every loop."""


@contextlib.asynccontextmanager
async def relaying():
    with anyio.fail_after(PATIENCE_S):
        async with Relay(RELAY, ISSUER.node_id, sep_port=0, bearer_port=0, host=HOST) as relay:
            yield relay


def ticket_for(role, key, *, issuer=ISSUER, relay=RELAY, life_s=600.0, quota=UNLIMITED):
    return issue(
        issuer,
        role=role,
        subject=SITE,
        relay=relay.node_id,
        expires_at=int(time.time() + life_s),
        quota_bytes=quota,
        holder=key.public,
    )


def client(port, role, *, relay_id=RELAY.node_id, dial_s=PATIENCE_S, **fields):
    key = FreshKey.generate()
    return SepClient(HOST, port, relay_id, ticket_for(role, key, **fields), key, dial_s=dial_s)


@contextlib.asynccontextmanager
async def registered(relay, *labels):
    async with client(relay.sep_port, Role.REGISTER) as proxy:
        proxy.set_labels(labels)
        assert await proxy.receive() == Accepted(frames.LABELS)
        yield proxy


async def counted(relay, name):
    await until(lambda: relay.statistics().get(name))


async def test_records_go_to_the_label_and_back():
    async with (
        relaying() as relay,
        registered(relay, LABEL) as proxy,
        client(relay.sep_port, Role.REACH) as one,
        client(relay.sep_port, Role.REACH) as two,
    ):
        for number, caller in enumerate((one, two, one)):
            record = os.urandom(frames.RECORD_BYTES_MAX) + b""
            caller.call(LABEL, record)
            heard = await proxy.receive()
            assert isinstance(heard, Inbound)
            assert (heard.label, heard.record) == (LABEL, record)
            proxy.answer(heard.circuit, b"answer %d" % number)
            assert await caller.receive() == Returned(LABEL, b"answer %d" % number)
        one.call(OTHER_LABEL, b"anybody?")
        assert await one.receive() == Undelivered(Reason.UNKNOWN_LABEL, OTHER_LABEL)
        one.ping()
        assert await one.receive() == Pong()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"life_s": -5}, Reason.EXPIRED),
        ({"issuer": STRANGER}, Reason.FOREIGN_ISSUER),
        ({"relay": STRANGER}, Reason.FOREIGN_RELAY),
        ({"quota": 0}, Reason.OVER_QUOTA),
    ],
)
@ONE_LOOP
async def test_a_bad_ticket_is_refused_in_words(fields, reason):
    async with relaying() as relay:
        with pytest.raises(SepRefused) as refusal:
            async with client(relay.sep_port, Role.REACH, **fields):
                pass
        assert (refusal.value.reason, str(refusal.value)) == (reason, reason.sentence)
        assert relay.statistics()[f"sep_refused_{reason.name.lower()}"] == 1


async def test_a_stolen_ticket_is_worth_nothing_under_another_key():
    async with relaying() as relay:
        stolen = ticket_for(Role.REACH, FreshKey.generate())
        with pytest.raises(SepRefused, match="bound to another key"):
            async with SepClient(HOST, relay.sep_port, RELAY.node_id, stolen, FreshKey.generate()):
                pass


async def test_used_up_quota_ends_the_connection_with_its_reason():
    async with (
        relaying() as relay,
        registered(relay, LABEL) as proxy,
        client(relay.sep_port, Role.REACH, quota=1000) as caller,
    ):
        caller.call(LABEL, bytes(900))
        assert len((await proxy.receive()).record) == 900
        caller.call(LABEL, bytes(900))
        with pytest.raises(SepRefused, match="used up"):
            await caller.receive()
        with pytest.raises(Unreachable):
            await caller.receive()
        await counted(relay, "sep_refused_over_quota")
        assert relay.statistics()["sep_connections"] == 1


@ONE_LOOP
async def test_a_registration_ends_with_its_ticket_and_says_so():
    async with relaying() as relay, client(relay.sep_port, Role.REGISTER, life_s=1.5) as proxy:
        with pytest.raises(SepRefused, match="expired"):
            await proxy.receive()


async def test_callers_are_told_when_the_last_registration_dies():
    async with relaying() as relay, client(relay.sep_port, Role.REACH) as caller:
        async with registered(relay, LABEL) as proxy:
            caller.call(LABEL, b"hello")
            await proxy.receive()
        assert await caller.receive() == Undelivered(Reason.UNKNOWN_LABEL, LABEL)


async def test_the_newest_registration_gets_the_calls_and_the_older_one_again_after_it():
    async with (
        relaying() as relay,
        registered(relay, LABEL) as old,
        client(relay.sep_port, Role.REACH) as caller,
    ):
        async with registered(relay, LABEL) as new:
            caller.call(LABEL, b"to the newest")
            assert (await new.receive()).record == b"to the newest"
        await until(lambda: relay.statistics()["sep_registrations"] == 1)
        caller.call(LABEL, b"to the older")
        assert (await old.receive()).record == b"to the older"


@ONE_LOOP
async def test_neither_end_has_a_receive_queue_or_heartbeats_that_peers_could_abort_it_by():
    async with relaying() as relay, client(relay.sep_port, Role.REACH) as caller:
        for sock in (relay._sep._socket._router._router, caller._sock):
            found = [sock.getsockopt(each) for each in (zmq.RCVHWM, zmq.HEARTBEAT_IVL, zmq.TCP_MAXRT)]
            assert found == [0, 0, 3000]


@contextlib.asynccontextmanager
async def deaf(relay):
    """A registration whose TCP connection nobody reads."""
    key = FreshKey.generate()
    server = RELAY.node_id.curve_key
    peer = await anyio.to_thread.run_sync(CurvePeer.dial, server, relay.sep_port, (key.public, key.secret))
    try:
        peer.say(frames.ticket_frame(ticket_for(Role.REGISTER, key)), frames.labels_frame([LABEL]))
        await until(lambda: relay.statistics()["sep_labels"] == 1)
        yield peer
    finally:
        peer.sock.close()


@ONE_LOOP
async def test_one_who_does_not_read_stalls_nobody_else_is_told_about_and_cut_in_the_end(monkeypatch):
    monkeypatch.setattr(sep_socket, "OVERFLOW_BYTES_MAX", 1_000_000)
    # TCP itself gives up who takes nothing for `SILENCE_S`.
    monkeypatch.setattr(sep_socket, "SILENCE_S", 60)
    monkeypatch.setattr(sep_socket, "STUCK_S", 60.0)
    async with (
        relaying() as relay,
        deaf(relay),
        registered(relay, OTHER_LABEL) as lively,
        client(relay.sep_port, Role.REACH) as flooder,
        client(relay.sep_port, Role.REACH) as caller,
    ):
        record = bytes(frames.RECORD_BYTES_MAX)
        stuck = None
        while stuck is None:
            with contextlib.suppress(Congested):
                flooder.call(LABEL, record)
            with anyio.move_on_after(0.002):
                stuck = await flooder.receive()
        assert stuck == Undelivered(Reason.CONGESTED, LABEL)
        for number in range(50):
            caller.call(OTHER_LABEL, b"%d" % number)
            heard = await lively.receive()
            lively.answer(heard.circuit, heard.record)
            assert await caller.receive() == Returned(OTHER_LABEL, b"%d" % number)
        monkeypatch.setattr(sep_socket, "STUCK_S", 0.1)
        await counted(relay, "sep_cut_stuck")
        while await flooder.receive() != Undelivered(Reason.UNKNOWN_LABEL, LABEL):
            pass
        assert relay.statistics()["sep_registrations"] == 1


async def test_a_client_that_outruns_the_relay_is_congested_and_one_that_does_not_care_is_cut(monkeypatch):
    monkeypatch.setattr(sep_socket, "UNREAD_BYTES_MAX", 1_500_000)
    async with relaying() as relay, registered(relay, LABEL), client(relay.sep_port, Role.REACH) as caller:
        record = bytes(frames.RECORD_BYTES_MAX)
        # Nobody but this runs, so the relay reads nothing meanwhile.
        ahead = sep_client.WINDOW_BYTES // len(record) + 1
        for _ in range(ahead):
            caller.call(OTHER_LABEL, record)
        with pytest.raises(Congested, match="has not read what was sent before"):
            caller.call(OTHER_LABEL, record)
        for _ in range(ahead):
            assert await caller.receive() == Undelivered(Reason.UNKNOWN_LABEL, OTHER_LABEL)
        key = FreshKey.generate()
        server = RELAY.node_id.curve_key
        rude = await anyio.to_thread.run_sync(CurvePeer.dial, server, relay.sep_port, (key.public, key.secret))
        rude.say(frames.ticket_frame(ticket_for(Role.REACH, key)))
        await until(lambda: relay.statistics()["sep_admitted"] == 3)
        # A message that never ends: no frame that could be judged, and nothing that libzmq would bound.
        part = rude.message(bytes(60_000), flags=1)
        with contextlib.suppress(OSError):
            for _ in range(100):
                await anyio.to_thread.run_sync(rude.sock.sendall, part)
                part = rude.message(bytes(60_000), flags=1)
        await counted(relay, "sep_cut_flooding")
        rude.sock.close()
        await until(lambda: relay.statistics()["sep_connections"] == 2)
        caller.ping()
        assert await caller.receive() == Pong()


async def test_draining_is_announced_and_nobody_new_comes_in():
    async with relaying() as relay, registered(relay, LABEL) as proxy:
        relay.drain(12)
        assert await proxy.receive() == Going(12)
        with pytest.raises(SepRefused, match="drained"):
            async with client(relay.sep_port, Role.REACH):
                pass


def dealer(context, port, *, server_key=RELAY.node_id.curve_key, curve=True):
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    if curve:
        key = FreshKey.generate()
        sock.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        sock.setsockopt(zmq.CURVE_PUBLICKEY, key.public)
        sock.setsockopt(zmq.CURVE_SECRETKEY, key.secret)
    sock.connect(f"tcp://{HOST}:{port}")
    return sock


@ONE_LOOP
async def test_a_client_that_is_silent_after_its_handshake_is_cut(monkeypatch):
    monkeypatch.setattr("atoll.actors.tunnel_relay.sep_socket.SILENT_S", 0.3)
    with zmq.Context() as context:
        async with relaying() as relay:
            silent = dealer(context, relay.sep_port)
            await counted(relay, "sep_refused_silent")
            silent.close()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([frames.call_frame(LABEL, b"record")], Reason.NO_TICKET),
        ([b"GET / HTTP/1.1"], Reason.MALFORMED),
        ([b""], Reason.MALFORMED),
        ([b"\x01\x01ticket", b"and more"], Reason.MALFORMED),
        ([b""] * 1000, Reason.MALFORMED),
    ],
)
@ONE_LOOP
async def test_a_client_that_says_something_else_first_is_refused(parts, reason):
    with zmq.Context() as context:
        async with relaying() as relay, registered(relay, LABEL) as proxy:
            sock = dealer(context, relay.sep_port)
            try:
                sock.send_multipart(parts)
                await counted(relay, f"sep_refused_{reason.name.lower()}")
                await until(lambda: sock.poll(0))
                assert sock.recv() == frames.denial(reason)
            finally:
                sock.close()
            proxy.ping()
            assert await proxy.receive() == Pong()


async def test_messages_beyond_the_limit_and_clients_without_curve_never_reach_the_switch():
    with zmq.Context() as context:
        async with relaying() as relay, registered(relay, LABEL) as proxy:
            socks = [dealer(context, relay.sep_port), dealer(context, relay.sep_port, curve=False)]
            for sock, data in zip(socks, (bytes(1 << 20), frames.ping_frame()), strict=True):
                # The one without CURVE may be refused already, and then has nobody to send to.
                with contextlib.suppress(zmq.Again):
                    sock.send(data, zmq.DONTWAIT)
            for _ in range(20):
                proxy.ping()
                assert await proxy.receive() == Pong()
            for sock in socks:
                sock.close()
            assert relay.statistics()["sep_connections"] == 1
            assert relay.statistics()["sep_admitted"] == 1


async def test_garbage_on_the_port_harms_nobody():
    async with relaying() as relay, registered(relay, LABEL) as proxy:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(10_000), os.urandom(10_000), b"\xff" + bytes(8) + b"\x7f\x03"):
            with socket.create_connection((HOST, relay.sep_port)) as sock, contextlib.suppress(OSError):
                sock.sendall(garbage)
            proxy.ping()
            assert await proxy.receive() == Pong()
        assert relay.statistics()["sep_connections"] == 1


async def test_nobody_there_and_the_wrong_key_are_told_apart_from_a_refusal():
    async with relaying() as relay:
        with pytest.raises((Unreachable, Expired)):
            async with client(relay.sep_port, Role.REACH, relay_id=STRANGER.node_id, dial_s=1):
                pass
        port = relay.sep_port
    with pytest.raises(Unreachable, match="nobody listens"):
        async with client(port, Role.REACH):
            pass


async def test_a_client_outside_its_context_says_so():
    unopened = client(1, Role.REACH)
    with pytest.raises(UsageError):
        unopened.ping()
    with pytest.raises(UsageError):
        Relay(RELAY, ISSUER.node_id).statistics()


async def test_a_port_in_use_is_named_and_the_other_one_is_released():
    async with relaying() as relay:
        with pytest.raises(UsageError, match=f"SEP cannot be opened: port {relay.sep_port} "):
            async with Relay(RELAY, ISSUER.node_id, sep_port=relay.sep_port, bearer_port=0, host=HOST):
                pass
        with pytest.raises(UsageError, match=f"bearer port {relay.bearer_port}"):
            async with Relay(RELAY, ISSUER.node_id, sep_port=0, bearer_port=relay.bearer_port, host=HOST):
                pass


async def test_ports_are_free_again_after_the_end():
    async with relaying() as relay:
        pass
    async with Relay(RELAY, ISSUER.node_id, sep_port=relay.sep_port, bearer_port=relay.bearer_port, host=HOST) as again:
        assert (again.sep_port, again.bearer_port) == (relay.sep_port, relay.bearer_port)


RELAY_PROGRAM = f"""
import anyio
import anyio.lowlevel
from atoll.actors.tunnel_relay.relay import Relay
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey

async def main():
    issuer = NodeId({bytes(ISSUER.node_id)!r})
    async with Relay(NodeKey({RELAY.seed!r}), issuer, sep_port=0, bearer_port=0, host={HOST!r}) as relay:
        print(relay.sep_port, relay.bearer_port, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@ONE_LOOP
async def test_a_relay_that_dies_or_freezes_gives_clients_a_clean_error(how, monkeypatch):
    monkeypatch.setattr(sep_client, "CHECK_S", 0.1)
    monkeypatch.setattr(sep_client, "QUIET_S", 0.2)
    monkeypatch.setattr(sep_client, "PATIENCE_S", 0.5)
    with anyio.fail_after(PATIENCE_S):
        async with await anyio.open_process([sys.executable, "-c", RELAY_PROGRAM], stdout=PIPE) as process:
            line = b""
            while not line.endswith(b"\n"):
                line += await process.stdout.receive()
            sep_port, bearer_port = map(int, line.split())
            ends = []

            async def dial(half):
                ends.append(await dial_bearer(HOST, bearer_port, half, timeout_s=PATIENCE_S))

            tunnel = os.urandom(16)
            async with client(sep_port, Role.REACH) as caller, anyio.create_task_group() as group:
                for role in (Role.OFFER, Role.CALL):
                    group.start_soon(
                        dial,
                        issue(
                            ISSUER,
                            role=role,
                            subject=tunnel,
                            relay=RELAY.node_id,
                            expires_at=int(time.time()) + 60,
                        ),
                    )
                await until(lambda: len(ends) == 2)
                process.send_signal(how)
                with pytest.raises(Unreachable, match="lost"):
                    await caller.receive()
                with pytest.raises(Unreachable, match="lost"):
                    caller.call(LABEL, b"too late")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            for end in ends:
                async with end:
                    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                        await end.receive()


async def test_a_reader_misses_nothing_while_others_send_on_its_connection(monkeypatch):
    monkeypatch.setattr(sep_client, "CHECK_S", 3600.0)
    async with relaying() as relay, registered(relay, LABEL) as proxy, client(relay.sep_port, Role.REACH) as caller:
        heard = []

        async def read():
            while True:
                heard.append(await proxy.receive())

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            for number in range(100):
                caller.call(LABEL, b"%d" % number)
                for _ in range(30 if heard else 0):
                    # Each send looks into the socket, and may be the one to see that something has come.
                    proxy.answer(heard[0].circuit, b"noise")
                    await anyio.lowlevel.checkpoint()
                await until(lambda number=number: len(heard) > number)
            group.cancel_scope.cancel()
        assert [each.record for each in heard] == [b"%d" % number for number in range(100)]

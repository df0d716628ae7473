"""Floods of a relay over real sockets: good peers are served on, and afterwards everything is as before.

The long version, which judges the delay, is `python -m atoll.testing.relay_floods_main`.
"""

import os
import socket
import time

import anyio
import psutil
import pytest
from waiting import block_until

from atoll.actors.tunnel_relay.tickets import Role
from atoll.testing.relay_floods import Flood, flooded, good_peers
from atoll.testing.relay_program import HOST, PATIENCE_S, relay_program

PATIENCE_MS = 2000.0
"""No judgement of speed: whoever is held up for as long as this is not served."""


@pytest.fixture(scope="module")
def relay(tmp_path_factory):
    with relay_program(tmp_path_factory.mktemp("relay"), "metrics.port=0") as relay:
        yield relay


async def admitted(relay):
    async with relay.sep(Role.REACH, os.urandom(16)):
        pass


def assert_whole(relay, peers):
    """Nobody good was cut, and whoever is new is let in at both ports."""
    assert peers.broken == []
    for end in relay.tunnel():
        end.close()
    anyio.run(admitted, relay)
    assert not [line for line in relay.log if "Traceback" in line or "Error" in line]


@pytest.mark.parametrize(
    ("flood", "reasons"),
    [
        (Flood("garbage", "bearer", 3000), {"malformed"}),
        (Flood("forged", "bearer", 3000), {"forged"}),
        (Flood("garbage", "sep", 3000), set()),
        (Flood("hello", "sep", 3000), {"handshake"}),
        (Flood("idle", "bearer", 3000), {"too_slow"}),
        (Flood("idle", "sep", 6000), {"silent"}),
    ],
    ids=lambda each: str(each) if isinstance(each, Flood) else "",
)
def test_good_peers_are_served_on_under_a_flood(relay, flood, reasons):
    with good_peers(relay) as peers:
        finding = flooded(relay, peers, flood, 2.0)
        print(finding.line())  # noqa: T201 - shown with `-s`
        assert_whole(relay, peers)
        for path, trips in finding.trips.items():
            assert trips, path
            assert finding.percentile_ms(path, 0.99) < PATIENCE_MS
    assert reasons <= finding.refused.keys()
    # What half-open connections may take is bounded, at both ports.
    assert finding.files < 6000
    block_until(lambda: relay.status()["descriptors"] < 100)


def dial(port):
    return socket.create_connection((HOST, port), PATIENCE_S)


def left(sock):
    with sock:
        try:
            while sock.recv(300):
                pass
        except ConnectionResetError:
            pass
    return True


@pytest.mark.parametrize("remaining", [0, 10])
def test_without_descriptors_nothing_spins_nobody_there_is_cut_and_it_recovers(tmp_path, remaining):
    with relay_program(tmp_path, "metrics.port=0") as relay, good_peers(relay) as peers:
        block_until(lambda: all(peers.trips.values()))
        relay.status()
        process = psutil.Process(relay.process.pid)
        soft, hard = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + remaining, hard))
        used_s, began = relay.cpu_s(), time.monotonic()
        # All are let go, and soon: none is left in a queue that nobody can take from.
        waiting = [dial(port) for port in (relay.port, relay.sep_port) * 100]
        for sock in waiting:
            assert left(sock)
        took_s = time.monotonic() - began
        # Silence is waited for once, 5 s, by the last ones; where those who wait hold what is left it takes 50 s.
        assert took_s < PATIENCE_S
        assert (relay.cpu_s() - used_s) / took_s < 0.7
        process.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
        block_until(lambda: relay.status()["descriptors"] < 100)
        assert_whole(relay, peers)

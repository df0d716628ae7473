"""The relay program is told to end: whoever is there may move, nobody new comes, and it ends in time."""

import contextlib
import os
import signal
import socket
import time

import psutil
import pytest
from waiting import block_until, block_until_gone

from atoll.actors.tunnel_relay.reasons import Reason
from atoll.testing.relay_program import PATIENCE_S, relay_program


def refusal(sock):
    with sock:
        data = b""
        while piece := sock.recv(300):
            data += piece
    return data[:2], data[2], data[4:].decode()


@contextlib.contextmanager
def service_manager(tmp_path):
    """Where a service manager hears of its services, as sd_notify(3) has it."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(PATIENCE_S)
        yield sock, {"NOTIFY_SOCKET": str(path)}


def test_a_drained_relay_refuses_new_tunnels_carries_the_old_ones_and_ends_when_they_have_gone(tmp_path):
    with (
        service_manager(tmp_path) as (manager, environment),
        relay_program(tmp_path, "drain_s=600", environment=environment) as relay,
    ):
        assert manager.recv(1000) == b"READY=1"
        one, other = relay.tunnel()
        offer, call = relay.tickets()
        waiting = relay.show(offer)
        os.kill(relay.process.pid, signal.SIGTERM)
        said = manager.recv(1000).decode().splitlines()
        assert said[0] == "STOPPING=1"
        # 600 s for the tunnels, and some for the end itself; else the manager would kill it after its own patience.
        assert int(said[1].partition("EXTEND_TIMEOUT_USEC=")[2]) > 600_000_000
        drained = (b"NO", Reason.DRAINING, Reason.DRAINING.sentence)
        assert refusal(waiting) == drained
        assert refusal(relay.show(call)) == drained
        one.sendall(b"still here")
        assert other.recv(100) == b"still here"
        assert relay.process.poll() is None
        for end in (one, other):
            end.close()
        assert relay.process.wait(PATIENCE_S) == 0
    assert not [line for line in relay.log if "Traceback" in line]


def test_who_does_not_move_in_time_is_cut_and_never_sees_an_orderly_end(tmp_path):
    with relay_program(tmp_path, "drain_s=0.5") as relay:
        ends = relay.tunnel()
        began = time.monotonic()
        os.kill(relay.process.pid, signal.SIGTERM)
        for end in ends:
            with end, pytest.raises(ConnectionResetError):
                end.recv(1)
        assert time.monotonic() - began >= 0.5
        assert relay.process.wait(PATIENCE_S) == 0
    block_until(lambda: any("1 tunnels did not move" in line for line in relay.log), lambda: "".join(relay.log))


def test_a_second_signal_ends_it_at_once(tmp_path):
    with relay_program(tmp_path, "drain_s=3600") as relay:
        ends = relay.tunnel()
        os.kill(relay.process.pid, signal.SIGTERM)
        with relay.show(relay.tickets()[0]) as late:
            assert late.recv(3)[:2] == b"NO"
        os.kill(relay.process.pid, signal.SIGTERM)
        assert relay.process.wait(PATIENCE_S) == 0
        for end in ends:
            end.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_with_the_relay_its_workers_end_however_it_ends(tmp_path, number):
    with relay_program(tmp_path, "workers=2") as relay:
        ends = [end for _ in range(8) for end in relay.tunnel()]
        workers = [each.pid for each in psutil.Process(relay.process.pid).children()]
        assert len(workers) == 2
        os.kill(relay.process.pid, number)
        relay.process.wait(PATIENCE_S)
        block_until_gone(workers)
        for end in ends:
            with end, contextlib.suppress(ConnectionResetError):
                assert end.recv(1) == b""


def test_a_relay_with_workers_drains_as_one(tmp_path):
    with relay_program(tmp_path, "workers=2", "drain_s=600") as relay:
        pairs = [relay.tunnel() for _ in range(8)]
        os.kill(relay.process.pid, signal.SIGTERM)
        with relay.show(relay.tickets()[0]) as late:
            assert refusal(late)[1] == Reason.DRAINING
        for one, other in pairs:
            one.sendall(b"still here")
            assert other.recv(100) == b"still here"
        assert relay.process.poll() is None
        for end in (end for pair in pairs for end in pair):
            end.close()
        assert relay.process.wait(PATIENCE_S) == 0

"""What a relay's config says reaches its ports: limits, WebSockets, metrics, and what is wrong with them is said."""

import contextlib
import re
import ssl
import subprocess
import sys

import anyio
import pytest
import trustme

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.frames import Accepted, Undelivered
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import Role
from atoll.testing.relay_program import HOST, PATIENCE_S, relay_program
from atoll.transport.bearer import dial_bearer, show_ticket
from atoll.transport.errors import Unreachable
from atoll.transport.websocket_bearer import fingerprint_of, open_websocket

ATOLL = [sys.executable, "-c", "from atoll.cli import main; main()"]
LABEL = b"l" * 16


def reason_of(sock):
    with sock:
        data = sock.recv(3)
    assert data[:2] == b"NO"
    return Reason(data[2])


def test_limits_of_tunnels(tmp_path):
    with relay_program(tmp_path, "limits.tunnels=1", "limits.tunnel_bytes=1000") as relay:
        one, other = relay.tunnel()
        assert reason_of(relay.show(relay.tickets()[0])) is Reason.FULL
        one.sendall(bytes(2000))
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := other.recv(2000):
                received += len(piece)
        assert received <= 1000
        for end in (one, other):
            end.close()


def test_the_rate_of_the_sep(tmp_path):
    async def call(relay):
        site = b"s" * 16
        async with relay.sep(Role.REGISTER, site) as proxy, relay.sep(Role.REACH, site) as caller:
            proxy.set_labels([LABEL])
            assert await proxy.receive() == Accepted(frames.LABELS)
            for _ in range(2):
                caller.call(LABEL, bytes(45_000))
            assert await caller.receive() == Undelivered(Reason.CONGESTED, LABEL)

    with relay_program(tmp_path, "limits.sep_bytes_s=1000") as relay:
        anyio.run(call, relay)


@pytest.mark.parametrize("workers", [1, 2])
def test_websockets_with_the_certificate_in_the_state_directory(tmp_path, workers):
    made = trustme.CA().issue_cert(HOST)
    (tmp_path / "certificate.pem").write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    (tmp_path / "certificate.key").write_bytes(made.private_key_pem.bytes())
    pinned = fingerprint_of(ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode()))

    async def talk(relay, port):
        ends = {}

        async def dial(name, dialled):
            ends[name] = await dialled

        offer, call = relay.tickets()
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(
                    dial, "here", show_ticket(offer, lambda: open_websocket(HOST, port, pinned), "the relay")
                )
                group.start_soon(dial, "there", dial_bearer(HOST, relay.port, call))
            async with ends["there"], ends["here"]:
                await ends["here"].send(b"through a port like 443")
                assert await ends["there"].receive() == b"through a port like 443"

    with relay_program(tmp_path, "websocket.port=0", f"workers={workers}", "metrics.port=0") as relay:
        port = int(re.search(r"WebSockets on \S+:(\d+)", relay.log[-1])[1])
        anyio.run(talk, relay, port)
        shown = subprocess.run(
            [*ATOLL, "relay", "status", "--url", f"http://{HOST}:{relay.metrics_port}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.stdout.startswith("serving\n")


def test_a_relay_without_a_certificate_makes_itself_one(tmp_path):
    with relay_program(tmp_path, "websocket.port=0"):
        assert (tmp_path / "certificate.pem").exists()


def test_a_certificate_without_its_key_is_said_with_what_to_do(tmp_path):
    (tmp_path / "certificate.key").write_text("what is this?")
    with (
        pytest.raises(Unreachable, match=r"certificate\.pem.*websocket\.certificate") as said,
        relay_program(tmp_path, "websocket.port=0"),
    ):
        pass
    assert "Traceback" not in str(said.value)


def test_status_without_metrics_says_which_setting_opens_them(tmp_path):
    config = tmp_path / "relay.toml"
    config.write_text(f'[cloud]\nid = "{"a" * 52}"\n')
    done = subprocess.run(
        [*ATOLL, "relay", "status", "--config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "metrics.port" in done.stderr

"""The `atoll` command as users run it, wrong input included."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import anyio
import pytest

from atoll.actors.tunnel_relay.frames import Going, Pong
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient
from atoll.actors.tunnel_relay.tickets import Role, issue
from atoll.cli import _COMMANDS
from atoll.cli.foreground import DRAIN_LOOK_S
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey

ATOLL = [sys.executable, "-c", "from atoll.cli import main; main()"]


def atoll(*arguments):
    return subprocess.run([*ATOLL, *arguments], capture_output=True, text=True, check=False, timeout=50)


def test_help_names_every_command_without_importing_them():
    code = "import sys; from atoll.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, modules = done.stdout.rsplit("\n", 2)[:2]
    assert re.findall(r"^  (\w+)  ", text, re.MULTILINE) == sorted(_COMMANDS)
    assert not {"zmq", "anyio", "atoll.transport.keys"} & set(modules.split())


def test_a_simulation_repeats_and_finds_nothing():
    first, second = (atoll("sim", "lan-3", "--hours", "0.05", "--seed", "7", "--json") for _ in range(2))
    one, two = json.loads(first.stdout), json.loads(second.stdout)
    assert first.returncode == 0
    assert one["version"] == 1
    assert one["violations"] == []
    assert one["simulated_s"] == pytest.approx(180)
    assert one["trace_hash"] == two["trace_hash"]
    assert one["elections"] > 0


def test_another_seed_is_another_trace():
    hashes = {
        json.loads(atoll("sim", "lan-3", "--hours", "0.01", "--seed", seed, "--json").stdout)["trace_hash"]
        for seed in ("1", "2")
    }
    assert len(hashes) == 2


def test_a_spec_that_is_wrong_is_named_with_what_to_do(tmp_path):
    (tmp_path / "x.toml").write_text('name = "x"\n')
    done = atoll("sim", str(tmp_path / "x.toml"))
    assert done.returncode == 2
    assert "the key 'site' is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_wrong_usage():
    done = atoll("fly")
    assert done.returncode == 2
    assert "No such command 'fly'" in done.stderr


def test_sizes_that_are_no_numbers_are_wrong_usage():
    done = atoll("bench", "relay", "--sizes", "big")
    assert done.returncode == 2
    assert "'big'" in done.stderr


@pytest.mark.parametrize(
    ("issuer", "code"), [("nobody", 2), (str(NodeKey.generate().node_id), 1)], ids=["no key", "a key"]
)
def test_a_relay_wants_a_real_issuer_and_a_real_address(issuer, code, tmp_path):
    done = atoll("relay", "run", "--issuer", issuer, "--set", f"state_dir={tmp_path}", "--host", "999.1.1.1")
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_a_relay_without_an_issuer_says_that_it_needs_one():
    done = atoll("relay", "run")
    assert done.returncode == 2
    assert "cloud" in done.stderr


def relay_process(state_dir, *arguments, issuer=None):
    named = str(issuer or NodeKey.generate().node_id)
    command = [*ATOLL, "relay", "run", "--issuer", named, "--set", f"state_dir={state_dir}", "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
    return process, process.stderr.readline()


FREE_PORTS = ("--sep-port", "0", "--bearer-port", "0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_relay_says_where_it_listens_and_ends_when_told(number, tmp_path):
    process, line = relay_process(tmp_path, *FREE_PORTS)
    try:
        assert re.fullmatch(r"relay [a-z2-7]{52}: SEP on 127.0.0.1:\d+, bearers on 127.0.0.1:\d+, .*\n", line)
        os.kill(process.pid, number)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_relay_that_is_terminated_lets_those_it_serves_move_first(tmp_path):
    issuer = NodeKey.generate()
    process, line = relay_process(tmp_path, *FREE_PORTS, issuer=issuer.node_id)
    relay, port = NodeId.parse(line.split()[1][:-1]), int(re.search(r"SEP on 127.0.0.1:(\d+)", line)[1])
    key = FreshKey.generate()
    ticket = issue(
        issuer,
        role=Role.REGISTER,
        subject=os.urandom(16),
        relay=relay,
        expires_at=int(time.time()) + 600,
        holder=key.public,
    )

    async def be_served():
        async with SepClient("127.0.0.1", port, relay, ticket, key) as client:
            os.kill(process.pid, signal.SIGTERM)
            while not isinstance(await client.receive(), Going):
                pass
            # It says that it goes, and serves on, though it looks several times whether it may end.
            enough = time.monotonic() + 5 * DRAIN_LOOK_S
            while time.monotonic() < enough:
                client.ping()
                while not isinstance(await client.receive(), Pong):
                    pass
                await anyio.sleep(DRAIN_LOOK_S / 10)
            assert process.poll() is None

    try:
        anyio.run(be_served)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_port_in_use_is_said_in_words(tmp_path):
    process, line = relay_process(tmp_path / "one", *FREE_PORTS)
    try:
        taken = re.search(r"bearers on 127.0.0.1:(\d+)", line)[1]
        other, first = relay_process(tmp_path / "two", "--sep-port", "0", "--bearer-port", taken)
        text = first + other.communicate(timeout=20)[1]
        assert other.returncode == 1
        assert taken in text
        assert "Traceback" not in text
    finally:
        process.kill()
        process.communicate()


def test_two_processes_do_not_share_a_state_directory(tmp_path):
    process, _ = relay_process(tmp_path, *FREE_PORTS)
    try:
        other, first = relay_process(tmp_path, *FREE_PORTS)
        text = first + other.communicate(timeout=20)[1]
        assert other.returncode == 1
        assert "another process uses" in text
    finally:
        process.kill()
        process.communicate()


def test_a_key_that_others_may_read_is_refused(tmp_path):
    NodeKey.load_or_create(tmp_path / "relay.key")
    (tmp_path / "relay.key").chmod(0o644)
    issuer = str(NodeKey.generate().node_id)
    done = atoll("relay", "run", "--issuer", issuer, "--set", f"state_dir={tmp_path}")
    assert done.returncode == 1
    assert "chmod 600" in done.stderr

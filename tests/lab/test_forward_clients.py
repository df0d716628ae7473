"""Stock programs over `atoll forward`, from one site to another over a real relay: iperf3, redis, ssh, PostgreSQL."""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from ports import free_port
from two_sites import SMALL
from waiting import block_until

from atoll.cluster_specs import read_spec
from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.loopback import Loopback

WITHIN_S = 150
FAR = "office/desk"
ATOLL = [sys.executable, "-c", "from atoll.cli import main; main()"]
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"], indirect=True),
]


def needed(*programs):
    """Find programs, or skip loudly."""
    missing = [each for each in programs if shutil.which(each) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; .ci/run installs what this needs")


@contextlib.contextmanager
def running(port, *command, user=None, **options):
    """Run a server until it is not needed any more; it listens when this is entered."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, user=user, **options
    )
    try:
        block_until(lambda: listens(port), lambda: f"{command[0]} does not listen at {port}")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def forwarding(at, target, listen="0"):
    """Run `atoll forward` and give the port that it listens at, and the process."""
    command = [*ATOLL, "--at", str(at), "forward", listen, target, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        decoder, text = json.JSONDecoder(), ""
        while True:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line
            with contextlib.suppress(ValueError):
                view = decoder.decode(text)
                break
        yield view["forward"]["listen_port"], process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def said(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WITHIN_S, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def knows(at, node):
    """Tell whether the cloud's directory has it already."""
    done = subprocess.run([*ATOLL, "--at", str(at), "node", "show", node], capture_output=True, check=False)
    return done.returncode == 0


@contextlib.asynccontextmanager
async def sites(folder, monkeypatch, *ports):
    """Run two sites of one node each, of which one lets others reach these ports; give the other's socket."""
    monkeypatch.setattr(runs, "default_run_dir", lambda: folder / "rt")
    spec_file = folder / "forwards.toml"
    spec_file.write_text(f"{SMALL}forward = {list(ports)}\n")
    spec, deaths = read_spec(str(spec_file)), []
    async with Cluster(spec, Loopback(spec), on_death=deaths.append) as cluster:
        at = cluster.planned["home/tv"].config.api_socket
        await in_thread(lambda: block_until(lambda: knows(at, FAR), lambda: f"{FAR} is not in the directory"))
        yield cluster, at
    assert deaths == []


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("f")


async def in_thread(function, *arguments):
    return await anyio.to_thread.run_sync(function, *arguments)


async def test_redis_and_iperf3_go_through_a_relay_and_its_death(folder, monkeypatch):
    needed("redis-server", "redis-cli", "redis-benchmark", "iperf3")
    redis, iperf = free_port(), free_port()
    with running(redis, "redis-server", "--port", str(redis), "--save", "", "--bind", "127.0.0.1", cwd=folder):
        async with sites(folder, monkeypatch, redis, iperf) as (cluster, at):
            with forwarding(at, f"{FAR}:{redis}") as (port, _), forwarding(at, f"{FAR}:{iperf}") as (tests, _):
                await in_thread(talk_to_redis, port)
                await in_thread(measure_with_iperf, iperf, tests)
                await lose_the_relay_in_use(cluster, port)


def talk_to_redis(port):
    cli = ("redis-cli", "-h", "127.0.0.1", "-p", str(port))
    block_until(lambda: subprocess.run([*cli, "ping"], capture_output=True, text=True, check=False).stdout == "PONG\n")
    value = "v" * 1_000_000
    assert said(*cli, "-x", "set", "long", input=value) == "OK\n"
    assert said(*cli, "get", "long").rstrip("\n") == value
    report = said("redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-c", "20", "-n", "2000", "-t", "ping", "-q")
    assert "requests per second" in report


@contextlib.contextmanager
def one_iperf_server(port):
    """Run an iperf3 server for one client.

    Between two clients it closes its listener and opens it again, and refuses or resets whoever comes meanwhile, a
    probe of whether it listens too: so each client has a server of its own, that says itself when it listens.
    """
    command = ("iperf3", "--server", "--bind", "127.0.0.1", "--port", str(port), "--forceflush")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = process.stdout.readline()
            while f"listening on {port}" not in line:
                assert line, f"iperf3 ended with {process.wait()}"
                line = process.stdout.readline()
            yield
        finally:
            process.kill()


def measure_with_iperf(served, port):
    for extra in ([], ["--reverse"], ["--parallel", "4"]):
        command = ["iperf3", "--client", "127.0.0.1", "--port", str(port), "--time", "1", "--json", *extra]
        with one_iperf_server(served):
            report = json.loads(said(*command))
        assert "error" not in report, (command, report["error"])
        assert report["end"]["sum_received"]["bytes"] > 1_000_000


async def lose_the_relay_in_use(cluster, port):
    """Kill it while somebody waits for an answer that comes later: the connection goes on."""
    routes = (await cluster.status("home/tv"))["routes"]
    (relay,) = [path["relay"] for route in routes for path in route["paths"] if path["in_use"]]
    script = "redis.call('set','n',KEYS[1]); return redis.call('get','n')"
    cli = ("redis-cli", "-h", "127.0.0.1", "-p", str(port))
    waited = []

    async def wait():
        waited.append(await in_thread(lambda: said(*cli, "blpop", "queue", "30")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await cluster.kill(relay)
        assert await in_thread(lambda: said(*cli, "eval", script, "1", "7")) == "7\n"
        await in_thread(lambda: said(*cli, "rpush", "queue", "came"))
    assert waited == ["queue\ncame\n"]


async def test_ssh_and_scp_go_through(folder, monkeypatch):
    needed("sshd", "ssh", "scp", "ssh-keygen")
    if os.geteuid() != 0:
        pytest.skip("sshd lets a user in as himself only when it runs as root here")
    sshd = free_port()
    server = prepared_sshd(folder, sshd)
    with running(sshd, *server):
        async with sites(folder, monkeypatch, sshd) as (_, at):
            with forwarding(at, f"{FAR}:{sshd}") as (port, _process):
                await in_thread(use_ssh, folder, port)


def prepared_sshd(folder, sshd):
    for name in ("host", "user"):
        said("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    keys = folder / "authorized"
    keys.write_text((folder / "user.pub").read_text())
    keys.chmod(0o600)
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = {
        "HostKey": folder / "host",
        "AuthorizedKeysFile": keys,
        "PidFile": "none",
        "StrictModes": "no",
        "Subsystem": "sftp internal-sftp",
    }
    server = [shutil.which("sshd"), "-D", "-f", "/dev/null", "-p", str(sshd), "-o", "ListenAddress=127.0.0.1"]
    for key, value in settings.items():
        server += ["-o", f"{key}={value}"]
    return server


def use_ssh(folder, port):
    common = ["-i", str(folder / "user"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    who = pwd.getpwuid(os.geteuid()).pw_name
    hello = said(
        "ssh", *common, "-p", str(port), f"{who}@127.0.0.1", "cat; echo end", input="half close comes through\n"
    )
    assert hello == "half close comes through\nend\n"
    data = os.urandom(5_000_000)
    (folder / "data").write_bytes(data)
    said("scp", "-q", *common, "-P", str(port), str(folder / "data"), f"{who}@127.0.0.1:{folder}/copied")
    assert (folder / "copied").read_bytes() == data


async def test_postgresql_goes_through(folder, monkeypatch):
    needed("psql")
    programs = servers_of_postgresql()
    if not programs:
        pytest.skip("no PostgreSQL server is installed; .ci/run installs what this needs")
    port, data = free_port(), folder / "pg"
    user = "postgres" if os.geteuid() == 0 else None
    prepared_database(programs[-1], data, user)
    server = [f"{programs[-1]}/postgres", "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
    with running(port, *server, user=user):
        async with sites(folder, monkeypatch, port) as (_, at):
            with forwarding(at, f"{FAR}:{port}") as (near, _process):
                await in_thread(use_postgres, near)


def servers_of_postgresql():
    return sorted(each.parent for each in Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def prepared_database(programs, data, user):
    data.mkdir()
    if user:
        # Its user must get through to it.
        for parent in data.parents:
            if parent.owner() == "root" and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        shutil.chown(data, user)
    said(f"{programs}/initdb", "-D", str(data), "-A", "trust", "-U", "atoll", "--no-sync", user=user)


def use_postgres(port):
    sql = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "atoll", "-d", "postgres", "-At", "-c"]
    block_until(lambda: subprocess.run([*sql, "select 1"], capture_output=True, text=True, check=False).stdout == "1\n")
    said(*sql, "create table t as select n, repeat(md5(n::text), 10) as what from generate_series(1, 20000) n")
    assert said(*sql, "select count(*), md5(string_agg(what, '' order by n)) from t") == said(
        *sql, "select count(*), md5(string_agg(what, '' order by n)) from (select * from t) as again"
    )
    rows = said(*sql, "select n, what from t order by n")
    assert len(re.findall(r"^\d+\|[0-9a-f]{320}$", rows, re.MULTILINE)) == 20000


async def test_a_port_closes_when_its_command_ends_and_what_failed_is_said(folder, monkeypatch):
    async with sites(folder, monkeypatch) as (_, at):
        with forwarding(at, f"{FAR}:5432") as (port, process):
            with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
                async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                    await stream.receive()
            line = await in_thread(process.stderr.readline)
            assert "a connection failed" in line
            assert "set forward.allow = [5432] in its config" in line
        with pytest.raises(OSError, match=r"connect|refused"):
            await anyio.connect_tcp("127.0.0.1", port)


@pytest.mark.parametrize(
    ("arguments", "said_why"),
    [
        (["5432"], "atoll forward 5432 office/server:5432"),
        (["x", "office/desk:1"], "x is no place to listen"),
        (["70000", "office/desk:1"], "70000 is no place to listen"),
        (["0", "office/desk"], "write it as NODE:PORT"),
        (["0", "office/desk:0"], "office/desk:0 is no port of a node"),
        (["0", ":22"], ":22 is no port of a node"),
        (["0", "office/desk:0000022000"], "office/desk:0000022000 is no port of a node"),
    ],
)
async def test_wrong_input_is_told_before_any_node_is_asked(arguments, said_why):
    command = [*ATOLL, "--at", "unix:/nowhere.sock", "forward", *arguments]
    done = await in_thread(lambda: subprocess.run(command, capture_output=True, text=True, check=False, timeout=30))
    assert done.returncode == 2
    assert said_why in done.stderr

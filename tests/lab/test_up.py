"""`atoll up` as users run it, with stand-ins for the processes of the cluster."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atoll.cluster_specs import NodeConfig, RelayConfig, read_config
from atoll.testing.warden_main import born

WAIT_S = 60.0
SPEC = """
name = "pair"
[[site]]
name = "home"
  [[site.node]]
  name = "tv"
  [[site.node]]
  name = "phone"
"""


def up(tmp_path, *arguments, behaviour=""):
    """Start `atoll up`, its processes being stand-ins."""
    here = str(Path(__file__).parent)
    run = f"""
import sys
sys.path.insert(0, {here!r})
import stand_in
stand_in.main(sys.argv[1], sys.argv[4], {behaviour!r})
"""
    code = f"""
import sys
from pathlib import Path
from atoll.testing import cluster, runs
cluster.RUN = {run!r}
cluster.ELECTED_S = 0.3
runs.default_run_dir = lambda: Path({str(tmp_path / "rt")!r})
from atoll.cli.up import command
command(sys.argv[1:], prog_name="up")
"""
    (tmp_path / "pair.toml").write_text(SPEC)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, str(tmp_path / "pair.toml"), "--loopback", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


def wait_ready(child):
    while "2 processes are ready" not in child.stdout.readline():
        assert child.poll() is None


def pids_of(tmp_path):
    plain = json.loads((tmp_path / "rt" / "clusters" / "pair.json").read_text())
    return [pid for pid, _ in plain["processes"].values()]


def test_steps_are_told_as_json_and_a_failed_one_is_exit_1(tmp_path):
    with up(tmp_path, "--once", "--json") as child:
        out, err = child.communicate(timeout=WAIT_S)
    told = json.loads(out)
    assert child.returncode == 1
    assert (told["version"], told["spec"], told["ok"]) == (1, "pair", False)
    assert [step["ok"] for step in told["steps"]] == [True, False, True]
    assert "home has no supernode within 0.3 s" in told["steps"][1]["detail"]
    assert "no NAT here" in err
    assert not list(tmp_path.glob("atoll-*"))


@pytest.mark.parametrize(("number", "once", "code"), [(signal.SIGINT, (), 0), (signal.SIGTERM, ("--once",), 1)])
def test_an_interruption_ends_everything(tmp_path, number, once, code):
    with up(tmp_path, *once) as child:
        wait_ready(child)
        pids = pids_of(tmp_path)
        assert all(born(pid) for pid in pids)
        child.send_signal(number)
        child.send_signal(number)  # An impatient one does no harm.
        _, err = child.communicate(timeout=WAIT_S)
    assert child.returncode == code
    assert err.count("everything that was made is removed") == 1
    assert not any(born(pid) for pid in pids)
    assert not list(tmp_path.glob("atoll-*"))
    assert not list((tmp_path / "rt" / "clusters").iterdir())


def test_without_once_the_rest_goes_on_when_a_process_dies(tmp_path):
    with up(tmp_path) as child:
        wait_ready(child)
        first, second = pids_of(tmp_path)
        os.kill(first, signal.SIGKILL)
        while "ended by itself by signal SIGKILL; the rest goes on" not in child.stderr.readline():
            assert child.poll() is None
        assert born(second)
        child.terminate()
        child.communicate(timeout=WAIT_S)
    assert child.returncode == 0


def test_a_process_that_cannot_start_ends_it_with_its_last_words(tmp_path):
    with up(tmp_path, "--keep", str(tmp_path / "kept"), behaviour="no-start") as child:
        _, err = child.communicate(timeout=WAIT_S)
    assert child.returncode == 1
    assert "ended by itself with exit code 3" in err
    assert "| the disk is on fire" in err
    # All nodes die so; the first one ends the others, which may then have said nothing yet.
    died = re.search(r"node (home/\w+) ended by itself", err)[1]
    assert "the disk is on fire" in (tmp_path / "kept" / died / "log").read_text()


def run_up(*arguments):
    code = "import sys; from atoll.cli.up import command; command(sys.argv[1:], prog_name='up')"
    return subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_configs_are_written_for_many_hosts(tmp_path):
    where = ["--address", "cloud=198.51.100.1", "--address", "relay-1=198.51.100.2"]
    done = run_up("two-sites", "--write", str(tmp_path / "w"), *where)
    assert done.returncode == 2
    assert "where is relay-2 reached?" in done.stderr
    done = run_up("two-sites", "--write", str(tmp_path / "w"), *where, "--address", "relay-2=198.51.100.3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 9
    for line in lines:
        name, _, command = line.partition(": ")
        words = command.split()
        kind = {"relay": RelayConfig, "node": NodeConfig}.get(words[1])
        if kind is not None:
            config = read_config(kind, Path(words[-1]), environment={}).config
            assert config.name == name.rpartition("/")[2]
            assert config.cloud.host == "198.51.100.1"
            assert config.key_file.stat().st_mode & 0o777 == 0o600
    assert "--config" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-spec"], "no-such-spec: No such file"),
        (["two-sites", "--write", "x", "--address", "moon=1.2.3.4"], "--address moon: no cloud or relay is called so"),
        (["two-sites", "--address", "cloud=1.2.3.4"], "--address is for --write only"),
    ],
)
def test_wrong_usage_is_exit_2_with_what_to_do(arguments, words):
    began = time.monotonic()
    done = run_up(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) >= 2
    assert time.monotonic() - began < WAIT_S

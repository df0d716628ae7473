"""Whole clusters of stand-ins: what starts, tells, dies and ends, on plain loopback."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from stand_in import __file__ as stand_in
from waiting import block_until_gone

from atoll.cluster_specs.spec import CallCheck, parse_spec
from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.errors import ClusterFault, NoAnswer, NotReady, ProcessDied, UnknownName
from atoll.testing.loopback import Loopback
from atoll.testing.processes import BoundedLog
from atoll.testing.rehearsal import Rehearsal
from atoll.testing.warden_main import born

pytestmark = pytest.mark.anyio

WAIT_S = 60.0
ONE_LOOP = pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True)
"""For what is made of parts that other tests show on every loop."""
SPEC = """
name = "small"

[[cloud]]
name = "cloud"

[[relay]]
name = "relay-1"

[[site]]
name = "home"

  [[site.node]]
  name = "tv"
  services = ["echo"]

  [[site.node]]
  name = "phone"

[[check]]
call = { from = "home/phone", service = "echo@home/tv", path = "/hello?x=1", status = 200 }

[[fault]]
at_s = 0.0
kill = "supernode of home"
"""


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    return tmp_path / "rt"


def command(**behaviours):
    """Start stand-ins; a behaviour by the last part of the process's name."""

    def argv(process, config):
        behaviour = behaviours.get(process.name.rpartition("/")[2].replace("-", "_"), "")
        return [sys.executable, "-I", "-S", stand_in, process.kind, str(config), behaviour]

    return argv


def cluster(tmp_path, *, text=SPEC, **behaviours):
    spec = parse_spec(text, "small.toml")
    return Cluster(spec, Loopback(spec), tmp_path / "c", command=command(**behaviours), ready_s=3.0, stop_s=2.0)


def let_supernode_be(running, name, epoch, *, confirmed=True):
    """Have every node say so."""
    told = {"node": str(running.planned[name].key.node_id), "epoch": epoch, "why": "mains", "confirmed": confirmed}
    for process in running.planned.values():
        file = process.config.state_dir / "status.json"
        file.with_suffix(".new").write_text(json.dumps({"supernode": told}))
        file.with_suffix(".new").replace(file)


async def test_a_cluster_starts_becomes_ready_and_ends_in_order(tmp_path, run_dir):
    with anyio.fail_after(WAIT_S):
        async with cluster(tmp_path) as running:
            assert [each.ready.is_set() for each in running.processes.values()] == [True] * 4
            assert next(iter(running.processes)) == "cloud"
            pids = [each.pid for each in running.processes.values()]
            assert all(born(pid) for pid in pids)
            (run,) = runs.running()
            assert run.label == "small"
            assert run.nodes["home/tv"] == str(running.planned["home/tv"].config.api_socket)
            written = json.loads((run_dir / "clusters" / "small.json").read_text())
            assert set(written["nodes"]) == {"home/tv", "home/phone"}
            assert b"node tv begins" in running.process("home/tv").log_file.read_bytes()
    assert not any(born(pid) for pid in pids)
    assert running.forced == []
    # The nodes' state is two folders down, the others' one: both leave their mark in the folder above.
    assert (tmp_path / "c" / "home" / "ended").read_text() == "node\nnode\n"
    assert (tmp_path / "c" / "ended").read_text() == "relay\ncloud\n"
    assert runs.running() == []


@ONE_LOOP
async def test_a_process_that_dies_is_named_with_the_end_of_its_log(tmp_path, run_dir):
    with anyio.fail_after(WAIT_S), pytest.raises(ProcessDied) as caught:
        async with cluster(tmp_path, phone="early-death"):
            await anyio.sleep_forever()
    assert "node home/phone ended by itself with exit code 3" in str(caught.value)
    assert "| the disk is on fire" in str(caught.value)


async def test_a_death_in_the_middle_cancels_the_block_at_once(tmp_path, run_dir):
    cancelled = False
    with anyio.fail_after(WAIT_S), pytest.raises(ProcessDied, match="relay-1 ended by itself by signal SIGKILL"):  # noqa: PT012  # The block is what is tried.
        async with cluster(tmp_path) as running:
            os.kill(running.process("relay-1").pid, signal.SIGKILL)
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancelled = True
                raise
    assert cancelled
    assert not any(each.alive for each in running.processes.values())


@ONE_LOOP
async def test_a_process_that_is_never_ready_is_named_with_what_it_says(tmp_path, run_dir):
    spec = parse_spec(SPEC, "small.toml")
    small = Cluster(spec, Loopback(spec), tmp_path / "c", command=command(cloud="never-ready"), ready_s=0.5)
    with anyio.fail_after(WAIT_S), pytest.raises(NotReady, match=r"cloud cloud was not ready .* waiting for Godot"):
        async with small:
            pytest.fail("it never was ready")


async def test_a_killed_process_is_no_death_and_may_be_started_again(tmp_path, run_dir):
    with anyio.fail_after(WAIT_S):
        async with cluster(tmp_path) as running:
            first = running.process("relay-1").pid
            await running.kill("relay-1")
            assert not running.process("relay-1").alive
            assert running.process("relay-1").returncode == -signal.SIGKILL
            await running.restart("relay-1")
            assert running.process("relay-1").alive
            assert running.process("relay-1").pid != first
            with pytest.raises(UnknownName, match="no process 'relay-9'"):
                await running.kill("relay-9")
            with pytest.raises(UnknownName, match="is no node"):
                running.api("relay-1")


@ONE_LOOP
async def test_whoever_does_not_stop_is_killed_and_told(tmp_path, run_dir):
    spec = parse_spec(SPEC, "small.toml")
    with anyio.fail_after(WAIT_S):
        argv = command(tv="stubborn")
        async with Cluster(spec, Loopback(spec), tmp_path / "c", command=argv, stop_s=3.0) as running:
            pass
    assert running.forced == ["home/tv"]
    assert running.process("home/tv").returncode == -signal.SIGKILL
    assert (tmp_path / "c" / "ended").read_text() == "relay\ncloud\n"


@ONE_LOOP
async def test_an_error_in_the_block_comes_out_as_it_is(tmp_path, run_dir):
    with anyio.fail_after(WAIT_S), pytest.raises(ZeroDivisionError):
        async with cluster(tmp_path) as running:
            _ = 1 / 0
    assert not any(each.alive for each in running.processes.values())


async def test_a_cancelled_cluster_still_ends_in_order(tmp_path, run_dir):
    with anyio.fail_after(WAIT_S):
        with anyio.CancelScope() as scope:
            async with cluster(tmp_path) as running:
                scope.cancel()
                await anyio.sleep_forever()
        assert running.forced == []
        assert (tmp_path / "c" / "ended").read_text() == "relay\ncloud\n"


@ONE_LOOP
async def test_a_cluster_without_a_directory_leaves_none(tmp_path, run_dir):
    spec = parse_spec(SPEC, "small.toml")
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, Loopback(spec), command=command()) as running:
            directory = running.process("cloud").directory.parent
            assert directory.exists()
    assert not directory.exists()


@ONE_LOOP
async def test_the_supernode_is_found_through_any_living_node(tmp_path, run_dir):
    with anyio.fail_after(WAIT_S):
        async with cluster(tmp_path) as running:
            # No status at all yet: the stand-ins break the connection.
            assert await running.supernode_of("home") is None
            let_supernode_be(running, "home/tv", 1, confirmed=False)
            assert await running.supernode_of("home") is None
            let_supernode_be(running, "home/tv", 1)
            assert await running.supernode_of("home") == "home/tv"
            await running.kill("home/tv")
            # The other one still believes in it: a dead supernode is none.
            assert await running.supernode_of("home") is None
            with pytest.raises(NoAnswer, match="no answer at"):
                await running.status("home/tv")


@ONE_LOOP
async def test_a_rehearsal_pushes_checks_breaks_and_says_what_it_left_out(tmp_path, run_dir):
    with anyio.fail_after(WAIT_S):
        async with cluster(tmp_path) as running:
            let_supernode_be(running, "home/tv", 1)
            rehearsal = Rehearsal(running)
            done = [step async for step in rehearsal.set_up()]
            assert [(step.what, step.ok) for step in done] == [
                ("push echo to home/tv", True),
                ("home elects a supernode", True),
            ]
            assert rehearsal.calls.paths == {"echo@home/tv": "/api/echo/v1"}
            assert "home/tv, epoch 1: mains" in done[1].detail
            async with anyio.create_task_group() as tasks:

                async def elect_the_other():
                    await running.process("home/tv").ended.wait()
                    let_supernode_be(running, "home/phone", 2)

                tasks.start_soon(elect_the_other)
                done = [step async for step in rehearsal.play()]
    assert [step.ok for step in done] == [True] * 4
    assert done[0].what == "home/phone calls echo@home/tv"
    assert re.fullmatch(r"200 in \d+ ms by sep \(no link to it\)", done[0].detail)
    assert done[1].what == "kill supernode of home"
    assert done[2].detail == "home/phone, epoch 2: mains"
    assert done[3].detail == "left out: one of the two was killed"


@ONE_LOOP
async def test_a_call_goes_to_the_place_where_the_service_lives(tmp_path, run_dir):
    with anyio.fail_after(WAIT_S):
        async with cluster(tmp_path) as running:
            rehearsal = Rehearsal(running)
            await rehearsal.calls.push("echo", "home/tv")
            answer = await rehearsal.calls.make(CallCheck("home/phone", "echo@home/tv", "/hello"))
            assert answer.data == {"path": "/at/home%2Ftv/api/echo/v1/hello"}
            with pytest.raises(ClusterFault, match="no service 'other' that ships"):
                await rehearsal.calls.push("other", "home/tv")
            with pytest.raises(NoAnswer, match=r"/nowhere: nothing at /nowhere; ask for something else"):
                await running.api("home/tv").get("/nowhere")


@ONE_LOOP
async def test_a_failed_step_says_why(tmp_path, run_dir, monkeypatch):
    monkeypatch.setattr("atoll.testing.cluster.ELECTED_S", 0.2)
    with anyio.fail_after(WAIT_S):
        async with cluster(tmp_path) as running:
            let_supernode_be(running, "home/tv", 1, confirmed=False)
            steps = [step async for step in Rehearsal(running).set_up()]
    assert steps[-1].ok is False
    assert "home has no supernode within 0.2 s" in steps[-1].detail


def test_a_log_is_bounded_and_keeps_its_end(tmp_path):
    log = BoundedLog(tmp_path / "log", bytes_max=1000)
    for number in range(500):
        log.write(f"line {number}\n".encode())
    log.write(b"and no newline")
    log.close()
    assert (tmp_path / "log").stat().st_size <= 1000
    assert (tmp_path / "log.1").stat().st_size <= 1000
    assert log.last_lines()[-2:] == ["line 499", "and no newline"]
    assert len(log.last_lines()) <= 13


def run_in_a_child(tmp_path):
    """A cluster of stand-ins in another process, which tells its processes' numbers and waits to be killed."""
    code = f"""
import anyio, sys
sys.path[:] = {sys.path!r}
from pathlib import Path
import test_cluster as t
from atoll.testing import runs
runs.default_run_dir = lambda: Path({str(tmp_path / "rt")!r})
async def main():
    spec = t.parse_spec(t.SPEC, "small.toml")
    async with t.Cluster(spec, t.Loopback(spec), command=t.command()) as running:
        print(running.process("cloud").directory.parent)
        print(*(each.pid for each in running.processes.values()), running.ground.warden.pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    directory = Path(child.stdout.readline().strip())
    return child, directory, [int(number) for number in child.stdout.readline().split()]


@contextlib.contextmanager
def child_of(tmp_path):
    child, directory, pids = run_in_a_child(tmp_path)
    with child:
        try:
            yield child, directory, pids
        finally:
            child.kill()


def test_a_sigkilled_run_leaves_nothing(tmp_path, run_dir):
    with child_of(tmp_path) as (child, directory, pids):
        assert len(pids) == 5
        assert all(born(pid) for pid in pids)
        child.kill()
        child.wait()
        block_until_gone(pids)
        assert not directory.exists()
        assert not list((run_dir / "clusters").iterdir())


def test_a_later_run_clears_what_a_run_without_a_warden_left(tmp_path, run_dir):
    with child_of(tmp_path) as (child, directory, pids):
        *processes, warden = pids
        os.kill(warden, signal.SIGKILL)
        child.kill()
        child.wait()
        assert [run.stale for run in runs._all_runs()] == [True]
        assert all(born(pid) for pid in processes)
        assert runs.running() == []
        assert runs.clear_stale() == ["small"]
        block_until_gone(processes)
        assert not directory.exists()


def test_two_runs_of_one_spec_are_told_apart(run_dir):
    with runs.published("small", {}) as first, runs.published("small", {}) as second:
        assert first.label == "small"
        assert second.label == f"small-{os.getpid()}"
        assert len(runs.running()) == 2
    assert runs.running() == []


def test_a_number_that_belongs_to_somebody_else_by_now_is_not_killed(run_dir):
    with subprocess.Popen(["sleep", "60"]) as bystander:
        run = runs.Run("old", 2**22 - 1, "1", {}, {"home/tv": (bystander.pid, "1")})
        run.write()
        assert runs.clear_stale() == ["old"]
        assert bystander.poll() is None
        bystander.kill()


def test_a_broken_file_of_a_run_is_named(run_dir):
    (run_dir / "clusters").mkdir(parents=True)
    (run_dir / "clusters" / "odd.json").write_text("{}")
    with pytest.raises(ClusterFault, match=r"odd\.json is no cluster's file"):
        runs.running()

"""JavaScript services in worker processes: called, contained, refused, and there again after a restart."""

import os
import signal
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import compiled_engine
import psutil
import pytest

from atoll.actors.container_manager.admission import TIME_LIMIT
from atoll.actors.container_manager.containers import Containers
from atoll.actors.container_manager.errors import (
    Busy,
    ContainerError,
    Crashed,
    ImageRefused,
    NotThere,
    StorageFault,
    Taken,
    UsageFault,
)
from atoll.actors.container_manager.lifecycle import Limits
from atoll.actors.container_manager.messages import ServiceCall
from atoll.actors.container_manager.runtimes.javascript_worker import NICE
from atoll.testing.services import service_archive

pytestmark = pytest.mark.anyio
ECHO = """
mimikModule.exports = function (context, request, response) {
  if (request.url.indexOf('/loop') >= 0) { while (true) {} }
  if (request.url.indexOf('/throw') >= 0) { throw new Error('on purpose'); }
  response.statusCode = 201;
  response.setHeader('x-colour', context.env.COLOUR);
  response.end(request.method + ' ' + request.body);
};
"""
ENV = {"MCM.BASE_API_PATH": "/echo/v1", "COLOUR": "blue"}


@pytest.fixture
def engines():
    return compiled_engine.engines()


async def running(containers, **env):
    await containers.load_image(service_archive("echo-v1", "1.0.0", ECHO))
    return await containers.run("echo", "echo-v1", ENV | env)


async def test_a_service_answers_below_its_path_with_and_without_its_client(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await running(containers)
        for path in ("/echo/v1/hello?x=1", "/api/echo/v1/hello"):
            reply = await containers.call(ServiceCall(path, "POST", (), b"body"))
            assert (reply.status, reply.body) == (201, b"POST body")
            assert ("x-colour", "blue") in reply.headers


async def test_a_service_that_throws_fails_its_call_only(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await running(containers)
        with pytest.raises(ContainerError, match="on purpose"):
            await containers.call(ServiceCall("/echo/v1/throw"))
        assert (await containers.call(ServiceCall("/echo/v1/hello"))).status == 201


async def test_containers_are_there_again_after_a_restart(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await running(containers)
    async with Containers(tmp_path, engines=engines) as containers:
        assert (await containers.call(ServiceCall("/echo/v1/hello"))).status == 201


async def test_what_is_not_there_and_what_is_taken_is_said(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await running(containers)
        with pytest.raises(NotThere):
            await containers.call(ServiceCall("/nobody"))
        with pytest.raises(Taken, match="echo"):
            await containers.run("second", "echo-v1", ENV)


async def test_the_callers_own_error_comes_out_as_it_is(tmp_path):
    async def fail():
        async with Containers(tmp_path) as containers:
            containers.prepare()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_a_node_without_images_runs_no_worker(tmp_path):
    async with Containers(tmp_path) as containers:
        with pytest.raises(ImageRefused):
            await containers.load_image(b"no image")
        await anyio.wait_all_tasks_blocked()
        assert containers.statistics()["worker_processes"] == 0


WAITING = """
mimikModule.exports = function (context, request, response) {
  const { storage } = context;
  storage.setItem('calls', String(Number(storage.getItem('calls') || 0) + 1));
  if (request.url !== '/wait') return response.end(storage.getItem('calls'));
  console.log('waiting');
  setTimeout(() => response.end('late'), 600000);
};
"""


async def logged(containers, container, text):
    with anyio.fail_after(60):
        while text not in [each.text for each in containers.logs(container)]:  # noqa: ASYNC110 - it is another process
            await anyio.sleep(0.01)


async def fault_of(containers, path, faults, body=b""):
    with pytest.raises(ContainerError) as caught:
        await containers.call(ServiceCall(path, body=body))
    faults.append(caught.value)


async def test_a_worker_that_is_killed_fails_its_call_and_the_next_one_is_answered(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await containers.load_image(service_archive("waiting-v1", "1", WAITING))
        await containers.run("waiting", "waiting-v1")
        faults = []
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(fault_of, containers, "/waiting/wait", faults)
                await logged(containers, "waiting", "waiting")
                os.kill(containers.worker_pids()["api-waiting"], signal.SIGKILL)
            assert type(faults[0]) is Crashed
            assert "signal 9" in str(faults[0])
            reply = await containers.call(ServiceCall("/waiting"))
        assert reply.body == b"2", "what the killed call stored is there"
        assert any("signal 9" in each.text for each in containers.logs("waiting") if each.stream == "system")


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"mimikModule.exports = (c, q, r) => r.end('evil');", None])
async def test_a_program_that_is_not_what_was_pushed_is_never_run_and_heals_when_it_is_pushed_again(
    tmp_path, engines, damage
):
    async with Containers(tmp_path, engines=engines) as containers:
        await running(containers)
        (program,) = (tmp_path / "images").glob("*.js")
        (archive,) = (tmp_path / "images").glob("*.tar")
        for file in (program, archive):
            file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(Crashed, match="cannot be read" if damage is None else "push the image again"):
            await containers.call(ServiceCall("/echo/v1/"))
        with pytest.raises(StorageFault, match="cannot be read" if damage is None else "push the image again"):
            await containers.archive_part(archive.stem, 0)
        assert any("push the image" in each.text or "cannot be read" in each.text for each in containers.logs("echo"))
        await containers.load_image(service_archive("echo-v1", "1.0.0", ECHO))
        with anyio.fail_after(60):
            while True:
                try:
                    reply = await containers.call(ServiceCall("/echo/v1/"))
                    break
                except Busy:
                    await anyio.sleep(0.02)
    assert reply.status == 201


def session_niceness(pid):
    """Give how nice a process' session is; None: this kernel does not share processors among sessions."""
    told = Path(f"/proc/{pid}/autogroup")
    return int(told.read_text().split()[-1]) if told.exists() else None


async def test_a_worker_gives_way_to_its_node_and_inherits_nothing_of_it(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await running(containers)
        await containers.call(ServiceCall("/echo/v1/"))
        (pid,) = containers.worker_pids().values()
        worker = psutil.Process(pid)
        assert worker.nice() > psutil.Process().nice()
        assert session_niceness(pid) in (NICE, None)
        assert worker.rlimit(psutil.RLIMIT_NOFILE)[1] <= 64
        assert os.getsid(pid) == pid


COMPILING = """
import os
from atoll.actors.container_manager.runtimes import isolate, javascript_worker
class Pipe:
    def send(self, frame): print(type(frame).__name__, os.nice(0))
    def flush(self): pass
isolate.warm_up = lambda cache: print("compiles", os.nice(0))
javascript_worker.fence()
javascript_worker.compiled(Pipe())
"""


async def test_callers_wait_for_the_engine_so_it_is_compiled_before_a_worker_gives_way():
    told = await anyio.run_process([sys.executable, "-P", "-c", COMPILING, "unused"])
    own = os.nice(0)
    assert told.stdout.decode().splitlines() == [f"compiles {own}", f"Ready {min(own + NICE, 19)}"]


async def test_the_end_waits_neither_for_a_looping_worker_nor_for_a_frozen_one(tmp_path, engines):
    faults = []
    with anyio.fail_after(60):
        for frozen in (False, True):
            async with anyio.create_task_group() as callers:
                async with Containers(tmp_path / str(frozen), engines=engines) as containers:
                    await running(containers, **{TIME_LIMIT: "300"})
                    await containers.call(ServiceCall("/echo/v1/"))
                    (pid,) = containers.worker_pids().values()
                    began_s = psutil.Process(pid).cpu_times().user
                    if frozen:
                        os.kill(pid, signal.SIGSTOP)
                    # More than a pipe holds: the node is in the middle of sending it.
                    callers.start_soon(fault_of, containers, "/echo/v1/loop", faults, b"x" * 1_000_000)
                    await anyio.wait_all_tasks_blocked()
                    while not frozen and psutil.Process(pid).cpu_times().user < began_s + 0.2:  # noqa: ASYNC110 - it is another process
                        await anyio.sleep(0.01)
                assert not psutil.pid_exists(pid)
    assert [type(fault) for fault in faults] == [Busy, Busy]


async def test_calls_beyond_the_limit_are_refused_at_once_and_stopping_fails_those_in_hand(tmp_path, engines):
    async with Containers(tmp_path, engines=engines, limits=Limits(calls_max=2)) as containers:
        await containers.load_image(service_archive("waiting-v1", "1", WAITING))
        await containers.run("waiting", "waiting-v1")
        faults = []
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(fault_of, containers, "/waiting/wait", faults)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(Busy, match="2 calls"):
                    await containers.call(ServiceCall("/waiting"))
                await containers.stop("waiting")
        assert [type(each) for each in faults] == [Busy, Busy]
        with pytest.raises(Busy, match="start it first"):
            await containers.call(ServiceCall("/waiting"))
        await containers.start("waiting")
        assert (await containers.call(ServiceCall("/waiting"))).status == 200


async def test_more_containers_than_workers_take_turns(tmp_path, engines):
    async with Containers(tmp_path, engines=engines, workers_max=1) as containers:
        await containers.load_image(service_archive("waiting-v1", "1", WAITING))
        for name in ("one", "two"):
            await containers.run(name, "waiting-v1")
        for turn in (b"1", b"2"):
            for name in ("one", "two"):
                assert (await containers.call(ServiceCall(f"/{name}"))).body == turn
                assert list(containers.worker_pids()) == [f"api-{name}"]


async def test_storage_outlives_a_restart_and_not_the_container(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await containers.load_image(service_archive("waiting-v1", "1", WAITING))
        await containers.run("waiting", "waiting-v1")
        assert (await containers.call(ServiceCall("/waiting"))).body == b"1"
    async with Containers(tmp_path, engines=engines) as containers:
        assert (await containers.call(ServiceCall("/waiting"))).body == b"2"
        await containers.remove("waiting")
        await containers.run("waiting", "waiting-v1")
        assert (await containers.call(ServiceCall("/waiting"))).body == b"1"


async def test_a_stopped_container_stays_stopped_over_a_restart(tmp_path):
    async with Containers(tmp_path) as containers:
        await running(containers)
        await containers.stop("echo")
    async with Containers(tmp_path) as containers:
        assert [each.state for each in containers.list()] == ["stopped"]
        assert containers.services() == ()
        assert containers.statistics()["worker_processes"] == 0


async def test_orders_that_come_together_are_carried_out_one_by_one(tmp_path):
    async with Containers(tmp_path) as containers:
        await containers.load_image(service_archive("echo-v1", "1.0.0", ECHO))
        outcomes = []

        async def run():
            try:
                outcomes.append((await containers.run("echo", "echo-v1", ENV)).id)
            except Taken:
                outcomes.append("taken")

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(run)
        assert sorted(outcomes) == ["api-echo", *["taken"] * 4]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(containers.remove, "echo")
            tasks.start_soon(fault_of_start, containers)
        assert containers.list() == ()
    async with Containers(tmp_path) as containers:
        assert containers.list() == (), "a start that came too late brought it back"


async def fault_of_start(containers):
    await anyio.lowlevel.checkpoint()
    with pytest.raises(NotThere):
        await containers.start("echo")


async def test_a_container_keeps_its_program_when_its_image_moves_on(tmp_path, engines):
    async with Containers(tmp_path, engines=engines) as containers:
        await running(containers)
        newer = ECHO.replace("201", "202")
        await containers.load_image(service_archive("echo-v1", "1.0.0", newer))
        assert (await containers.call(ServiceCall("/echo/v1"))).status == 201
        await containers.remove("echo")
        await containers.run("echo", "echo-v1", ENV)
        assert (await containers.call(ServiceCall("/echo/v1"))).status == 202
        with pytest.raises(Taken, match="api-echo"):
            await containers.remove_image("echo-v1")


@pytest.mark.parametrize(
    ("name", "env", "client"),
    [
        ("UPPER", {}, "api"),
        ("../x", {}, "api"),
        ("", {}, "api"),
        ("x" * 200, {}, "api"),
        ("x", {"MCM.BASE_API_PATH": "/mcm/v1"}, "api"),
        ("x", {"MCM.BASE_API_PATH": "/a/../b"}, "api"),
        ("x", {"MCM.BASE_API_PATH": "/a b"}, "api"),
        ("x", {"MCM.MAX_EXECUTION_TIME_SEC": "soon"}, "api"),
        ("x", {"A": "b" * 20_000}, "api"),
        ("x", {str(each): "" for each in range(101)}, "api"),
        ("x", {}, "../etc"),
        ("x", {}, "mcm"),
    ],
)
async def test_a_container_that_cannot_be_is_refused_and_changes_nothing(name, env, client, tmp_path):
    async with Containers(tmp_path) as containers:
        await containers.load_image(service_archive("echo-v1", "1.0.0", ECHO))
        before = (tmp_path / "images" / "index.json").read_bytes()
        with pytest.raises(UsageFault):
            await containers.run(name, "echo-v1", env, client)
        assert containers.list() == ()
        assert (tmp_path / "images" / "index.json").read_bytes() == before

"""The container manager as an actor: orders and calls by mail, its errors as they are, and nobody from outside."""

import anyio
import pytest
from compiled_engine import engines

from atoll.actors.container_manager.container_manager import ContainerManager, fault_reply, order
from atoll.actors.container_manager.containers import Containers
from atoll.actors.container_manager.errors import (
    Busy,
    ImageNotThere,
    ImageRefused,
    NotThere,
    Overran,
    StorageFault,
    Taken,
    Threw,
    UsageFault,
)
from atoll.actors.container_manager.messages import (
    MESSAGES,
    PATH,
    ListContainers,
    ListImages,
    ListServices,
    LoadImage,
    ReadLogs,
    RemoveContainer,
    RemoveImage,
    RunContainer,
    ServiceCall,
    StartContainer,
    StopContainer,
)
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import ActorSystem
from atoll.actors.runtime.errors import AskRefused, StartFailed
from atoll.actors.runtime.machine import Address
from atoll.testing.services import service_archive
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio
CODEC = Codec((*RUNTIME_MESSAGES, *MESSAGES))
HERE, THERE = NodeId(b"h" * 32), NodeId(b"t" * 32)
SERVICE = """
mimikModule.exports = function (context, request, response) {
  console.log(request.url);
  if (request.url === '/throw') throw new Error('on purpose');
  if (request.url === '/wait') return;
  response.end('hello');
};
"""


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "hello.tar"
    path.write_bytes(service_archive("hello-v1", "1.0.0", SERVICE))
    return path


async def manager_of(system, folder):
    return await system.spawn(lambda: ContainerManager(lambda: Containers(folder, engines=engines())), PATH)


@pytest.fixture
async def manager_with_slow_service(tmp_path):
    path = tmp_path / "slow.tar"
    slow = SERVICE.replace("return;", "return void setTimeout(() => response.end('late'), 600000);")
    path.write_bytes(service_archive("hello-v1", "1.0.0", slow))
    async with ActorSystem(HERE, CODEC) as system:
        manager = await manager_of(system, tmp_path / "state")
        await order(manager, LoadImage(str(path)))
        await order(manager, RunContainer("hello", "hello-v1"))
        yield manager


async def test_every_order_is_carried_out_over_the_mailbox(tmp_path, archive):
    async with ActorSystem(HERE, CODEC) as system:
        manager = await manager_of(system, tmp_path / "state")
        image = await order(manager, LoadImage(str(archive), "api"))
        assert (image.id, image.repo_tags) == ("api-hello-v1", ("hello-v1:1.0.0", "runtime:js"))
        assert (await order(manager, ListImages())).images == (image,)
        container = await order(manager, RunContainer("hello", "hello-v1", (("COLOUR", "blue"),)))
        assert (container.id, container.state) == ("api-hello", "started")
        (service,) = (await order(manager, ListServices())).services
        assert (service.path, service.base_path, service.container) == ("/api/hello", "/hello", "api-hello")
        reply = await order(manager, ServiceCall("/hello/x"))
        assert (reply.status, reply.body, reply.fault) == (200, b"hello", "")
        (line,) = (await order(manager, ReadLogs("hello"))).entries
        assert (line.stream, line.text) == ("stdout", "/x")
        assert (await order(manager, StopContainer("hello"))).state == "stopped"
        assert (await order(manager, ListServices())).services == ()
        assert (await order(manager, StartContainer("hello"))).state == "started"
        assert [each.id for each in (await order(manager, ListContainers())).containers] == ["api-hello"]
        assert (await order(manager, RemoveContainer("hello"))).id == "api-hello"
        assert (await order(manager, RemoveImage("hello-v1"))).id == "api-hello-v1"
        assert (await order(manager, ListImages())).images == ()


async def test_its_errors_arrive_as_they_are_and_it_goes_on(tmp_path, archive):
    junk = tmp_path / "junk.tar"
    junk.write_bytes(b"not an image" * 100)
    async with ActorSystem(HERE, CODEC) as system:
        manager = await manager_of(system, tmp_path / "state")
        await order(manager, LoadImage(str(archive)))
        await order(manager, RunContainer("hello", "hello-v1"))
        await order(manager, RunContainer("slow", "hello-v1", (("MCM.MAX_EXECUTION_TIME_SEC", "0.000001"),)))
        for message, error in [
            (LoadImage(str(junk)), ImageRefused),
            (LoadImage(str(tmp_path / "nothing.tar")), UsageFault),
            (RunContainer("other", "nothing"), ImageNotThere),
            (RunContainer("hello", "hello-v1"), Taken),
            (RunContainer("x", "hello-v1", (("MCM.BASE_API_PATH", "/mcm"),)), UsageFault),
            (RemoveImage("hello-v1"), Taken),
            (StartContainer("nobody"), NotThere),
            (ServiceCall("/nobody"), NotThere),
            (ServiceCall("/hello/throw"), Threw),
            (ServiceCall("/slow"), Overran),
        ]:
            with pytest.raises(error):
                await order(manager, message)
        assert (await order(manager, ServiceCall("/hello"))).body == b"hello"


async def test_a_call_that_waits_holds_up_nobody(manager_with_slow_service):
    manager = manager_with_slow_service
    faults = []

    async def wait():
        with pytest.raises(Busy) as caught:
            await order(manager, ServiceCall("/hello/wait"))
        faults.append(fault_reply(caught.value))

    async def logged():
        return [each.text for each in (await order(manager, ReadLogs("hello"))).entries]

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while "/wait" not in await logged():  # noqa: ASYNC110 - what is waited for happens in another process
                await anyio.sleep(0.01)
            assert (await order(manager, ServiceCall("/hello"))).body == b"hello"
            await order(manager, StopContainer("hello"))
    assert faults[0].status == 503
    assert "stopped" in faults[0].fault


@pytest.mark.parametrize("standing", list(Standing))
async def test_another_node_never_reaches_it(tmp_path, standing):
    systems = {}

    def carry(envelope):
        systems[envelope.header.target_node].deliver(envelope, standing)

    async with ActorSystem(HERE, CODEC, carry) as here, ActorSystem(THERE, CODEC, carry) as there:
        systems |= {HERE: here, THERE: there}
        await manager_of(there, tmp_path / "state")
        for message in (ListContainers(), ServiceCall("/hello"), LoadImage("/etc/passwd")):
            with pytest.raises(AskRefused):
                await here.ref(Address(THERE, PATH)).ask(message)


async def test_a_folder_that_cannot_be_used_fails_the_start_and_says_why(tmp_path):
    (tmp_path / "state").write_text("a file where the folder should be")
    async with ActorSystem(HERE, CODEC) as system:
        with pytest.raises(StartFailed) as caught:
            await manager_of(system, tmp_path / "state")
        assert isinstance(caught.value.__cause__, StorageFault)

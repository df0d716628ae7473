"""JavaScript services in worker processes: called, contained, refused, and there again after a restart."""

import io
import tarfile

import pytest

from atoll.actors.container_manager.containers import Containers
from atoll.actors.container_manager.errors import ContainerError, ImageRefused, NotThere, Overran, Taken
from atoll.actors.container_manager.messages import ServiceCall
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


async def running(containers, **env):
    await containers.load_image(service_archive("echo-v1", "1.0.0", ECHO))
    return await containers.run("echo", "echo-v1", ENV | env)


async def test_a_service_answers_below_its_path_with_and_without_its_client(tmp_path):
    async with Containers(tmp_path) as containers:
        await running(containers)
        for path in ("/echo/v1/hello?x=1", "/api/echo/v1/hello"):
            reply = await containers.call(ServiceCall(path, "POST", (), b"body"))
            assert (reply.status, reply.body) == (201, b"POST body")
            assert ("x-colour", "blue") in reply.headers


async def test_a_call_that_never_ends_is_stopped_and_the_next_one_is_answered(tmp_path):
    async with Containers(tmp_path) as containers:
        await running(containers, **{"MCM.MAX_EXECUTION_TIME_SEC": "3"})
        with pytest.raises(Overran):
            await containers.call(ServiceCall("/echo/v1/loop"))
        assert (await containers.call(ServiceCall("/echo/v1/hello"))).status == 201


async def test_a_service_that_throws_fails_its_call_only(tmp_path):
    async with Containers(tmp_path) as containers:
        await running(containers)
        with pytest.raises(ContainerError, match="on purpose"):
            await containers.call(ServiceCall("/echo/v1/throw"))
        assert (await containers.call(ServiceCall("/echo/v1/hello"))).status == 201


async def test_containers_are_there_again_after_a_restart(tmp_path):
    async with Containers(tmp_path) as containers:
        await running(containers)
    async with Containers(tmp_path) as containers:
        assert (await containers.call(ServiceCall("/echo/v1/hello"))).status == 201


async def test_what_is_not_there_and_what_is_taken_is_said(tmp_path):
    async with Containers(tmp_path) as containers:
        await running(containers)
        with pytest.raises(NotThere):
            await containers.call(ServiceCall("/nobody"))
        with pytest.raises(Taken, match="echo"):
            await containers.run("second", "echo-v1", ENV)


def hostile(name, **fields):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(entry, field, value)
        archive.addfile(entry)
    return out.getvalue()


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        b"not a tar at all",
        hostile("../outside"),
        hostile("/absolute"),
        hostile("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        hostile("hard", type=tarfile.LNKTYPE, linkname="x"),
        hostile("device", type=tarfile.CHRTYPE),
        hostile("pipe", type=tarfile.FIFOTYPE),
        service_archive("echo-v1", "1.0.0", ECHO)[:3000],
    ],
    ids=["empty", "garbage", "traversal", "absolute", "symlink", "hardlink", "device", "fifo", "cut off"],
)
async def test_a_hostile_archive_is_refused_and_leaves_nothing(archive, tmp_path):
    async with Containers(tmp_path / "state") as containers:
        with pytest.raises(ImageRefused):
            await containers.load_image(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]

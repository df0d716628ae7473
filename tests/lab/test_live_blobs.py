"""`atoll send` and `atoll receive` between processes that are killed in mid-transfer: all of it arrives, and once."""

import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import anyio
import pytest
from two_sites import SMALL

from atoll.actors.blobs.manifest import chunk_count
from atoll.cluster_specs.spec import parse_spec
from atoll.testing import runs
from atoll.testing.blob_world import manifest_of
from atoll.testing.cluster import RUN, Cluster
from atoll.testing.errors import NoAnswer
from atoll.testing.loopback import Loopback

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
    pytest.mark.timeout(180),
]

WAIT_S = 150.0
SIZE_BYTES = 50_000_000
ON_ITS_WAY = 16
"""Chunks that a stream may have on its way when it is lost, a window of 4 MiB; they are given again."""
LAN = """
name = "blobs"
[[site]]
name = "home"
[[site.node]]
name = "tv"
[[site.node]]
name = "desk"
"""
SENDER = "home/tv"


@pytest.fixture(params=["sites"])
async def cluster(request, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec = parse_spec(LAN if request.param == "lan" else SMALL, "blobs")
    async with Cluster(spec, Loopback(spec), on_death=lambda _: None) as cluster:
        for site in spec.site:
            await cluster.elected(site.name)
        yield cluster


def receiver_of(cluster):
    return next(name for name in cluster.planned if name.endswith("/desk"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "film.bin"
    path.write_bytes(Random(7).randbytes(SIZE_BYTES))
    return path


class Command:
    """A command at a node, and what it said."""

    def __init__(self, process):
        self.process = process

    async def done(self):
        """Wait for its end, and give its status, stdout and stderr."""
        heard = {}

        async def hear(name, stream):
            heard[name] = b"".join([piece async for piece in stream]).decode()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hear, "out", self.process.stdout)
            tasks.start_soon(hear, "err", self.process.stderr)
        return await self.process.wait(), heard["out"], heard["err"]


@asynccontextmanager
async def atoll(cluster, node, *words):
    at = cluster.planned[node].config.api_socket
    argv = [sys.executable, "-P", "-c", RUN, "--at", str(at), *map(str, words)]
    async with await anyio.open_process(argv, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as process:
        try:
            yield Command(process)
        finally:
            if process.returncode is None:
                process.kill()


async def blobs(cluster, node):
    while True:
        try:
            return await cluster.api(node).get("/atoll/v1/blobs")
        except NoAnswer:
            await anyio.sleep(0.05)


async def until_a_part_is_there(cluster):
    """Wait until a good part has come, and not all."""
    while True:
        for blob in (await blobs(cluster, receiver_of(cluster)))["incoming"]:
            if blob["got_bytes"] > 0.2 * blob["size_bytes"]:
                assert blob["state"] != "whole", "it ended before anybody could disturb it: make the file larger"
                return blob["got_bytes"]
        await anyio.sleep(0.005)


async def relay_in_use(cluster):
    desk = str(cluster.planned[receiver_of(cluster)].key.node_id)
    routes = (await cluster.status(SENDER))["routes"]
    (path,) = (path for route in routes if route["peer"] == desk for path in route["paths"] if path["in_use"])
    return path["relay"]


async def carry_out(cluster, node, words, told, *, again=False):
    """Run a command to its end, and once more where it was killed."""
    async with atoll(cluster, node, *words) as command:
        told.append(command)
        status, out, err = await command.done()
    if again and status < 0:
        await carry_out(cluster, node, words, told)
        return
    assert status == 0, err
    told.append(json.loads(out))


async def strike(cluster, victim, commands):
    """Kill somebody."""
    if victim in {"sender", "receiver"}:
        node = SENDER if victim == "sender" else receiver_of(cluster)
        await cluster.kill(node)
        await cluster.restart(node)
    elif victim == "relay":
        await cluster.kill(await relay_in_use(cluster))
    else:
        commands[victim][0].process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("victim", [None, "sender", "receiver", "relay", "send", "receive"])
async def test_a_file_arrives_whole_and_once_whoever_is_killed_on_its_way(cluster, file, tmp_path, victim):
    await arrives(cluster, file, tmp_path, victim)


@pytest.mark.parametrize("cluster", ["lan"], indirect=True)
@pytest.mark.parametrize("victim", ["sender", "receiver"])
async def test_so_it_does_between_nodes_of_one_network(cluster, file, tmp_path, victim):
    await arrives(cluster, file, tmp_path, victim)


async def arrives(cluster, file, tmp_path, victim):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    said, got, count = {"send": [], "receive": []}, 0, chunk_count(SIZE_BYTES)
    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            for name, node, words in (
                ("receive", receiver_of(cluster), ("--to", inbox, "--once", "--yes", "--json")),
                ("send", SENDER, (file, "desk", "--json")),
            ):
                begin = partial(carry_out, cluster, node, (name, *words), said[name], again=victim == name)
                tasks.start_soon(begin)
            if victim is not None:
                got = await until_a_part_is_there(cluster)
                await strike(cluster, victim, said)
        sent, received = said["send"][-1], said["receive"][-1]
        assert sent["sending"]["state"] == "taken"
        assert received["path"] == str(inbox / "film.bin")
        assert received["digest"] == f"blake2b-tree:{manifest_of(file.read_bytes()).digest.hex()}"
        assert (inbox / "film.bin").read_bytes() == file.read_bytes()
        assert [each.name for each in inbox.iterdir()] == ["film.bin"]
        there, here = await blobs(cluster, receiver_of(cluster)), await blobs(cluster, SENDER)
    taken, found = (there["counters"].get(name, 0) for name in ("chunks_taken", "chunks_found"))
    given = here["counters"]["chunks_given"]
    sys.stdout.write(f"\n{victim} killed at {got} bytes: {given} chunks given, {taken} taken, {found} found\n")
    assert there["incoming"] == []
    assert taken + found == count, "what was verified is not sent again"
    assert given <= count + ON_ITS_WAY
    assert bool(found) == (victim == "receiver"), "only who was started again reads what it had"

"""Messages from one site behind NAT to another one, and back, while the relay in use is killed: each once, in order."""

import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.streams.text import TextReceiveStream
from two_sites import small

from atoll.cluster_specs.spec import parse_spec
from atoll.testing import runs
from atoll.testing.cluster import RUN, Cluster
from atoll.testing.lab import Lab, obstacle
from atoll.testing.loopback import Loopback

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
    pytest.mark.timeout(200),
]
WITHIN_S = 150
MESSAGES = 500
KILL_AT = 150
PACE_S = 0.004
# Through such NATs no hole is punched: all goes over relays.
SPEC = f"""{small("symmetric")}
pubsub = {{ subscribe = ["up/#", "joined/#"], publish = ["down/#"] }}
[[join]]
from = "home/tv"
node = "office/desk"
topics = ["joined/#"]
"""
TV, DESK = "home/tv", "office/desk"


@asynccontextmanager
async def atoll(cluster, node, *words):
    argv = [sys.executable, "-P", "-c", RUN, "--at", str(cluster.planned[node].config.api_socket), *words]
    process = await anyio.open_process(argv, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.PIPE)
    async with process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def answered(cluster, *words):
    """Run a command until it succeeds: a site that has just begun is not known everywhere."""
    while True:
        async with atoll(cluster, *words) as process:
            if await process.wait() == 0:
                return
        await anyio.sleep(0.1)


async def paths(cluster):
    return [path for route in (await cluster.status(TV))["routes"] for path in route["paths"]]


async def relay_in_use(cluster):
    """Name it, as soon as there is another one to go to."""
    while True:
        usable = [path for path in await paths(cluster) if path["condition"] == "usable" and path["kind"] == "bep"]
        if len({path["relay"] for path in usable}) == 2 and (used := [each for each in usable if each["in_use"]]):
            return used[0]["relay"]
        await anyio.sleep(0.02)


async def both_subscribed(cluster):
    """Wait until the visitor from home is known at the office, and the command there: with the join that is three."""
    while True:
        described = await cluster.api(DESK).get("/atoll/v1/pubsub")
        if len(described["subscribers"]) == 3:
            return
        await anyio.sleep(0.02)


class Heard:
    """What a subscriber prints."""

    def __init__(self):
        self.payloads, self.said, self.status = [], "", None
        self.ready = anyio.Event()

    async def listen(self, process):
        async def out():
            text = ""
            async for piece in TextReceiveStream(process.stdout):
                *lines, text = (text + piece).split("\n")
                self.payloads += [json.loads(line)["payload"] for line in lines]

        async def err():
            async for piece in TextReceiveStream(process.stderr):
                self.said += piece
                self.ready.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(out)
            tasks.start_soon(err)
        self.status = await process.wait()


async def publish(process, on_number):
    for number in range(MESSAGES):
        await process.stdin.send(f"{number}\n".encode())
        await on_number(number)
        await anyio.sleep(PACE_S)
    await process.stdin.aclose()
    assert await process.wait() == 0


async def no_matter(_number):
    return


async def test_nothing_is_lost_doubled_or_reordered_when_the_relay_in_use_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths = parse_spec(SPEC, "topics"), []
    ground = Loopback(spec) if await obstacle() else Lab(spec)
    with anyio.fail_after(WITHIN_S):
        async with Cluster(spec, ground, on_death=deaths.append) as cluster:
            for site in spec.site:
                await cluster.elected(site.name)
            await answered(cluster, TV, "pub", "down/first", "--to", DESK)
            up, down = Heard(), Heard()
            count = str(MESSAGES)
            async with (
                atoll(cluster, TV, "sub", "up/x", "--from", DESK, "--count", count, "--json") as hears_up,
                atoll(cluster, DESK, "sub", "down/x", "--count", count, "--json") as hears_down,
                atoll(cluster, DESK, "pub", "up/x", "--lines") as says_up,
                atoll(cluster, TV, "pub", "down/x", "--lines", "--to", DESK) as says_down,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(up.listen, hears_up)
                tasks.start_soon(down.listen, hears_down)
                await both_subscribed(cluster)
                relay = await relay_in_use(cluster)

                async def kill(number):
                    if number == KILL_AT:
                        await cluster.kill(relay)

                tasks.start_soon(publish, says_up, kill)
                tasks.start_soon(publish, says_down, no_matter)
            assert (up.status, down.status) == (0, 0), up.said + down.said
            in_order = [str(number) for number in range(MESSAGES)]
            assert up.payloads == in_order
            assert down.payloads == in_order
            assert "missing" not in up.said + down.said
            (join,) = (await cluster.api(TV).get("/atoll/v1/pubsub"))["joins"]
            assert (join["there"], join["missed"], join["node_name"]) == (True, 0, DESK)

"""A stream between nodes of two sites, over a cloud and two real relays, of which the one in use dies or freezes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import anyio
import msgspec
import pytest
from ports import free_port
from two_sites import SMALL
from waiting import until

from atoll import Actor, Node, handles
from atoll.actors.router.messages import DescribeRoutes, ServeStreams, StreamArrived
from atoll.actors.router.routes import Way
from atoll.actors.router.streams import open_stream
from atoll.actors.runtime.actor import LATER
from atoll.cluster_specs import Materials, Seat, plan, read_spec
from atoll.node import open_cloud
from atoll.testing.cluster import atoll_command
from atoll.transport.base import Standing
from atoll.transport.errors import Unreachable

MEGABYTES = 50
DATA = os.urandom(1 << 20)
STALL_S_MAX = 2.0
"""What is promised."""
WITHIN_S = 150
pytestmark = pytest.mark.anyio


class Count(msgspec.Struct):
    number: int


class Service(Actor):
    """Answers calls, and keeps the streams that come."""

    open_to = frozenset({Standing.MEMBER, Standing.GRANTED})

    def __init__(self):
        self.arrived = []

    async def started(self):
        await self.system.ask(self.system.find("router"), ServeStreams("echo", "service"))

    async def receive(self, delivery):
        if isinstance(delivery.message, StreamArrived):
            self.arrived.append(delivery.message)
            return LATER
        return await super().receive(delivery)

    @handles
    async def count(self, message: Count) -> Count:
        return Count(message.number + 1)


@pytest.fixture
def folder(tmp_path_factory):
    """A folder whose path is short enough for a unix socket."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def planned(folder):
    (folder / "x.toml").write_text(SMALL)
    spec = read_spec(str(folder / "x.toml"))
    cloud = {"cloud": free_port()}
    seats = {}
    for number, name in enumerate(spec.process_names()):
        ports = {"gateway": 0, "links": 0, "sep": free_port(), "bearer": free_port(), **cloud}
        seats[name] = Seat(folder / str(number), ports=ports | {"beacon": free_port(socket.SOCK_DGRAM)})
    planned = {each.name: each for each in plan(spec, Materials.generate(spec), seats)}
    return {name: (each, each.write(seats[name].directory)) for name, each in planned.items()}


@pytest.fixture
def relays(planned):
    """The two relays, each a process of its own."""
    running = {
        name: subprocess.Popen(atoll_command(*planned[name]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name in ("relay-1", "relay-2")
    }
    yield running
    for each in running.values():
        each.kill()
        each.wait()


async def seen(node, peer):
    described = await node.system.ask(node.system.find("router"), DescribeRoutes())
    return next((each for each in described.routes if each.peer == peer.id), None)


async def wait_bearer(node, peer):
    """Wait until the session goes over a bearer and has paths over both relays; give the one it goes through."""
    with anyio.fail_after(WITHIN_S):
        while True:
            route = await seen(node, peer)
            paths = [] if route is None else [path for path in route.paths if path.condition == "usable"]
            used = [path.relay for path in paths if path.in_use and path.way is Way.BEP]
            if used and len({path.relay for path in paths}) == 2:
                return used[0]
            await anyio.sleep(0.02)


async def opened(node, peer):
    """Both ends of a stream, as soon as the other site is at a relay."""
    with anyio.fail_after(WITHIN_S):
        while True:
            try:
                here = await open_stream(node.system, peer.id, "echo")
                break
            except Unreachable:
                await anyio.sleep(0.1)
    arrived = peer.system._cells["service"].actor.arrived
    await until(lambda: arrived)
    there = arrived[0].stream
    # Or both would be taken for streams that nobody wants, while the bearer is on its way.
    for sender, hearer in ((here, there), (there, here)):
        await sender.send(b"here")
        assert await hearer.receive() == b"here"
    return here, there


class Ear:
    """Reads a stream to its end, compares every byte, and knows the longest time without any."""

    def __init__(self, stream):
        self.stream, self.heard, self.stall_s, self.whole = stream, 0, 0.0, False

    async def listen(self):
        last = anyio.current_time()
        with contextlib.suppress(anyio.EndOfStream):
            while True:
                piece = await self.stream.receive()
                now = anyio.current_time()
                self.stall_s, last = max(self.stall_s, now - last), now
                at = self.heard % len(DATA)
                assert (DATA[at:] + DATA)[: len(piece)] == piece
                self.heard += len(piece)
        self.whole = self.heard == MEGABYTES * len(DATA)


async def speak(stream):
    for _ in range(MEGABYTES):
        await stream.send(DATA)
    await stream.send_eof()


class Calls:
    """Calls over the same session, one after the other."""

    def __init__(self, node, peer):
        self.node, self.peer, self.answered, self.longest_s = node, peer, 0, 0.0

    async def run(self):
        service = await self.node.find("service", scope="account", timeout_s=WITHIN_S)
        while True:
            began = anyio.current_time()
            assert await service.ask(Count(self.answered), timeout_s=WITHIN_S) == Count(self.answered + 1)
            self.answered += 1
            self.longest_s = max(self.longest_s, anyio.current_time() - began)
            await anyio.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_stream_and_its_calls_outlive_the_relay_in_use(planned, relays, how, host_pauses):
    async with (
        open_cloud(planned["cloud"][0].config),
        Node.open(planned["home/tv"][0].config) as tv,
        Node.open(planned["office/desk"][0].config) as desk,
    ):
        await desk.spawn(Service, name="service")
        here, there = await opened(tv, desk)
        relay = await wait_bearer(tv, desk)
        ears, calls = [Ear(here), Ear(there)], Calls(tv, desk)
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as transfer:
                for ear in ears:
                    transfer.start_soon(ear.listen)
                    transfer.start_soon(speak, ear.stream)
                group.start_soon(calls.run)
                await until(lambda: min(ear.heard for ear in ears) > MEGABYTES * len(DATA) // 4, WITHIN_S)
                before = calls.answered
                os.kill(relays[relay].pid, how)
            await until(lambda: calls.answered > before + 3, WITHIN_S)
            group.cancel_scope.cancel()
        stalls = [round(ear.stall_s, 2) for ear in ears]
        sys.stdout.write(f"longest stalls {stalls} s; {calls.answered} calls, the longest {calls.longest_s:.2f} s\n")
        assert all(ear.whole for ear in ears)
        assert max(stalls) <= STALL_S_MAX + host_pauses.most_s(max(stalls))
        (used,) = [path for path in (await seen(tv, desk)).paths if path.in_use]
        assert used.relay != relay

"""Streams between two Routers while relays are lost or freeze: which path carries them, and what is told."""

import os

import anyio
import pytest
from router_world import OFFICE, call, described, echo, met, reach, wait_route
from stream_world import read_all, write_all
from waiting import until

from atoll.actors.router import conversations as conversations_module
from atoll.actors.router import ways
from atoll.actors.router.messages import ServeStreams, StreamArrived
from atoll.actors.router.paths import OpenSep
from atoll.actors.router.routes import Way
from atoll.actors.router.streams import open_stream
from atoll.actors.runtime import Actor
from atoll.actors.runtime.actor import LATER
from atoll.transport.base import Standing

pytestmark = pytest.mark.anyio
DATA = os.urandom(1 << 20)


class Listener(Actor):
    """Takes streams, and leaves them to the test."""

    open_to = frozenset({Standing.GRANTED})

    def __init__(self):
        self.streams = []

    async def receive(self, delivery):
        assert isinstance(delivery.message, StreamArrived)
        self.streams.append(delivery.message.stream)
        return LATER


async def joined(tv, server):
    """Both ends of a stream from `tv` to `server`."""
    await server.spawn(Listener, "listener")
    await server.ask(server.find("router"), ServeStreams("echo", "listener"))
    here = await open_stream(tv, server.node_id, "echo")
    listener = server._cells["listener"].actor
    await until(lambda: listener.streams)
    return here, listener.streams[0]


async def paths(one, other):
    routes = (await described(one)).routes
    return {(each.relay, each.way): each for route in routes if route.peer == other.node_id for each in route.paths}


async def carried(here, there):
    """Say something and hear it."""
    await here.send(b"on")
    data = b""
    while len(data) < 2:
        data += await there.receive()
    assert data == b"on"


async def test_a_stream_goes_over_to_the_bearer_that_is_asked_for_at_once(world):
    async with world.node() as tv, world.node(OFFICE) as server:
        here, there = await joined(tv, server)
        assert there.standing is Standing.GRANTED
        route = await wait_route(tv, server.node_id, Way.BEP, "relay-1: a bearer path is better")
        assert route.way is Way.BEP
        seen = await paths(tv, server)
        assert {way for _, way in seen} == {Way.SEP, Way.BEP}
        assert [each.relay for each in seen.values() if each.in_use] == ["relay-1"]
        async with anyio.create_task_group() as group:
            group.start_soon(write_all, here, DATA)
            assert await read_all(there) == DATA
        assert (await described(tv)).counters["sessions"] == 1


async def test_a_session_whose_last_path_is_lost_waits_for_another_for_the_sake_of_its_streams(world):
    world.without_bearers()
    world.relays = ["relay-1"]
    async with world.node() as tv, world.node(OFFICE) as server:
        here, there = await joined(tv, server)
        world.relays = ["relay-2"]
        world.kill("relay-1")
        world.notice("relay-1")
        await carried(here, there)
        await carried(there, here)
        await call(tv, server.node_id)
        assert (await described(tv)).counters["sessions"] == 1


async def test_without_another_path_its_streams_break_in_the_end_with_the_reason(world, monkeypatch):
    monkeypatch.setattr(conversations_module, "ORPHAN_S", 0.3)
    world.without_bearers()
    world.relays = ["relay-1"]
    async with world.node() as tv, world.node(OFFICE) as server:
        here, _ = await joined(tv, server)
        world.relays = []
        world.kill("relay-1")
        world.notice("relay-1")
        with pytest.raises(anyio.BrokenResourceError, match=r"it had no path for 0\.3 s"):
            await here.receive()
        await until(lambda: not len(tv._cells["router"].actor._conversations))


async def test_a_peer_that_has_forgotten_the_session_gets_a_new_one(world, monkeypatch):
    monkeypatch.setattr(ways, "RESUME_S", 0.2)
    world.without_bearers()
    world.relays = ["relay-1"]
    async with world.node() as tv, world.node(OFFICE) as server:
        here, _ = await joined(tv, server)
        world.relays = []
        world.kill("relay-1")
        world.notice("relay-1")
        conversations = server._cells["router"].actor._conversations
        for each in conversations.all():
            conversations.end(each, "forgotten", server.clock())
        world.relays = ["relay-2"]
        with pytest.raises(anyio.BrokenResourceError, match="does not go on with the session"):
            await here.receive()
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
        assert echo(server).handled


async def test_a_relay_that_freezes_is_left_for_another_one_that_is_looked_for_at_once(world, monkeypatch):
    monkeypatch.setattr(ways, "WIDEN_AT_ONCE_PAUSES_S", (0.0, 0.5))
    world.without_bearers()
    world.relays = ["relay-1"]
    async with world.node() as tv, world.node(OFFICE) as server:
        here, there = await joined(tv, server)
        await met(tv, server)
        world.relays = ["relay-1", "relay-2"]
        world.kill("relay-1")
        await carried(here, there)
        await carried(there, here)
        await call(tv, server.node_id)
        await wait_route(tv, server.node_id, Way.SEP, "relay-2 was the first to answer after relay-1 fell silent")
        assert world.asked(OpenSep) == 2


async def test_a_session_over_one_relay_looks_for_a_second(world, monkeypatch):
    monkeypatch.setattr(ways, "WIDEN_PAUSES_S", (0.1, 0.1, 30.0))
    world.without_bearers()
    world.relays = ["relay-1"]
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        world.relays = ["relay-1", "relay-2"]
        conversation = tv._cells["router"].actor._conversations.with_peer(server.node_id)
        await until(lambda: {path.relay for path in conversation.paths} == {"relay-1", "relay-2"})
        world.kill("relay-1")
        world.notice("relay-1")
        await call(tv, server.node_id)


async def test_calls_wait_in_the_session_while_the_path_is_full_and_are_not_lost(world):
    world.without_bearers()
    world.relays = ["relay-1"]
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        (path,) = [each for each in world.paths if each.system is tv and not each.closed]
        path.takes_more = False
        async with anyio.create_task_group() as group:
            group.start_soon(call, tv, server.node_id)
            before = len(echo(server).handled)
            await anyio.wait_all_tasks_blocked()
            assert len(echo(server).handled) == before
            path.takes_more = True
        assert len(echo(server).handled) == before + 1

"""When a Router has a connection through NAT tried, what it does with one, and what it says of those in vain."""

import anyio
import pytest
from router_world import OFFICE, PATIENCE_S, call, described, held_call, met, wait_route
from waiting import until

from atoll.actors.router import punch_book
from atoll.actors.router.messages import OpenStream, ServeStreams
from atoll.actors.router.paths import OpenPunched
from atoll.actors.router.punches import CALLS_WANTED
from atoll.actors.router.routes import Way
from atoll.transport.network_watch import NetworkChanged

pytestmark = pytest.mark.anyio


async def seen(system, peer):
    return next(each for each in (await described(system)).routes if each.peer == peer)


async def wait_seen(system, peer, words):
    with anyio.fail_after(PATIENCE_S):
        while words not in (found := await seen(system, peer)).punching:  # noqa: ASYNC110 - a status has no event
            await anyio.sleep(0.01)
    return found


async def many_calls(tv, server):
    """Call as often as makes it worth a try, over a bearer."""
    await wait_route(tv, server.node_id, Way.BEP)
    for _ in range(CALLS_WANTED):
        await call(tv, server.node_id)


async def streaming(tv, server):
    """Open a stream that nobody serves: that it was wanted is enough."""
    await server.ask(server.find("router"), ServeStreams("echo", "echo"))
    await tv.ask(tv.find("router"), OpenStream(server.node_id, "echo"))


async def test_after_some_calls_over_a_bearer_a_punched_connection_is_a_path_and_the_best_one(world):
    world.wall = ""
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        assert (await seen(tv, server.node_id)).punching == ""
        assert world.asked(OpenPunched) == 0
        await many_calls(tv, server)
        route = await wait_route(tv, server.node_id, Way.PUNCHED, "a connection punched through NAT is open")
        assert "no link" in route.reason
        found = await wait_seen(tv, server.node_id, "punched through NAT")
        assert {path.way for path in found.paths} == {Way.SEP, Way.BEP, Way.PUNCHED}
        assert [path.relay for path in found.paths if path.in_use] == ["punched"]
        # The other end uses it, too.
        await wait_route(server, tv.node_id, Way.PUNCHED)
        before = world.paths[-1].records
        await call(tv, server.node_id)
        assert world.paths[-1].records > before
        assert world.asked(OpenPunched) == 1


async def test_a_stream_is_reason_enough_and_its_bytes_go_over_it(world):
    world.wall = ""
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        await streaming(tv, server)
        await wait_route(tv, server.node_id, Way.PUNCHED)


async def test_when_it_is_lost_calls_go_on_over_the_bearer_and_it_is_tried_again_after_a_pause(world):
    world.wall = ""
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await met(tv, server)
        await many_calls(tv, server)
        await wait_route(tv, server.node_id, Way.PUNCHED)
        held = held_call(group, tv, server.node_id)
        await until(lambda: "SepDelivery" in server._cells["echo"].actor.handled)
        world.kill("punched")
        server._cells["echo"].actor.go_on.set()
        world.notice("punched")
        assert (await held.answered()).circuit == b"held"
        await wait_route(tv, server.node_id, Way.BEP)
        await wait_seen(tv, server.node_id, "the connection was lost: the connection to punched was reset")
        assert world.asked(OpenPunched) == 1


async def test_what_fails_is_said_and_calls_notice_nothing(world, monkeypatch):
    monkeypatch.setattr(punch_book, "PAUSES_S", (0.02, 0.02, 1000.0))
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        await many_calls(tv, server)
        found = await wait_seen(tv, server.node_id, "not punched through NAT: a wall (3 tries in vain")
        assert found.route.way is Way.BEP
        assert world.asked(OpenPunched) == 3
        # Another network, another NAT: it is tried again at once.
        world.wall = ""
        tv.announce(NetworkChanged(frozenset(), frozenset(), "another network"))
        await wait_route(tv, server.node_id, Way.PUNCHED)


async def test_who_is_called_does_not_try_and_a_session_without_a_bearer_is_not_worth_it(world):
    world.without_bearers()
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        for _ in range(2 * CALLS_WANTED):
            await call(tv, server.node_id)
        assert world.asked(OpenPunched) == 0
        assert (await seen(server, tv.node_id)).punching == ""


async def test_a_session_that_ends_takes_its_punched_path_with_it_and_the_next_one_may_have_another(world):
    world.wall = ""
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        await many_calls(tv, server)
        await wait_route(tv, server.node_id, Way.PUNCHED)
        router = tv._cells["router"].actor
        (talk,) = router._conversations.all_with(server.node_id)
        router._conversations.end(talk, "enough", tv.clock())
        await wait_seen(tv, server.node_id, "the connection was lost: enough")
        assert all(path.closed for path in world.paths if path.way is Way.PUNCHED and path.system is tv)

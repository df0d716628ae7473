"""Routers whose bearers, paths and relays are lost: what takes over, what is sent again, what is said."""

import contextlib

import anyio
import pytest
from router_world import (
    LONG_S,
    OFFICE,
    PATIENCE_S,
    QUESTION,
    call,
    echo,
    held_call,
    met,
    reach,
    route_to,
    until,
    wait_route,
)

from atoll.actors.router.demand import Thresholds
from atoll.actors.router.paths import OpenBearer, OpenSep, PathFound
from atoll.actors.router.routes import Way
from atoll.actors.router.ways import AGAIN_PAUSE_S, OPEN_AGAIN_S
from atoll.actors.runtime.errors import AskFailed, AskUnreachable
from atoll.actors.tunnel_relay.messages import BearerRequest

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def call_over_one_relay(world):
    """Two nodes, a relay and no bearer between them, and a call that its callee holds."""
    world.relays = ["relay-1"]
    world.without_bearers()
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await met(tv, server)
        held = held_call(group, tv, server.node_id)
        await until(lambda: "SepDelivery" in echo(server).handled)
        yield tv, server, held, group


async def test_a_lost_bearer_falls_back_to_signaling_and_its_calls_are_sent_again_and_handled_once(world):
    world.relays, world.bearer_relays = ["relay-2"], ["relay-1"]
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await met(tv, server)
        await wait_route(tv, server.node_id, Way.BEP)
        held = held_call(group, tv, server.node_id)
        await until(lambda: "SepDelivery" in echo(server).handled)
        world.kill("relay-1")
        # The answer is given, and goes down with the relay.
        echo(server).go_on.set()
        world.notice("relay-1")
        assert (await held.answered()).circuit == b"held"
        assert echo(server).handled.count("SepDelivery") == 1
        route = await route_to(tv, server.node_id)
        assert route.way is Way.SEP
        assert "no bearer (the connection to relay-1 was reset)" in route.reason
        assert "relay-2" in route.reason
        await call(tv, server.node_id)


async def test_a_lost_bearer_is_followed_by_the_spare_and_nobody_is_asked_for_it(world):
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        await wait_route(tv, server.node_id, Way.BEP, "relay-1")
        world.kill("relay-1")
        world.notice("relay-1")
        await wait_route(tv, server.node_id, Way.BEP, "relay-2")
        await call(tv, server.node_id)
        assert world.asked(BearerRequest) == 1
        assert world.asked(OpenBearer) == 2
        world.kill("relay-2")
        world.notice("relay-2")
        await until(lambda: server.statistics()["asks_remote"] == 0)
        with pytest.raises(AskFailed):
            await call(tv, server.node_id)
        assert world.asked(OpenBearer) == 2


async def test_when_the_first_relay_is_dead_already_the_spare_opens(world):
    world.relays = ["relay-2"]
    world.dead.add("relay-1")
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        await wait_route(tv, server.node_id, Way.BEP, "relay-2")
        assert world.asked(BearerRequest) == 1


async def test_without_any_bearer_calls_go_on_by_signaling_and_another_is_asked_for_later(world):
    world.thresholds = Thresholds(calls_s=0.0, retry_s=0.2)
    world.relays, world.bearer_relays = ["relay-2"], ["relay-1"]
    world.dead.add("relay-1")
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        await wait_route(tv, server.node_id, Way.SEP, "no bearer (relay-1 cannot be reached)")
        world.dead.clear()
        with anyio.fail_after(PATIENCE_S):
            while (await route_to(tv, server.node_id)).way is not Way.BEP:
                await call(tv, server.node_id)
        assert world.asked(BearerRequest) >= 2


@pytest.mark.parametrize("answer", [QUESTION, {"relay": "none"}], ids=["another message", "plain data"])
async def test_a_callee_that_answers_anything_but_a_bearer_costs_no_more_than_the_bearer(world, answer):
    async with world.node() as tv, world.node(OFFICE) as server:
        world.instead_of_bearers = answer
        await met(tv, server)
        await wait_route(tv, server.node_id, Way.SEP, "no bearer (")
        assert tv.statistics()["mailboxes"]["router"]["starts"] == 1
        await call(tv, server.node_id)


async def test_when_the_relay_in_use_dies_the_session_moves_and_its_calls_are_sent_again(world):
    world.without_bearers()
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await met(tv, server)
        # The question for a bearer, too, would wait for an answer from a dead relay.
        await wait_route(tv, server.node_id, Way.SEP, "dead cannot be reached")
        (conversation,) = tv._cells["router"].actor._conversations.all()
        used = conversation.relay
        world.kill(used)
        held = held_call(group, tv, server.node_id)
        echo(server).go_on.set()
        await until(lambda: tv.statistics()["asks_remote"] == 1)
        assert "SepDelivery" not in echo(server).handled
        world.notice(used)
        await held.answered()
        assert world.asked(OpenSep) == 1


async def test_an_ask_whose_path_is_lost_after_the_routes_have_ended_waits_for_the_next_ones(world):
    world.without_bearers()
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await met(tv, server)
        await wait_route(tv, server.node_id, Way.SEP, "dead cannot be reached")
        router = tv._cells["router"].actor
        (conversation,) = router._conversations.all()
        used = conversation.relay
        world.kill(used)
        held = held_call(group, tv, server.node_id)
        echo(server).go_on.set()
        await until(lambda: tv.statistics()["asks_remote"] == 1)
        # As when their tickets end while the host stands still, and are renewed a moment later.
        router.routes.signaling_over(server.node_id)
        world.notice(used)
        await held.answered()


async def test_a_session_that_is_lost_each_time_is_begun_again_after_a_pause(world):
    async with call_over_one_relay(world) as (tv, server, held, _):
        conversations, began = tv._cells["router"].actor._conversations, anyio.current_time()
        for _ in range(5):
            (stands,) = await until(lambda: [each for each in conversations.all() if each.established])
            world.notice("relay-1")
            world.noticed.clear()
            await until(lambda lost=stands: lost.ended)
        # From the second beginning, which may follow the first loss at once, to the fifth. One that is lost before
        # its opener has seen it stand is tried again by that, which waits for less.
        assert anyio.current_time() - began > 3 * min(AGAIN_PAUSE_S, *OPEN_AGAIN_S)
        echo(server).go_on.set()
        await held.answered()
        assert echo(server).handled.count("SepDelivery") == 1


async def test_when_every_relay_dies_calls_fail_at_once_in_words_and_the_next_dials_anew(world):
    async with call_over_one_relay(world) as (tv, server, held, _):
        world.kill("relay-1")
        world.notice("relay-1")
        failure = await held.failed()
        assert isinstance(failure, AskUnreachable)
        assert "the connection to relay-1 was reset" in str(failure)
        route = await route_to(tv, server.node_id)
        assert route.way is Way.NONE
        assert "no living route over a relay" in route.reason
        world.relays = ["relay-2"]
        assert (await reach(tv, server.node_id)).way is Way.SEP
        await call(tv, server.node_id)


async def test_when_the_only_relay_of_a_session_dies_another_is_found_and_its_calls_are_answered(world):
    async with call_over_one_relay(world) as (_, server, held, _):
        world.relays = ["relay-1", "relay-2"]
        world.kill("relay-1")
        world.notice("relay-1")
        await until(lambda: world.asked(OpenSep) == 2)
        echo(server).go_on.set()
        await held.answered()
        assert echo(server).handled.count("SepDelivery") == 1


async def test_an_ask_that_comes_while_a_way_is_looked_for_waits_for_it(world):
    async with call_over_one_relay(world) as (tv, server, held, group):
        world.tunnels_open = anyio.Event()
        world.relays = ["relay-1", "relay-2"]
        world.kill("relay-1")
        world.notice("relay-1")
        await until(lambda: world.asked(OpenSep) == 2)
        late = held_call(group, tv, server.node_id)
        await until(lambda: tv.statistics()["asks_remote"] == 2)
        echo(server).go_on.set()
        world.tunnels_open.set()
        await held.answered()
        await late.answered()
        assert world.asked(OpenSep) == 2


async def test_a_reference_outlives_the_session_it_was_found_over(world):
    world.relays = ["relay-1"]
    world.without_bearers()
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        await until(lambda: tv.statistics()["asks_remote"] == 0)
        world.kill("relay-1")
        world.notice("relay-1")
        assert (await route_to(tv, server.node_id)).way is Way.NONE
        with pytest.raises(AskUnreachable, match=r"no relay of its site let us in; it was not sent. .*no living route"):
            await call(tv, server.node_id)
        world.relays = ["relay-2"]
        await call(tv, server.node_id)
        assert echo(server).handled == ["SepAnswer"] * 2


async def test_labels_that_have_just_changed_are_looked_up_again(world):
    world.without_bearers()
    async with world.node() as tv, world.node(OFFICE) as server:
        world.stale = len(OPEN_AGAIN_S)
        assert (await reach(tv, server.node_id)).way is Way.SEP
        assert world.asked(OpenSep) == len(OPEN_AGAIN_S) + 1
        await call(tv, server.node_id)


async def test_labels_that_stay_wrong_are_given_up_with_the_reason(world, monkeypatch):
    monkeypatch.setattr("atoll.actors.router.ways.OPEN_AGAIN_S", (0.0,))
    world.without_bearers()
    world.stale = LONG_S
    async with world.node() as tv, world.node(OFFICE) as server:
        with pytest.raises(AskFailed, match=r"no session with .*: .*no live registration has this label"):
            await reach(tv, server.node_id)
        assert world.asked(OpenSep) == 2


async def test_a_peer_that_was_never_met_is_not_looked_for(world):
    async with world.node() as tv, world.node(OFFICE) as server:
        with pytest.raises(AskUnreachable, match="never heard of"):
            await call(tv, server.node_id)
        assert world.asked(OpenSep) == 0


async def test_a_peer_that_says_goodbye_is_not_dialled_again(world):
    world.without_bearers()
    async with world.node() as tv, anyio.create_task_group() as group:
        async with world.node(OFFICE) as server:
            await reach(tv, server.node_id)
            held = held_call(group, tv, server.node_id)
            await until(lambda: "SepDelivery" in echo(server).handled)
        failure = await held.failed()
        assert isinstance(failure, AskUnreachable)
        assert "this node stops" in str(failure)
        assert world.asked(OpenSep) == 1


async def test_a_path_that_came_late_is_there_when_the_first_is_lost(world):
    world.relays = ["relay-1"]
    world.without_bearers()
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        late = world.join(tv, server.node_id, Way.SEP, "relay-2")
        tv.find("router").tell(PathFound(world.paths[0], late))
        await call(tv, server.node_id)
        world.kill("relay-1")
        world.notice("relay-1")
        await call(tv, server.node_id)
        assert world.asked(OpenSep) == 1
        orphan = world.join(tv, server.node_id, Way.SEP, "relay-2")
        tv.find("router").tell(PathFound(orphan.other, orphan))
        await until(lambda: orphan.closed)


async def test_routes_that_expired_are_looked_up_again(world):
    world.without_bearers()
    world.routes_last_s = 0.0
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        assert (await route_to(tv, server.node_id)).way is Way.NONE
        world.routes_last_s = 600.0
        assert (await reach(tv, server.node_id)).way is Way.SEP

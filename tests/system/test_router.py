"""Routers on real links, with relays that a test kills: every way, its reason, and what happens when it is lost."""

import contextlib
import time

import anyio
import pytest
from router_world import (
    CLOUD,
    CODEC,
    HELD_QUESTION,
    HOME,
    HOST,
    OFFICE,
    PATIENCE_S,
    QUESTION,
    call,
    described,
    echo,
    facts,
    held_call,
    linked,
    met,
    reach,
    route_to,
    until,
    wait_route,
)

from atoll.actors.router import ways as ways_module
from atoll.actors.router.cloud_address import CloudAddress
from atoll.actors.router.demand import Thresholds
from atoll.actors.router.messages import DescribeRoutes, LetGo, PeerDown, PeerUp, Reach, SepAnswer, SepDelivery
from atoll.actors.router.paths import OpenBearer, OpenSep
from atoll.actors.router.routes import Way
from atoll.actors.runtime import Address
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskRefused, AskUnreachable
from atoll.actors.tunnel_relay.messages import BearerRequest
from atoll.transport.admission import CloudAdmission, SiteAdmission
from atoll.transport.base import LinkUp, Standing
from atoll.transport.envelope import VERSION, Envelope, Header, Kind, encode_envelope
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.session import Session
from atoll.transport.tokens import issue_grant
from atoll.transport.zeromq import ZeroMqTransport

pytestmark = pytest.mark.anyio


async def test_a_link_is_announced_at_both_ends_and_calls_go_over_it(world):
    async with world.node(label="tv") as tv, world.node(label="desk") as desk:
        with pytest.raises(AskUnreachable, match="never heard of"):
            await call(tv, desk.node_id)
        await linked(world, tv, desk)
        assert facts(tv) == [PeerUp(desk.node_id, Standing.MEMBER, "desk", HOST)]
        assert facts(desk) == [PeerUp(tv.node_id, Standing.MEMBER, "tv", HOST)]
        assert await call(tv, desk.node_id) == SepAnswer(b"echo", desk.node_id, b"")
        assert await call(desk, tv.node_id, "private") == SepAnswer(b"echo", tv.node_id, b"")
        route = await reach(tv, desk.node_id)
        assert (route.way, route.reason) == (Way.DIRECT, "an authenticated link is up (member)")
        assert (await reach(tv, tv.node_id)).way is Way.HERE
        (link,) = (await described(tv)).links
        assert (link.peer, link.label) == (desk.node_id, "desk")
        assert world.orders == []


async def test_a_peer_is_announced_before_its_first_message_and_again_when_it_is_gone(world):
    async with world.node() as tv:
        async with world.node() as desk:
            await linked(world, tv, desk)
            seen = tv._cells["witness"].actor.seen
            await until(lambda: len(seen) == 2)
            assert isinstance(seen[0], PeerUp)
            assert seen[1] == QUESTION
        await until(lambda: len(facts(tv)) == 2)
        down = facts(tv)[1]
        assert isinstance(down, PeerDown)
        assert down.peer == desk.node_id
        assert down.reason
        route = await route_to(tv, desk.node_id)
        assert route.way is Way.NONE
        assert down.reason in route.reason


async def test_an_ask_fails_at_once_when_the_link_it_waits_on_dies(world):
    async with world.node() as tv, anyio.create_task_group() as group:
        async with world.node() as desk:
            await linked(world, tv, desk)
            held = held_call(group, tv, desk.node_id)
            await until(lambda: echo(desk).handled)
        failure = await held.failed()
        assert isinstance(failure, AskUnreachable)
        assert "the link to" in str(failure)
        assert "whether it was handled is not known" in str(failure)


async def test_a_neighbour_is_seen_and_may_do_nothing(world):
    async with world.node(label="ours") as ours, world.node(OFFICE, label="theirs") as theirs:
        await linked(world, ours, theirs)
        assert facts(ours)[0].standing is Standing.NEIGHBOUR
        for path in ("echo", "private", "router", "tunnel_relay"):
            with pytest.raises(AskRefused, match="not open to a neighbour"):
                await call(theirs, ours.node_id, path)
        theirs.tell(Address(ours.node_id, "router"), HELD_QUESTION)
        await until(lambda: ours.statistics().get("refused", 0) >= 5)
        assert echo(ours).handled == []
        assert (await described(ours)).counters["sessions"] == 0
        assert "(neighbour)" in (await reach(ours, theirs.node_id)).reason


async def test_only_this_nodes_actors_give_the_router_orders(world):
    async with world.node() as tv, world.node() as desk:
        await linked(world, tv, desk)
        for message in (Reach(CLOUD.node_id), LetGo(desk.node_id, "x"), DescribeRoutes()):
            with pytest.raises(AskFailed):
                await call(desk, tv.node_id, "router", message)
        assert len(facts(tv)) == 1


async def test_a_member_that_speaks_for_another_or_makes_no_sense_is_counted_and_not_heard(world):
    async with world.node() as tv:
        key = NodeKey.generate()
        liar = ZeroMqTransport(key, SiteAdmission(keys=HOME, own=key.node_id), label="liar", host=HOST)
        async with liar:
            liar.dial(tv.node_id, HOST, world.ports[tv.node_id].port)
            with anyio.fail_after(PATIENCE_S):
                assert isinstance(await liar.receive(), LinkUp)
            header = Header(VERSION, Kind.TELL, CLOUD.node_id, "", tv.node_id, "private")
            liar.send(tv.node_id, encode_envelope(Envelope(header, CODEC.encode(QUESTION))))
            liar.send(tv.node_id, b"\xff\xff nothing of the kind")
            liar.send(tv.node_id, b"")
            with anyio.fail_after(PATIENCE_S):
                while (await described(tv)).counters.get("malformed", 0) < 2:  # noqa: ASYNC110 - counters have no event
                    await anyio.sleep(0.01)
            assert (await described(tv)).counters["misattributed"] == 1
            assert echo(tv, "private").handled == []
            header = Header(VERSION, Kind.ASK, key.node_id, "", tv.node_id, "private", bytes(16), 1000)
            liar.send(tv.node_id, encode_envelope(Envelope(header, CODEC.encode(QUESTION))))
            await until(lambda: echo(tv, "private").handled == ["SepAnswer"])


async def test_a_way_to_another_site_is_opened_by_signaling_and_then_by_a_bearer(world):
    async with world.node() as tv, world.node(OFFICE) as server:
        route = await reach(tv, server.node_id)
        assert route.way is Way.SEP
        assert route.reason == "no link: another network; no bearer yet; its proxy answers at relay-1"
        assert world.asked(BearerRequest) == 0
        assert await call(tv, server.node_id) == SepAnswer(b"echo", server.node_id, b"")
        assert echo(server).senders == [Standing.GRANTED]
        route = await wait_route(tv, server.node_id, Way.BEP)
        assert route.reason == (
            "no link: another network; a bearer through relay-1 is open, for more than 0 calls a second (relay-1: a"
            " bearer path is better)"
        )
        bearer = next(path for path in world.paths if path.way is Way.BEP)
        before = bearer.records
        await call(tv, server.node_id)
        assert bearer.records > before
        await wait_route(server, tv.node_id, Way.BEP)
        assert world.asked(OpenSep) == world.asked(BearerRequest) == world.asked(OpenBearer) == 1
        assert next(each.round_trip_s for each in (await described(tv)).routes) > 0


async def test_a_call_now_and_then_stays_with_signaling_and_many_get_a_bearer(world):
    world.thresholds = Thresholds()
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
        assert (await route_to(tv, server.node_id)).way is Way.SEP
        assert world.asked(BearerRequest) == 0
        await call(tv, server.node_id)
        route = await wait_route(tv, server.node_id, Way.BEP)
        assert "for more than 0.2 calls a second" in route.reason


async def test_who_serves_much_over_signaling_offers_its_callers_bearers(world):
    world.thresholds = Thresholds(calls_s=1e9, bytes_s=1e9, served_calls_s=0.5)
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        for _ in range(2):
            await call(tv, server.node_id)
        assert world.asked(BearerRequest) == 0
        await call(tv, server.node_id)
        route = await wait_route(tv, server.node_id, Way.BEP)
        assert "for the peer, which serves many" in route.reason


async def test_a_bearer_that_nobody_uses_is_let_go_and_the_next_call_has_another(world):
    world.thresholds = Thresholds(calls_s=0.0, idle_s=0.5, retry_s=0.5)
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        await wait_route(tv, server.node_id, Way.BEP)
        await wait_route(tv, server.node_id, Way.SEP, "nobody has used it for 0.5 s")
        bearers = [path for path in world.paths if path.way is Way.BEP]
        await until(lambda: all(path.closed for path in bearers))
        assert len((await described(tv)).routes[0].paths) == 2, "signaling stays"
        # What was let go is not asked for at once: it was not worth having.
        with anyio.fail_after(PATIENCE_S):
            while (await route_to(tv, server.node_id)).way is not Way.BEP:
                await call(tv, server.node_id)
                await anyio.sleep(0.05)


async def test_the_called_one_may_call_back_over_the_callers_session(world):
    world.without_bearers()
    async with world.node() as tv, world.node(OFFICE) as server:
        await met(tv, server)
        route = await wait_route(server, tv.node_id, Way.SEP)
        assert "it called us through relay-" in route.reason
        # The caller proved a grant; the called one proved only its key.
        with pytest.raises(AskRefused, match="not open to a neighbour"):
            await call(server, tv.node_id)


async def test_a_grant_opens_services_and_nothing_else(world):
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        for path in ("private", "router"):
            with pytest.raises(AskRefused, match="not open to a granted"):
                await call(tv, server.node_id, path)


@pytest.mark.parametrize("grant", [b"forged", b"x.y.z"])
async def test_who_shows_no_good_grant_gets_no_session_and_is_told_why(world, grant):
    async with world.node() as tv, world.node(OFFICE) as server:
        world.grant = grant
        with pytest.raises(AskDeclined, match=r"no session with .*: not a grant"):
            await reach(tv, server.node_id)
        assert (await described(server)).counters["sessions"] == 0
        assert all(path.closed for path in world.paths if path.system is tv)
        with pytest.raises(AskUnreachable):
            await call(tv, server.node_id)


async def test_a_node_without_a_cloud_lets_no_stranger_in(world):
    async with world.node() as tv, world.node(OFFICE, cloud=None) as server:
        with pytest.raises(AskDeclined, match="trusts no cloud"):
            await reach(tv, server.node_id)


async def test_without_a_grant_to_show_no_path_stays_open(world):
    async with world.node() as tv, world.node(OFFICE) as server:
        world.grant = b""
        with pytest.raises(AskDeclined, match="no grant was kept"):
            await reach(tv, server.node_id)
        assert world.paths
        assert all(path.closed for path in world.paths if path.system is tv)


async def test_a_way_that_cannot_be_opened_is_declined_in_the_tunnel_relays_words(world):
    async with world.node() as tv:
        with pytest.raises(AskDeclined, match="the directory knows no node"):
            await reach(tv, NodeId(bytes(32)))


async def test_those_who_want_the_same_way_wait_for_one_and_too_many_are_declined(world, monkeypatch):
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        world.tunnels_open = anyio.Event()
        routes = []

        async def want():
            routes.append(await reach(tv, server.node_id))

        for _ in range(5):
            group.start_soon(want)
        await until(lambda: world.asked(OpenSep) == 1)
        await described(tv)
        monkeypatch.setattr(ways_module, "REACHES_MAX", 1)
        with pytest.raises(AskDeclined, match="1 ways are being opened already; try again"):
            await reach(tv, NodeId(bytes(32)))
        world.tunnels_open.set()
        await until(lambda: len(routes) == 5)
        assert {route.way for route in routes} == {Way.SEP}
        assert world.asked(OpenSep) == 1
        assert (await reach(tv, server.node_id)).way is Way.SEP
        assert world.asked(OpenSep) == 1


async def test_a_member_answers_callers_through_the_sites_proxy_and_forgets_them_with_its_link(world):
    async with world.node(OFFICE) as proxy, world.node(OFFICE) as server:
        await linked(world, proxy, server)
        caller = NodeKey.generate()
        grant = issue_grant(
            CLOUD,
            subject=caller.node_id,
            audience="atoll",
            scopes=["atoll:call"],
            site="home",
            life_s=600,
            now=time.time(),
        )
        now = time.monotonic()
        session = Session.dial(key=caller, peer=server.node_id, grant=grant, record_bytes_max=48 * 1024, now=now)
        relays = [NodeId(bytes([number]) * 32) for number in (1, 2)]

        def deliver(relay):
            for _, record in session.outgoing(now):
                proxy.tell(
                    Address(server.node_id, "router"),
                    SepDelivery(b"circuit1", relay, record, "relay"),
                    sender=proxy.find("tunnel_relay"),
                )

        async def answered(count):
            await until(lambda: len(world.answers) >= count)
            events = [session.receive(each.record, now) for each in world.answers]
            world.answers.clear()
            return [event for group in events for event in group]

        deliver(relays[0])
        await answered(1)
        deliver(relays[0])
        await answered(1)
        assert session.state.value == "open"
        # The same number at another relay is another circuit: the answer goes back where the question came from.
        header = Header(VERSION, Kind.ASK, caller.node_id, "", server.node_id, "echo", bytes(16), 5000)
        session.send(encode_envelope(Envelope(header, CODEC.encode(QUESTION))))
        deliver(relays[1])
        await until(lambda: world.answers)
        # This caller has opened no path: what is said goes over every one, first where it came from.
        assert world.answers[0].relay == relays[1]
        assert (await described(server)).counters["sessions"] == 1
        world.ports[proxy.node_id].hang_up(server.node_id, "test")
        with anyio.fail_after(PATIENCE_S):
            while (await described(server)).counters["sessions"]:  # noqa: ASYNC110 - counters have no event
                await anyio.sleep(0.01)
        assert "the link to this site's proxy went down" not in (await route_to(server, proxy.node_id)).reason
        assert (await route_to(server, caller.node_id)).way is Way.NONE


@contextlib.asynccontextmanager
async def cloud_link():
    admission = CloudAdmission(lambda _peer, _shown: Standing.GRANTED)
    async with ZeroMqTransport(CLOUD, admission, label="cloud", host=HOST) as links:
        yield links


async def test_the_cloud_is_dialled_when_it_is_wanted_let_go_and_dialled_again(world):
    async with cloud_link() as cloud:
        async with world.node(cloud=CloudAddress(CLOUD.node_id, HOST, cloud.port)) as tv:
            for number in range(2):
                route = await reach(tv, CLOUD.node_id)
                assert (route.way, route.reason) == (Way.DIRECT, "an authenticated link is up (cloud)")
                tv.find("router").tell(LetGo(CLOUD.node_id, "nothing was asked for 30 s"))
                await until(lambda number=number: len(facts(tv)) == 2 * (number + 1))
                assert facts(tv)[-1] == PeerDown(CLOUD.node_id, "nothing was asked for 30 s")
            # At once after it was let go, too.
            await reach(tv, CLOUD.node_id)
            tv.find("router").tell(LetGo(CLOUD.node_id, "idle"))
            assert (await reach(tv, CLOUD.node_id)).way is Way.DIRECT
            assert (await described(tv)).links[0].peer == CLOUD.node_id
            kinds = [type(fact) for fact in facts(tv)]
            assert kinds == [PeerUp, PeerDown] * 3 + [PeerUp]
        with anyio.fail_after(PATIENCE_S):
            assert isinstance(await cloud.receive(), LinkUp)


async def test_a_cloud_that_is_not_there_is_named_with_its_address(world):
    async with cloud_link() as cloud:
        port = cloud.port
    async with world.node(cloud=CloudAddress(CLOUD.node_id, HOST, port)) as tv:
        with pytest.raises(
            AskDeclined, match=f"the cloud at {HOST}:{port} cannot be reached: (?!never heard).*(answer|reach)"
        ):
            await reach(tv, CLOUD.node_id)
        assert (await described(tv)).counters["dials_failed"] == 1
    async with world.node(cloud=CloudAddress(CLOUD.node_id, "", 8087)) as tv:
        with pytest.raises(AskDeclined, match=r"set cloud\.host"):
            await reach(tv, CLOUD.node_id)


async def test_a_router_that_crashes_says_that_its_links_are_gone_and_comes_back(world):
    async with world.node() as tv, world.node() as desk:
        await linked(world, tv, desk)
        crashed = tv._cells["router"].actor
        crashed.tasks.start_soon(crash)
        await until(lambda: len(facts(tv)) == 2)
        assert facts(tv)[1] == PeerDown(desk.node_id, "this node's Router ended")
        await until(lambda: len(facts(desk)) == 2)
        await until(lambda: tv._cells["router"].actor not in (None, crashed))
        # Whoever answers has its links open.
        await described(tv)
        world.dial(desk, tv)
        await until(lambda: len(facts(desk)) == 3)
        await call(desk, tv.node_id)


async def test_when_a_node_stops_its_sessions_end_at_the_other_side_too(world):
    async with world.node(OFFICE) as server:
        async with world.node() as tv:
            await reach(tv, server.node_id)
            await call(tv, server.node_id)
            await wait_route(tv, server.node_id, Way.BEP)
            caller = tv.node_id
        route = await wait_route(server, caller, Way.NONE)
        assert "no bearer" in route.reason
        assert (await described(server)).counters["sessions"] == 0


async def crash():
    raise RuntimeError("crashed on purpose")

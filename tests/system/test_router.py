"""Routers on real links, with relays that a test kills: every way, its reason, and what happens when it is lost."""

import contextlib
import itertools
import time

import anyio
import pytest

from atoll.actors.discoverer.messages import DialWanted
from atoll.actors.router import messages as router_messages
from atoll.actors.router import router as router_module
from atoll.actors.router import routes as routes_module
from atoll.actors.router.messages import DescribeRoutes, LetGo, PeerDown, PeerUp, Reach, SepAnswer, SepDelivery
from atoll.actors.router.paths import OpenBearer, OpenSep, PathFound, PathLost, RecordsArrived, SepPaths
from atoll.actors.router.router import CloudAddress, Router
from atoll.actors.router.routes import Way
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, Address, Declined, handles
from atoll.actors.runtime.actor import LATER
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskRefused, AskUnreachable
from atoll.actors.tunnel_relay import messages as tunnel_messages
from atoll.actors.tunnel_relay.messages import BearerHalf, BearerOffered, BearerRequest
from atoll.actors.uplink.messages import GrantWanted
from atoll.transport.admission import CloudAdmission, SiteAdmission
from atoll.transport.base import LinkUp, Standing
from atoll.transport.codec import Codec
from atoll.transport.envelope import VERSION, Envelope, Header, Kind, encode_envelope
from atoll.transport.errors import Unreachable
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.session import Session
from atoll.transport.tokens import issue_grant
from atoll.transport.zeromq import ZeroMqTransport

pytestmark = pytest.mark.anyio

CODEC = Codec([*RUNTIME_MESSAGES, *router_messages.MESSAGES, *tunnel_messages.MESSAGES])
HOST = "127.0.0.1"
HOME, OFFICE = SiteKeys.generate(), SiteKeys.generate()
CLOUD = NodeKey(bytes([9]) * 32)
PATIENCE_S = 20
LONG_S = 120
"""For asks that must end before their time: longer than any test."""


QUESTION = SepAnswer(b"?", CLOUD.node_id, b"")
"""Any message of the codec will do; Echo looks only at its class."""
HELD_QUESTION = SepDelivery(b"?", CLOUD.node_id, b"")
"""One that is answered when the test lets it."""


class Echo(Actor):
    """Answers members and those who hold a grant; counts what it handled."""

    open_to = frozenset({Standing.MEMBER, Standing.GRANTED})

    def __init__(self):
        self.handled = []
        self.go_on = anyio.Event()
        self.senders = []

    async def receive(self, delivery):
        name, reply_to = type(delivery.message).__name__, delivery.reply_to
        self.handled.append(name)
        self.senders.append(delivery.standing)
        if isinstance(delivery.message, SepDelivery):
            self.tasks.start_soon(self._hold, reply_to)
            return LATER
        return SepAnswer(b"echo", self.system.node_id, b"")

    async def _hold(self, reply_to):
        await self.go_on.wait()
        reply_to.answer(SepAnswer(b"held", self.system.node_id, b""))


class Private(Echo):
    """For members only, as every actor that says nothing."""

    open_to = Actor.open_to


class Witness(Actor):
    """Writes facts down, in order, with what else it is told."""

    def __init__(self):
        self.seen = []

    async def started(self):
        self.system.subscribe(PeerUp, self.ref)
        self.system.subscribe(PeerDown, self.ref)

    async def receive(self, delivery):
        self.seen.append(delivery.message)
        if isinstance(delivery.message, PeerUp):
            self.system.tell(Address(delivery.message.peer, "witness"), QUESTION, sender=self.ref)
        return LATER


class WirePath:
    """One end of a path over a relay of the test."""

    def __init__(self, world, system, way, relay, record_bytes_max):
        self.world, self.system, self.way, self.relay = world, system, way, relay
        self.record_bytes_max = record_bytes_max
        self.other = None
        self.dialled = self.closed = False
        self.records = 0

    def send(self, record):
        if self.relay in self.world.dead:
            if self.relay in self.world.noticed:
                raise Unreachable(f"{self.relay} is dead")
            return
        if self.closed or self.other.closed:
            raise Unreachable("this path is closed")
        self.records += 1
        with contextlib.suppress(AttributeError):
            self.other.system.find("router").tell(RecordsArrived(self.other, (record,)))

    def close(self):
        self.closed = True

    def lose(self, reason):
        router = self.system.find("router")
        if router is not None:
            router.tell(PathLost(self, reason))


class Tunnels(Actor):
    """Stands where the TunnelRelay stands, for paths that stay in this process."""

    open_to = frozenset({Standing.MEMBER, Standing.GRANTED})

    def __init__(self, world):
        self.world = world

    async def receive(self, delivery):
        message = delivery.message
        self.world.orders.append((self.system.node_id, type(message).__name__))
        match message:
            case OpenSep(peer):
                if peer not in self.world.systems:
                    raise Declined(f"the directory knows no node {peer.short}")
                await self.world.tunnels_open.wait()
                living = [relay for relay in self.world.relays if relay not in self.world.dead]
                if not living:
                    raise Declined("no relay of its site let us in")
                paths = [self.world.join(self.system, peer, Way.SEP, relay) for relay in living]
                return SepPaths(tuple(paths), self.system.clock() + self.world.routes_last_s)
            case BearerRequest():
                halves = [self._half(relay) for relay in self.world.bearer_relays]
                first = halves[0]
                spare = halves[1] if len(halves) > 1 else None
                return BearerOffered(first.relay, first.name, first.host, first.port, first.ticket, 2**31, spare)
            case OpenBearer(peer, relay):
                if relay in self.world.dead:
                    raise Declined(f"{relay} cannot be reached")
                return self.world.join(self.system, peer, Way.BEP, relay)
            case _:
                self.world.answers.append(message)
        return LATER

    def _half(self, relay):
        return BearerHalf(CLOUD.node_id, relay, HOST, 1, relay.encode())


class Grants(Actor):
    """Stands where the Uplink stands: gives this node's grant, or what the test wants shown for one."""

    def __init__(self, world):
        self.world = world

    @handles
    async def grant(self, _message: GrantWanted) -> bytes:
        if self.world.grant is None:
            return issue_grant(
                CLOUD,
                subject=self.system.node_id,
                audience="atoll",
                scopes=["atoll:call"],
                site="home",
                life_s=3600,
                now=time.time(),
            )
        if self.world.grant == b"":
            raise Declined("the cloud is out of reach, and no grant was kept")
        return self.world.grant


class World:
    """Nodes and relays in one process."""

    def __init__(self):
        self.systems = {}
        self.ports = {}
        self.keys = itertools.count(10)
        self.relays = ["relay-1", "relay-2"]
        self.bearer_relays = ["relay-1", "relay-2"]
        self.dead, self.noticed = set(), set()
        self.paths, self.orders, self.answers = [], [], []
        self.routes_last_s = 600.0
        self.grant = None
        self.tunnels_open = anyio.Event()
        self.tunnels_open.set()

    def join(self, system, peer, way, relay):
        size = 48 * 1024 if way is Way.SEP else 65_536
        here, there = (WirePath(self, each, way, relay, size) for each in (system, self.systems[peer]))
        here.other, there.other = there, here
        here.dialled = True
        self.paths += [here, there]
        return here

    def kill(self, relay):
        """Let a relay swallow everything from now on."""
        self.dead.add(relay)

    def notice(self, relay):
        """Let everybody see that it is dead; of circuits nobody is told, they are found dead."""
        self.noticed.add(relay)
        for path in self.paths:
            if path.relay == relay and not path.closed and (path.dialled or path.way is Way.BEP):
                path.lose(f"the connection to {relay} was reset")

    def asked(self, kind):
        return sum(name == kind.__name__ for _, name in self.orders)

    @contextlib.asynccontextmanager
    async def node(self, site=HOME, *, label="node", cloud=CloudAddress(CLOUD.node_id, HOST, 1)):  # noqa: B008
        key = NodeKey(bytes([next(self.keys)]) * 32)
        clouds = frozenset() if cloud is None else frozenset({cloud.node})
        admission = SiteAdmission(keys=site, own=key.node_id, clouds=clouds)

        def transport():
            made = self.ports[key.node_id] = ZeroMqTransport(key, admission, label=label, host=HOST)
            return made

        async with ActorSystem(key.node_id, CODEC) as system:
            self.systems[key.node_id] = system
            await system.spawn(lambda: Router(key, transport, cloud), "router")
            await system.spawn(lambda: Tunnels(self), "tunnel_relay")
            await system.spawn(lambda: Grants(self), "uplink")
            await system.spawn(Witness, "witness")
            await system.spawn(Echo, "echo")
            await system.spawn(Private, "private")
            try:
                yield system
            finally:
                del self.systems[key.node_id]

    def dial(self, one, other):
        one.announce(DialWanted(other.node_id, HOST, self.ports[other.node_id].port))


@pytest.fixture
async def world(anyio_backend):
    del anyio_backend
    return World()


async def until(condition):
    with anyio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - other actors' state has no event here
            await anyio.sleep(0.01)


def facts(system):
    return [each for each in system._cells["witness"].actor.seen if isinstance(each, PeerUp | PeerDown)]


def echo(system, path="echo"):
    return system._cells[path].actor


async def linked(world, one, other):
    world.dial(one, other)
    await until(lambda: facts(one) and facts(other))


async def reach(system, peer, timeout_s=PATIENCE_S):
    return await system.ask(system.find("router"), Reach(peer), timeout_s=timeout_s)


async def call(system, peer, path="echo", message=QUESTION, timeout_s=PATIENCE_S):
    return await system.ask(Address(peer, path), message, timeout_s=timeout_s)


async def described(system):
    return await system.ask(system.find("router"), DescribeRoutes())


async def route_to(system, peer):
    return next(each.route for each in (await described(system)).routes if each.peer == peer)


async def wait_route(system, peer, way, *words):
    with anyio.fail_after(PATIENCE_S):
        while True:
            route = await route_to(system, peer)
            if route.way is way and all(word in route.reason for word in words):
                return route
            await anyio.sleep(0.01)


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
        failures = []

        async def ask(peer):
            try:
                await call(tv, peer, message=HELD_QUESTION, timeout_s=LONG_S)
            except AskFailed as error:
                failures.append(error)

        async with world.node() as desk:
            await linked(world, tv, desk)
            group.start_soon(ask, desk.node_id)
            await until(lambda: echo(desk).handled)
        await until(lambda: failures)
        assert isinstance(failures[0], AskUnreachable)
        assert "the link to" in str(failures[0])
        assert "whether it was handled is not known" in str(failures[0])


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
        assert route.reason == "no link: another network; a bearer through relay-1 is open"
        bearer = next(path for path in world.paths if path.way is Way.BEP)
        before = bearer.records
        await call(tv, server.node_id)
        assert bearer.records > before
        back = await route_to(server, tv.node_id)
        assert back.way is Way.BEP
        assert world.asked(OpenSep) == world.asked(BearerRequest) == world.asked(OpenBearer) == 1
        assert next(each.round_trip_s for each in (await described(tv)).routes) > 0


async def test_the_called_one_may_call_back_over_the_callers_session(world):
    world.bearer_relays = ["dead"]
    world.dead.add("dead")
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
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
        monkeypatch.setattr(router_module, "REACHES_MAX", 1)
        with pytest.raises(AskDeclined, match="1 ways are being opened already; try again"):
            await reach(tv, NodeId(bytes(32)))
        world.tunnels_open.set()
        await until(lambda: len(routes) == 5)
        assert {route.way for route in routes} == {Way.SEP}
        assert world.asked(OpenSep) == 1
        assert (await reach(tv, server.node_id)).way is Way.SEP
        assert world.asked(OpenSep) == 1


def held_call(group, system, peer, answers):
    async def ask():
        answers.append(await call(system, peer, message=HELD_QUESTION, timeout_s=LONG_S))

    group.start_soon(ask)


async def test_a_lost_bearer_falls_back_to_signaling_and_its_calls_are_sent_again_and_handled_once(world):
    world.relays, world.bearer_relays = ["relay-2"], ["relay-1"]
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
        await wait_route(tv, server.node_id, Way.BEP)
        answers = []
        held_call(group, tv, server.node_id, answers)
        await until(lambda: "SepDelivery" in echo(server).handled)
        world.kill("relay-1")
        # The answer is given, and goes down with the relay.
        echo(server).go_on.set()
        world.notice("relay-1")
        await until(lambda: answers)
        assert answers[0].circuit == b"held"
        assert echo(server).handled.count("SepDelivery") == 1
        route = await route_to(tv, server.node_id)
        assert route.way is Way.SEP
        assert "no bearer (the connection to relay-1 was reset)" in route.reason
        assert "relay-2" in route.reason
        await call(tv, server.node_id)


async def test_a_lost_bearer_is_followed_by_the_spare_and_nobody_is_asked_for_it(world):
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
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
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
        await wait_route(tv, server.node_id, Way.BEP, "relay-2")
        assert world.asked(BearerRequest) == 1


async def test_without_any_bearer_calls_go_on_by_signaling_and_another_is_asked_for_later(world, monkeypatch):
    monkeypatch.setattr(routes_module, "BEARER_RETRY_S", 0.2)
    world.relays, world.bearer_relays = ["relay-2"], ["relay-1"]
    world.dead.add("relay-1")
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
        await wait_route(tv, server.node_id, Way.SEP, "no bearer (relay-1 cannot be reached)")
        world.dead.clear()
        with anyio.fail_after(PATIENCE_S):
            while (await route_to(tv, server.node_id)).way is not Way.BEP:
                await call(tv, server.node_id)
        assert world.asked(BearerRequest) >= 2


async def test_when_the_relay_in_use_dies_the_session_moves_and_its_calls_are_sent_again(world):
    world.bearer_relays = ["dead"]
    world.dead.add("dead")
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
        (conversation,) = tv._cells["router"].actor._conversations.all()
        used = conversation.relay
        world.kill(used)
        answers = []
        held_call(group, tv, server.node_id, answers)
        echo(server).go_on.set()
        await until(lambda: tv.statistics()["asks_remote"] == 1)
        assert "SepDelivery" not in echo(server).handled
        world.notice(used)
        await until(lambda: answers)
        assert world.asked(OpenSep) == 1


async def test_when_every_relay_dies_calls_fail_at_once_in_words_and_the_next_dials_anew(world):
    world.relays, world.bearer_relays = ["relay-1"], ["dead"]
    world.dead.add("dead")
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
        failures = []

        async def ask():
            with pytest.raises(AskUnreachable) as caught:
                await call(tv, server.node_id, message=HELD_QUESTION, timeout_s=LONG_S)
            failures.append(str(caught.value))

        group.start_soon(ask)
        await until(lambda: "SepDelivery" in echo(server).handled)
        world.kill("relay-1")
        world.notice("relay-1")
        await until(lambda: failures)
        assert "the connection to relay-1 was reset" in failures[0]
        route = await route_to(tv, server.node_id)
        assert route.way is Way.NONE
        assert "no living route over a relay" in route.reason
        world.relays = ["relay-2"]
        assert (await reach(tv, server.node_id)).way is Way.SEP
        await call(tv, server.node_id)


async def test_when_the_only_relay_of_a_session_dies_another_is_found_and_its_calls_are_answered(world):
    world.relays, world.bearer_relays = ["relay-1"], ["dead"]
    world.dead.add("dead")
    async with world.node() as tv, world.node(OFFICE) as server, anyio.create_task_group() as group:
        await reach(tv, server.node_id)
        await call(tv, server.node_id)
        answers = []
        held_call(group, tv, server.node_id, answers)
        await until(lambda: "SepDelivery" in echo(server).handled)
        world.relays = ["relay-1", "relay-2"]
        world.kill("relay-1")
        world.notice("relay-1")
        await until(lambda: world.asked(OpenSep) == 2)
        echo(server).go_on.set()
        await until(lambda: answers)
        assert echo(server).handled.count("SepDelivery") == 1


async def test_a_peer_that_says_goodbye_is_not_dialled_again(world):
    world.bearer_relays = ["dead"]
    world.dead.add("dead")
    async with world.node() as tv, anyio.create_task_group() as group:
        failures = []

        async def ask(peer):
            try:
                await call(tv, peer, message=HELD_QUESTION, timeout_s=LONG_S)
            except AskUnreachable as error:
                failures.append(str(error))

        async with world.node(OFFICE) as server:
            await reach(tv, server.node_id)
            group.start_soon(ask, server.node_id)
            await until(lambda: "SepDelivery" in echo(server).handled)
        await until(lambda: failures)
        assert "this node stops" in failures[0]
        assert world.asked(OpenSep) == 1


async def test_a_path_that_came_late_is_there_when_the_first_is_lost(world):
    world.relays, world.bearer_relays = ["relay-1"], ["dead"]
    world.dead.add("dead")
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
    world.bearer_relays = ["dead"]
    world.dead.add("dead")
    world.routes_last_s = 0.0
    async with world.node() as tv, world.node(OFFICE) as server:
        await reach(tv, server.node_id)
        assert (await route_to(tv, server.node_id)).way is Way.NONE
        world.routes_last_s = 600.0
        assert (await reach(tv, server.node_id)).way is Way.SEP


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
            for record in session.outgoing():
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
        assert world.answers[-1].relay == relays[1]
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

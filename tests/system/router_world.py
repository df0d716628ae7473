"""Routers on real links in one process, and relays that a test kills."""

import contextlib
import itertools
import time

import anyio
from waiting import until

from atoll.actors.discoverer.messages import DialWanted
from atoll.actors.router import messages as router_messages
from atoll.actors.router.cloud_address import CloudAddress
from atoll.actors.router.demand import Thresholds
from atoll.actors.router.messages import DescribeRoutes, PeerDown, PeerUp, Reach, SepAnswer, SepDelivery
from atoll.actors.router.paths import OpenBearer, OpenPunched, OpenSep, PathLost, RecordsArrived, SepPaths
from atoll.actors.router.router import Router
from atoll.actors.router.routes import Way
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, Address, Declined, handles
from atoll.actors.runtime.actor import LATER
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.tunnel_relay import messages as tunnel_messages
from atoll.actors.tunnel_relay.messages import BearerHalf, BearerOffered, BearerRequest
from atoll.actors.uplink.messages import GrantWanted
from atoll.transport.admission import SiteAdmission
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.tokens import issue_grant
from atoll.transport.zeromq import ZeroMqTransport

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
        self.takes_more = True
        self.through = ""
        self.records = 0
        self.stale = False

    def send(self, record):
        if self.stale:
            self.lose(f"{self.relay} did not deliver: no live registration has this label")
            return
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

    def abandon(self):
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
            case OpenSep(peer, besides):
                if peer not in self.world.systems:
                    raise Declined(f"the directory knows no node {peer.short}")
                await self.world.tunnels_open.wait()
                living = [relay for relay in self.world.relays if relay not in self.world.dead and relay not in besides]
                if not living:
                    raise Declined("no relay of its site let us in")
                paths = [self.world.join(self.system, peer, Way.SEP, relay) for relay in living]
                for path in paths:
                    path.stale = self.world.stale > 0
                self.world.stale -= 1
                return SepPaths(tuple(paths), self.system.clock() + self.world.routes_last_s)
            case BearerRequest() if self.world.instead_of_bearers is not None:
                return self.world.instead_of_bearers
            case BearerRequest():
                halves = [self._half(relay) for relay in self.world.bearer_relays]
                first = halves[0]
                spare = halves[1] if len(halves) > 1 else None
                return BearerOffered(first.relay, first.name, first.host, first.port, first.ticket, 2**31, spare)
            case OpenBearer(peer, relay):
                if relay in self.world.dead:
                    raise Declined(f"{relay} cannot be reached")
                return self.world.join(self.system, peer, Way.BEP, relay)
            case OpenPunched(peer):
                if self.world.wall:
                    raise Declined(self.world.wall)
                return self.world.join(self.system, peer, Way.PUNCHED, "punched")
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
        self.stale = 0
        """So many times the directory does not know yet that a site's labels have changed."""
        self.paths, self.orders, self.answers = [], [], []
        self.routes_last_s = 600.0
        self.grant = None
        self.thresholds = Thresholds(calls_s=0.0)
        """The first call is worth a bearer."""
        self.instead_of_bearers = None
        """What a callee answers that is asked for a bearer, in place of one."""
        self.wall = "a wall"
        """What keeps connections through NAT out; empty: nothing."""
        self.tunnels_open = anyio.Event()
        self.tunnels_open.set()

    def join(self, system, peer, way, relay):
        size = 48 * 1024 if way is Way.SEP else 65_536
        here, there = (WirePath(self, each, way, relay, size) for each in (system, self.systems[peer]))
        here.other, there.other = there, here
        here.dialled = True
        self.paths += [here, there]
        return here

    def without_bearers(self):
        """Let nobody get a bearer: the question for one would wait for an answer from a relay that is dead."""
        self.bearer_relays = ["dead"]
        self.dead.add("dead")

    def kill(self, relay):
        """Let a relay swallow everything from now on."""
        self.dead.add(relay)

    def notice(self, relay):
        """Let everybody see that it is dead; of circuits nobody is told, they are found dead."""
        self.noticed.add(relay)
        for path in self.paths:
            if path.relay == relay and not path.closed and (path.dialled or path.way is not Way.SEP):
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
            await system.spawn(lambda: Router(key, transport, cloud, None, self.thresholds), "router")
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


async def met(one, other):
    """Open a way to a node of another site, and use it."""
    await reach(one, other.node_id)
    await call(one, other.node_id)


class Fate:
    """What becomes of a call."""

    def __init__(self):
        self.answer = self.failure = None

    async def answered(self):
        await until(lambda: self.answer or self.failure)
        if self.failure is not None:
            raise self.failure
        return self.answer

    async def failed(self):
        await until(lambda: self.answer or self.failure)
        assert self.answer is None
        return self.failure


def held_call(group, system, peer):
    """Begin a call that is answered when the callee's `go_on` is set; give its fate."""
    fate = Fate()

    async def ask():
        try:
            fate.answer = await call(system, peer, message=HELD_QUESTION, timeout_s=LONG_S)
        except AskFailed as error:
            fate.failure = error

    group.start_soon(ask)
    return fate


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

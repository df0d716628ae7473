"""When a Router has bearers: how long it waits for the other half of one."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from atoll.actors.router.bearers import DIAL_S, SPARE_S, Bearers, BearersSeen
from atoll.actors.router.paths import OpenBearer
from atoll.actors.router.routes import BEARER_RETRY_S, RouteTable
from atoll.actors.runtime.errors import AskTimedOut
from atoll.actors.tunnel_relay.messages import BearerHalf, BearerOffered, BearerRequest, SpareWanted
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio

OWN, PEER, ONE, OTHER = (NodeKey.generate().node_id for _ in range(4))


@dataclass
class Path:
    relay: str
    closed: bool = False

    def close(self):
        self.closed = True


class Waiting:
    """A Router's bearers at a TunnelRelay where nobody's other half ever comes."""

    def __init__(self):
        self.now, self.waited_s = 0.0, []
        self.routes = RouteTable(OWN)
        system = SimpleNamespace(node_id=OWN, clock=lambda: self.now, ask=self.ask)
        self.started = []
        self.streams, self.relays, self.told = 0, set(), []
        system.tell = lambda address, message: self.told.append((address.node, message))
        self.bearers = Bearers(
            system,
            self.routes,
            lambda *each: self.started.append(each),
            self.use,
            BearersSeen(lambda _: bool(self.streams), lambda _: self.relays),
        )

    async def use(self, _peer, paths):
        self.relays |= {path.relay for path in paths}

    async def ask(self, address, message, *, timeout_s, **how):
        del address, how
        if isinstance(message, BearerRequest):
            half = BearerHalf(OTHER, "relay-2", "relay-2.example", 8089, b"spare")
            return BearerOffered(ONE, "relay-1", "relay-1.example", 8089, b"first", 60, half)
        assert isinstance(message, OpenBearer)
        if message.relay == "relay-1" and not self.waited_s:
            return Path("relay-1")
        self.waited_s.append(timeout_s)
        self.now += timeout_s
        raise AskTimedOut("nobody came")

    async def run(self):
        while self.started:
            do, *arguments = self.started.pop(0)
            await do(*arguments)


async def test_the_half_of_a_callee_that_has_died_is_not_waited_for_long():
    waiting = Waiting()

    async def converse(peer, paths):
        waiting.routes.bearer_open(peer, paths[0].relay)

    waiting.bearers._converse = converse
    waiting.bearers.called_by_signaling(PEER, "calls")
    await waiting.run()
    # The callee is killed: its halves die with it, and of the spare nobody told the relay.
    waiting.routes.bearer_lost(PEER, "reset", waiting.now)
    waiting.bearers.ended(PEER, lost=True)
    await waiting.run()
    assert waiting.waited_s == [SPARE_S]
    assert SPARE_S + BEARER_RETRY_S < DIAL_S / 4
    assert not waiting.routes.bearer_wanted(PEER, waiting.now)
    assert waiting.routes.bearer_wanted(PEER, waiting.now + BEARER_RETRY_S)


class Answering(Waiting):
    """One where every half opens, but for those over relays that are down."""

    def __init__(self, *down):
        super().__init__()
        self.down = set(down)
        self.dialled = []
        self.avoided = []
        self.paths = []

    async def ask(self, address, message, *, timeout_s, **how):
        if isinstance(message, BearerRequest):
            self.avoided.append(message.avoid)
            offered = await super().ask(address, message, timeout_s=timeout_s, **how)
            if offered.name not in message.avoid:
                return offered
            spare = offered.spare
            return BearerOffered(spare.relay, spare.name, spare.host, spare.port, spare.ticket, 60)
        self.dialled.append(message.relay)
        if message.relay in self.down:
            # It comes back before it is tried again.
            self.down.discard(message.relay)
            raise AskTimedOut("nobody came")
        self.paths.append(Path(message.relay))
        return self.paths[-1]

    async def run(self):
        while self.started:
            function, *arguments = self.started.pop(0)
            await function(*arguments)


@pytest.mark.anyio
async def test_where_streams_are_open_the_spare_stands_by_beside_the_first_bearer():
    world = Answering()
    world.streams = 1
    world.bearers.wanted_for_stream(PEER)
    await world.run()
    assert world.dialled == ["relay-1", "relay-2"]
    assert world.told == [(PEER, SpareWanted())]
    assert world.relays == {"relay-1", "relay-2"}


@pytest.mark.anyio
async def test_for_calls_alone_the_spare_stays_a_spare():
    world = Answering()
    world.bearers.called_by_signaling(PEER, "calls")
    await world.run()
    assert (world.dialled, world.told, world.relays) == (["relay-1"], [], {"relay-1"})


@pytest.mark.anyio
async def test_a_second_bearer_that_is_lost_or_does_not_open_is_asked_for_again(monkeypatch):
    monkeypatch.setattr("atoll.actors.router.bearers.SECOND_AGAIN_S", 0.0)
    world = Answering("relay-2")
    world.streams = 1
    world.bearers.wanted_for_stream(PEER)
    await world.run()
    assert world.dialled == ["relay-1", "relay-2", "relay-2"]
    assert world.avoided == [(), ("relay-1",)]
    world.relays = {"relay-1"}
    world.bearers.keep_two(PEER)
    world.bearers.keep_two(PEER)
    assert len(world.started) == 1, "it is under way already"
    await world.run()
    assert world.relays == {"relay-1", "relay-2"}


@pytest.mark.anyio
async def test_a_second_bearer_over_the_relay_of_the_first_is_let_go():
    """Two attempts may meet where one relay alone lives; kept, they would take up the paths of a session."""
    world = Answering()
    world.bearers.called_by_signaling(PEER, "calls")
    world.relays = {"relay-1"}
    await world.run()
    assert [(path.relay, path.closed) for path in world.paths] == [("relay-1", True)]
    assert not world.routes.bearer_wanted(PEER, 100.0), "there is one"

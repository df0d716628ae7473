"""When a Router has bearers: how long it waits for the other half of one."""

from types import SimpleNamespace

import pytest

from atoll.actors.router.bearers import DIAL_S, SPARE_S, Bearers
from atoll.actors.router.paths import OpenBearer
from atoll.actors.router.routes import BEARER_RETRY_S, RouteTable
from atoll.actors.runtime.errors import AskTimedOut
from atoll.actors.tunnel_relay.messages import BearerHalf, BearerOffered, BearerRequest
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio

OWN, PEER, ONE, OTHER = (NodeKey.generate().node_id for _ in range(4))


class Waiting:
    """A Router's bearers at a TunnelRelay where nobody's other half ever comes."""

    def __init__(self):
        self.now, self.waited_s = 0.0, []
        self.routes = RouteTable(OWN)
        system = SimpleNamespace(node_id=OWN, clock=lambda: self.now, ask=self.ask)
        self.started = []
        self.bearers = Bearers(system, self.routes, lambda *each: self.started.append(each), None)

    async def ask(self, address, message, *, timeout_s, **how):
        del address, how
        if isinstance(message, BearerRequest):
            half = BearerHalf(OTHER, "relay-2", "relay-2.example", 8089, b"spare")
            return BearerOffered(ONE, "relay-1", "relay-1.example", 8089, b"first", 60, half)
        assert isinstance(message, OpenBearer)
        if message.relay == "relay-1" and not self.waited_s:
            return "path"
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
        waiting.routes.bearer_open(peer, paths[0])

    waiting.bearers._converse = converse
    waiting.bearers.called_by_signaling(PEER)
    await waiting.run()
    # The callee is killed: its halves die with it, and of the spare nobody told the relay.
    waiting.routes.bearer_lost(PEER, "reset", waiting.now)
    waiting.bearers.ended(PEER, lost=True)
    await waiting.run()
    assert waiting.waited_s == [SPARE_S]
    assert SPARE_S + BEARER_RETRY_S < DIAL_S / 4
    assert not waiting.routes.bearer_wanted(PEER, waiting.now)
    assert waiting.routes.bearer_wanted(PEER, waiting.now + BEARER_RETRY_S)

"""Who waits in the Router until a way is there: each hears of it, whoever else waits or has given up."""

import anyio
import pytest

from atoll.actors.router import ways as ways_module
from atoll.actors.router.conversations import Conversations
from atoll.actors.router.messages import LinkSeen
from atoll.actors.router.routes import RouteTable, Way
from atoll.actors.router.ways import Means, Ways
from atoll.actors.runtime.errors import AskDeclined
from atoll.transport.base import Standing
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio
OWN = NodeKey(bytes([1]) * 32)
PEER = NodeKey(bytes([2]) * 32).node_id
LONG_S = 50.0


class System:
    """Declines each order when the test lets it, and counts them."""

    node_id = OWN.node_id
    clock = staticmethod(anyio.current_time)

    def __init__(self):
        self.asked = 0
        self.go_on = anyio.Event()
        self.lost = []

    def way_lost(self, peer, reason):
        self.lost.append((peer, reason))

    async def ask(self, _address, _message, *, timeout_s):
        assert timeout_s
        self.asked += 1
        await self.go_on.wait()
        raise AskDeclined("no")


@pytest.fixture
def system():
    return System()


@pytest.fixture
def ways(system):
    conversations = Conversations(OWN, lambda _peer, _grant: None, lambda _turn: None)
    link = LinkSeen(PEER, Standing.MEMBER, "phone", "127.0.0.1", 0.0)
    routes = RouteTable(OWN.node_id)
    means = Means({PEER: link}, conversations, routes, lambda *_: None, lambda *_: None, lambda _: None)
    return Ways(system, None, means)


async def test_who_gives_up_takes_nobody_elses_word_away(ways):
    with anyio.fail_after(LONG_S / 10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ways._wait, "subject", LONG_S)
            await anyio.wait_all_tasks_blocked()
            await ways._wait("subject", 0.0)
            ways.wake("subject")


async def test_who_was_woken_takes_nothing_from_those_who_wait_for_the_next_time(ways):
    async def wake_next():
        await anyio.wait_all_tasks_blocked()
        ways.wake("subject")

    with anyio.fail_after(LONG_S / 10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ways._wait, "subject", LONG_S)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(wake_next)
            ways.wake("subject")
            # Before the first has had its turn.
            await ways._wait("subject", LONG_S)


async def test_whoever_is_cancelled_leaves_nothing_behind(ways):
    with anyio.move_on_after(0.01):
        await ways._wait("subject", LONG_S)
    assert not ways._waiting


async def test_those_who_want_a_direct_connection_at_once_have_one_opened_and_hear_what_came_of_it(ways, system):
    refused = []

    async def want():
        try:
            await ways.session_with(PEER)
        except (AskDeclined, Unreachable) as error:
            refused.append(str(error))

    with anyio.fail_after(LONG_S / 10):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(want)
            await anyio.wait_all_tasks_blocked()
            assert system.asked == 1
            system.go_on.set()
    assert len(refused) == 3


async def test_an_ask_hears_why_no_way_is_opened_anew_for_it(ways, system, monkeypatch):
    ways._routes.uses(PEER, Way.SEP, "relay-1", "it was the first")
    monkeypatch.setattr(ways_module, "REACHES_MAX", 0)
    assert ways.reopen(PEER)
    assert system.lost == [(PEER, "0 ways are being opened already; try again in a moment")]

"""A relay's other door: taken when its ports cannot be reached, and only then."""

import errno
import sqlite3
import ssl
import stat

import anyio
import pytest
from relay_keys import ISSUER, RELAY
from relay_world import World
from test_websocket_bearers import HOST, PATIENCE_S, Papers, counted, halves, relaying
from waiting import until

from atoll.actors.cloud.messages import PlaceSep, RelayReport, TunnelRequest
from atoll.actors.cloud.store import CloudStore
from atoll.actors.tunnel_relay import doors as module
from atoll.actors.tunnel_relay import sep_dial
from atoll.actors.tunnel_relay.certificate import make_certificate_if_none
from atoll.actors.tunnel_relay.doors import CLOSED_MAX, CLOSED_S, Doors, through_websocket
from atoll.actors.tunnel_relay.frames import Pong
from atoll.actors.tunnel_relay.relay_address import WebDoor
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepRefused
from atoll.actors.tunnel_relay.sep_dial import SepAddress, open_sep
from atoll.actors.tunnel_relay.tickets import Role, issue
from atoll.actors.tunnel_relay.websocket_server import WebSocketSettings
from atoll.transport.bearer import BearerRefused
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio
NOBODY = 1
"""A port where nobody listens: refused at once."""


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture
def doors():
    return Doors(anyio.current_time)


async def never(*_where, **_how):
    await anyio.sleep_forever()


async def pair(doors, relay, *ports, web):
    """Both ends of a tunnel, and by which door each came."""
    ends = {}

    async def dial(number, half, port):
        ends[number] = await doors.dial_bearer(HOST, port, half, web, timeout_s=PATIENCE_S)

    async with anyio.create_task_group() as group:
        for number, (half, port) in enumerate(zip(halves(), ports, strict=True)):
            group.start_soon(dial, number, half, port)
    return [ends[0], ends[1]]


async def close(ends):
    for stream, _ in ends:
        await anyio.aclose_forcefully(stream)


def address(relay, key, web, *, port=None, **fields):
    said = {"role": Role.REACH, "subject": bytes(16), "relay": RELAY.node_id, "expires_at": 2**32 - 1} | fields
    ticket = issue(ISSUER, holder=key.public, **said)
    return SepAddress(HOST, relay.sep_port if port is None else port, RELAY.node_id, ticket, web)


async def test_the_port_is_taken_where_it_can_be_reached(papers, doors):
    async with relaying(papers) as relay:
        ends = await pair(doors, relay, relay.bearer_port, relay.bearer_port, web=relay.web)
        assert [through for _, through in ends] == ["", ""]
        assert counted(relay, "websocket_accepted") == 0
        await close(ends)


async def test_where_the_port_refuses_the_other_door_is_taken_at_once_and_carries_bytes(papers, doors):
    async with relaying(papers) as relay:
        ends = await pair(doors, relay, NOBODY, relay.bearer_port, web=relay.web)
        (here, through), (there, direct) = ends
        assert through == f"WebSocket on port {relay.web.port}: port {NOBODY} could not be reached"
        assert direct == ""
        await here.send(b"through TLS")
        assert await there.receive() == b"through TLS"
        assert doors.is_closed(HOST, NOBODY)
        assert not doors.is_closed(HOST, relay.bearer_port)
        await close(ends)


async def test_where_the_port_says_nothing_the_other_door_is_taken_after_a_head_start(papers, doors, monkeypatch):
    monkeypatch.setattr(module, "connect_bearer", never)
    async with relaying(papers) as relay:
        began = anyio.current_time()
        await close(await pair(doors, relay, relay.bearer_port, relay.bearer_port, web=relay.web))
        assert anyio.current_time() - began >= module.HEAD_START_S
        monkeypatch.setattr(module, "HEAD_START_S", 1000.0)
        # It is known now: nobody waits for it any more.
        await close(await pair(doors, relay, relay.bearer_port, relay.bearer_port, web=relay.web))


async def test_who_is_cancelled_behind_the_other_door_leaves_no_connection_open(papers):
    async def hold(*, task_status):
        async with through_websocket(HOST, relay.web):
            task_status.started()
            await anyio.sleep_forever()

    async with relaying(papers) as relay:
        async with anyio.create_task_group() as tasks:
            await tasks.start(hold)
            await until(lambda: counted(relay, "websocket_open") == 1)
            tasks.cancel_scope.cancel()
        await until(lambda: counted(relay, "websocket_open") == 0)


async def test_where_no_local_port_can_be_had_the_other_door_is_closed_again_and_the_remedy_said(papers, monkeypatch):
    def exhausted(*_where, **_how):
        raise OSError(errno.EMFILE, "Too many open files")

    async with relaying(papers) as relay:
        monkeypatch.setattr(module.socket, "create_server", exhausted)
        with pytest.raises(Unreachable, match="Too many open files; raise the limit of open files"):
            async with through_websocket(HOST, relay.web):
                pass
        await until(lambda: counted(relay, "websocket_opened_sep") == 1 and counted(relay, "websocket_open") == 0)


async def test_where_the_local_connection_cannot_be_taken_the_block_ends_with_the_reason(papers, monkeypatch):
    class Exhausted:
        def __init__(self, bound):
            self.bound = bound

        async def accept(self):
            raise OSError(errno.EMFILE, "Too many open files")

        async def aclose(self):
            self.bound.close()

    async def exhausted(bound):
        return Exhausted(bound)

    async with relaying(papers) as relay:
        async with through_websocket(HOST, relay.web):
            """The relay listens."""
        monkeypatch.setattr(module.anyio.abc.SocketListener, "from_socket", exhausted)
        with anyio.fail_after(PATIENCE_S), pytest.raises(Unreachable, match="raise the limit of open files"):
            async with through_websocket(HOST, relay.web):
                await anyio.sleep_forever()
        await until(lambda: counted(relay, "websocket_open") == 0)


async def test_what_has_connected_is_closed_when_its_dial_is_given_up_in_that_moment(doors, monkeypatch):
    given_up, closed = anyio.Event(), anyio.Event()

    class Connected:
        async def aclose(self):
            closed.set()

    async def connected(*_where):
        return Connected()

    async def lingering(*_where):
        try:
            await anyio.sleep_forever()
        finally:
            # It has lost, and is not done with that when the dial is given up.
            scope.cancel()
            given_up.set()

    monkeypatch.setattr(module, "connect_bearer", lingering)
    monkeypatch.setattr("atoll.transport.websocket_bearer.open_websocket", connected)
    monkeypatch.setattr(module, "HEAD_START_S", 0.0)
    with anyio.CancelScope() as scope:
        await doors.dial_bearer(HOST, 1, b"ticket", WebDoor(1, bytes(32)), timeout_s=PATIENCE_S)
    assert (given_up.is_set(), closed.is_set(), scope.cancelled_caught) == (True, True, True)


async def test_a_port_that_opens_again_is_taken_again(papers, doors):
    async with relaying(papers) as relay:
        doors.note(HOST, relay.bearer_port, closed=True)
        with anyio.fail_after(PATIENCE_S):
            while doors.is_closed(HOST, relay.bearer_port):
                await close(await pair(doors, relay, relay.bearer_port, relay.bearer_port, web=relay.web))


async def test_neither_door_is_told_with_both_reasons(papers, doors):
    async with relaying(papers) as relay:
        web = WebDoor(NOBODY, relay.web.fingerprint)
        with pytest.raises(Unreachable, match=rf"port {NOBODY}.*port {NOBODY}"):
            await doors.dial_bearer(HOST, NOBODY, halves()[0], web, timeout_s=PATIENCE_S)


async def test_a_relay_with_another_certificate_gets_no_ticket(papers, doors):
    async with relaying(papers) as relay:
        web = WebDoor(relay.web.port, bytes(32))
        with pytest.raises(Unreachable, match="another certificate"):
            await doors.dial_bearer(HOST, NOBODY, halves()[0], web, timeout_s=PATIENCE_S)
        assert counted(relay, "bearer_accepted") == 0
        key = FreshKey.generate()
        with pytest.raises(Exception, match="another certificate"):
            async with open_sep(address(relay, key, web, port=NOBODY), key, doors):
                pass


async def test_what_the_relay_says_is_heard_through_the_other_door(papers, doors):
    async with relaying(papers) as relay:
        with pytest.raises(BearerRefused, match="cannot read this"):
            await doors.dial_bearer(HOST, NOBODY, bytes(150), relay.web, timeout_s=PATIENCE_S)
        key = FreshKey.generate()
        with pytest.raises(SepRefused, match="expired"):
            async with open_sep(address(relay, key, relay.web, port=NOBODY, expires_at=1), key, doors):
                pass


async def test_a_sep_goes_through_the_other_door_where_its_port_cannot_be_reached(papers, doors, monkeypatch):
    async with relaying(papers) as relay:
        for port, through in ((relay.sep_port, ""), (NOBODY, "WebSocket on port")):
            key = FreshKey.generate()
            async with open_sep(address(relay, key, relay.web, port=port), key, doors) as (client, why):
                assert why.startswith(through)
                assert bool(why) == bool(through)
                client.ping()
                with anyio.fail_after(PATIENCE_S):
                    assert await client.receive() == Pong()
        assert counted(relay, "websocket_opened_sep") == 1
        await until(lambda: counted(relay, "websocket_open") == 0)


async def test_what_is_known_to_be_closed_is_not_tried_first(doors, monkeypatch):
    monkeypatch.setattr(sep_dial, "through_websocket", _refusing)
    monkeypatch.setattr(sep_dial, "SEP_CONNECT_S", 0.1)
    key = FreshKey.generate()
    at = SepAddress(HOST, NOBODY, RELAY.node_id, b"t", WebDoor(443, bytes(32)))
    doors.note(HOST, NOBODY, closed=True)
    with pytest.raises(Unreachable, match="a while ago"):
        async with open_sep(at, key, doors):
            pass
    # Neither door: nothing is known any more, and the port is tried first again.
    with pytest.raises(Unreachable, match="nobody listens there"):
        async with open_sep(at, key, doors):
            pass


def _refusing(*_where):
    raise Unreachable("no other door either")


def test_what_is_known_of_ports_is_forgotten_and_bounded():
    now = [0.0]
    doors = Doors(lambda: now[0])
    for number in range(2 * CLOSED_MAX):
        doors.note("relay", number, closed=True)
    assert len(doors._closed) == CLOSED_MAX
    assert doors.is_closed("relay", 2 * CLOSED_MAX - 1)
    now[0] = CLOSED_S
    assert not doors.is_closed("relay", 2 * CLOSED_MAX - 1)


def test_a_certificate_is_made_once_and_never_over_another(tmp_path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "certificate.key"
    make_certificate_if_none(certificate, key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    settings = WebSocketSettings(port=0, certificate=certificate, key=key)
    assert isinstance(settings.context(), ssl.SSLContext)
    before = settings.fingerprint()
    make_certificate_if_none(certificate, key)
    assert settings.fingerprint() == before
    certificate.unlink()
    make_certificate_if_none(certificate, key)
    assert not certificate.exists(), "half of what an operator has given is the operator's to mend"


def test_the_other_door_reaches_nodes_with_routes_placements_and_tunnels():
    world = World(None)
    relay, node = world.enrol("relay-1", site="", kind="relay"), world.enrol("tv")
    web = WebDoor(443, bytes(range(32)))
    report = RelayReport("relay.example", 8088, 8089, 0.0, web=web)
    world.signaling.report(world.store.enrolled(relay.node_id), report)
    sender = world.store.enrolled(node.node_id)
    holder = FreshKey.generate().public
    assert [each.web for each in world.signaling.tunnels(sender, TunnelRequest(1)).pairs] == [web]
    assert [each.web for each in world.signaling.place(sender, PlaceSep("home", (holder,))).placements] == [web]
    (live,) = world.store.relays(world.signaling._clock())
    assert world.signaling.reach("home", live, bytes(16), holder).web == web


def test_a_store_of_an_earlier_release_learns_of_other_doors(tmp_path):
    old = sqlite3.connect(tmp_path / "cloud.sqlite")
    old.execute(
        "CREATE TABLE relay (node BLOB PRIMARY KEY, host TEXT NOT NULL, sep_port INTEGER NOT NULL, bearer_port INTEGER"
        " NOT NULL, load REAL NOT NULL, draining INTEGER NOT NULL, lease_until REAL NOT NULL) STRICT"
    )
    relay = NodeKey.generate().node_id
    old.execute("INSERT INTO relay VALUES (?, 'old.example', 8088, 8089, 0.0, 0, 100.0)", (bytes(relay),))
    old.commit()
    old.close()
    for _ in range(2):
        with CloudStore(tmp_path / "cloud.sqlite") as store:
            (live,) = store.relays(1.0)
            assert (live.node, live.host, live.web) == (relay, "old.example", None)

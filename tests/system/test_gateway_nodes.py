"""The gateway as an actor: requests of other nodes, their limits and bytes, its sockets, its end."""

import contextlib
import json
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from gateway_probe import KEY
from http_probe import WAIT_S, fetch
from small_node import SmallNode
from waiting import until

from atoll.actors.gateway.app import make_app
from atoll.actors.gateway.authority import OWNER, Kind, Principal, principal_of_node
from atoll.actors.gateway.gateway import Gateway, GatewaySettings
from atoll.actors.gateway.http_server import bind_tcp
from atoll.actors.gateway.in_process import run_app
from atoll.actors.gateway.messages import BODY_BYTES_MAX, MESSAGES, HttpReply, HttpRequest
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import ActorSystem, Address, AskNotUnderstood, AskTimedOut
from atoll.transport.base import MESSAGE_BYTES_MAX, Standing
from atoll.transport.codec import Codec
from atoll.transport.envelope import decode_envelope, encode_envelope
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio


GOLDEN = Path(__file__).parent.parent / "golden" / "gateway.txt"
CODEC = Codec([*MESSAGES, *RUNTIME_MESSAGES])
MEMBER, GRANTED = (principal_of_node(NodeId(b"n" * 32), each) for each in (Standing.MEMBER, Standing.GRANTED))


@pytest.mark.parametrize(
    ("principal", "method", "target", "status"),
    [
        (GRANTED, "GET", "/echo/v1", 200),
        (GRANTED, "GET", "/atoll/v1/status", 403),
        (GRANTED, "POST", "/mcm/v1/containers", 403),
        (GRANTED, "GET", "/mcm/v1/images", 403),
        (GRANTED, "GET", "/at/phone/echo", 403),
        (GRANTED, "GET", "/metrics", 403),
        (GRANTED, "GET", "/openapi.json", 200),
        (MEMBER, "GET", "/echo/v1", 200),
        (MEMBER, "GET", "/atoll/v1/status", 200),
        (MEMBER, "GET", "/mcm/v1/images", 200),
        (MEMBER, "GET", "/at/phone/echo", 403),
        (OWNER, "GET", "/at/phone/echo", 200),
        (MEMBER, "GET", "/atoll/v1/site", 200),
        (MEMBER, "POST", "/atoll/v1/site/reform", 403),
        (MEMBER, "POST", "/atoll/v1/site/leave", 403),
        (OWNER, "POST", "/atoll/v1/site/reform", 403),
        (MEMBER, "GET", "no-path", 400),
        (MEMBER, "GET", "/\u2603", 400),
        (MEMBER, "GET", "/breaks", 500),
    ],
)
async def test_other_nodes_use_the_same_routes_in_their_own_name(tmp_path, principal, method, target, status):
    node = SmallNode()
    app = make_app(node, api_key=KEY, spool=tmp_path)
    # Neither the owner's key nor a browser's field changes what a node is.
    fields = (("x-api-key", "whatever"), ("authorization", f"Bearer {KEY}"), ("origin", "https://elsewhere.example"))
    reply = await run_app(app, HttpRequest(method, target, fields), principal)
    assert reply.status == status, reply.body
    if status >= 400:
        assert dict(reply.headers)["content-type"] == "application/problem+json"
    elif target == "/echo/v1":
        assert node.calls[0][2] == principal


async def test_a_reply_too_long_for_a_message_is_a_problem(tmp_path):
    node = SmallNode()
    node.canned["/long"] = HttpReply(200, (), bytes(BODY_BYTES_MAX + 1))
    reply = await run_app(make_app(node, api_key=KEY, spool=tmp_path), HttpRequest("GET", "/long"), MEMBER)
    assert reply.status == 502
    assert str(BODY_BYTES_MAX) in json.loads(reply.body)["detail"]


async def test_a_header_too_long_for_a_message_is_a_problem(tmp_path):
    node = SmallNode()
    node.canned["/long"] = HttpReply(200, (("x-long", "x" * 32_000),) * 100, bytes(BODY_BYTES_MAX))
    reply = await run_app(make_app(node, api_key=KEY, spool=tmp_path), HttpRequest("GET", "/long"), MEMBER)
    assert reply.status == 502
    assert "header is longer than" in json.loads(reply.body)["detail"]


async def test_the_longest_reply_there_is_fits_into_a_message(tmp_path):
    node = SmallNode()
    node.canned["/long"] = HttpReply(200, (("x-long", "x" * 1000),) * 190, bytes(BODY_BYTES_MAX))
    reply = await run_app(make_app(node, api_key=KEY, spool=tmp_path), HttpRequest("GET", "/long"), MEMBER)
    assert reply.status == 200
    assert len(CODEC.encode(reply)) < MESSAGE_BYTES_MAX - 128 * 1024


async def test_an_endless_reply_is_stopped_at_the_limit():
    async def endless(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})
        while True:
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})

    assert (await run_app(endless, HttpRequest("GET", "/"), MEMBER)).status == 502


SAMPLES = (
    HttpRequest("POST", "/echo/v1/a%2Fb?q=1", (("host", "x"), ("a", "1"), ("a", "2")), b"\x00body"),
    HttpReply(201, (("content-type", "text/plain"),), b"made"),
)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda each: type(each).__name__)
def test_messages_keep_their_golden_bytes(message):
    golden = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())
    assert {type(each).__name__ for each in SAMPLES} == set(golden) == {each.__name__ for each in MESSAGES}
    data = bytes.fromhex(golden[type(message).__name__])
    assert CODEC.encode(message).hex() == data.hex()
    assert CODEC.decode(data) == message


@pytest.mark.parametrize(
    "message",
    [
        HttpRequest("M" * 41, "/"),
        HttpRequest("GET", "/" * 40_000),
        HttpRequest("GET", "/", (("a", "b"),) * 201),
        HttpRequest("GET", "/", (("a", "b" * 40_000),)),
        HttpRequest("GET", "/", (), bytes(BODY_BYTES_MAX + 1)),
        HttpReply(101),
        HttpReply(700),
    ],
    ids=range(7),
)
def test_messages_beyond_their_limits_are_malformed(message):
    with pytest.raises(MalformedFrame):
        CODEC.decode(CODEC.encode(message))


HERE, THERE = NodeId(b"h" * 32), NodeId(b"t" * 32)


@contextlib.asynccontextmanager
async def two_nodes(tmp_path, standing=Standing.MEMBER, **settings):
    """A gateway actor on THERE, and a system HERE that can ask it over encoded envelopes."""
    systems = {}

    def carry(envelope):
        envelope = decode_envelope(encode_envelope(envelope))
        systems[envelope.header.target_node].deliver(envelope, standing)

    chosen = GatewaySettings(**{"state": tmp_path, "unix_socket": tmp_path / "run" / "gw.sock", "port": 0} | settings)
    node = SmallNode()
    async with ActorSystem(HERE, CODEC, carry) as here, ActorSystem(THERE, CODEC, carry) as there:
        systems |= {HERE: here, THERE: there}
        gateways = []

        def factory():
            gateways.append(Gateway(node, chosen))
            return gateways[-1]

        await there.spawn(factory, "gateway")
        yield node, gateways, here.ref(Address(THERE, "gateway"))


async def test_the_actor_serves_its_sockets_and_other_nodes(tmp_path):
    async with two_nodes(tmp_path) as (node, gateways, remote):
        key = (tmp_path / "api.key").read_text().strip()
        response, _ = await fetch(gateways[0].port, "GET", "/atoll/v1/status", headers={"x-api-key": key})
        assert response.status == 200
        response, _ = await fetch(tmp_path / "run" / "gw.sock", "GET", "/echo")
        assert response.status == 200
        reply = await remote.ask(HttpRequest("POST", "/echo?x=1", (), b"body"))
        assert (reply.status, reply.body) == (200, b"body")
        assert node.calls[-1][2] == Principal(kind=Kind.MEMBER, node=HERE)
    assert not (tmp_path / "run" / "gw.sock").exists()


async def test_a_granted_node_reaches_services_only(tmp_path):
    async with two_nodes(tmp_path, Standing.GRANTED) as (_, _, remote):
        assert (await remote.ask(HttpRequest("GET", "/echo"))).status == 200
        assert (await remote.ask(HttpRequest("GET", "/atoll/v1/containers"))).status == 403


async def test_an_actor_of_the_same_node_is_sent_to_the_sockets_and_ends_nothing(tmp_path):
    async with two_nodes(tmp_path) as (_, gateways, remote):
        local = gateways[0].system.find("gateway")
        with pytest.raises(AskNotUnderstood, match="takes no HttpRequest of its own node"):
            await local.ask(HttpRequest("GET", "/echo"))
        assert (await remote.ask(HttpRequest("GET", "/echo"))).status == 200
        assert len(gateways) == 1


async def test_a_slow_service_holds_up_nobody(tmp_path):
    async with two_nodes(tmp_path) as (node, _, remote):
        node.gates["/slow"] = anyio.Event()
        replies = []

        async def ask_slow():
            replies.append(await remote.ask(HttpRequest("GET", "/slow"), timeout_s=WAIT_S))

        with anyio.fail_after(WAIT_S):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask_slow)
                await until(lambda: len(node.calls) >= 20)
                assert (await remote.ask(HttpRequest("GET", "/fast"))).status == 200
                assert replies == []
                node.gates["/slow"].set()
        assert [reply.status for reply in replies] == [200] * 20


async def test_a_call_whose_deadline_passed_is_given_up(tmp_path):
    async with two_nodes(tmp_path) as (node, gateways, remote):
        node.gates["/slow"] = anyio.Event()
        with pytest.raises(AskTimedOut):
            await remote.ask(HttpRequest("GET", "/slow"), timeout_s=0.05)
        await until(lambda: gateways[0].counters["late"])


async def test_a_taken_port_fails_the_start_in_words(tmp_path):
    taken = await bind_tcp("127.0.0.1", 0)
    with pytest.raises(Exception) as raised:
        async with two_nodes(tmp_path, port=taken.port):
            pass
    await taken.aclose()
    assert str(taken.port) in everything_said(raised.value)
    assert "--set gateway.port=PORT" in everything_said(raised.value)
    assert not (tmp_path / "run" / "gw.sock").exists()


def everything_said(error):
    """The texts of an error, of its causes, and of what a group holds."""
    inner = list(getattr(error, "exceptions", ())) + [each for each in (error.__cause__,) if each]
    return "\n".join([str(error), *map(everything_said, inner)])


async def test_what_a_dead_process_left_is_cleared_at_the_start(tmp_path):
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "upload-dead.tar").write_bytes(b"x")
    async with two_nodes(tmp_path):
        assert list((tmp_path / "uploads").iterdir()) == []


async def test_a_request_in_flight_is_answered_while_the_actor_stops(tmp_path):
    answers = []

    async def ask_slow():
        answers.append(await fetch(tmp_path / "run" / "gw.sock", "GET", "/slow"))

    async def open_when_closed():
        await until(lambda: not (tmp_path / "run" / "gw.sock").exists())
        gate.set()

    gate = anyio.Event()
    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks, two_nodes(tmp_path) as (node, _, _):
            node.gates["/slow"] = gate
            tasks.start_soon(ask_slow)
            await until(lambda: node.calls)
            tasks.start_soon(open_when_closed)
    assert answers[0][0].status == 200
    assert answers[0][0].headers["connection"] == "close"

"""`atoll pub`, `atoll sub` and their REST, given to two served gateways whose nodes have real Topics."""

import contextlib
import json
import subprocess
import sys

import anyio
import pytest
from anyio import create_task_group
from anyio.from_thread import start_blocking_portal
from cli_probe import Opened, failed, fine
from gateway_probe import BEARER, KEY, fetch_json
from http_probe import serving
from small_node import SmallNode, node_view
from topic_hosts import World, quick
from waiting import block_until

from atoll.actors.gateway import topic_routes
from atoll.actors.gateway.app import make_app
from atoll.actors.gateway.authority import Kind, Principal
from atoll.actors.gateway.http_server import bind_tcp, bind_unix
from atoll.actors.gateway.in_process import run_app
from atoll.actors.gateway.live_topics import LiveTopics
from atoll.actors.gateway.messages import HttpRequest
from atoll.actors.gateway.ports import UnknownName
from atoll.actors.topics import exchange
from atoll.actors.topics.orders import EndReading
from atoll.cli import sub


class Node(SmallNode):
    """A small node with real Topics."""

    def __init__(self, host):
        super().__init__()
        self.host = host

    @property
    def topics(self):
        return LiveTopics(self.host.system, self.find, self.names)

    async def find(self, name):
        for host in self.host.world.hosts.values():
            if name in {host.name, str(host.id)}:
                return node_view(str(host.id), host.name, host.site)
        raise UnknownName(f"no node is called {name}", "list the nodes with `atoll node list`")

    async def names(self):
        return {host.id: host.name for host in self.host.world.hosts.values()}


@pytest.fixture
def gates(tmp_path, monkeypatch):
    """Give the gateways of `tv`, and of `desk` in another site, which lets others at `a/#`."""
    quick(monkeypatch)
    monkeypatch.setattr(topic_routes, "SIGN_OF_LIFE_S", 0.05)

    @contextlib.asynccontextmanager
    async def opened():
        async with create_task_group() as tasks, contextlib.AsyncExitStack() as stack:
            world = World(tasks)
            allowed = {"may_subscribe": ("a/#",), "may_publish": ("a/#",)}
            hosts = [await world.host("tv"), await world.host("desk", "office", **allowed)]
            found = []
            for number, host in enumerate(hosts):
                node, path = Node(host), tmp_path / f"{number}.sock"
                app = make_app(node, api_key=KEY, spool=tmp_path / "uploads")
                sockets = [await bind_tcp("127.0.0.1", 0), await bind_unix(path)]
                port, _ = await stack.enter_async_context(serving(app, listening=sockets))
                found.append(Opened(node, None, None, path, port))
                found[-1].app, found[-1].host = app, host
            yield (*found, world)
            await world.close()

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened()) as gates:
        gates[2].portal = portal
        yield gates


def readers(host):
    return len(host.topics.exchange.subscribers)


@contextlib.contextmanager
def publishing(world, host, *messages, readers_wanted=1):
    """Publish as soon as somebody reads."""

    async def publish():
        while readers(host) < readers_wanted:  # noqa: ASYNC110 - commands have no event
            await anyio.sleep(0.005)
        for topic, payload in messages:
            await host.publish(topic, payload)

    task = world.portal.start_task_soon(publish)
    yield
    task.result(10)


def test_what_is_published_is_printed_until_it_is_enough(gates):
    tv, _, world = gates
    with publishing(world, tv.host, ("a/b", "21.5 °C".encode()), ("c", b"no"), ("a", b"\xff\x1b")):
        done = tv("sub", "a/#", "--count", "2")
    assert fine(done).splitlines() == ["a/b  21.5 °C", "a  (2 bytes, base64) /xs="]
    assert "subscribed in this site" in done.stderr
    block_until(lambda: not readers(tv.host))


def test_a_reader_whose_output_is_closed_ends_and_does_not_blame_the_node(gates):
    tv, _, world = gates
    command = [sys.executable, "-c", "from atoll.cli import main; main()", "--at", str(tv.path), "sub", "a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            with publishing(world, tv.host, ("a", b"1")):
                assert process.stdout.readline() == b"a  1\n"
            # As `head -1` does.
            process.stdout.close()
            with publishing(world, tv.host, ("a", b"2")):
                process.wait(20)
            assert b"waiting for the node" not in process.stderr.read()
        finally:
            process.kill()


def test_lines_and_a_payload_are_not_published_together(gates):
    tv, _, _ = gates
    failed(tv("pub", "a", "x", "--lines", stdin="y\n"), "there is a PAYLOAD, too", "leave one out", code=2)


def test_programs_read_a_line_of_json_for_each_message(gates):
    tv, _, world = gates
    with publishing(world, tv.host, ("a", b"x\n"), ("a", b"\xff")):
        done = tv("sub", "a", "b/+", "--count", "2", "--json")
    one, two = (json.loads(line) for line in fine(done).splitlines())
    assert done.stderr == ""
    assert (one["version"], one["topic"], one["payload"], one["encoding"]) == (1, "a", "x\n", "utf-8")
    assert (two["payload"], two["encoding"], two["sequence"]) == ("/w==", "base64", 2)
    assert (one["node"], one["epoch"]) == (str(tv.host.id), tv.host.topics.exchange.boot.hex())
    assert one["time"].endswith("Z")


def test_topics_of_another_site_come_over_and_are_published_there(gates):
    tv, desk, world = gates
    with publishing(world, desk.host, ("a/x", b"1")):
        assert fine(tv("sub", "a/#", "--from", "desk", "--count", "1")) == "a/x  1\n"
    task = world.portal.start_task_soon(desk.host.subscribe, "a/#")
    subscription = task.result(10)
    done = tv("pub", "a/y", "-", "--to", "desk", stdin="hello")
    assert "published in the site of desk" in (fine(done) or done.stderr)
    message = world.portal.start_task_soon(subscription.next).result(10)
    assert (message.topic, message.payload, message.node) == ("a/y", b"hello", tv.host.id)


def test_how_many_wanted_a_message_is_said(gates):
    tv, _, world = gates
    subscription = world.portal.start_task_soon(tv.host.subscribe, "a").result(10)
    done = tv("pub", "a", "x")
    assert fine(done) == ""
    assert done.stderr == "published; subscribers here: 1, other nodes that want it: 0\n"
    said = json.loads(fine(tv("pub", "a", "--json")))
    assert (said["version"], said["topic"], said["subscribers"], said["nodes"], said["sequence"]) == (1, "a", 1, 0, 2)
    fine(tv("pub", "a", "--lines", stdin="1\n2\r\n\n"))

    async def next_ones():
        return [(await subscription.next()).payload for _ in range(5)]

    assert world.portal.start_task_soon(next_ones).result(10) == [b"x", b"", b"1", b"2", b""]


def test_what_is_missing_is_said_where_it_is_missing(gates, monkeypatch):
    tv, _, world = gates
    monkeypatch.setattr(exchange, "WAITING_MAX", 2)

    async def burst():
        while not readers(tv.host):  # noqa: ASYNC110 - see above
            await anyio.sleep(0.005)
        # Without a pause: the gateway has no turn in between.
        for number in range(6):
            _, effects = tv.host.topics.exchange.publish("a", str(number).encode(), 0)
        tv.host.topics.carry_out(effects)

    for words, missing in (((), "4 messages missing here"), (("--json",), '{"version": 1, "missed": 4}')):
        task = world.portal.start_task_soon(burst)
        done = tv("sub", "a", "--count", "2", *words)
        task.result(10)
        assert len(fine(done).splitlines()) == 2
        assert missing in done.stderr
        block_until(lambda: not readers(tv.host))


def test_a_node_that_stops_reading_is_subscribed_to_again_and_that_is_said(gates, monkeypatch):
    tv, _, world = gates
    monkeypatch.setattr(sub, "AWAY_LOOK_S", 0.01)

    async def end_and_publish():
        for payload in (b"1", b"2"):
            while not readers(tv.host):  # noqa: ASYNC110 - see above
                await anyio.sleep(0.005)
            await tv.host.publish("a", payload)
            if payload == b"1":
                await tv.host.ask(EndReading("this node stops"))
                while readers(tv.host):  # noqa: ASYNC110 - see above
                    await anyio.sleep(0.001)

    task = world.portal.start_task_soon(end_and_publish)
    done = tv("sub", "a", "--count", "2")
    task.result(10)
    assert fine(done).splitlines() == ["a  1", "a  2"]
    assert "this node stops; waiting for the node" in done.stderr
    assert "messages may be missing here" in done.stderr


def test_what_cannot_be_done_is_said(gates):
    tv, _, _ = gates
    failed(tv("pub", "a/+", "x"), "for filters", "name one topic")
    failed(tv("pub", "a", "-", stdin="x" * 262_145), "longer than 262144 bytes", "less at once")
    failed(tv("pub", "a", "x", "--to", "nobody"), "no node is called nobody", "list")
    failed(tv("pub", "b", "x", "--to", "desk"), 'pubsub.publish = ["b"]', "ask the owner")
    failed(tv("sub", "#", "--from", "desk"), 'pubsub.subscribe = ["#"]', "ask the owner")
    failed(tv("sub", "a/#/b"), "# is the last level", "write + for a level")
    failed(tv("sub", "a", "--from", "nobody"), "no node is called nobody", "list")
    failed(tv("sub", "a", at="/nowhere/api.sock"), "no node is running", "")
    assert tv("sub").exit_code == 2
    assert tv("sub", "a", "--count", "0").exit_code == 2


def test_who_reads_and_how_joins_do_is_told_over_rest(gates):
    tv, desk, world = gates
    subscription = world.portal.start_task_soon(tv.host.subscribe, "a/#").result(10)
    status, found = world.portal.call(fetch_json, tv.path, "GET", "/atoll/v1/pubsub")
    assert (status, found["subscribers"][0]["filters"], found["joins"]) == (200, ["a/#"], [])
    status, problem = world.portal.call(fetch_json, tv.path, "GET", "/atoll/v1/topics")
    assert (status, "filter" in problem["remedy"]) == (400, True)
    world.portal.call(subscription.close)
    assert desk.host.alive


def test_a_key_may_read_and_publish_and_other_nodes_may_not(gates):
    tv, _, world = gates
    status, said = world.portal.call(fetch_json, tv.port, "POST", "/atoll/v1/topics/a/b", b"x", BEARER)
    assert (status, said["topic"]) == (200, "a/b")
    assert world.portal.call(fetch_json, tv.port, "POST", "/atoll/v1/topics/a", b"x")[0] == 401
    for method, target in (("GET", "/atoll/v1/topics?filter=a"), ("POST", "/atoll/v1/topics/a")):
        for kind in (Kind.MEMBER, Kind.GRANTED, Kind.NOBODY):
            reply = world.portal.call(run_app, tv.app, HttpRequest(method, target), Principal(kind=kind))
            assert reply.status in {401, 403}

"""`atoll send` and `atoll receive`, given to two served gateways whose nodes have real Blobs."""

import contextlib
import json
import signal
import threading
import time
from pathlib import Path

import pytest
from anyio import connect_unix, create_task_group, fail_after, sleep
from anyio.from_thread import start_blocking_portal
from blob_hosts import CHUNK, World, small_and_quick
from blob_talks import until_state
from cli_probe import Opened, failed, fine
from gateway_probe import KEY, fetch_json
from http_probe import serving
from small_node import SmallNode, node_view
from waiting import until

from atoll.actors.blobs.folder import Part
from atoll.actors.blobs.manifest import address_of
from atoll.actors.blobs.source import Source
from atoll.actors.gateway.app import make_app
from atoll.actors.gateway.authority import Kind, Principal
from atoll.actors.gateway.http_server import bind_tcp, bind_unix
from atoll.actors.gateway.in_process import run_app
from atoll.actors.gateway.live_blobs import LiveBlobs
from atoll.actors.gateway.messages import HttpRequest
from atoll.actors.gateway.ports import UnknownName
from atoll.cli import receive
from atoll.testing.blob_world import manifest_of
from atoll.transport.base import Standing

NAMES = {1: "tv", 2: "phone"}


class Blobs(LiveBlobs):
    """Notes what commands asked and were told."""

    def __init__(self, node):
        super().__init__(node.host.system, node.find, node.names)
        self.node = node

    async def send(self, *arguments, **named):
        self.node.asked += 1
        view = await super().send(*arguments, **named)
        self.node.told.append(view.state)
        return view


class Node(SmallNode):
    """A small node with real Blobs."""

    def __init__(self, world, host):
        super().__init__()
        self.world = world
        self.host = host
        self.asked = 0
        self.told = []

    @property
    def blobs(self):
        return Blobs(self)

    async def find(self, name):
        for number, each in NAMES.items():
            host = self.world.numbered[number]
            if name in {each, str(host.id)}:
                return node_view(str(host.id), each, "home")
        raise UnknownName(f"no node is called {name}")

    async def names(self):
        return {host.id: NAMES[number] for number, host in self.world.numbered.items()}


@pytest.fixture(params=[(Standing.MEMBER,), ()], ids=["accepting", "asking"])
def accept(request):
    return request.param


@pytest.fixture
def gates(tmp_path, monkeypatch, accept):
    """Give the gateways of `tv` and `phone`, and the world they are in."""
    small_and_quick(monkeypatch)

    @contextlib.asynccontextmanager
    async def opened():
        async with create_task_group() as tasks, contextlib.AsyncExitStack() as stack:
            world = World(tmp_path / "nodes", tasks)
            (tmp_path / "nodes").mkdir()
            world.numbered = {1: await world.host(1), 2: await world.host(2, accept=accept)}
            found = []
            for number, host in world.numbered.items():
                node, path = Node(world, host), tmp_path / f"{number}.sock"
                app = make_app(node, api_key=KEY, spool=tmp_path / "uploads")
                sockets = [await bind_tcp("127.0.0.1", 0), await bind_unix(path)]
                port, _ = await stack.enter_async_context(serving(app, listening=sockets))
                found.append(Opened(node, None, None, path, port))
                found[-1].app = app
            yield (*found, world)
            await world.close()

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened()) as gates:
        gates[2].portal = portal
        yield gates


accepting = pytest.mark.parametrize("accept", [(Standing.MEMBER,)], ids=["accepting"], indirect=True)
asking = pytest.mark.parametrize("accept", [()], ids=["asking"], indirect=True)


@accepting
def test_a_file_is_sent_and_received(gates, tmp_path):
    tv, phone, world = gates
    path, inbox = world.file("a film.bin"), tmp_path / "inbox"
    inbox.mkdir()
    done = tv("send", path, "phone")
    digest = address_of(manifest_of(path.read_bytes()).digest)
    assert fine(done) == f"{digest}  81.9 kB  a film.bin\n"
    assert done.stderr.splitlines()[-1] == "taken by phone"
    done = phone("receive", "--to", inbox, "--once", "--yes")
    assert fine(done) == f"{inbox}/a film.bin  81.9 kB  {digest}\n"
    assert "atoll send FILE NODE" in done.stderr
    assert (inbox / "a film.bin").read_bytes() == path.read_bytes()
    assert [each.name for each in inbox.iterdir()] == ["a film.bin"]
    assert [each.suffix for each in world.numbered[2].folder.iterdir()] == [".entry"]


@accepting
def test_programs_read_json_and_its_progress(gates, tmp_path):
    tv, phone, world = gates
    done = tv("send", world.file(), "phone", "--name", "other.bin", "--json")
    said = json.loads(fine(done))["sending"]
    assert (said["state"], said["node_name"], said["name"]) == ("taken", "phone", "other.bin")
    last = json.loads(done.stderr.splitlines()[-1])["progress"]
    assert (last["share"], last["state"]) == (1.0, "taken")
    said = json.loads(fine(phone("receive", "--to", tmp_path, "--once", "--from", "tv", "--json")))
    assert (said["version"], said["node_name"], Path(said["path"]).name) == (1, "tv", "other.bin")


@accepting
def test_what_comes_from_a_pipe_needs_a_name(gates, tmp_path):
    tv, phone, _ = gates
    failed(tv("send", "-", "phone", stdin="hello"), "no name", "--name", code=2)
    fine(tv("send", "-", "phone", "--name", "words", stdin="hello"))
    fine(phone("receive", "--to", tmp_path, "--once", "--yes"))
    assert (tmp_path / "words").read_text() == "hello"


@accepting
def test_what_cannot_be_sent_is_said(gates, tmp_path):
    tv, _, world = gates
    failed(tv("send", tmp_path / "missing", "phone"), "is not there", "name a file", code=2)
    failed(tv("send", tmp_path, "phone"), "is no file", "tar", code=2)
    failed(tv("send", world.file(), "nobody"), "no node is called nobody", "list")
    failed(tv("send", world.file(".hidden"), "phone"), "begins with a dot", "another one")
    failed(tv("send", world.file(), "phone", "--name", "../x"), "it is a path", "another one")


async def until_it_waits(host):
    while [each.step for each in (await host.described()).incoming] != ["waiting"]:
        await host.wait(accept=False)


@asking
def test_a_file_waits_for_somebody_who_takes_it(gates, tmp_path):
    tv, _, world = gates
    path, phone = world.file(), world.numbered[2]

    async def take_when_it_waits():
        await until(lambda: "waiting" in tv.node.told)
        await phone.wait(source=world.numbered[1].id)

    taking = world.portal.start_task_soon(take_when_it_waits)
    done = tv("send", path, "phone")
    taking.result(20)
    assert "phone has to take it; say there: atoll receive" in done.stderr
    assert "81.9 kB" in fine(done)


@asking
def test_who_is_refused_is_told(gates):
    tv, _, world = gates
    phone = world.numbered[2]

    async def refuse_when_it_waits():
        from atoll.actors.blobs.orders import DecideBlob  # noqa: PLC0415 - here alone

        await until_it_waits(phone)
        await phone.ask(DecideBlob((await phone.described()).incoming[0].digest, accept=False))

    refusing = world.portal.start_task_soon(refuse_when_it_waits)
    done = tv("send", world.file(), "phone")
    refusing.result(20)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-2:] == [
        "atoll: file.bin was not sent: the receiver said no",
        "       ask the owner of that node",
    ]


@asking
def test_nobody_takes_what_nobody_was_asked_about(gates, tmp_path):
    _, phone, _ = gates
    failed(phone("receive", "--to", tmp_path), "nobody is here to be asked", "--from NODE", code=2)
    failed(phone("receive", "--json"), "nobody is here to be asked", "--yes", code=2)
    failed(phone("receive", "--yes", "--from", "nobody"), "no node is called nobody", "list")


@asking
def test_a_person_is_asked_about_each_file_and_what_is_refused_does_not_come(gates, tmp_path, monkeypatch):
    _, phone, world = gates
    monkeypatch.setattr(receive, "_somebody_is_here", lambda: True)
    one, two = world.numbered[1], world.numbered[2]
    paths = [world.file(name, seed=number) for number, name in enumerate(("a.bin", "b.bin"))]
    sending = [world.portal.start_task_soon(one.sent, path, two) for path in paths]

    async def both_wait():
        while [each.step for each in (await two.described()).incoming] != ["waiting"] * 2:
            await two.wait(accept=False)

    world.portal.call(both_wait)
    done = phone("receive", "--to", tmp_path, "--once", stdin="n\ny\n")
    assert str(tmp_path / "b.bin") in fine(done)
    assert f"tv ({one.id.short}) offers a.bin, 81.9 kB; take it?" in done.stderr
    assert [each.result(20).step for each in sending] == ["refused", "taken"]
    assert not (tmp_path / "a.bin").exists()
    assert (tmp_path / "b.bin").read_bytes() == paths[1].read_bytes()


@asking
@pytest.mark.parametrize("end", ["once", "killed"])
def test_a_command_that_has_ended_receives_nothing_more(gates, tmp_path, end):
    _, phone, world = gates
    one, two = world.numbered.values()
    first, later = world.file("first"), world.file("later", seed=2)
    waiting = {"receiver": "a killed one", "accept": True, "wait_ms": 20_000}

    async def be_killed():
        body = json.dumps(waiting).encode()
        head = f"POST /atoll/v1/blobs/receive HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        async with await connect_unix(phone.path) as stream:
            await stream.send(head.encode() + body)
            await until(lambda: two.made[-1]._receivers)
        await until(lambda: not two.made[-1]._receivers)

    async def offered():
        await one.send(later, two)
        await until_state(one, later, two, "waiting")

    if end == "once":
        sending = world.portal.start_task_soon(one.sent, first, two)
        fine(phone("receive", "--to", tmp_path, "--once", "--yes"))
        assert sending.result(20).step == "taken"
    else:
        world.portal.call(be_killed)
    world.portal.call(offered)


@accepting
def test_once_is_one_file_though_more_have_come(gates, tmp_path):
    tv, phone, world = gates
    for number, name in enumerate(("a", "b")):
        fine(tv("send", world.file(name, seed=number), "phone"))
    (tmp_path / "inbox").mkdir()
    for names in (["a"], ["a", "b"]):
        fine(phone("receive", "--to", tmp_path / "inbox", "--once", "--yes"))
        assert sorted(each.name for each in (tmp_path / "inbox").iterdir()) == names


@accepting
def test_a_key_may_receive_and_may_not_read_the_disk(gates, tmp_path):
    tv, phone, world = gates
    env = {"ATOLL_API_KEY": KEY}
    path = world.file("file.bin", size=60 * CHUNK)
    failed(
        tv("send", path, "phone", at=f"http://127.0.0.1:{tv.port}", env=env),
        "the API key is not enough",
        "unix socket",
    )
    fine(tv("send", path, "phone"))
    fine(phone("receive", "--to", tmp_path, "--once", "--yes", at=f"http://127.0.0.1:{phone.port}", env=env))
    assert (tmp_path / "file.bin").read_bytes() == path.read_bytes()


@accepting
def test_where_blobs_lie_is_said_at_the_socket_alone(gates):
    tv, phone, world = gates
    fine(tv("send", world.file(), "phone"))
    _, there = world.portal.call(fetch_json, phone.path, "GET", "/atoll/v1/blobs")
    assert there["incoming"][0]["path"].startswith(str(world.numbered[2].folder))
    bearer = {"Authorization": f"Bearer {KEY}"}
    _, elsewhere = world.portal.call(fetch_json, phone.port, "GET", "/atoll/v1/blobs", None, bearer)
    assert elsewhere["incoming"][0]["path"] == ""


@accepting
def test_other_nodes_have_no_hand_in_it(gates):
    tv, _, world = gates
    for method, target in (
        ("GET", "/atoll/v1/blobs"),
        ("POST", "/atoll/v1/blobs/send"),
        ("POST", "/atoll/v1/blobs/receive"),
    ):
        for kind in (Kind.MEMBER, Kind.GRANTED, Kind.NOBODY):
            principal = Principal(kind=kind, node=world.numbered[2].id)
            reply = world.portal.call(run_app, tv.app, HttpRequest(method, target), principal)
            assert reply.status in {401, 403}


@accepting
def test_bad_requests_are_problems_that_say_what_to_do(gates):
    tv, _, world = gates
    unknown = address_of(bytes(32))
    asked = {
        ("GET", f"/atoll/v1/blobs/{unknown}"): 404,
        ("DELETE", f"/atoll/v1/blobs/{unknown}"): 404,
        ("GET", "/atoll/v1/blobs/sha256:00"): 400,
        ("GET", "/atoll/v1/blobs/..%2f..%2fetc"): 404,
        ("DELETE", "/atoll/v1/blobs/outgoing/zz"): 404,
        ("DELETE", "/atoll/v1/blobs/outgoing/00"): 404,
        ("POST", "/atoll/v1/blobs/send", b'{"path": "relative", "node": "phone"}'): 400,
        ("POST", "/atoll/v1/blobs/send", b'{"path": "/a\\u0000b", "node": "phone"}'): 400,
        ("POST", "/atoll/v1/blobs/send", b'{"path": "/x"}'): 400,
        ("POST", "/atoll/v1/blobs/send", b'{"path": "/x", "node": "phone", "wait_ms": 99999999}'): 400,
        ("POST", "/atoll/v1/blobs/receive", b"{}"): 400,
        ("POST", f"/atoll/v1/blobs/{unknown}/decide", b'{"accept": true}'): 404,
    }
    for (method, target, *body), status in asked.items():
        reply = world.portal.call(fetch_json, tv.path, method, target, body[0] if body else None)
        assert reply[0] == status, (target, reply)
        assert reply[1]["remedy"]


@accepting
def test_what_is_on_its_way_is_listed_and_can_be_called_back(gates):
    tv, _, world = gates
    path = world.file()
    world.portal.call(world.numbered[2].kill)
    body = json.dumps({"path": str(path), "node": "phone", "wait_ms": 100}).encode()
    world.portal.call(fetch_json, tv.path, "POST", "/atoll/v1/blobs/send", body)
    _, listed = world.portal.call(fetch_json, tv.path, "GET", "/atoll/v1/blobs", None)
    (sending,) = listed["outgoing"]
    assert (sending["node_name"], sending["size_bytes"]) == ("phone", 20 * CHUNK + 7)
    order = sending["order"]
    status, back = world.portal.call(fetch_json, tv.path, "DELETE", f"/atoll/v1/blobs/outgoing/{order}", None)
    assert (status, back["sending"]["order"]) == (200, order)


@accepting
def test_who_interrupts_while_the_file_is_read_calls_it_back(gates, monkeypatch):
    tv, _, world = gates
    go_on, read = threading.Event(), Source._read

    def read_later(*arguments):
        assert go_on.wait(20)
        return read(*arguments)

    def interrupt():
        deadline = time.monotonic() + 20
        while tv.node.asked < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    async def steps():
        return [each.step for each in (await world.numbered[1].described()).outgoing]

    monkeypatch.setattr(Source, "_read", read_later)
    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    path = world.file()
    done = tv("send", path, "phone", "--name", "a film")
    interrupting.join()
    go_on.set()
    assert f"called back; to go on: atoll --at {tv.path} send {path} phone --name 'a film'" in done.stderr

    async def until_called_back():
        with fail_after(60):
            while await steps() != ["withdrawn"]:
                await world.numbered[1].wait(accept=False)

    world.portal.call(until_called_back)


@accepting
def test_a_command_that_is_killed_and_begun_again_hears_the_end_of_its_own_order(gates, tmp_path, monkeypatch):
    tv, phone, world = gates
    path, (one, two) = world.file(), world.numbered.values()
    short, body = (
        json.dumps({"path": str(path), "node": "phone", "wait_ms": wait}).encode() for wait in (1000, 10_000)
    )
    head = f"POST /atoll/v1/blobs/send HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    go_on, write = threading.Event(), Part.write

    def write_later(part, index, data):
        assert go_on.wait(20)
        write(part, index, data)

    monkeypatch.setattr(Part, "write", write_later)

    async def begin_and_be_killed():
        state = ""
        with fail_after(60):
            while state != "sending":
                # A step between two requests is told by neither: the next one ends with its wait.
                _, reply = await fetch_json(tv.path, "POST", "/atoll/v1/blobs/send", short)
                state = reply["sending"]["state"]
        # In the middle of its asking: there is no news before the end.
        before = tv.node.asked
        async with await connect_unix(tv.path) as stream:
            await stream.send(f"{head}content-type: application/json\r\n\r\n".encode() + body)
            await until(lambda: tv.node.asked > before)
        go_on.set()
        # Whether the killed one was still told depends on when its end is seen: the order itself says when it is over.
        with fail_after(60):
            while [each.step for each in (await one.described()).outgoing] != ["taken"]:  # noqa: ASYNC110 - it has no event
                await sleep(0.01)
        return reply["sending"]["order"]

    order = world.portal.call(begin_and_be_killed)
    again = json.loads(fine(tv("send", path, "phone", "--json")))["sending"]
    assert (again["state"], again["order"]) == ("taken", order)
    (tmp_path / "inbox").mkdir()
    fine(phone("receive", "--to", tmp_path / "inbox", "--once", "--yes"))
    assert (two.counts["offers"], two.counts["chunks_taken"], one.counts["chunks_given"]) == (1, 21, 21)
    another = json.loads(fine(tv("send", path, "phone", "--json")))["sending"]
    assert another["order"] != order, "who has heard the end and sends again means it"

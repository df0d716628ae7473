"""The commands that read and push, against a real gateway on a unix socket and on TCP."""

import contextlib
import http.client
import json
import os
import pty
import socket
import subprocess
import sys
import threading

import anyio
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner
from http_probe import WAIT_S, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_node import OTHER_TV, PHONE, TV, SmallNode
from test_gateway import image_tar

from atoll.actors.gateway.app import make_app
from atoll.actors.gateway.authority import Kind, Principal
from atoll.actors.gateway.http_server import bind_tcp, bind_unix
from atoll.actors.gateway.in_process import run_app
from atoll.actors.gateway.messages import BODY_BYTES_MAX, HttpReply
from atoll.actors.gateway.views import (
    BepView,
    NodeRef,
    OfferView,
    RosterView,
    RouteTaken,
    RouteView,
    SepView,
    ServiceView,
    StatusView,
)
from atoll.cli import main
from atoll.cli.connection import MARGIN_S, Answer, Connection
from atoll.cli.image import PUSH_S
from atoll.cli.output import Failed
from atoll.cli.places import Place, find_place
from atoll.cli.uploads import ImageForm
from atoll.testing.runs import published

KEY = "a-key-for-tests-only-0123456789"


class Node(SmallNode):
    """Node `tv`; behind it are the gateways of `phone`, a member, and of the other `tv`, which grants calls only."""

    def __init__(self, own=TV):
        super().__init__()
        self.own = own
        self.apps = {}
        """Gateways behind this one, by node id."""
        self.told = None
        self.elsewhere = []
        self.known[2] = msgspec.structs.replace(self.known[2], standing="granted")

    async def status(self):
        return self.told or await super().status()

    async def services(self):
        own = [msgspec.structs.replace(each, node=self.own) for each in await super().services()]
        return [*own, *self.elsewhere]

    async def call_node(self, node, request, timeout_s):
        if node in {"gone", "late", "full", "shut"}:
            return await super().call_node(node, request, timeout_s)
        view = await self.node(node)
        kind = Kind.MEMBER if view.standing == "member" else Kind.GRANTED
        self.timeouts_s.append(timeout_s)
        reply = await run_app(self.apps[view.id], request, Principal(kind=kind))
        return reply, RouteTaken(kind="sep", why="both behind NAT", elapsed_ms=12.34, node=view.id, name=view.name)


class Opened:
    """A served gateway and the commands that are given to it."""

    def __init__(self, node, phone, other, path, port):
        self.node, self.phone, self.other, self.path, self.port = node, phone, other, path, port

    def __call__(self, *arguments, at=None, env=None, stdin=None):
        command = ["--at", str(at or self.path), *map(str, arguments)]
        return CliRunner(env={"ATOLL_AT": None, "ATOLL_API_KEY": None, **(env or {})}).invoke(
            main, command, input=stdin, prog_name="atoll"
        )

    def json(self, *arguments):
        done = self(*arguments, "--json")
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        found = json.loads(done.stdout)
        assert found["version"] == 1
        return found


@pytest.fixture
def gate(tmp_path):
    @contextlib.asynccontextmanager
    async def opened():
        node, phone, other = (Node(id_) for id_ in (TV, PHONE, OTHER_TV))
        for id_, there in ((PHONE, phone), (OTHER_TV, other)):
            node.apps[id_] = make_app(there, api_key=KEY, spool=tmp_path / "uploads")
        app = make_app(node, api_key=KEY, spool=tmp_path / "uploads")
        path = tmp_path / "api.sock"
        async with serving(app, listening=[await bind_tcp("127.0.0.1", 0), await bind_unix(path)]) as (port, _):
            yield Opened(node, phone, other, path, port)

    with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened()) as gate:
        yield gate


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "echo.tar"
    path.write_bytes(image_tar())
    return path


def fine(done):
    assert done.exit_code == 0, done.output
    return done.stdout


def failed(done, what, remedy, *, code=1):
    assert done.exit_code == code, done.output
    first, second = done.stderr.splitlines()
    assert first.startswith("atoll: ")
    assert what in first
    assert remedy in second
    assert "Traceback" not in done.output


# What there is, and how healthy it is


def test_status_says_health_first_and_why(gate):
    lines = fine(gate("status")).splitlines()
    assert lines[0] == "healthy"
    assert lines[3] == "supernode  this node, epoch 3, confirmed: mains power"
    assert lines[4:7] == ["", "Duties", "DUTY   NODE  WHY"]
    assert lines[7] == "proxy  tv    supernode"
    assert gate.json("status")["supernode"]["why"] == "mains power"


def test_status_shows_problems_ways_seps_and_beps(gate):
    gate.node.told = StatusView(
        software="0.1.0",
        node=NodeRef(id=TV, short=TV[:10], name="tv"),
        site={"id": "00", "mode": "provisional", "members": 1},
        roster=RosterView(version=4, voters=[NodeRef(id=TV, short=TV[:10], name="tv")]),
        routes=[RouteView(peer=PHONE, name="phone", kind="sep", why="both behind NAT", latency_ms=4.25)],
        seps=[SepView(relay="relay-1", state="up", since_s=200)],
        beps=[BepView(peer=PHONE, name="phone", relay="relay-1", since_s=1, sent_bytes=999, received_bytes=2_500_000)],
        problems=["the clock is wrong by 3 h: set it", "no relay answers: look at the uplink"],
    )
    text = fine(gate("status"))
    assert text.startswith("2 problems\n! the clock is wrong by 3 h: set it\n! no relay")
    assert "supernode  none yet" in text
    assert "voters     tv (roster 4)" in text
    assert f"phone  {PHONE[:10]}  sep  4.2 ms   both behind NAT" in text
    assert "relay-1  up     3 min" in text
    assert "phone  relay-1  1.0 s  999 B  2.5 MB" in text


def test_texts_of_other_nodes_cannot_move_the_cursor(gate):
    gate.node.told = StatusView(
        software="0.1.0",
        node=NodeRef(id=TV, short=TV[:10], name="tv\x1b[2J"),
        site={"id": "00", "mode": "quorum\r", "members": 1},
        problems=["bad\x07"],
    )
    text = fine(gate("status"))
    assert text.replace("\n", "").isprintable()
    assert "tv?[2J" in text


def test_nodes_are_listed_by_scope(gate):
    lines = fine(gate("node", "list")).splitlines()
    assert lines[0].split() == ["NAME", "SITE", "ID", "STANDING", "BY", "SEEN", "ROLE"]
    assert [line.split()[:2] for line in lines[1:]] == [["tv", "home"], ["phone", "home"], ["tv", "office"]]
    assert lines[1].endswith("this node, supernode")
    assert len(gate.json("node", "list")["nodes"]) == 3
    done = gate("node", "list", "--scope", "account")
    assert (fine(done), done.stderr) == ("", "no nodes in the scope account\n")
    assert gate.json("node", "list", "--scope", "proximity")["nodes"] == []
    assert gate("node", "list", "--scope", "everywhere").exit_code == 2


def test_one_node_is_shown_by_any_of_its_names(gate):
    for name in ("phone", "home/phone", PHONE, PHONE[:10]):
        assert f"id         {PHONE}\n" in fine(gate("node", "show", name))
    assert gate.json("node", "show", "phone")["node"]["id"] == PHONE
    failed(gate("node", "show", "tv"), "2 nodes are called tv: home/tv, office/tv", "say which")
    failed(gate("node", "show", "nobody"), "no node is called nobody", "take a name from the list")
    assert gate("node", "show").exit_code == 2


# Images and containers


def test_a_service_is_pushed_run_called_stopped_and_removed(gate, tar):
    done = gate("image", "push", tar)
    assert fine(done).startswith("api-echo-v1  echo-v1:1.0.0  sha256:")
    assert done.stderr == f"run it with: atoll --at {gate.path} container run echo-v1 --name echo-v1\n"
    assert "echo-v1:1.0.0, runtime:js" in fine(gate("image", "list"))
    done = gate("container", "run", "echo-v1", "--name", "echo", "-e", "MCM.BASE_API_PATH=/echo/v1", "-e", "A=b=c")
    assert fine(done) == "api-echo  started  /echo/v1\n"
    assert done.stderr.splitlines() == [
        f"call it with: atoll --at {gate.path} call echo /",
        f"stop it with: atoll --at {gate.path} container stop echo",
    ]
    assert gate.json("container", "list")["containers"][0]["env"] == {"MCM.BASE_API_PATH": "/echo/v1", "A": "b=c"}
    assert "echo  tv    /echo/v1  up     api-echo" in fine(gate("service", "list"))
    assert target_of(gate("call", "echo", "/hello?x=1")) == "/echo/v1/hello?x=1"
    done = gate("container", "stop", "echo")
    assert (fine(done), done.stderr) == (
        "api-echo  stopped\n",
        f"start it with: atoll --at {gate.path} container start echo\n",
    )
    assert "stopped  down" in fine(gate("container", "list"))
    assert fine(gate("container", "start", "echo")) == "api-echo  started\n"
    assert fine(gate("container", "rm", "echo")) == "api-echo\n"
    assert fine(gate("image", "rm", "echo-v1")) == "api-echo-v1\n"


def test_another_nodes_images_and_containers_are_its_own(gate, tar):
    done = gate("image", "push", tar, "--node", "phone", "--client", "me")
    assert gate.node.timeouts_s == [PUSH_S - MARGIN_S]
    assert fine(done).startswith("me-echo-v1  ")
    assert done.stderr.endswith(" container run echo-v1 --name echo-v1 --node phone\n")
    done = gate("container", "run", "echo-v1:1.0.0", "--name", "e", "--node", "home/phone")
    failed(done, "nothing is called echo-v1:1.0.0", "atoll image push FILE")
    done = gate("container", "run", "echo-v1", "--node", "home/phone")
    assert "call echo-v1@home/phone /\n" in done.stderr
    assert [each["id"] for each in gate.json("container", "list", "--node", "phone")["containers"]] == ["api-echo-v1"]
    assert gate.json("image", "list", "--node", "phone")["images"][0]["client"] == "me"
    assert gate.json("service", "list", "--node", "phone")["services"][0]["name"] == "echo-v1"
    assert fine(gate("container", "logs", "echo-v1", "--tail", "1", "--node", "phone")) == "line 199\n"
    assert gate.json("status", "--node", "phone")["version"] == 1
    assert gate.json("image", "list")["images"] == gate.json("container", "list")["containers"] == []
    assert fine(gate("container", "stop", "echo-v1", "--node", "phone")) == "api-echo-v1  stopped\n"
    assert fine(gate("container", "rm", "echo-v1", "--node", "phone")) == "api-echo-v1\n"
    assert fine(gate("image", "rm", "echo-v1", "--node", "phone")) == "me-echo-v1\n"


def test_what_another_node_does_not_allow_is_said(gate):
    failed(gate("image", "list", "--node", "office/tv"), "needs the scope edge:mcm", "ask the owner")
    failed(gate("image", "list", "--node", "nobody"), "no node is called nobody", "take a name")
    failed(gate("image", "list", "--node", "tv"), "home/tv, office/tv", "say which")
    failed(gate("image", "list", "--node", "gone"), "gone: no", "atoll status")


def test_empty_lists_say_how_to_fill_them(gate):
    for words, hint in (
        (("image", "list"), "atoll image push"),
        (("container", "list"), "atoll container run"),
        (("service", "list"), "atoll container run"),
    ):
        done = gate(*words)
        assert fine(done) == ""
        assert hint in done.stderr


def test_an_image_comes_from_a_pipe_too(gate, tar):
    assert gate("image", "push", "-", stdin=tar.read_bytes()).exit_code == 0
    assert gate.node.kept_images["api-echo-v1"].size_bytes == tar.stat().st_size
    failed(gate("image", "push", "-", stdin=b""), "no image received", "docker-save tar")


def test_push_as_json_is_one_object(gate, tar):
    done = gate("image", "push", tar, "--json")
    assert json.loads(done.stdout)["image"]["id"] == "api-echo-v1"
    done = gate("container", "run", "echo-v1", "--json")
    assert json.loads(done.stdout)["container"]["name"] == "echo-v1"


def test_a_tar_that_is_none_is_said(gate, tmp_path):
    failed(gate("image", "push", tmp_path / "no.tar"), "No such file", "docker save -o", code=2)
    failed(gate("image", "push", tmp_path), "is a folder", "docker save -o", code=2)
    (tmp_path / "empty.tar").touch()
    failed(gate("image", "push", tmp_path / "empty.tar"), "no image received", "docker-save tar")
    (tmp_path / "text.tar").write_text("no tar at all")
    failed(gate("image", "push", tmp_path / "text.tar"), "not a docker-save tar", "")
    assert gate("image", "push").exit_code == 2


def test_a_file_that_is_too_long_for_the_way_is_refused_while_it_is_sent(gate, tmp_path):
    (tmp_path / "long.tar").write_bytes(image_tar(size=BODY_BYTES_MAX * 3))
    done = gate("image", "push", tmp_path / "long.tar", "--node", "phone")
    failed(done, str(BODY_BYTES_MAX), "send less at once")
    assert gate("image", "push", tmp_path / "long.tar").exit_code == 0


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(gate, tar):
    there = Connection(place=Place(socket=gate.path))
    with tar.open("rb") as file:
        form = ImageForm(file, tar.stat().st_size + 1, lambda _: None)
        with pytest.raises(Failed, match="became shorter"):
            there.ask("POST", "/atoll/v1/images", body=form, headers=form.headers())
    assert gate.node.kept_images == {}


def test_a_progress_bar_is_for_terminals_only(gate, tar):
    def bar(stderr):
        subprocess.run(
            [sys.executable, "-c", "from atoll.cli import main; main()", "--at", gate.path, "image", "push", tar],
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=True,
            timeout=WAIT_S,
        )

    main_end, terminal = pty.openpty()
    try:
        bar(terminal)
        assert b"100%" in os.read(main_end, 100_000)
    finally:
        os.close(main_end)
        os.close(terminal)
    assert "%" not in gate("image", "push", tar).stderr


@pytest.mark.parametrize("setting", ["=x", "ATOLL_TEST_NO_SUCH"])
def test_a_setting_that_is_none_is_wrong_usage(gate, setting):
    failed(gate("container", "run", "echo", "-e", setting), "-e", "write", code=2)


def test_a_setting_without_a_value_comes_from_here(gate, tar):
    gate("image", "push", tar)
    fine(gate("container", "run", "echo-v1", "-e", "TOKEN", env={"TOKEN": "of-mine"}))
    assert gate.node.kept_containers["api-echo-v1"].env == {"TOKEN": "of-mine"}
    failed(gate("container", "run", "echo-v1"), "a container is called api-echo-v1", "")
    failed(gate("container", "run", "echo-v1", "--client", "no good"), "is no client", "A-Z")


def test_logs_are_lines_with_times_where_wanted(gate, tar):
    gate("image", "push", tar)
    gate("container", "run", "echo-v1", "--name", "echo")
    assert fine(gate("container", "logs", "echo", "--tail", "2")) == "line 198\nline 199\n"
    assert fine(gate("container", "logs", "echo", "--tail", "1", "-t")) == "1970-01-01T00:00:00Z stdout  line 199\n"
    assert len(gate.json("container", "logs", "echo")["lines"]) == 100
    assert gate("container", "logs", "echo", "--tail", "1001").exit_code == 2
    failed(gate("container", "logs", "nobody"), "nothing is called nobody", "take a name")
    for verb in ("start", "stop", "rm"):
        failed(gate("container", verb, "nobody"), "nothing is called nobody", "take a name")
        assert gate("container", verb).exit_code == 2
    failed(gate("image", "rm", "nobody"), "nothing is called nobody", "atoll image push")


# Calls


def serve(there, name, path, node=None):
    """Have a node list a service, of its own or of another node; what is called there is answered anyway."""
    there.elsewhere.append(ServiceView(name=name, path=path, node=node or there.own, node_name="x"))


def test_a_call_prints_the_body_and_where_wanted_the_way(gate):
    serve(gate.phone, "echo", "/api/echo")
    done = gate("call", "echo@phone", "/hello world?x=ü")
    assert json.loads(fine(done))["target"] == "/api/echo/hello%20world?x=%C3%BC"
    assert done.stderr == ""
    done = gate("call", "echo@phone", "/", "-v")
    assert done.stderr == f"by sep to {PHONE[:10]}, 12.3 ms: both behind NAT\n"
    done = gate("call", "echo@phone", "-i", "--timeout", "1.5")
    assert "HTTP 200\n" in done.stderr
    assert "x-said-twice: 1\nx-said-twice: 2\n" in done.stderr
    assert gate.node.timeouts_s[-1] == 1.5


def test_a_call_sends_what_it_was_told(gate, tmp_path):
    serve(gate.node, "echo", "/echo")
    (tmp_path / "body").write_bytes(bytes(range(256)))
    for arguments, method, kind, body in (
        ((), "GET", "", b""),
        (("-d", '{"a": 1}'), "POST", "application/json", b'{"a": 1}'),
        (("-d", "text"), "POST", "text/plain; charset=utf-8", b"text"),
        (("-d", ""), "POST", "text/plain; charset=utf-8", b""),
        (("-d", f"@{tmp_path / 'body'}", "-X", "put"), "PUT", "application/octet-stream", bytes(range(256))),
        (("-d", "@-"), "POST", "text/plain; charset=utf-8", b"piped"),
        (("-X", "DELETE"), "DELETE", "", b""),
        (("-d", "{}", "-H", "Content-Type: x/y"), "POST", "x/y", b"{}"),
    ):
        done = gate("call", "echo", "/p", *arguments, stdin="piped")
        request = gate.node.calls[-1][1]
        assert (done.exit_code, request.method, request.body) == (0, method, body)
        assert request.header("content-type") == kind
        assert request.target == "/echo/p"
        assert not body or done.stdout_bytes == body
    gate("call", "echo", "/", "-H", "X-Mine: 1", "-H", "x-mine: 2", "-H", "Empty:")
    assert gate.node.calls[-1][1].header("x-mine") == "1, 2"
    assert gate.node.calls[-1][1].header("empty", "none") == ""


def test_a_call_as_json_has_status_header_body_and_way(gate):
    serve(gate.phone, "echo", "/echo")
    found = gate.json("call", "echo@phone", "/x")
    assert (found["status"], found["route"]) == (
        200,
        {"route": "sep", "why": "both behind NAT", "node": PHONE, "elapsed_ms": 12.3},
    )
    assert json.loads(found["body"])["target"] == "/echo/x"
    assert ["x-said-twice", "2"] in found["headers"]
    gate.phone.canned["/echo/raw"] = HttpReply(200, (), b"\xff\0")
    found = gate.json("call", "echo@phone", "/raw")
    assert (found["body"], found["body_base64"]) == (None, "/wA=")
    serve(gate.node, "own", "/own")
    assert gate.json("call", "own")["route"] is None


def test_a_status_of_400_and_above_is_a_failure(gate):
    serve(gate.node, "echo", "/echo")
    gate.node.canned["/echo/no"] = HttpReply(418, (), b"short and stout\n")
    done = gate("call", "echo", "/no")
    assert done.stdout == "short and stout\n"
    failed(done, "the service answered 418", "-i")
    done = gate("call", "echo", "/no", "--json")
    assert json.loads(done.stdout)["status"] == 418
    assert done.exit_code == 1
    problem = json.dumps({"type": "https://example.org/theirs", "detail": "their own"}).encode()
    fields = (("content-type", "application/problem+json"),)
    gate.node.canned["/echo/theirs"] = HttpReply(409, fields, problem)
    done = gate("call", "echo", "/theirs")
    assert done.stdout_bytes == problem
    failed(done, "the service answered 409", "-i")


@pytest.mark.parametrize(
    ("service", "what", "remedy"),
    [
        ("/nowhere", "no service lives at /nowhere", "take a name"),
        ("/x@gone", "gone: no", "atoll status"),
        ("/x@late", "late: no", "longer with --timeout"),
        ("/x@full", "full: no", "again in a second"),
        ("/x@shut", "shut: no", "grant"),
        ("/x@nobody", "no node is called nobody", "take a name"),
        ("/x@tv", "2 nodes are called tv: home/tv, office/tv", "say which"),
        ("echo", "no service echo here; there are: none", "atoll service list"),
        ("echo@phone", "no service echo at phone; there are: none", "/the/path@NODE"),
        ("/breaks", "the node made a mistake", "log"),
    ],
)
def test_a_call_that_cannot_be_made_says_why(gate, service, what, remedy):
    done = gate("call", service)
    failed(done, what, remedy)
    assert done.stdout == ""


def test_a_problem_of_a_call_is_in_its_json_too(gate):
    done = gate("call", "/x@gone", "--json")
    assert json.loads(json.loads(done.stdout)["body"])["type"] == "urn:atoll:problem:unreachable"
    failed(done, "gone: no", "atoll status")


def target_of(done):
    return json.loads(fine(done))["target"]


def test_a_service_of_another_owner_is_called_at_its_name(gate):
    assert target_of(gate("call", "echo@office/tv", "/x")) == "/echo/x"
    assert gate.other.calls[-1][1].target == "/echo/x"
    assert target_of(gate("call", "/other/path@office/tv", "/x")) == "/other/path/x"
    assert target_of(gate("call", "/other/path@office/tv")) == "/other/path"


def test_a_service_of_another_owner_is_found_where_its_node_announced_it(gate):
    offers = [OfferView(name="echo-v1", path="/api/echo/v1"), OfferView(name="logger", path="/api/log")]
    gate.node.known[2] = msgspec.structs.replace(gate.node.known[2], services=offers)
    assert target_of(gate("call", "echo@office/tv", "/x")) == "/api/echo/v1/x"
    assert target_of(gate("call", "logger@office/tv", "/x")) == "/api/log/x"
    assert target_of(gate("call", "log@office/tv", "/x")) == "/api/log/x"
    assert target_of(gate("call", "else@office/tv", "/x")) == "/else/x"
    assert gate.json("node", "show", "office/tv")["node"]["services"][0] == {"name": "echo-v1", "path": "/api/echo/v1"}
    assert "services   echo-v1 at /api/echo/v1, logger at /api/log\n" in fine(gate("node", "show", "office/tv"))


@pytest.mark.parametrize("name", ["echo-v1", "api/echo/v1", "echo/v1", "echo"])
def test_a_service_goes_by_name_container_and_path_with_or_without_version(gate, name):
    serve(gate.phone, "echo-v1", "/api/echo/v1/")
    serve(gate.phone, "other-v1", "/api/other/v1")
    assert target_of(gate("call", f"{name}@phone", "/x")) == "/api/echo/v1/x"


def test_the_closest_name_decides(gate):
    serve(gate.node, "echo-v1", "/api/echo/v1")
    serve(gate.node, "echo-v2", "/api/echo/v2")
    failed(gate("call", "echo"), f"/api/echo/v1@{TV[:10]}, /api/echo/v2@{TV[:10]}", "by that path")
    serve(gate.node, "echo", "/api/other")
    assert target_of(gate("call", "echo", "/x")) == "/api/other/x"
    assert target_of(gate("call", "echo-v2", "/x")) == "/api/echo/v2/x"


def test_what_this_node_lists_of_another_one_is_not_asked_for_there(gate):
    serve(gate.node, "far", "/far", node=PHONE)
    assert target_of(gate("call", "far@phone", "/x")) == "/far/x"
    assert len(gate.node.timeouts_s) == len(gate.phone.calls) == 1


def test_a_service_that_only_another_node_has_is_found_there(gate):
    serve(gate.node, "far", "/far", node=PHONE)
    assert target_of(gate("call", "far", "/x")) == "/far/x"
    assert gate.phone.calls[-1][1].target == "/far/x"
    serve(gate.node, "far", "/near")
    assert target_of(gate("call", "far", "/x")) == "/near/x"
    serve(gate.node, "twice", "/a", node=PHONE)
    serve(gate.node, "twice", "/b", node=OTHER_TV)
    failed(gate("call", "twice"), f"2 services are called twice here: /a@{PHONE[:10]}, /b@{OTHER_TV[:10]}", "one")


def test_a_call_to_this_node_by_name_stays_here(gate):
    serve(gate.node, "own", "/own")
    assert target_of(gate("call", "own@home/tv", "/x")) == "/own/x"
    assert gate.node.timeouts_s == []
    failed(gate("call", "own@tv"), "home/tv, office/tv", "say which")


@pytest.mark.parametrize(
    "arguments",
    [
        ("@phone", "/"),
        ("echo@", "/"),
        ("echo", "hello"),
        ("echo", "/", "-X", "NO GOOD"),
        ("echo", "/", "-H", "no colon"),
        ("echo", "/", "-H", "x: a\r\nb: c"),
        ("echo", "/", "-H", "Content-Length: 3"),
        ("echo", "/", "-d", "@/no/such/file"),
    ],
)
def test_a_call_that_makes_no_sense_is_wrong_usage(gate, arguments):
    failed(gate("call", *arguments), "", "", code=2)
    assert gate.node.calls == []


def test_wrong_options_of_a_call_are_wrong_usage(gate):
    for arguments in ((), ("echo", "/", "--timeout", "0"), ("echo", "/", "--timeout", "301"), ("echo", "/", "more")):
        assert gate("call", *arguments).exit_code == 2


# Where the node is


def test_a_url_needs_the_api_key(gate, tmp_path):
    url = f"http://127.0.0.1:{gate.port}"
    nowhere = {"ATOLL_STATE_DIR": str(tmp_path)}
    failed(gate("status", at=url, env=nowhere), "neither", "api.key")
    failed(gate("status", at=url, env={"ATOLL_API_KEY": "wrong"}), "not this node's API key", "api.key")
    failed(gate("status", at=url, env={"ATOLL_API_KEY": "no\nkey"}), "ATOLL_API_KEY is no API key", "api.key", code=2)
    assert fine(gate("status", at=url, env={"ATOLL_API_KEY": KEY})).startswith("healthy")
    (tmp_path / "api.key").write_text(KEY + "\n")
    assert gate("status", at=url + "/", env=nowhere).exit_code == 0
    other = tmp_path / "other"
    failed(gate("--api-key-file", other, "status", at=url), "no API key in", "api.key", code=2)
    (tmp_path / "api.key").rename(other)
    assert gate("--api-key-file", other, "status", at=url).exit_code == 0


def test_the_key_and_a_services_own_key_go_side_by_side(gate):
    serve(gate.node, "echo", "/echo")
    url = f"http://127.0.0.1:{gate.port}"
    fine(gate("call", "echo", "-H", "x-api-key: of-the-service", at=url, env={"ATOLL_API_KEY": KEY}))
    assert gate.node.calls[-1][1].header("x-api-key") == "of-the-service"
    assert KEY not in repr(gate.node.calls)


def test_this_hosts_key_goes_to_no_other_host(tmp_path):
    (tmp_path / "api.key").write_text(KEY)
    environment = {"ATOLL_STATE_DIR": str(tmp_path)}
    keys = {
        host: find_place(f"http://{host}:8083", None, environment).api_key
        for host in ("127.0.0.1", "localhost", "[::1]", "127.0.0.1.example.org", "192.0.2.1", "localhost.example.org")
    }
    assert [host for host, key in keys.items() if key] == ["127.0.0.1", "localhost", "[::1]"]


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://x:port", "http://x/path", "http://x?y", "http://a@x", "http://[x"]
)
def test_a_url_of_no_gateway_is_wrong_usage(gate, url):
    failed(gate("status", at=url), "", "http://127.0.0.1:8083", code=2)


def alone(*arguments, **env):
    clean = {"ATOLL_AT": None, "ATOLL_API_KEY": None, "ATOLL_CONFIG": None}
    return CliRunner(env=clean | env).invoke(main, arguments, prog_name="atoll")


def test_without_at_it_is_this_hosts_node(gate):
    folder = str(gate.path.parent)
    done = alone("container", "run", "no-such", ATOLL_RUN_DIR=folder)
    failed(done, "nothing is called no-such", "push")
    gate.path.with_name("node.toml").write_text(f'run_dir = "{folder}"\n')
    assert fine(alone("status", ATOLL_CONFIG=str(gate.path.with_name("node.toml")))).startswith("healthy")
    for at in (str(gate.path), f"unix:{gate.path}", os.path.relpath(gate.path)):
        assert fine(alone("status", ATOLL_AT=at)).startswith("healthy")
    failed(alone("status", ATOLL_CONFIG=f"{folder}/none.toml"), "none.toml", "--at", code=2)
    gate("image", "push", "-", stdin=image_tar())
    done = alone("container", "run", "echo-v1", ATOLL_AT=str(gate.path))
    assert done.stderr.startswith("call it with: atoll call echo-v1 /\n")


def test_a_node_that_does_not_run_is_named_with_what_to_do(tmp_path):
    socket_path = tmp_path / "api.sock"
    failed(alone("status", ATOLL_RUN_DIR=str(tmp_path)), f"at {socket_path} (No such", "start one with: atoll node run")
    failed(alone("--at", str(socket_path), "node", "list"), "No such file", "atoll node run")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_path))
    failed(alone("status", ATOLL_RUN_DIR=str(tmp_path)), "Connection refused", "start one with: atoll node run")
    failed(alone("--at", "/" + "long" * 50, "status"), "path too long", "atoll node run")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        failed(alone("--at", url, "status", ATOLL_API_KEY=KEY), "Connection refused", "atoll node run")


@pytest.fixture
def clusters(tmp_path, monkeypatch):
    """Have clusters written down in a folder of the test's own; gives the function that does."""
    monkeypatch.setattr("atoll.testing.runs.default_run_dir", lambda: tmp_path)
    with contextlib.ExitStack() as running:
        yield lambda name, **nodes: running.enter_context(
            published(name, {node.replace("_", "/"): path for node, path in nodes.items()})
        )


def test_a_node_of_a_running_cluster_is_named_as_in_its_spec(gate, clusters):
    clusters("two-sites", home_tv=gate.path, office_tv="/nowhere/api.sock")
    for name in ("home/tv", "two-sites/home/tv"):
        assert fine(gate("status", at=name)).startswith("healthy")
    failed(gate("status", at="office/tv"), "/nowhere/api.sock", "two-sites has ended, or is still starting")
    failed(gate("status", at="tv"), "2 running nodes are called tv", "two-sites/home/tv, two-sites/office/tv", code=2)
    failed(gate("status", at="home/fridge"), "there are home/tv, office/tv", "atoll up", code=2)


def test_who_names_no_node_is_told_of_a_running_cluster(clusters, tmp_path):
    failed(alone("status", ATOLL_RUN_DIR=str(tmp_path)), "no node is running", "start one with: atoll node run")
    clusters("two-sites", home_tv="/nowhere/api.sock")
    done = alone("status", ATOLL_RUN_DIR=str(tmp_path))
    failed(done, "no node is running", "atoll node run, or name one that runs: atoll --at home/tv")


def test_two_clusters_with_a_node_of_that_name_are_told_apart(gate, clusters):
    clusters("one", home_tv=gate.path)
    clusters("other", home_tv="/nowhere/api.sock")
    failed(gate("status", at="home/tv"), "2 running nodes are called home/tv", "one/home/tv, other/home/tv", code=2)
    assert fine(gate("status", at="one/home/tv")).startswith("healthy")


def test_no_cluster_at_all_or_a_broken_file_is_said(gate, clusters, tmp_path):
    failed(gate("status", at="home/tv"), "no running node is called home/tv", "atoll up", code=2)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "x.json").write_text("{")
    failed(gate("status", at="home/tv"), "x.json is no cluster's file", "end that cluster, and remove it", code=2)


@contextlib.contextmanager
def answering(tmp_path, *pieces):
    """Somebody on a socket who answers every connection with these bytes, and closes it."""
    path = tmp_path / "strange.sock"
    stop = threading.Event()

    def serve_all(listener):
        while True:
            with listener.accept()[0] as client:
                if stop.is_set():
                    return
                client.recv(65536)
                for piece in pieces:
                    client.sendall(piece)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve_all, args=(listener,))
        thread.start()
        try:
            yield path
        finally:
            stop.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join(WAIT_S)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"", "broke off"),
        (b"SSH-2.0-x\r\n", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "speaks like no node"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "speaks like no node"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "broke off"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 404 No\r\nContent-Type: application/problem+json\r\n\r\nno json", "answered 404"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "speaks like no node"),
    ],
)
def test_who_is_no_node_is_found_out(tmp_path, answer, what):
    with answering(tmp_path, answer) as path:
        failed(alone("--at", str(path), "status"), what, "")


def test_an_answer_without_end_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("atoll.cli.connection.ANSWER_BYTES_MAX", 1000)
    with answering(tmp_path, b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000) as path:
        failed(alone("--at", str(path), "status"), "longer than 1000 bytes", "less")


def test_a_node_that_does_not_answer_is_not_waited_for_for_ever(gate):
    serve(gate.node, "slow", "/slow")
    gate.node.gates["/slow/x"] = anyio.Event()
    with pytest.raises(Failed, match=r"did not answer within 0\.1 s"):
        Connection(place=Place(socket=gate.path), answer_s=0.1).ask("GET", "/slow/x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# On a fresh clone the first text waits for hypothesis to read all of Unicode.
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["type", "detail", "title", "remedy", "candidates", "status"]), json_values),
    st.sampled_from(["", "urn:atoll:problem:", "urn:atoll:problem:unknown-name"]),
    st.integers(min_value=200, max_value=599),
)
def test_whatever_a_problem_says_it_becomes_two_lines(fields, kind, status):
    headers = http.client.HTTPMessage()
    headers["content-type"] = "application/problem+json"
    body = json.dumps(fields | ({"type": kind} if kind else {})).encode()
    problem = Answer(status, headers, body, "here").problem()
    assert (problem is not None) == (status >= 400 and str(json.loads(body).get("type")).startswith("urn:atoll:"))
    if problem is not None:
        assert problem.message.isprintable()
        assert problem.remedy.isprintable()


# Settings


def test_settings_are_shown_with_their_origin(tmp_path):
    (tmp_path / "node.toml").write_text(f'name = "tv"\n[site]\nsecret = "{"ab" * 32}"\n[gateway]\nport = 1\n')
    arguments = ("config", "show", "--config", str(tmp_path / "node.toml"), "--set", "links.port=0")
    done = alone(*arguments, "--origin", ATOLL_BEACON_ENABLED="false")
    found = {line.split()[0]: line.split()[1:] for line in fine(done).splitlines()}
    assert found["SETTING"] == ["VALUE", "ORIGIN"]
    assert found["gateway.port"] == ["1", str(tmp_path / "node.toml")]
    assert found["beacon.enabled"] == ["false", "ATOLL_BEACON_ENABLED"]
    assert found["links.port"] == ["0", "flag"]
    assert found["links.host"] == ["0.0.0.0", "default"]
    assert found["site.secret"] == ["(set)", str(tmp_path / "node.toml")]
    assert "abab" not in done.output
    assert "default" not in fine(alone(*arguments))
    found = json.loads(fine(alone(*arguments, "--json")))
    assert (found["version"], found["kind"]) == (1, "node")
    assert {"setting": "name", "value": "tv", "origin": str(tmp_path / "node.toml")} in found["settings"]


def test_settings_of_every_kind_are_shown(tmp_path):
    assert "8087" in fine(alone("config", "show", "--kind", "cloud"))
    (tmp_path / "relay.toml").write_text(f'[cloud]\nid = "{"a" * 52}"\n')
    assert "sep_port" in fine(alone("config", "show", "--kind", "relay", ATOLL_CONFIG=str(tmp_path / "relay.toml")))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--config", "/no/such.toml"), "/no/such.toml: No such file"),
        (("--kind", "relay"), "'cloud' is missing"),
        (("--set", "gateway.port"), "there is no value"),
        (("--set", "gateway.port=99999"), "gateway.port"),
        (("--set", "gateway.prot=1"), "there is no such setting"),
    ],
)
def test_settings_that_cannot_be_are_wrong_usage(arguments, what):
    failed(alone("config", "show", *arguments), what, "", code=2)
    assert alone("config", "show", "--kind", "toaster").exit_code == 2


# How it behaves as a program


def test_help_of_every_command_imports_nothing_heavy():
    code = """
import sys
from atoll.cli import main
for words in ("", "status", "node", "node list", "image push", "container run", "call", "config show"):
    try:
        main([*words.split(), "--help"], standalone_mode=False)
    except SystemExit:
        pass
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S)
    modules = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not {"zmq", "starlette", "rich", "anyio", "msgspec", "cryptography", "nacl", "asyncio"} & modules


def test_the_program_is_plain_text_and_exits_0_1_and_2(gate, tmp_path):
    def run(*arguments):
        environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "ATOLL_RUN_DIR": str(tmp_path)}
        command = [sys.executable, "-c", "from atoll.cli import main; main()", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S, env=environment)

    done = run("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert run("node", "show", "nobody").returncode == 1
    assert run("node", "list", "--scope", "x").returncode == 2


def test_a_full_disk_behind_the_output_is_said_and_a_closed_pipe_is_not(gate):
    def run(stdout, *arguments):
        command = [sys.executable, "-c", "from atoll.cli import main; main()", "--at", str(gate.path), *arguments]
        return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=WAIT_S)

    for arguments in (("status",), ("status", "--json"), ("config", "show")):
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            done = run(full, *arguments)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "atoll: the output cannot be written: No space left on device",
            "       give it another place, or make room",
        ]
    reading, writing = os.pipe()
    os.close(reading)
    done = run(writing, "status", "--json")
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_name_of_any_length_makes_an_error_of_two_short_lines(gate):
    name = "x" * 3000
    for words in (("node", "show", name), ("container", "logs", name), ("call", "/x@" + name), ("image", "rm", name)):
        done = gate(*words)
        failed(done, "", "")
        assert len(done.stderr) < 2000
    failed(gate("status", at=name), "no running node is called xxx", "atoll up", code=2)


def test_a_folder_stands_for_the_socket_in_it(gate):
    for at in (gate.path.parent, f"unix:{gate.path.parent}"):
        assert fine(gate("status", at=at)).startswith("healthy")
    failed(gate("status", at="unix:"), "names no socket", "unix:/path/to/api.sock", code=2)


def test_tls_to_a_gateway_without_it_is_said(gate):
    done = gate("status", at=f"https://127.0.0.1:{gate.port}", env={"ATOLL_API_KEY": KEY})
    failed(done, "does not speak TLS", "http://")


def test_one_that_cannot_be_removed_keeps_no_other_from_it(gate, tar):
    gate("image", "push", tar)
    for name in ("a", "b"):
        gate("container", "run", "echo-v1", "--name", name)
    done = gate("container", "rm", "nobody", "a", "none", "b")
    assert done.stdout == "api-a\napi-b\n"
    assert done.exit_code == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("atoll:")] == [
        "atoll: nothing is called nobody",
        "atoll: nothing is called none",
    ]
    done = gate("image", "rm", "nobody", "echo-v1")
    assert (done.stdout, done.exit_code) == ("api-echo-v1\n", 1)


def test_an_empty_name_is_wrong_usage(gate, tar):
    gate("image", "push", tar)
    failed(gate("container", "run", "echo-v1", "--name", ""), "the name is empty", "NAME", code=2)
    failed(gate("container", "run", ""), "the name is empty", "NAME", code=2)
    assert gate.node.kept_containers == {}


def test_a_call_of_a_service_here_takes_no_longer_than_it_was_given(gate):
    serve(gate.node, "slow", "/slow")
    gate.node.gates["/slow/x"] = anyio.Event()
    done = gate("call", "slow", "/x", "--timeout", "0.2")
    failed(done, "did not answer within 0.2 s", "--timeout")

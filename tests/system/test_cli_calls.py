"""`atoll call`: what it sends and prints, and where it finds a service."""

import json

import anyio
import msgspec
import pytest
from cli_probe import failed, fine, serve, target_of
from small_node import OTHER_TV, PHONE, TV

from atoll.actors.gateway.messages import HttpReply
from atoll.actors.gateway.node_views import OfferView


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


def test_a_call_of_a_service_here_takes_no_longer_than_it_was_given(gate):
    serve(gate.node, "slow", "/slow")
    gate.node.gates["/slow/x"] = anyio.Event()
    done = gate("call", "slow", "/x", "--timeout", "0.2")
    failed(done, "did not answer within 0.2 s", "--timeout")

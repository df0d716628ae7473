"""Calls of services through the gateway, here and at other nodes, and what cannot be answered."""

import json

import pytest
from gateway_probe import KEY, assert_problem, opened
from http_probe import talk
from small_node import OTHER_TV, PHONE, TV

from atoll.actors.gateway.authority import OWNER
from atoll.actors.gateway.messages import BODY_BYTES_MAX, HttpReply

pytestmark = pytest.mark.anyio


async def test_a_service_is_called_with_everything_the_client_sent(tmp_path):
    async with opened(tmp_path) as gate:
        headers = {"X-Mine": "1", "Cookie": "a=b", "Connection": "close, X-Hop", "X-Hop": "gone"}
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
            status, got, _ = await gate.ask(method, "/echo/v1/a%2Fb/?q=1&q=%C3%A9", headers=headers)
            assert status == 200
            assert got.get_all("x-said-twice") == ["1", "2"]
            request, principal = gate.node.calls[-1][1:]
            assert (request.method, request.target) == (method, "/echo/v1/a%2Fb/?q=1&q=%C3%A9")
            fields = dict(request.headers)
            assert (fields["x-mine"], fields["cookie"]) == ("1", "a=b")
            assert not {"connection", "x-hop", "content-length", "x-api-key"} & set(fields)
            assert got["x-correlation-id"] == fields["x-correlation-id"]
            assert len(fields["x-correlation-id"]) == 32
            assert principal == OWNER
        binary = bytes(range(256)) * 1000
        assert (await gate.ask("POST", "/echo", binary, {"Content-Type": "x"}))[1]["content-length"] == "256000"
        assert gate.node.calls[-1][1].body == binary
        status, got, body = await gate.ask("HEAD", "/echo")
        assert (status, body) == (200, b"")
        assert int(got["content-length"]) > 0


async def test_repeated_request_fields_all_arrive(tmp_path):
    async with opened(tmp_path) as gate:
        await talk(
            gate.port,
            f"GET /echo HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nA: 1\r\nA: 2\r\nConnection: close\r\n\r\n".encode(),
        )
        assert [pair for pair in gate.node.calls[-1][1].headers if pair[0] == "a"] == [("a", "1"), ("a", "2")]


async def test_a_call_to_another_node_says_how_it_went(tmp_path):
    async with opened(tmp_path) as gate:
        correlation = "00112233445566778899aabbccddeeff"
        headers = {"x-correlation-id": correlation, "x-atoll-timeout-ms": "1500"}
        status, got, body = await gate.ask("POST", "/at/phone/echo/v1?x=1%202", b'{"a": 1}', headers)
        assert (status, body) == (200, {"a": 1})
        assert got["x-atoll-route"] == "sep"
        assert got["x-atoll-why"] == "both behind NAT; relay-1 is nearer ? 3 ms"
        assert got["x-atoll-node"] == PHONE
        assert got["x-correlation-id"] == correlation
        assert got["server-timing"] == 'atoll;dur=12.3;desc="sep"'
        node, request, _ = gate.node.calls[-1]
        assert (node, request.target, request.header("x-correlation-id")) == (PHONE, "/echo/v1?x=1%202", correlation)
        assert gate.node.timeouts_s == [1.5]
        assert request.header("x-atoll-timeout-ms") == ""


@pytest.mark.parametrize(
    ("target", "node", "onward"),
    [
        ("/at/phone/hello", PHONE, "/hello"),
        ("/at/phone/", PHONE, "/"),
        ("/at/phone", PHONE, "/"),
        ("/at/phone?x=/y", PHONE, "/?x=/y"),
        ("/at/home%2Ftv/a%2Fb//c/?d", TV, "/a%2Fb//c/?d"),
        (f"/at/{OTHER_TV}/x", OTHER_TV, "/x"),
        (f"/at/{PHONE[:10]}/atoll/v1/status", PHONE, "/atoll/v1/status"),
    ],
)
async def test_the_rest_of_the_path_goes_on_as_it_was(tmp_path, target, node, onward):
    async with opened(tmp_path) as gate:
        status, _, _ = await gate.ask("GET", target)
        assert status == 200
        assert [(called, request.target) for called, request, _ in gate.node.calls] == [(node, onward)]


@pytest.mark.parametrize(
    ("target", "status", "name"),
    [
        ("/at/tv/hello", 409, "ambiguous-name"),
        ("/at/nobody/hello", 404, "unknown-name"),
        ("/at/gone/hello", 502, "unreachable"),
        ("/at/late/hello", 504, "late"),
        ("/at/full/hello", 503, "busy"),
        ("/at/shut/hello", 403, "refused"),
        ("/at//hello", 404, "no-such-route"),
        ("/at/", 404, "no-such-route"),
        ("/at%2Fphone/x", 404, "no-such-route"),
        ("/nowhere", 404, "unknown-name"),
        ("/breaks", 500, "internal"),
        ("/", 404, "no-such-route"),
        ("/atoll/v1/nothing", 404, "no-such-route"),
        ("/jsonrpc/v1", 404, "no-such-route"),
        ("/ATOLL/x", 404, "no-such-route"),
    ],
)
async def test_what_cannot_be_answered_is_a_problem(tmp_path, target, status, name):
    async with opened(tmp_path) as gate:
        body = assert_problem(await gate.ask("GET", target), status, name)
        assert "secret" not in json.dumps(body)


async def test_a_wrong_method_on_a_reserved_path_names_the_right_ones(tmp_path):
    async with opened(tmp_path) as gate:
        answer = await gate.ask("PATCH", "/atoll/v1/status")
        assert_problem(answer, 405, "method-not-allowed")
        assert answer[1]["allow"] == "GET, HEAD"
        assert gate.node.calls == []


@pytest.mark.parametrize("value", ["0", "-1", "1e3", "300001", "9" * 400, "²"])
async def test_a_bad_timeout_is_named(tmp_path, value):
    async with opened(tmp_path) as gate:
        headers = {"x-atoll-timeout-ms": value}
        assert_problem(await gate.ask("GET", "/at/phone/x", headers=headers), 400, "bad-input")


async def test_bodies_between_nodes_have_a_limit(tmp_path):
    async with opened(tmp_path) as gate:
        status, _, _ = await gate.ask("POST", "/at/phone/echo", bytes(BODY_BYTES_MAX))
        assert status == 200
        answer = await gate.ask("POST", "/at/phone/echo", bytes(BODY_BYTES_MAX + 1))
        assert str(BODY_BYTES_MAX) in assert_problem(answer, 413, "body-too-long")["detail"]


@pytest.mark.parametrize(
    "fields", [(("x-bad", "a\r\nset-cookie: b"),), (("bad name", "x"),), (("", "x"),), (("x", "nul\0"),)]
)
async def test_a_services_header_cannot_break_ours(tmp_path, fields):
    async with opened(tmp_path) as gate:
        gate.node.canned["/bad"] = HttpReply(200, fields, b"")
        assert_problem(await gate.ask("GET", "/bad"), 502, "bad-reply")


async def test_a_service_cannot_pretend_a_route_or_frame_its_reply(tmp_path):
    async with opened(tmp_path) as gate:
        fields = (("X-Atoll-Route", "direct"), ("Transfer-Encoding", "chunked"), ("Content-Length", "1"), ("x", "Ω"))
        gate.node.canned["/lies"] = HttpReply(201, fields, b"whole")
        status, got, body = await gate.ask("GET", "/at/phone/lies")
        assert (status, body, got.get_all("x-atoll-route")) == (201, b"whole", ["sep"])
        assert got["transfer-encoding"] is None
        gate.node.canned["/empty"] = HttpReply(204, (), b"")
        assert (await gate.ask("GET", "/empty"))[0] == 204

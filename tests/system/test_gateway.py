"""The gateway's views, who may see them, its metrics, its OpenAPI document and its key."""

import json
import stat
from pathlib import Path

import pytest
from gateway_probe import BEARER, KEY, assert_problem, opened
from hypothesis import given
from hypothesis import strategies as st
from small_node import PHONE, SmallNode
from starlette.routing import Route

from atoll.actors.gateway import authority
from atoll.actors.gateway.api_key import load_or_create_api_key
from atoll.actors.gateway.app import make_app
from atoll.actors.gateway.authority import Kind, Principal, Scope, principal_of_node
from atoll.actors.gateway.openapi import OPERATIONS, openapi_document
from atoll.actors.gateway.problems import CATALOGUE, Problem
from atoll.transport.base import Standing
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

pytestmark = pytest.mark.anyio


async def test_every_list_and_view_has_a_version_and_its_name(tmp_path):
    async with opened(tmp_path) as gate:
        for word in ("nodes", "services", "links", "relays", "duties", "images", "containers"):
            status, _, body = await gate.ask("GET", f"/atoll/v1/{word}")
            assert (status, body["version"], type(body[word])) == (200, 1, list)
        status, _, body = await gate.ask("GET", "/atoll/v1/status")
        assert (body["version"], body["supernode"]["why"], body["node"]["name"]) == (1, "mains power", "tv")
        assert (await gate.ask("GET", "/atoll/v1/nodes?scope=account"))[2]["nodes"] == []
        assert_problem(await gate.ask("GET", "/atoll/v1/nodes?scope=all"), 400, "bad-input")
        for wrong in ("founded=-1", "founded=seven", f"founded={'0' * 17}", "force=yes"):
            assert_problem(await gate.ask("DELETE", f"/atoll/v1/actors/tide?{wrong}"), 400, "bad-input")


async def test_a_node_is_found_by_id_short_id_and_qualified_name(tmp_path):
    async with opened(tmp_path) as gate:
        for name in (PHONE, PHONE[:10], "phone", "home/phone", "home%2Fphone"):
            status, _, body = await gate.ask("GET", f"/atoll/v1/nodes/{name}")
            assert (status, body["node"]["id"]) == (200, PHONE)
        body = assert_problem(await gate.ask("GET", "/atoll/v1/nodes/tv"), 409, "ambiguous-name")
        assert body["candidates"] == ["home/tv", "office/tv"]
        assert_problem(await gate.ask("GET", "/atoll/v1/nodes/nobody"), 404, "unknown-name")


async def test_tcp_needs_the_api_key_and_the_unix_socket_does_not(tmp_path):
    async with opened(tmp_path) as gate:
        status, _, _ = await gate.ask("GET", "/atoll/v1/status")
        assert status == 200
        answer = await gate.ask("GET", "/atoll/v1/status", tcp=True)
        body = assert_problem(answer, 401, "no-credentials")
        assert "api.key" in body["remedy"]
        assert answer[1]["www-authenticate"].startswith("Bearer")
        for wrong in ({"Authorization": "Bearer no"}, {"x-api-key": "no"}, {"x-api-key": ""}, {"x-api-key": KEY[:-1]}):
            assert_problem(await gate.ask("GET", "/atoll/v1/status", headers=wrong, tcp=True), 401, "wrong-credentials")
        basic = {"Authorization": f"Basic {KEY}"}
        assert_problem(await gate.ask("GET", "/atoll/v1/status", headers=basic, tcp=True), 401, "no-credentials")
        for right in (BEARER, {"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}):
            assert (await gate.ask("GET", "/atoll/v1/status", headers=right, tcp=True))[0] == 200
        for path in ("/.well-known/node-configuration", "/openapi.json"):
            assert (await gate.ask("GET", path, tcp=True))[0] == 200
        for path in ("/metrics", "/mds/v1/nodes", "/no/such", "/at/phone/hello", "/"):
            assert_problem(await gate.ask("GET", path, tcp=True), 401, "no-credentials")


async def test_the_api_key_reaches_neither_services_nor_other_nodes(tmp_path):
    async with opened(tmp_path) as gate:
        for path in ("/echo", "/at/phone/echo"):
            await gate.ask("GET", path, headers=BEARER, tcp=True)
            foreign = {"x-api-key": KEY, "Authorization": "Bearer of-the-service"}
            await gate.ask("GET", path, headers=foreign, tcp=True)
        for _, request, _ in gate.node.calls:
            assert KEY not in repr(request)
        await gate.ask("GET", "/echo", headers={"x-api-key": "of-the-service"})
        assert gate.node.calls.pop()[1].header("x-api-key") == "of-the-service"
        assert [request.header("authorization") for _, request, _ in gate.node.calls] == [
            "",
            "Bearer of-the-service",
        ] * 2


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://rebound.example", "Host": "rebound.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_pages_of_other_sites_are_refused_even_with_the_key(tmp_path, headers):
    async with opened(tmp_path) as gate:
        answer = await gate.ask("POST", "/atoll/v1/containers", b"{}", headers | BEARER, tcp=True)
        assert_problem(answer, 403, "cross-site")
        assert gate.node.calls == []


async def test_the_gateways_own_pages_and_programs_are_not(tmp_path):
    async with opened(tmp_path) as gate:
        for headers in (
            {"Origin": f"http://127.0.0.1:{gate.port}", "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
        ):
            assert (await gate.ask("GET", "/atoll/v1/status", headers=headers | BEARER, tcp=True))[0] == 200


def test_every_route_has_a_scope_a_description_and_no_more():
    app = make_app(SmallNode(), api_key=KEY, spool=Path("unused"))
    served = set()
    for route in app.routes:
        assert isinstance(route, Route)
        served |= {(method, route.path) for method in (route.methods or {"*"}) - {"HEAD"}}
    assert served == set(authority.SCOPES) == set(OPERATIONS)
    assert {key for key, scope in authority.SCOPES.items() if scope is Scope.OPEN} == {
        ("GET", "/.well-known/node-configuration"),
        ("GET", "/openapi.json"),
    }


def test_a_route_without_a_scope_is_refused_to_everybody():
    for kind in Kind:
        with pytest.raises(Problem, match="no scope"):
            authority.authorize(Principal(kind=kind), authority.demanded("GET", "/forgotten"))


def test_nodes_may_do_what_their_standing_says():
    node = NodeId(bytes(32))
    member, granted = (principal_of_node(node, each) for each in (Standing.MEMBER, Standing.GRANTED))
    assert [member.may(scope) for scope in Scope] == [*[True] * 4, *[False] * 6]
    assert [granted.may(scope) for scope in Scope] == [True, False, False, True, *[False] * 6]
    for standing in (Standing.NEIGHBOUR, Standing.CLOUD):
        assert principal_of_node(node, standing).kind is Kind.NOBODY


def test_another_users_process_does_not_become_the_owner():
    for user, kind in ((1000, Kind.OWNER), (0, Kind.OWNER), (1001, Kind.NOBODY)):
        arrival = authority.Arrival(transport="unix", user_id=user)
        found = authority.principal_of(arrival, [], api_key=KEY, user_ids=frozenset({0, 1000}))
        assert found.kind is kind


def test_a_site_is_reformed_through_the_socket_and_not_with_a_key():
    socket, key = (
        authority.principal_of(authority.Arrival(transport=each), headers, api_key=KEY, user_ids=frozenset())
        for each, headers in (("unix", []), ("tcp", [(b"x-api-key", KEY.encode())]))
    )
    assert socket.may(Scope.REFORM)
    assert socket.may(Scope.FILES)
    assert not key.may(Scope.FILES), "a key that was copied reads no disk"
    assert key.kind is Kind.OWNER
    assert key.may(Scope.MANAGE)
    with pytest.raises(Problem, match="the API key is not enough"):
        authority.authorize(key, Scope.REFORM)


@given(st.text(alphabet=st.characters(max_codepoint=255)), st.sampled_from([b"authorization", b"x-api-key"]))
def test_no_made_up_key_opens_tcp(text, field):
    for value in (text, f"Bearer {text}"):
        headers = [(field, value.encode("latin-1"))]
        arrival = authority.Arrival(transport="tcp")
        found = authority.principal_of(arrival, headers, api_key=KEY, user_ids=frozenset())
        assert (found.kind is Kind.OWNER) == (text.strip() == KEY)


async def test_metrics_are_prometheus_text(tmp_path):
    async with opened(tmp_path) as gate:
        _, headers, body = await gate.ask("GET", "/metrics")
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b"# TYPE atoll_links_up_total counter\natoll_links_up_total 7\n" in body


def test_the_openapi_document_is_whole():
    document = json.loads(openapi_document())
    assert document["openapi"] == "3.1.0"
    schemas = document["components"]["schemas"]
    references = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references <= set(schemas)
    assert {"StatusView", "ProblemView", "McmContainer"} <= references
    operations = [(path, method, each) for path, item in document["paths"].items() for method, each in item.items()]
    ids = [each["operationId"] for _, _, each in operations]
    assert len(set(ids)) == len(ids)
    for path, _, each in operations:
        named = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert {one["name"] for one in each["parameters"] if one["in"] == "path"} == named
        assert any(status.startswith("2") for status in each["responses"])
    assert [path for path, _, each in operations if each.get("security") == []] == [
        "/.well-known/node-configuration",
        "/openapi.json",
    ]


def test_problem_types_never_change():
    """Programs act on these names: add to the list, change nothing."""
    assert {name: status for name, (status, _) in CATALOGUE.items()} == {
        "malformed-request": 400,
        "bad-input": 400,
        "no-credentials": 401,
        "wrong-credentials": 401,
        "not-allowed": 403,
        "cross-site": 403,
        "refused": 403,
        "no-such-route": 404,
        "unknown-name": 404,
        "method-not-allowed": 405,
        "too-slow": 408,
        "ambiguous-name": 409,
        "conflict": 409,
        "body-too-long": 413,
        "header-too-long": 431,
        "internal": 500,
        "not-implemented": 501,
        "bad-reply": 502,
        "unreachable": 502,
        "busy": 503,
        "late": 504,
        "no-space": 507,
    }
    with pytest.raises(UsageError, match="catalogue"):
        Problem("made-up", "x", "y")


def test_the_api_key_is_made_once_and_kept_private(tmp_path):
    path = tmp_path / "state" / "api.key"
    key = load_or_create_api_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(key) >= 40
    assert load_or_create_api_key(path) == key
    assert load_or_create_api_key(tmp_path / "other.key") != key
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        load_or_create_api_key(path)
    path.chmod(0o600)
    for content in (b"", b"short", b"\xff" * 40, b"two lines of forty\ncharacters or so in a file"):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="holds no API key"):
            load_or_create_api_key(path)

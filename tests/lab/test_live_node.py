"""The REST side of real nodes: two of one site in this process, asked over their unix sockets."""

import contextlib
import json
import re
import socket

import anyio
import pytest
from compiled_engine import lend_engine
from ports import free_port
from test_node import config

from atoll import Node
from atoll.testing.api_client import NodeApi
from atoll.testing.services import ECHO, service_archive
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio
WITHIN_S = 60


class Site:
    """Nodes `one` and `two`; `two` runs the service `echo`."""

    def __init__(self, one, two):
        self.one, self.two = one, two
        self.here, self.there = (NodeApi(each.config.api_socket) for each in (one, two))

    async def prepare(self):
        await self.there.post_file("/atoll/v1/images", "image", service_archive("echo-v1", "1.0.0", ECHO))
        await self.there.post_json("/atoll/v1/containers", {"name": "echo", "image": "echo-v1"})
        with anyio.fail_after(WITHIN_S):
            while not (await self.here.get("/atoll/v1/services"))["services"]:  # noqa: ASYNC110 - over HTTP
                await anyio.sleep(0.05)


@contextlib.asynccontextmanager
async def site(folder):
    port = free_port(socket.SOCK_DGRAM)
    keys = {name: NodeKey.generate() for name in ("one", "two")}
    voters = [key.node_id for key in keys.values()]
    lend_engine(folder / "two")
    nodes = [Node.open(config(folder, name, beacon_port=port, voters=voters), key=key) for name, key in keys.items()]
    async with nodes[0] as here, nodes[1] as there:
        opened = Site(here, there)
        await opened.prepare()
        yield opened


@pytest.fixture
def folder(tmp_path_factory):
    """A folder whose path is short enough for a unix socket."""
    return tmp_path_factory.mktemp("n")


# A small reader of JSON Schema: the parts that msgspec writes.

KINDS = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def fits(value, schema, document, at="$"):
    """Complain where a value is not as its schema says; unknown keywords are complained about too."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    known = {"type", "properties", "required", "items", "enum", "anyOf", "additionalProperties", "default"}
    assert set(schema) <= known | {"title", "description"}, f"{at}: {set(schema) - known}"
    if "anyOf" in schema:
        assert any(agrees(value, each, document) for each in schema["anyOf"]), f"{at}: {value!r} fits none"
        return
    if "enum" in schema:
        assert value in schema["enum"], f"{at}: {value!r}"
    if "type" in schema:
        assert isinstance(value, KINDS[schema["type"]]), f"{at}: {value!r} is no {schema['type']}"
    if isinstance(value, dict):
        told = schema.get("properties", {})
        assert set(schema.get("required", ())) <= set(value), f"{at}: {set(schema['required']) - set(value)} missing"
        rest = schema.get("additionalProperties", {})
        for name, inner in value.items():
            assert name in told or not told or "additionalProperties" in schema, f"{at}.{name} is in no schema"
            fits(inner, told.get(name) or rest, document, f"{at}.{name}")
    for number, inner in enumerate(value if isinstance(value, list) else ()):
        fits(inner, schema.get("items", {}), document, f"{at}[{number}]")


def agrees(value, schema, document):
    try:
        fits(value, schema, document)
    except AssertionError:
        return False
    return True


def test_the_reader_of_schemas_finds_what_is_wrong():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    assert agrees({"a": "x"}, schema, {})
    for wrong in ({}, {"a": 1}, {"a": "x", "b": 1}, []):
        assert not agrees(wrong, schema, {})


async def answered(api, document, method, path, target=None):
    """Ask, and hold the answer against what OpenAPI says of that route and status."""
    answer = await api.ask(method, target or path)
    said = document["paths"][path][method.lower()]["responses"]
    told = said.get(str(answer.status)) or said["default"]
    if path == "/openapi.json":
        return answer
    kind = answer.headers["content-type"].partition(";")[0]
    fits(answer.data, told["content"][kind]["schema"], document, f"{method} {path} {answer.status}")
    return answer


async def test_every_answer_is_as_openapi_says(folder):
    async with site(folder) as opened:
        api, document = opened.there, await opened.here.get("/openapi.json")
        for path, methods in document["paths"].items():
            # The one gives no JSON, and the other an endless stream of it.
            if "get" in methods and "{" not in path and path not in ("/metrics", "/atoll/v1/topics"):
                answer = await answered(api, document, "GET", path)
                assert answer.status == 200, path
        for path, target in (
            ("/atoll/v1/nodes/{node}", "/atoll/v1/nodes/two"),
            ("/atoll/v1/nodes/{node}", "/atoll/v1/nodes/home%2Fone"),
            ("/atoll/v1/containers/{container}/logs", "/atoll/v1/containers/echo/logs"),
        ):
            assert (await answered(api, document, "GET", path, target)).status == 200
        for method, path, target, status in (
            ("GET", "/atoll/v1/nodes/{node}", "/atoll/v1/nodes/nobody", 404),
            ("GET", "/atoll/v1/containers/{container}/logs", "/atoll/v1/containers/x/logs", 404),
            ("DELETE", "/atoll/v1/images/{image}", "/atoll/v1/images/echo-v1", 409),
            ("DELETE", "/mcm/v1/images/{image}", "/mcm/v1/images/none", 404),
            ("POST", "/atoll/v1/containers/{container}/stop", "/atoll/v1/containers/none/stop", 404),
        ):
            assert (await answered(api, document, method, path, target)).status == status


async def test_a_node_shows_its_site_and_what_runs_where(folder):
    async with site(folder) as opened:
        names = {str(opened.one.id): "one", str(opened.two.id): "two"}
        with anyio.fail_after(WITHIN_S):
            while True:
                status = await opened.here.get("/atoll/v1/status")
                if status["supernode"] and status["site"]["members"] == 2 and status["duties"] is not None:
                    break
                await anyio.sleep(0.05)
        assert status["node"] == {"id": str(opened.one.id), "short": opened.one.id.short, "name": "one"}
        assert status["problems"] == []
        assert status["supernode"]["node"] in names
        assert {each["name"] for each in status["routes"]} == {"two"}
        near = {each["name"]: each for each in (await opened.here.get("/atoll/v1/nodes"))["nodes"]}
        assert {name: (each["standing"], each["site"]) for name, each in near.items()} == {
            "one": ("member", "home"),
            "two": ("member", "home"),
        }
        assert {each["id"]: each["short"] for each in near.values()} == {each: each[:10] for each in names}
        assert near["one"]["self"]
        assert near["one"]["route"] == "here"
        assert near["two"]["route"] == "direct"
        assert near["two"]["services"] == [{"name": "echo", "path": "/api/echo"}]
        assert [each["name"] for each in (await opened.here.get("/atoll/v1/nodes?scope=proximity"))["nodes"]] == [
            "one",
            "two",
        ]
        (own,) = (await opened.there.get("/atoll/v1/services"))["services"]
        (known,) = (await opened.here.get("/atoll/v1/services"))["services"]
        assert {**own, "container": ""} == known
        assert own["container"] == "api-echo"
        told = (await opened.there.get("/atoll/v1/nodes/two"))["node"]
        assert [each["path"] for each in told["services"]] == [own["path"]], "of itself, too"


async def test_a_service_is_called_here_and_at_another_node_of_the_site(folder):
    async with site(folder) as opened:
        path = (await opened.here.get("/atoll/v1/services"))["services"][0]["path"]
        own = await opened.there.ask("GET", f"{path}/hello?x=1")
        assert (own.status, own.data["path"]) == (200, "/hello?x=1")
        for name in ("two", "home%2Ftwo", str(opened.two.id), opened.two.id.short):
            far = await opened.here.ask("POST", f"/at/{name}{path}/hello", b"body")
            assert (far.status, far.data["body"], far.data["node"]) == (200, "body", str(opened.two.id))
            assert far.headers["x-atoll-route"] == "direct"
            assert far.headers["x-atoll-node"] == str(opened.two.id)
            assert re.search(r"atoll;dur=\d", far.headers["server-timing"])
        assert (await opened.there.ask("GET", f"/at/two{path}/x")).headers["x-atoll-route"] == "here"
        for target, status, words in (
            ("/at/nobody/x", 404, "no node is called nobody"),
            ("/at/two/nothing", 404, "nothing"),
            (f"/at/two/at/one{path}", 403, "atoll:forward"),
            ("/at//x", 404, "no node is named"),
            ("/nothing/here", 404, "nothing"),
        ):
            answer = await opened.here.ask("GET", target)
            assert (answer.status, words in answer.body.decode()) == (status, True), (target, answer.body)
            assert answer.data["remedy"]
        images = await opened.here.ask("GET", "/at/two/mcm/v1/images")
        assert [each["name"] for each in images.data["data"]] == ["echo-v1"]
        await opened.there.ask("POST", "/atoll/v1/containers/echo/stop")
        assert (await opened.here.ask("GET", f"/at/two{path}/x")).status in {404, 503}
        with anyio.fail_after(WITHIN_S):
            while (await opened.here.get("/atoll/v1/services"))["services"]:  # noqa: ASYNC110 - over HTTP
                await anyio.sleep(0.05)


HOSTILE = [
    ("POST", "/atoll/v1/images", b"no tar", {}),
    ("POST", "/atoll/v1/images", b"", {}),
    ("POST", "/mcm/v1/images", b"x" * 1000, {"content-type": "multipart/form-data; boundary=x"}),
    ("POST", "/mcm/v1/images", b"x", {"content-type": "multipart/form-data"}),
    ("POST", "/atoll/v1/containers", b"", {}),
    ("POST", "/atoll/v1/containers", b"[" * 100_000, {}),
    ("POST", "/atoll/v1/containers", b"\xff\x00", {}),
    ("POST", "/atoll/v1/containers", b'{"name": 1, "image": []}', {}),
    ("POST", "/atoll/v1/containers", b'{"name": "x"}', {}),
    ("POST", "/atoll/v1/containers", b'{"name": "../x", "image": "echo-v1"}', {}),
    ("POST", "/atoll/v1/containers", json.dumps({"name": "x" * 100_000, "image": "echo-v1"}).encode(), {}),
    ("POST", "/mcm/v1/containers", b'{"name": "x", "image": "echo-v1", "env": {"MCM.BASE_API_PATH": "/atoll"}}', {}),
    ("POST", "/mcm/v1/containers", b'{"name": "x", "image": "nothing"}', {}),
    ("POST", "/atoll/v1/containers", b'{"name": "x", "image": "echo-v1"}', {"x-client-id": "../../etc"}),
    ("DELETE", "/atoll/v1/images/..%2F..%2Fetc", None, {}),
    ("DELETE", "/mcm/v1/containers/%00", None, {}),
    ("GET", "/atoll/v1/nodes/" + "x" * 5000, None, {}),
    ("GET", "/atoll/v1/nodes?scope=" + "x" * 500, None, {}),
    ("GET", "/atoll/v1/containers/echo/logs?tail=-1", None, {}),
    ("GET", "/at/two/x", None, {"x-atoll-timeout-ms": "never"}),
    ("PATCH", "/atoll/v1/status", b"{}", {}),
]


async def test_a_service_that_never_answers_is_waited_for_as_long_as_was_said(folder):
    async with site(folder) as opened:
        busy = "mimikModule.exports = function () { const again = () => setImmediate(again); again(); };"
        silent = service_archive("silent-v1", "1.0.0", busy)
        await opened.there.post_file("/atoll/v1/images", "image", silent)
        await opened.there.post_json("/atoll/v1/containers", {"name": "silent", "image": "silent-v1"})
        target, wait = f"/at/{opened.two.id}/silent/x", {"x-atoll-timeout-ms": "300"}
        late = await opened.here.ask("GET", target, headers=wait)
        assert (late.status, late.data["type"]) == (504, "urn:atoll:problem:late"), late.body
        assert late.data["detail"] == f"{opened.two.id.short} gave no answer within 0.3 s"
        assert late.took_s >= 0.3


async def test_what_is_hostile_is_refused_with_words_and_harms_nothing(folder):
    async with site(folder) as opened:
        for method, target, body, headers in HOSTILE:
            for prefix in ("", "/at/two"):
                if prefix and target.startswith("/at/"):
                    continue
                answer = await opened.here.ask(method, prefix + target, body, headers)
                assert 400 <= answer.status < 500, (method, target, answer.status, answer.body[:300])
                said = answer.data
                assert said["type"].startswith("urn:atoll:problem:")
                assert said["detail"]
                assert said["remedy"]
        assert (await opened.here.get("/atoll/v1/containers"))["containers"] == []
        path = (await opened.here.get("/atoll/v1/services"))["services"][0]["path"]
        assert (await opened.here.ask("GET", f"/at/two{path}/x")).status == 200
        assert (await opened.here.get("/atoll/v1/status"))["problems"] == []

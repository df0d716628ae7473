"""Images on real nodes of one site: pushed to one, run at the others, kept by the cache on the way."""

import contextlib
import json
import random
import socket

import anyio
import pytest
from compiled_engine import lend_engine
from ports import free_port
from test_live_node import fits
from test_node import config

from atoll import Actor, Node
from atoll.testing.api_client import NodeApi
from atoll.testing.services import ECHO, service_archive
from atoll.transport.errors import UsageError
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio
NAMES = ("one", "two", "three")
WITHIN_S = 60
SOURCE = f"{ECHO}\n// {random.Random(7).randbytes(450_000).hex()}"
ARCHIVE = service_archive("echo-v1", "1.0.0", SOURCE)


@pytest.fixture
def folder(tmp_path_factory):
    """A folder whose path is short enough for a unix socket."""
    return tmp_path_factory.mktemp("n")


@contextlib.asynccontextmanager
async def site(folder):
    """Three linked nodes, one of which holds the cache."""
    port = free_port(socket.SOCK_DGRAM)
    keys = {name: NodeKey.generate() for name in NAMES}
    voters = [key.node_id for key in keys.values()]
    for name in NAMES:
        lend_engine(folder / name)
    async with contextlib.AsyncExitStack() as stack:
        nodes = {}
        for name in NAMES:
            opened = Node.open(config(folder, name, beacon_port=port, voters=voters), key=keys[name])
            nodes[name] = await stack.enter_async_context(opened)
        yield nodes


def api(node):
    return NodeApi(node.config.api_socket)


async def holder_of_cache(nodes, without=()):
    """Wait until all nodes agree on who holds the cache and is there, and give its name."""
    with anyio.fail_after(WITHIN_S):
        while True:
            statuses = [await api(node).get("/atoll/v1/status") for node in nodes.values()]
            said = {each["name"] for status in statuses for each in status["duties"] if each["duty"] == "cache"}
            members = {status["site"]["members"] for status in statuses}
            if len(said) == 1 and members == {len(nodes)} and not said & set(without):
                (name,) = said
                if nodes[name].system.find("cache") is not None:
                    return name
            await anyio.sleep(0.05)


def given_by(node):
    return node.system._cells["images"].actor.counts["bytes_given"]


async def test_an_image_pushed_to_one_node_runs_at_the_others_and_its_owner_gives_it_once(folder):
    async with site(folder) as nodes:
        cache = await holder_of_cache(nodes)
        owner, *others = sorted(nodes, key=lambda name: name == cache)
        assert cache in others
        image = (await api(nodes[owner]).post_file("/atoll/v1/images", "image", ARCHIVE))["image"]
        views = {}

        async def run(name):
            wanted = {"name": "echo", "image": "echo-v1:1.0.0"}
            views[name] = (await api(nodes[name]).post_json("/atoll/v1/containers", wanted))["container"]

        async with anyio.create_task_group() as runs:
            for name in others:
                runs.start_soon(run, name)
        assert {view["pulled_from"] for view in views.values()} == {cache}
        assert given_by(nodes[owner]) == len(ARCHIVE)
        for name in others:
            (here,) = (await api(nodes[name]).get("/atoll/v1/images"))["images"]
            assert here["digest"] == image["digest"]
        called = await api(nodes[others[0]]).ask("GET", f"{views[others[0]]['path']}/hello")
        assert (called.status, called.data["path"]) == (200, "/hello")
        again = (await api(nodes[owner]).post_json("/atoll/v1/containers", {"name": "x", "image": "echo-v1"}))[
            "container"
        ]
        assert again["pulled_from"] == "", "it was here"


async def test_the_cache_moves_with_what_it_knows_and_goes_on_when_the_owner_is_gone(folder):
    async with site(folder) as nodes:
        cache = await holder_of_cache(nodes)
        owner, other, _ = sorted(nodes, key=lambda name: name == cache)
        await api(nodes[owner]).post_file("/atoll/v1/images", "image", ARCHIVE)
        pulled = await api(nodes[other]).post_json("/atoll/v1/images/pull", {"image": "echo-v1"})
        assert (pulled["source_name"], pulled["cached"]) == (cache, True)
        drained = await api(nodes[cache]).post_json("/atoll/v1/drain", {"draining": True})
        assert "cache" in {each["what"] for each in drained["moved"]}
        moved_to = await holder_of_cache(nodes, without=[cache])
        kept = nodes[moved_to].system._cells["cache"].actor._remembered
        assert set(kept.values()) == {nodes[cache].id}
        for name in (owner, other):
            await api(nodes[name]).ask("DELETE", "/atoll/v1/images/echo-v1")
        # Nobody has it as its own any more: it comes from the store of the holder before, and is kept anew on the way.
        third = other if moved_to == owner else owner
        pulled = await api(nodes[third]).post_json("/atoll/v1/images/pull", {"image": "echo-v1"})
        assert (pulled["source_name"], pulled["cached"], pulled["got_bytes"]) == (moved_to, True, len(ARCHIVE))


async def test_pulls_are_answered_as_openapi_says_and_refused_with_words(folder):
    async with site(folder) as nodes:
        await holder_of_cache(nodes)
        one, two = api(nodes["one"]), api(nodes["two"])
        document = await one.get("/openapi.json")
        await two.post_file("/atoll/v1/images", "image", service_archive("small", "1.0.0", ECHO))
        await two.post_file("/atoll/v1/images", "image", service_archive("twice", "1.0.0", ECHO))
        await api(nodes["three"]).post_file(
            "/atoll/v1/images", "image", service_archive("twice", "1.0.0", ECHO + "\n//")
        )
        for body, status, words in (
            ({"image": "small"}, 200, "api-small"),
            ({"image": "small:1.0.0", "from": "two"}, 200, "api-small"),
            ({"image": "nothing"}, 404, "cannot find image with name nothing"),
            ({"image": "small:9"}, 404, "cannot find image with name small:9"),
            ({"image": "nothing", "from": "three"}, 404, "cannot find image"),
            ({"image": "small", "from": "one"}, 400, "it is this node itself"),
            ({"image": "small", "from": "nobody"}, 404, "no node is called nobody"),
            ({"image": "twice"}, 409, "different images named twice"),
            ({"image": "twice", "from": "three"}, 200, "api-twice"),
            ({"image": "../x"}, 400, "cannot name an image"),
            ({"image": ""}, 400, "cannot name an image"),
            ({"image": 1}, 400, "image"),
            ({}, 400, "image"),
            ({"image": "small", "wait_ms": -1}, 400, "wait_ms"),
            ({"image": "small", "wait_ms": 10**9}, 400, "wait_ms"),
        ):
            answer = await one.ask("POST", "/atoll/v1/images/pull", body_of(body), {"content-type": "application/json"})
            assert (answer.status, words in answer.body.decode()) == (status, True), (body, answer.body)
            said = document["paths"]["/atoll/v1/images/pull"]["post"]["responses"][str(status)]["content"]
            fits(answer.data, said[answer.headers["content-type"].partition(";")[0]]["schema"], document)
        for client in ("me", "you"):
            tar = service_archive("dual", "1.0.0", ECHO)
            assert (await one.ask("POST", "/atoll/v1/images", tar, {"x-client-id": client})).status == 201
        for image, words in (("dual", "several clients have an image"), ("Not a name", "cannot find image with name")):
            refused = await one.ask("POST", "/atoll/v1/containers", body_of({"name": "x", "image": image}))
            assert (refused.status, words in refused.data["detail"]) == (404, True), refused.body
        with pytest.raises(UsageError, match="a name of the node's own"):
            await nodes["one"].spawn(Actor, "cache")
        missing = await one.ask("POST", "/mcm/v1/containers", body_of({"name": "x", "image": "nothing"}))
        assert missing.data["error"]["message"] == "cannot find image with name", "as it was published"


def body_of(value):
    return json.dumps(value).encode()

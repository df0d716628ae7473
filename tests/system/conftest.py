"""What tests of several files share: a served gateway and an image to push; worlds of routers, blobs and images."""

import contextlib

import pytest
from anyio.from_thread import start_blocking_portal
from blob_hosts import living_world, small_and_quick
from cli_probe import Node, Opened
from gateway_probe import KEY, image_tar
from http_probe import serving
from image_site import World as ImageWorld
from image_site import quick
from router_world import World
from small_node import OTHER_TV, PHONE, TV

from atoll.actors.gateway.app import make_app
from atoll.actors.gateway.http_server import bind_tcp, bind_unix
from atoll.actors.router import ways


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


@pytest.fixture
async def world(anyio_backend, monkeypatch):
    del anyio_backend
    # How often a TunnelRelay is asked for paths is counted here.
    monkeypatch.setattr(ways, "WIDEN_PAUSES_S", ())
    monkeypatch.setattr(ways, "WIDEN_AT_ONCE_PAUSES_S", ())
    return World()


@pytest.fixture
async def blob_world(tmp_path, monkeypatch, anyio_backend):
    del anyio_backend
    small_and_quick(monkeypatch)
    async with living_world(tmp_path) as world:
        yield world


@pytest.fixture
def image_world(tmp_path, monkeypatch):
    quick(monkeypatch)
    return ImageWorld(tmp_path)

"""A small node's gateway, served on a unix socket and on TCP, and what tests send to it."""

import contextlib
import io
import json
import tarfile

from http_probe import fetch, serving
from small_node import SmallNode

from atoll.actors.gateway.app import make_app
from atoll.actors.gateway.http_server import bind_tcp, bind_unix

KEY = "a-key-for-tests-only-0123456789"
BEARER = {"Authorization": f"Bearer {KEY}"}


def image_tar(name="echo-v1", size=100):
    """A small docker-save tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in (
            ("manifest.json", json.dumps([{"RepoTags": [f"{name}:1.0.0"]}]).encode()),
            ("pad", bytes(size)),
        ):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def form(*parts, boundary="b0undary", end=True):
    """multipart/form-data of (name, bytes) pairs, with its header."""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="x.tar"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in parts
    )
    body += f"--{boundary}--\r\n".encode() if end else b""
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


class Opened:
    """A served gateway: its node, its sockets, and requests to them."""

    def __init__(self, node, port, path, spool):
        self.node, self.port, self.path, self.spool = node, port, path, spool

    async def ask(self, method, target, body=None, headers=None, *, tcp=False):
        """Give (status, headers, body); JSON bodies read."""
        where = self.port if tcp else self.path
        response, data = await fetch(where, method, target, body, headers)
        kind = response.headers.get("content-type", "")
        return response.status, response.headers, json.loads(data) if "json" in kind and data else data


async def fetch_json(where, method, target, body=None, headers=None):
    """Give the status and the JSON of an answer."""
    response, data = await fetch(where, method, target, body, headers)
    return response.status, json.loads(data)


@contextlib.asynccontextmanager
async def opened(tmp_path):
    node, path, spool = SmallNode(), tmp_path / "gateway.sock", tmp_path / "uploads"
    app = make_app(node, api_key=KEY, spool=spool)
    async with serving(app, listening=[await bind_tcp("127.0.0.1", 0), await bind_unix(path)]) as (port, _):
        yield Opened(node, port, path, spool)


def assert_problem(answer, status, name):
    got_status, headers, body = answer
    assert got_status == status, body
    assert headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:atoll:problem:{name}"
    assert body["detail"]
    assert body["remedy"]
    return body

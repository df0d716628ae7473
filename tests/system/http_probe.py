"""What the HTTP tests share: a server in the background, raw sockets, and blocking clients in threads."""

import contextlib
import http.client
import socket
from collections import Counter

import anyio
import anyio.to_thread

from atoll.actors.gateway.http_server import Limits, bind_tcp, serve_http

WAIT_S = 10.0
"""How long any single thing may take; a test that runs into it fails."""


@contextlib.asynccontextmanager
async def serving(app, *, limits=None, listening=None, counters=None):
    """Serve `app` on a free TCP port (or the given addresses); give the first port and the stop event."""
    listening = listening or [await bind_tcp("127.0.0.1", 0)]
    stopping = anyio.Event()
    async with anyio.create_task_group() as tasks:
        await tasks.start(
            lambda task_status: serve_http(
                app,
                listening,
                limits=limits or Limits(),
                stopping=stopping,
                counters=counters if counters is not None else Counter(),
                task_status=task_status,
            )
        )
        try:
            yield listening[0].port, stopping
        finally:
            tasks.cancel_scope.cancel()


async def talk(port, data, *, half_close=False):
    """Send bytes as they are, and give everything that comes until the server closes."""
    with anyio.fail_after(WAIT_S):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            with contextlib.suppress(anyio.BrokenResourceError):
                await stream.send(data)
            if half_close:
                await stream.send_eof()
            return await until_closed(stream)


async def until_closed(stream):
    parts = []
    with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            parts.append(await stream.receive())
    return b"".join(parts)


async def read_until(stream, mark, got=b""):
    """Receive until `mark` has come."""
    with anyio.fail_after(WAIT_S):
        while mark not in got:
            got += await stream.receive()
    return got


class UnixConnection(http.client.HTTPConnection):
    """`http.client` over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=WAIT_S)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(WAIT_S)
        self.sock.connect(str(self._path))


def fetch_blocking(where, method, target, body=None, headers=None):
    connection = (
        http.client.HTTPConnection("127.0.0.1", where, timeout=WAIT_S)
        if isinstance(where, int)
        else UnixConnection(where)
    )
    with contextlib.closing(connection):
        connection.request(method, target, body=body, headers=headers or {})
        response = connection.getresponse()
        return response, response.read()


async def fetch(where, method, target, body=None, headers=None):
    """Make one request with `http.client` in a thread; `where` is a port or the path of a unix socket."""
    return await anyio.to_thread.run_sync(lambda: fetch_blocking(where, method, target, body, headers))

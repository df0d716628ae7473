"""Listens, accepts, bounds, stops: the server around `http_connection.py`.

    bound --serve_http--> serving --stopping is set--> draining (at most drain_s) --> closed
                             '---- cancelled ------------------------------------->  closed, requests cut short

Runs on asyncio, uvloop and trio alike. It must never replace a socket file that somebody listens on, never leave one
behind, and never let more than `connections_max` clients in.
"""

import errno
import logging
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup, TaskStatus

from atoll.actors.gateway.http_connection import Connection
from atoll.actors.gateway.http_line import Application, ClientGone, Limits, Line, Peer
from atoll.actors.gateway.problems import Problem
from atoll.transport.accepted import read_on_demand
from atoll.transport.errors import UsageError, WorldError

__all__ = [
    "AddressInUse",
    "Application",
    "ClientGone",
    "Limits",
    "Listening",
    "Peer",
    "bind_tcp",
    "bind_unix",
    "serve_http",
]

log = logging.getLogger("atoll.gateway.http")

BACKLOG = 1024
UNIX_PATH_BYTES_MAX = 107
"""What `sockaddr_un` holds on Linux, less its closing zero."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
ACCEPT_PAUSE_S = 0.1
"""After an accept that failed for our own reasons: there is no descriptor to be had by trying again at once."""


class AddressInUse(WorldError):
    """Another program listens there; the text names the address and what to do."""


class Listening(msgspec.Struct, frozen=True, kw_only=True):
    """A bound address that `serve_http` takes over."""

    listener: SocketListener
    url: str
    """`http://127.0.0.1:8083`, or `unix:/run/…/gateway.sock`."""
    host: str
    """The address, or the socket's path."""
    port: int | None = None
    path: Path | None = None
    inode: int | None = None

    async def aclose(self) -> None:
        """Stop listening and take the socket file away, if it is still ours."""
        with anyio.CancelScope(shield=True):
            await self.listener.aclose()
        if self.path is not None:
            try:
                # Another process may have put its own socket there since.
                if self.path.lstat().st_ino == self.inode:
                    self.path.unlink()
            except FileNotFoundError:
                return


async def bind_tcp(host: str, port: int, *, setting: str = "gateway.port") -> Listening:
    """Listen on a numeric address; port 0 takes any free one. `setting` is what an error tells people to change.

    Raises:
        AddressInUse: Another program has the port.
        WorldError: The address is not this host's, or the port needs privileges.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        listener = await SocketListener.from_socket(sock)
    except OSError as error:
        sock.close()
        raise _cannot_bind(host, port, setting, error) from error
    except BaseException:
        sock.close()
        raise
    bound: int = sock.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return Listening(listener=listener, url=f"http://{shown}:{bound}", host=host, port=bound)


def _cannot_bind(host: str, port: int, setting: str, error: OSError) -> WorldError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(
            f"port {port} on {host} is in use by another program: stop that program, "
            f"or choose another port with `--set {setting}=PORT` (0: any free one)"
        )
    if error.errno == errno.EACCES:
        return WorldError(
            f"port {port} needs privileges that this user lacks: choose one from 1024 on with `--set {setting}=PORT`"
        )
    return WorldError(f"cannot listen on {host} port {port}: {error.strerror}; check the address and `{setting}`")


async def bind_unix(path: Path) -> Listening:
    """Listen on a unix socket that only its owner may open (mode 0600).

    A file left behind by a dead process is replaced.

    Raises:
        AddressInUse: A living process listens there.
        UsageError: The path is too long, or something that is no socket is there.
    """
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise UsageError(
            f"{path} is too long for a unix socket ({UNIX_PATH_BYTES_MAX} bytes at most): choose another run directory"
        )
    sock = _unix_socket(path)
    listener = await SocketListener.from_socket(sock)
    return Listening(listener=listener, url=f"unix:{path}", host=str(path), path=path, inode=os.lstat(path).st_ino)


def _unix_socket(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _clear_stale(path)
        sock.setblocking(False)
        sock.bind(str(path))
        # Before listen(): until then nobody can connect, so there is no moment in which others could.
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise WorldError(f"cannot listen on {path}: {error.strerror}; check the run directory") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _clear_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} is there and is no socket: move it away, or choose another run directory")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            # Somebody listens and is so busy that its queue is full.
            pass
        except OSError as error:
            raise WorldError(f"cannot tell whether {path} is in use: {error.strerror}") from error
    raise AddressInUse(f"another node listens on {path}: stop it, or choose another run directory for this one")


async def serve_http(
    app: Application,
    listening: Sequence[Listening],
    *,
    limits: Limits | None = None,
    stopping: anyio.Event | None = None,
    counters: Counter[str] | None = None,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `app` on every address until `stopping` is set or the caller cancels; closes the listeners.

    When `stopping` is set, nobody new is let in, idle connections close, and requests in flight have `drain_s`.
    Cancelling cuts them short. `counters` receives `connections`, `requests`, `refused`, `errors`, `clients_gone`.
    """
    server = _Server(app, limits or Limits(), Counter() if counters is None else counters)
    try:
        async with anyio.create_task_group() as serving:
            async with anyio.create_task_group() as accepting:
                for one in listening:
                    accepting.start_soon(server.accept, one, serving)
                task_status.started()
                await (stopping or anyio.Event()).wait()
                accepting.cancel_scope.cancel()
            for one in listening:
                await one.aclose()
            await server.drain()
            serving.cancel_scope.cancel()
    finally:
        for one in listening:
            await one.aclose()


class _Server:
    def __init__(self, app: Application, limits: Limits, counters: Counter[str]) -> None:
        self._app = app
        self._limits = limits
        self._counters = counters
        self._open: set[Connection] = set()
        self._changed = anyio.Event()

    async def accept(self, listening: Listening, serving: TaskGroup) -> None:
        while True:
            try:
                stream = await listening.listener.accept()
            except (OSError, anyio.BrokenResourceError) as error:
                code = getattr(error, "errno", None) or getattr(error.__cause__, "errno", None)
                if code in EXHAUSTED:
                    log.warning("cannot accept on %s: %s; raise the limit of open files", listening.url, error)
                    self._counters["exhausted"] += 1
                # ECONNABORTED: the client left between knocking and the door, and the next one is waiting.
                await anyio.sleep(0 if code == errno.ECONNABORTED else ACCEPT_PAUSE_S)
                continue
            if isinstance(stream, SocketStream):
                read_on_demand(stream)
            serving.start_soon(self._converse, stream, listening)

    async def _converse(self, stream: SocketStream, listening: Listening) -> None:
        self._counters["connections"] += 1
        full = len(self._open) >= self._limits.connections_max
        line = Line(
            stream=stream,
            limits=self._limits,
            peer=_peer(stream, listening),
            server=(listening.host, listening.port),
            counters=self._counters,
        )
        connection = Connection(self._app, line)
        if full:
            self._counters["refused"] += 1
            await connection.turn_away(
                Problem(
                    "busy",
                    f"{self._limits.connections_max} connections are open, the most that are served",
                    "close some, or try again in a second",
                )
            )
            return
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            self._changed.set()

    async def drain(self) -> None:
        for connection in list(self._open):
            connection.finish_soon()
        with anyio.move_on_after(self._limits.drain_s):
            while self._open:
                self._changed = anyio.Event()
                await self._changed.wait()
        if self._open:
            log.warning("%d requests were cut short at the stop", len(self._open))


def _peer(stream: SocketStream, listening: Listening) -> Peer:
    if listening.port is None:
        return Peer(transport="unix", user_id=_peer_user_id(stream))
    try:
        address = stream.extra(SocketAttribute.remote_address)  # noqa: S610 - no database near
    except (OSError, AttributeError, anyio.TypedAttributeLookupError):
        # It has gone already; reading from it will tell. (uvloop: 'NoneType' object has no attribute 'getpeername'.)
        return Peer(transport="tcp")
    return Peer(transport="tcp", host=str(address[0]), port=int(address[1]))


def _peer_user_id(stream: SocketStream) -> int | None:
    """Ask the system who opened the unix socket; None where it does not tell (then the file's mode is the guard)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    layout = struct.Struct("3i")
    try:
        raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - no database near
    except (OSError, AttributeError, anyio.TypedAttributeLookupError):
        return None
    data = raw.getsockopt(socket.SOL_SOCKET, option, layout.size)
    user_id: int = layout.unpack(data)[1]
    return user_id

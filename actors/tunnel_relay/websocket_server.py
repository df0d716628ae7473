"""The WebSocket port of a relay, over TLS: for bearers and SEPs of networks that let only HTTPS through.

    accepted --TLS, GET /bearer or /sep, 101--> open --both directions are over--> closed
             --no TLS, another request, too slow, too many--> let go

Each connection gets a socket of its own into the bearer port of this very process, so that tickets, pairing, quotas,
rates and refusals are those of every bearer, and the other end may have dialled over TCP. These bytes do pass through
Python, unlike others; they are sealed all the same. A reader that is slow stops its sender by TCP: between the two ends
there are at most two messages of 64 KiB and what the sockets hold. A tunnel that is cut short is cut short here, too.
"""

import contextlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
from anyio.streams.tls import TLSStream
from websockets.http11 import Request
from websockets.server import ServerProtocol

from atoll.actors.tunnel_relay.relay import WEBSOCKETS_MAX
from atoll.actors.tunnel_relay.splice import RESET_ON_CLOSE
from atoll.transport.bearer import NO, make_bearer_ready, raw_socket_of
from atoll.transport.descriptors import SPARE_FILES, files_left_at_most
from atoll.transport.errors import UsageError
from atoll.transport.websocket_bearer import HANDSHAKE_BYTES, SEP_PATH, WEBSOCKET_PATH, fingerprint_of
from atoll.transport.websocket_bytes import MESSAGE_BYTES, MESSAGE_BYTES_MAX, WebSocketBytes

log = logging.getLogger("atoll.relay")

HANDSHAKES_MAX = 128
"""Connections that are not open yet; when full the oldest goes."""
HANDSHAKE_S = 10.0
PING_S = 20.0
"""Under the 30 s after which the most impatient proxies and NATs forget a connection."""
SOCKET_BYTES = 256 * 1024
"""What each socket between WebSocket and bearer port may hold."""
WAY_IN_S = 5.0
"""For a connection within this process; at once, unless there is no descriptor."""
ACCEPT_PAUSE_S = 0.1
BACKLOG = 1024
_PEM_END = "-----END CERTIFICATE-----"


class WebSocketSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where WebSockets are taken, and with which certificate (PEM files)."""

    port: int
    certificate: Path
    key: Path
    host: str = "0.0.0.0"

    def listen(self) -> socket.socket:
        """Open the port.

        Raises:
            UsageError: It is in use, or this user may not.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise UsageError(
                f"the WebSocket port {self.port} on {self.host} cannot be opened: {error}; choose another one with "
                "websocket.port (below 1024 a service needs CAP_NET_BIND_SERVICE)"
            ) from error

    def fingerprint(self) -> bytes:
        """Give what the certificate is pinned by: the first one in the file is the one that is shown.

        Raises:
            UsageError: There is none.
        """
        try:
            text = self.certificate.read_text()
            return fingerprint_of(ssl.PEM_cert_to_DER_cert(text[: text.index(_PEM_END) + len(_PEM_END)]))
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.certificate} holds no certificate (PEM): {error}") from error

    def context(self) -> ssl.SSLContext:
        """Read the files.

        Raises:
            UsageError: They cannot be read, or do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"the certificate {self.certificate} with the key {self.key} cannot be used: {error}; name two PEM "
                "files that belong together in websocket.certificate and websocket.key"
            ) from error
        return context


class WebSocketServer:
    """Listens at once, serves inside `run`; `adopt` takes the sockets that lead into the bearer port.

    Raises:
        UsageError: The port cannot be opened, or the certificate cannot be used.
    """

    def __init__(self, settings: WebSocketSettings, adopt: Callable[[socket.socket], None], sep_port: int) -> None:
        self._context, self._adopt, self._sep_port = settings.context(), adopt, sep_port
        self._sep_host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
        self.fingerprint = settings.fingerprint()
        self._listener = settings.listen()
        self.port: int = self._listener.getsockname()[1]
        self._shaking: dict[anyio.CancelScope, None] = {}
        """Handshakes that go on, the oldest first."""
        self._open = 0
        self.counters: Counter[str] = Counter()
        # Loopback TCP and no socketpair: only a TCP connection can be reset, which is how a tunnel is cut short.
        self._inner = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._inner.setblocking(False)
        self._inner_turn = anyio.Lock()

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many there are now."""
        return {**self.counters, "open": self._open, "handshakes": len(self._shaking)}

    async def run(self) -> None:
        """Serve until cancelled, and close the port."""
        try:
            async with (
                await anyio.abc.SocketListener.from_socket(self._listener) as listener,
                anyio.create_task_group() as tasks,
            ):
                while True:
                    try:
                        tcp = await listener.accept()
                    except (OSError, anyio.BrokenResourceError):
                        # Out of descriptors, or the client left at the door.
                        self.counters["accept_failed"] += 1
                        await anyio.sleep(ACCEPT_PAUSE_S)
                        continue
                    self.counters["accepted"] += 1
                    if self._open >= WEBSOCKETS_MAX or files_left_at_most(SPARE_FILES):
                        self.counters["refused_full"] += 1
                        await anyio.aclose_forcefully(tcp)
                        continue
                    if len(self._shaking) >= HANDSHAKES_MAX:
                        next(iter(self._shaking)).cancel()
                        await anyio.lowlevel.checkpoint()
                    tasks.start_soon(self._serve, tcp)
        finally:
            self.close()

    def close(self) -> None:
        """Close the port; for who does not come to `run` it."""
        self._listener.close()
        self._inner.close()

    async def _serve(self, tcp: anyio.abc.SocketStream) -> None:
        try:
            async with tcp:
                opened = await self._shake_hands(tcp)
                if opened is not None:
                    await self._carry(*opened)
        except Exception:
            # A mistake of ours, shown whole; but whoever finds it must not end everybody's tunnels with it.
            self.counters["refused_error"] += 1
            log.exception("a WebSocket failed")

    async def _carry(self, stream: WebSocketBytes, path: str) -> None:
        self._open += 1
        self.counters["opened_sep" if path == SEP_PATH else "opened_bearer"] += 1
        try:
            async with await (self._way_to_sep() if path == SEP_PATH else self._way_in()) as inner:
                await _join(stream, inner, answers=path != SEP_PATH)
        except OSError as error:
            log.warning("no way from a WebSocket to the port %s: %s", path, error)
        finally:
            self._open -= 1

    async def _way_to_sep(self) -> anyio.abc.SocketStream:
        """Make a connection into the SEP port: libzmq takes none that others have accepted."""
        with anyio.fail_after(WAY_IN_S):
            inner = await anyio.connect_tcp(self._sep_host, self._sep_port)
        make_bearer_ready(raw_socket_of(inner))
        return inner

    async def _shake_hands(self, tcp: anyio.abc.SocketStream) -> tuple[WebSocketBytes, str] | None:
        """Come to an open WebSocket, or to None: too slow, no TLS, no WebSocket, another path."""
        reason = "too_slow"
        with anyio.CancelScope(deadline=anyio.current_time() + HANDSHAKE_S) as scope:
            self._shaking[scope] = None
            try:
                make_bearer_ready(raw_socket_of(tcp))
                tls = await TLSStream.wrap(tcp, server_side=True, ssl_context=self._context, standard_compatible=False)
                if (opened := await _upgraded(tls)) is not None:
                    return opened
                reason = "malformed"
            except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError, OSError):
                reason = "malformed"
            finally:
                del self._shaking[scope]
        self.counters[f"refused_{reason}"] += 1
        return None

    async def _way_in(self) -> anyio.abc.SocketStream:
        """Make a connection into the bearer port."""
        near = socket.socket()
        try:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                near.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
            near.setblocking(False)
            with anyio.fail_after(WAY_IN_S):
                async with self._inner_turn:
                    far = await self._connected(near)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                far.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
            self._adopt(far)
            return await anyio.abc.SocketStream.from_socket(near)
        except BaseException:
            near.close()
            raise

    async def _connected(self, near: socket.socket) -> socket.socket:
        """Connect, and give the other end."""
        with contextlib.suppress(BlockingIOError):
            near.connect(self._inner.getsockname())
        while True:
            await anyio.wait_readable(self._inner)
            far, peer = self._inner.accept()
            if peer == near.getsockname():
                return far
            # Some program of this host that looks for open ports.
            far.close()


async def _upgraded(tls: TLSStream) -> tuple[WebSocketBytes, str] | None:
    """Answer the request that opens a WebSocket, and say for which port; None when it is another one."""
    protocol = ServerProtocol(max_size=MESSAGE_BYTES_MAX)
    events = protocol.events_received()
    while not events and protocol.handshake_exc is None:
        protocol.receive_data(await tls.receive(HANDSHAKE_BYTES))
        events = protocol.events_received()
    path = ""
    if events and isinstance(request := events[0], Request):
        path = request.path.partition("?")[0]
        right = path in (WEBSOCKET_PATH, SEP_PATH)
        protocol.send_response(protocol.accept(request) if right else protocol.reject(404, "There is nothing here.\n"))
    await tls.send(b"".join(protocol.data_to_send()))
    if protocol.handshake_exc is not None or not events or not right:
        return None
    return WebSocketBytes(tls, protocol, events[1:]), path


class _RefusedError(Exception):
    """The bearer port said no, and the other end has been told."""


async def _join(stream: WebSocketBytes, inner: anyio.abc.SocketStream, *, answers: bool) -> None:
    """Carry bytes both ways until both are over; when either side is cut short, cut the other.

    `answers`: what comes from the port begins with OK or NO.
    """

    async def ping() -> None:
        while True:
            await anyio.sleep(PING_S)
            await stream.ping()

    raw = raw_socket_of(inner)
    try:
        async with anyio.create_task_group() as pings:
            pings.start_soon(ping)
            async with anyio.create_task_group() as ways:
                ways.start_soon(_carry_in, stream, inner)
                ways.start_soon(_carry_out, inner, stream, answers)
            pings.cancel_scope.cancel()
        await stream.aclose()
    except* _RefusedError:
        await stream.aclose()
    except* (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError):
        # A closed one has none any more, which uvloop says as ValueError.
        with contextlib.suppress(OSError, ValueError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        await stream.cut()


async def _carry_in(stream: WebSocketBytes, inner: anyio.abc.SocketStream) -> None:
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            await inner.send(await stream.receive(MESSAGE_BYTES))
    await inner.send_eof()


async def _carry_out(inner: anyio.abc.SocketStream, stream: WebSocketBytes, answers: bool) -> None:  # noqa: FBT001
    answer = b""
    while answers and len(answer) < len(NO):
        answer += await inner.receive(len(NO) - len(answer))
    if answer:
        await stream.send(answer)
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            await stream.send(await inner.receive(MESSAGE_BYTES))
    await stream.send_eof()
    if answer == NO:
        # Nothing more comes of it, and whoever stays would keep a place.
        raise _RefusedError

"""One request and its reply, as ASGI's `scope`, `receive` and `send`.

    request:  header --> body --> done            reply:  nothing --> started --> done
                                                              '--take--> hijacked

ASGI has no word for giving a connection away, and Docker's attach and exec need that; the extension `atoll.hijack` has
(see `docs/decisions/0002-http-server.md`). It must never read more of a body than the application asks for.
"""

import logging
import time
from collections.abc import Iterable
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote, urlsplit

import anyio
import h11
from anyio.abc import SocketStream

from atoll.actors.gateway.http_line import BODILESS, ClientGone, Limits, Line, Message, RawHeaders, Scope
from atoll.actors.gateway.problems import MEDIA_TYPE, Problem
from atoll.transport.errors import UsageError

log = logging.getLogger("atoll.gateway.http")

LEFTOVER_BYTES_MAX = 64 * 1024
"""An unread body that is at most this long is read and thrown away to keep the connection; for more it is closed."""
PIPELINE_BYTES_MAX = 64 * 1024
"""What a client may send ahead while its previous request is being answered."""
VERSIONS = frozenset({b"1.0", b"1.1"})


class Exchange:
    """One request and its reply, as ASGI's `scope`, `receive` and `send`."""

    def __init__(self, line: Line, request: h11.Request) -> None:
        """Check the header and make the scope.

        Raises:
            Problem: Too many fields, two framings, or a target that is no path.
        """
        self._line = line
        self._h11 = line.h11
        self._body_bytes = 0
        self._expected: int | None = None
        self._peeked: Any = None
        self.request_done = False
        """The request has been read to its end, so closing cannot reset the reply away."""
        self._head: h11.Response | None = None
        self._started = False
        self._reply_done = False
        self._hijacked = False
        self._silent = request.method == b"HEAD"
        self._watch: anyio.CancelScope | None = None
        self.scope = self._scope(request)

    def _scope(self, request: h11.Request) -> Scope:
        line, limits = self._line, self._line.limits
        headers: RawHeaders = list(request.headers)
        names = [name for name, _ in headers]
        if request.http_version not in VERSIONS:
            raise Problem(
                "malformed-request",
                f"HTTP/{request.http_version.decode('ascii')} is not spoken here",
                "use HTTP/1.1",
                status=505,
            )
        # h11 bounds only what is incomplete; a long header can arrive in one piece.
        if sum(len(name) + len(value) + 4 for name, value in headers) + len(request.target) > limits.header_bytes_max:
            raise header_too_long(limits)
        if len(headers) > limits.headers_max:
            raise Problem(
                "header-too-long",
                f"the header has {len(headers)} fields, more than {limits.headers_max}",
                "send fewer header fields",
            )
        if b"content-length" in names:
            if b"transfer-encoding" in names:
                # RFC 9112, section 6.3: the way requests are smuggled.
                raise Problem(
                    "malformed-request",
                    "the request has both Content-Length and Transfer-Encoding",
                    "send one of them",
                )
            self._expected = int(next(value for name, value in headers if name == b"content-length"))
            if self._expected > limits.body_bytes_max:
                raise body_too_long(limits.body_bytes_max)
        elif b"transfer-encoding" not in names:
            self._expected = 0
        target = _origin_form(request, headers)
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": (line.peer.host, line.peer.port) if line.peer.host else None,
            "server": line.server,
            "state": {},
            "extensions": {"atoll.peer": {"peer": line.peer}, "atoll.hijack": {"take": self.take}},
        }

    async def receive(self) -> Message:
        """Give the next piece of the body, then wait for the end of the exchange; one caller at a time.

        Raises:
            Problem: The body is malformed, too long or too slow; an application may let it pass.
        """
        if self._line.broken or self._reply_done:
            return {"type": "http.disconnect"}
        if self.request_done:
            await self._wait_end()
            return {"type": "http.disconnect"}
        if self._h11.they_are_waiting_for_100_continue:
            await self._line.write(self._send_event(h11.InformationalResponse(status_code=100, headers=[])))
        event = await self._next_event()
        if event is None:
            return {"type": "http.disconnect"}
        if isinstance(event, h11.EndOfMessage):
            self.request_done = True
            return {"type": "http.request", "body": b"", "more_body": False}
        try:
            self._peeked = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise malformed(error, self._line.limits) from error
        if self._peeked is h11.NEED_DATA:
            self._peeked = None
        elif isinstance(self._peeked, h11.EndOfMessage):
            self.request_done = True
        return {"type": "http.request", "body": bytes(event.data), "more_body": not self.request_done}

    async def _next_event(self) -> Any:
        """Give the next Data or EndOfMessage of the request; None when the client has gone."""
        limits = self._line.limits
        event, self._peeked = self._peeked, None
        try:
            while event is None or event is h11.NEED_DATA:
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    with anyio.move_on_after(limits.body_s) as scope:
                        await self._line.read()
                    if scope.cancelled_caught:
                        raise Problem(
                            "too-slow",
                            f"nothing of the body came for {limits.body_s:g} s",
                            "send the body without pauses",
                        )
                    if self._line.broken:
                        return None
        except h11.RemoteProtocolError as error:
            if self._h11.trailing_data[1]:
                # The stream ended inside the body: nobody is left to be told.
                self._line.broken = True
                self._line.counters["clients_gone"] += 1
                return None
            raise malformed(error, limits) from error
        if isinstance(event, h11.Data):
            self._body_bytes += len(event.data)
            if self._body_bytes > limits.body_bytes_max:
                raise body_too_long(limits.body_bytes_max)
        return event

    async def _wait_end(self) -> None:
        """Wait until the reply is out or the client closes; what it sends ahead is kept, up to a limit."""
        try:
            with anyio.CancelScope() as self._watch:
                while len(self._h11.trailing_data[0]) < PIPELINE_BYTES_MAX:
                    if not await self._line.read():
                        return
                await anyio.sleep_forever()
        finally:
            self._watch = None

    async def send(self, message: Message) -> None:
        """Take the reply's start or a piece of its body; the start goes out with the first piece.

        An empty piece with `more_body` sends the header by itself.

        Raises:
            ClientGone: Nobody is left to read it.
        """
        kind = message["type"]
        if self._hijacked or self._reply_done:
            raise UsageError(f"{kind} after the end of the reply")
        if kind == "http.response.start":
            self._start(message["status"], list(message.get("headers", ())))
        elif kind == "http.response.body":
            await self._piece(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise UsageError(f"this server does not know the ASGI message {kind!r}")

    def _start(self, status: int, headers: RawHeaders) -> None:
        if self._started:
            raise UsageError("http.response.start was sent twice")
        if not any(name.lower() == b"date" for name, _ in headers):
            headers.append((b"date", date().encode()))
        if self._line.last or not self._leftover_short():
            self._line.last = True
            headers.append((b"connection", b"close"))
        # Made before h11's state moves: a header that cannot be sent is the application's error, and it may still
        # answer with another one.
        self._head = h11.Response(status_code=status, headers=headers)
        self._started = True
        self._silent = self._silent or status in BODILESS

    async def _piece(self, body: bytes, *, more: bool) -> None:
        if not self._started:
            raise UsageError("http.response.body came before http.response.start")
        out = b""
        if self._head is not None:
            out, self._head = self._send_event(self._head), None
        if body and not self._silent:
            out += self._send_event(h11.Data(data=body))
        if not more:
            out += self._send_event(h11.EndOfMessage())
        await self._line.write(out)
        if not more:
            self._reply_done = True
            if self._watch is not None:
                self._watch.cancel()

    def _send_event(self, event: Any) -> bytes:
        data: bytes | None = self._h11.send(event)
        return data or b""

    def _leftover_short(self) -> bool:
        """Tell whether what is unread of the request is known, short, and on its way."""
        if self.request_done:
            return True
        if self._h11.they_are_waiting_for_100_continue or self._expected is None:
            return False
        return self._expected - self._body_bytes <= LEFTOVER_BYTES_MAX

    async def answer(self, problem: Problem) -> None:
        """Send a problem that the application let pass, if it has not begun to answer."""
        if self._started or self._hijacked:
            self._line.counters["errors"] += 1
            log.error("%s %s: %s, in the middle of the reply", self.scope["method"], self.scope["path"], problem)
            return
        if self._h11.their_state is h11.ERROR:
            self._line.last = True
        body = problem.body()
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in problem.headers]
        try:
            await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        except ClientGone:
            return

    async def finish(self) -> bool:
        """Bring the exchange to its end after the application returned; True when the connection can be used again."""
        line = self._line
        if self._hijacked or line.broken:
            line.broken = True
            return False
        if not self._started:
            await self.answer(
                Problem("internal", "the node failed to answer", "look into the node's log; report it if it stays")
            )
        if not self._reply_done:
            # A reply cut short must not look whole: close without the closing chunk.
            line.broken = True
            return False
        try:
            while not self.request_done and not line.last:
                event = await self._next_event()
                if event is None:
                    return False
                self.request_done = isinstance(event, h11.EndOfMessage)
        except Problem:
            # Answered already; only the rest of its body was bad.
            return False
        done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        return done and not line.last

    async def take(self, status: int = 101, headers: Iterable[tuple[bytes, bytes]] = ()) -> tuple[SocketStream, bytes]:
        """Send the header and hand over the raw stream with the bytes that came early: Docker's attach and exec.

        To be called once the body has been read. Afterwards the server neither reads nor writes; the application may
        close the stream, and the server closes it when the application returns.

        Raises:
            UsageError: The reply has begun, or the body has not been read.
            ClientGone: Nobody is left to take it.
        """
        if self._started or self._watch is not None:
            raise UsageError(
                "a connection can only be taken over before the reply, and by nobody who waits on receive()"
            )
        if not self.request_done:
            event = self._peeked or self._h11.next_event()
            if not isinstance(event, h11.EndOfMessage):
                raise UsageError("read the request's body before taking the connection over")
            self.request_done = True
        fields = list(h11.Response(status_code=200, headers=list(headers)).headers)
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        self._hijacked = self._started = True
        await self._line.write(f"HTTP/1.1 {status} {reason(status)}\r\n".encode() + lines + b"\r\n")
        return self._line.stream, self._h11.trailing_data[0]


def body_too_long(bytes_max: int) -> Problem:
    """Say that a body is over `bytes_max`."""
    return Problem(
        "body-too-long",
        f"the body is longer than {bytes_max} bytes, the most that is taken here",
        "send less at once",
    )


def malformed(error: h11.RemoteProtocolError, limits: Limits) -> Problem:
    """Say what h11 found wrong with the client's bytes."""
    if error.error_status_hint == 431:
        return header_too_long(limits)
    status = error.error_status_hint if error.error_status_hint == 501 else 400
    return Problem("malformed-request", str(error), "send HTTP/1.1 as in RFC 9112", status=status)


def header_too_long(limits: Limits) -> Problem:
    """Say that target and fields together are over the limit."""
    return Problem(
        "header-too-long", f"the header is longer than {limits.header_bytes_max} bytes", "send a shorter header"
    )


def _origin_form(request: h11.Request, headers: RawHeaders) -> bytes:
    """Give `/path?query`, also of `http://host/path`, whose host then counts (RFC 9112, section 3.2.2)."""
    target: bytes = request.target
    if target.startswith(b"/") or (target == b"*" and request.method == b"OPTIONS"):
        return target
    if request.method == b"CONNECT":
        raise Problem("method-not-allowed", "CONNECT is not served here", "use `atoll forward` for a raw connection")
    try:
        url = urlsplit(target)
    except ValueError as error:
        raise Problem("malformed-request", f"the target is not a URL: {error}", "send `/path?query`") from error
    if url.scheme != b"http" or not url.netloc:
        raise Problem("malformed-request", "the target is neither a path nor an http URL", "send `/path?query`")
    headers[:] = [(name, url.netloc if name == b"host" else value) for name, value in headers]
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")


_REASONS = {101: "Switching Protocols", 200: "OK", 400: "Bad Request", 408: "Request Timeout"}


def reason(status: int) -> str:
    """Give the phrase behind the status."""
    # Clients do not read it (RFC 9112, section 4); people who look at a capture do.
    return _REASONS.get(status, "Refused" if status >= 400 else "OK")


_date_cache: tuple[int, str] = (0, "")


def date() -> str:
    """Give the Date field, made anew once a second."""
    global _date_cache  # noqa: PLW0603 - a cache of one line
    now = int(time.time())
    if _date_cache[0] != now:
        _date_cache = (now, formatdate(now, usegmt=True))
    return _date_cache[1]

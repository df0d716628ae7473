"""One HTTP/1.1 connection: requests one after the other, h11 on an anyio byte stream, an ASGI application behind it.

    idle --first byte--> header --complete--> exchange --both sides done--> idle
      |                    |                    |
      |  idle_s            |  header_s, 4xx     |  close, error, stop   --> linger --> closed
      |                    |                    '--hijack-->  the application owns the stream --> closed

It must never let one client's bytes or slowness reach another connection, and never let an application's exception end
the server. h11 holds the protocol's state; this file holds the clocks.
"""

import logging
from dataclasses import dataclass
from typing import Any

import anyio
import h11

from atoll.actors.gateway.http_exchange import Exchange, date, malformed, reason
from atoll.actors.gateway.http_line import READ_BYTES, Application, ClientGone, Line
from atoll.actors.gateway.problems import MEDIA_TYPE, Problem
from atoll.transport.errors import UsageError

log = logging.getLogger("atoll.gateway.http")

LINGER_BYTES_MAX = 72 * 1024 * 1024
"""More than the longest body that is taken anywhere, an image: who sends one to the wrong place still reads why. It is
read and thrown away."""


@dataclass(slots=True, eq=False)
class Connection:
    """Answers the requests of one client, one after the other."""

    app: Application
    line: Line
    _idle: anyio.CancelScope | None = None
    _lingering: bool = False
    """Bytes of the client may be unread: closing at once would reset the connection under the reply."""

    async def run(self) -> None:
        """Serve until either side is done; closes the stream."""
        try:
            while await self._one_exchange():
                self.line.h11.start_next_cycle()
            if self._lingering and not self.line.broken:
                await self._linger()
        except Exception:
            # Whatever it is, it concerns this connection only.
            self.line.counters["errors"] += 1
            log.exception("a connection from %s failed", self.line.peer)
        finally:
            # Sends what is buffered; a client that does not read must not hold this task.
            with anyio.move_on_after(self.line.limits.linger_s, shield=True) as scope:
                await self.line.stream.aclose()
            if scope.cancelled_caught:
                await anyio.aclose_forcefully(self.line.stream)

    def finish_soon(self) -> None:
        """Close when the exchange in hand is over; at once when there is none."""
        self.line.last = True
        if self._idle is not None:
            self._idle.cancel()

    async def turn_away(self, problem: Problem) -> None:
        """Answer with `problem` before any request was read, and close."""
        try:
            await self._refuse(problem)
            await self._linger()
        finally:
            await anyio.aclose_forcefully(self.line.stream)

    async def _one_exchange(self) -> bool:
        """Answer one request; True when another may follow."""
        try:
            request = await self._next_request()
            if request is None:
                return False
            self.line.counters["requests"] += 1
            exchange = Exchange(self.line, request)
        except Problem as problem:
            self.line.counters["refused"] += 1
            self._lingering = True
            await self._refuse(problem)
            return False
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except ClientGone:
            return False
        except Problem as problem:
            await exchange.answer(problem)
        except Exception as error:
            if self.line.broken:
                # What an application makes of a vanished client is no news.
                log.debug("the application stopped because the client has gone: %r", error)
                return False
            self.line.counters["errors"] += 1
            log.exception("the application failed on %s %s", exchange.scope["method"], exchange.scope["path"])
        again = await exchange.finish()
        self._lingering = not exchange.request_done
        return again

    async def _next_request(self) -> h11.Request | None:
        """Wait for a whole header; None when the client leaves or stays silent.

        Raises:
            Problem: What came is not a request, too long, or too slow.
        """
        try:
            event = self.line.h11.next_event()
            if event is h11.NEED_DATA:
                if not self.line.h11.trailing_data[0] and not await self._wait_idle():
                    return None
                # Nearly every header comes in one piece, and a clock costs as much as reading it.
                event = self.line.h11.next_event()
            if event is h11.NEED_DATA:
                event = await self._rest_of_header()
        except h11.RemoteProtocolError as error:
            raise malformed(error, self.line.limits) from error
        if isinstance(event, h11.ConnectionClosed):
            return None
        if not isinstance(event, h11.Request):
            raise UsageError(f"h11 gave {event!r} where only a request can stand")
        return event

    async def _rest_of_header(self) -> Any:
        with anyio.move_on_after(self.line.limits.header_s):
            while (event := self.line.h11.next_event()) is h11.NEED_DATA:
                await self.line.read()
                if self.line.broken:
                    return h11.ConnectionClosed()
            return event
        raise Problem(
            "too-slow",
            f"the header was not complete after {self.line.limits.header_s:g} s",
            "send the whole header at once",
        )

    async def _wait_idle(self) -> bool:
        if self.line.last:
            return False
        with anyio.CancelScope(deadline=anyio.current_time() + self.line.limits.idle_s) as self._idle:
            await self.line.read()
        idle, self._idle = self._idle, None
        return not idle.cancelled_caught and not self.line.broken

    async def _refuse(self, problem: Problem) -> None:
        """Answer what never became an exchange; h11 may be beyond writing, so the bytes are made here."""
        body = problem.body()
        head = (
            f"HTTP/1.1 {problem.status} {reason(problem.status)}\r\ndate: {date()}\r\nconnection: close\r\n"
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        try:
            await self.line.write(head.encode() + body)
        except ClientGone:
            return

    async def _linger(self) -> None:
        """Say that we are done and let the client read it, within bounds."""
        left = LINGER_BYTES_MAX
        with anyio.move_on_after(self.line.limits.linger_s):
            try:
                await self.line.stream.send_eof()
                while left > 0:
                    left -= len(await self.line.stream.receive(READ_BYTES))
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                return

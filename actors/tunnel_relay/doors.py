"""By which of a relay's doors it is reached: its own ports, or the one that looks like HTTPS.

    port --a connection within `HEAD_START_S`--> it
         --none, or refused--> the WebSocket port, too; whichever connects first
    port that gave nothing --for `CLOSED_S`--> both are tried at once

Strict firewalls let only 443 out, and most of them drop the rest without a word. What goes through the other door is
the same bytes: a bearer's preamble and records, or ZeroMQ's with CURVE; the relay's own program joins them to its
ports. Its certificate is the one whose fingerprint came with the route, whoever signed it: so an operator needs no name
and no authority, and a firewall that opens TLS gets no ticket to see.
"""

import errno
import logging
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc

from atoll.actors.tunnel_relay.relay_address import WebDoor
from atoll.transport.bearer import connect_bearer, show_ticket
from atoll.transport.errors import PeerError, Unreachable

log = logging.getLogger("atoll.tunnel_relay")

HEAD_START_S = 0.5
"""What a port is given before the WebSocket port is tried beside it: more than a round trip round the world."""
CLOSED_S = 300.0
"""How long a port that could not be reached is taken for closed."""
CLOSED_MAX = 64
CONNECT_S = 10.0
LOCAL_PIECE_BYTES = 65_536
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
_FAILURES = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, PeerError)


@dataclass(slots=True)
class Doors:
    """What this node has found out about ports of relays; `clock` gives monotonic seconds."""

    clock: Callable[[], float]
    _closed: OrderedDict[tuple[str, int], float] = field(default_factory=OrderedDict)
    """Ports that gave no connection, and until when that is believed."""

    def is_closed(self, host: str, port: int) -> bool:
        """Tell whether a port could not be reached a while ago."""
        return self.clock() < self._closed.get((host, port), 0.0)

    def note(self, host: str, port: int, *, closed: bool) -> None:
        """Keep whether a port could be reached."""
        self._closed.pop((host, port), None)
        if closed:
            self._closed[host, port] = self.clock() + CLOSED_S
            while len(self._closed) > CLOSED_MAX:
                self._closed.popitem(last=False)

    async def dial_bearer(
        self, host: str, port: int, ticket: bytes, web: WebDoor | None, *, timeout_s: float
    ) -> tuple[anyio.abc.ByteStream, str]:
        """Dial our half of a tunnel by the door that opens; gives the bearer, and why it is the other door (or "").

        Raises:
            BearerRefused: The relay said no, with its reason.
            Refused: It is not the relay whose certificate was expected.
            Unreachable: Nobody answers there, or the connection broke before the answer.
            Expired: No answer within `timeout_s`.
            MalformedFrame: What answers is no relay.
        """
        through = ""

        async def connect() -> anyio.abc.ByteStream:
            nonlocal through
            stream, through = await self._connect(host, port, web)
            return stream

        stream = await show_ticket(ticket, connect, f"the relay's bearer port {host}:{port}", timeout_s=timeout_s)
        return stream, through

    async def _connect(self, host: str, port: int, web: WebDoor | None) -> tuple[anyio.abc.ByteStream, str]:
        """Connect to the port, and after a head start to the other door as well; give what connects first."""
        if web is None:
            return await connect_bearer(host, port), ""
        # Imported where it is wanted: TLS and WebSocket take their memory.
        from atoll.transport.websocket_bearer import open_websocket  # noqa: PLC0415

        failures: list[str] = []
        won: list[tuple[anyio.abc.ByteStream, bool]] = []
        plain_failed = anyio.Event()

        async def attempt(connect: Callable[[], Awaitable[anyio.abc.ByteStream]], *, by_web: bool) -> None:
            try:
                with anyio.fail_after(CONNECT_S):
                    stream = await connect()
            except (*_FAILURES, TimeoutError) as error:
                failures.append(f"port {web.port if by_web else port}: {error or 'no answer'}")
                if not by_web:
                    plain_failed.set()
                return
            if won:
                await anyio.aclose_forcefully(stream)
                return
            won.append((stream, by_web))
            tasks.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: attempt(lambda: connect_bearer(host, port), by_web=False))
                if not self.is_closed(host, port):
                    with anyio.move_on_after(HEAD_START_S):
                        await plain_failed.wait()
                tasks.start_soon(lambda: attempt(lambda: open_websocket(host, web.port, web.fingerprint), by_web=True))
        except BaseException:
            for stream, _ in won:
                # It connected, and was given up before anybody got it.
                await anyio.aclose_forcefully(stream)
            raise
        if not won:
            raise Unreachable(f"the relay {host} cannot be reached: {'; '.join(failures)}")
        stream, by_web = won[0]
        self.note(host, port, closed=by_web)
        return stream, why(web, port) if by_web else ""


def why(web: WebDoor, port: int) -> str:
    """Say why a relay is reached by its other door."""
    return f"WebSocket on port {web.port}: port {port} could not be reached"


@asynccontextmanager
async def through_websocket(host: str, web: WebDoor) -> AsyncIterator[tuple[str, int]]:
    """Lend a local address that leads to a relay's SEP port through its other door, for one connection.

    libzmq dials by itself; so it is given a port of this host's loopback, and what it says is carried on. It is CURVE
    under the relay's key, so whoever else comes to that port first gets nothing but in the way.

    Raises:
        Unreachable: The other door does not open either, or no local port does.
        Refused: It is not the relay whose certificate was expected.
        MalformedFrame: What answers is no relay.
    """
    from atoll.transport.websocket_bearer import SEP_PATH, open_websocket  # noqa: PLC0415

    try:
        with anyio.fail_after(CONNECT_S):
            stream = await open_websocket(host, web.port, web.fingerprint, path=SEP_PATH)
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise Unreachable(f"{host}:{web.port} (WebSocket) cannot be reached: {error or 'no answer'}") from error
    try:
        listener, local = await _local_port()
    except BaseException as error:
        await anyio.aclose_forcefully(stream)
        if isinstance(error, OSError):
            raise _no_local_port(host, web, error) from error
        raise
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:

            async def carry() -> None:
                nonlocal failure
                try:
                    near = await listener.accept()
                except anyio.ClosedResourceError:
                    # The block ended before anybody came; on trio, AnyIO says so also where it was cancelled.
                    return
                except OSError as error:
                    # Whoever waits in the block for an answer will get none.
                    failure = _no_local_port(host, web, error)
                    tasks.cancel_scope.cancel()
                    return
                await listener.aclose()
                async with near, anyio.create_task_group() as ways:
                    ways.start_soon(_pass_on, near, stream, ways.cancel_scope)
                    ways.start_soon(_pass_on, stream, near, ways.cancel_scope)

            tasks.start_soon(carry)
            yield local
        except Exception as error:  # noqa: BLE001 - of the block: it is raised below, and not as a group
            failure = error
        finally:
            # Whoever is cancelled would close the first of them only.
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(listener)
                await anyio.aclose_forcefully(stream)
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _local_port() -> tuple[anyio.abc.SocketListener, tuple[str, int]]:
    bound = socket.create_server(("127.0.0.1", 0), backlog=1)
    try:
        host, port = bound.getsockname()
        return await anyio.abc.SocketListener.from_socket(bound), (host, port)
    except BaseException:
        bound.close()
        raise


def _no_local_port(host: str, web: WebDoor, error: OSError) -> Unreachable:
    return Unreachable(
        f"{host}:{web.port} (WebSocket) needs a local port, and none can be used: {error.strerror or error}"
        + ("; raise the limit of open files" if error.errno in EXHAUSTED else "")
    )


async def _pass_on(source: anyio.abc.ByteStream, sink: anyio.abc.ByteStream, both: anyio.CancelScope) -> None:
    """Carry bytes until either end is over; a SEP has no half-open state."""
    try:
        while True:
            await sink.send(await source.receive(LOCAL_PIECE_BYTES))
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        both.cancel()

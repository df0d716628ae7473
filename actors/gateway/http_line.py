"""What stands below HTTP's rules: one client's byte stream, h11's state, the limits, and who is at the other end.

It must never wait without a limit on a client that does not read, and never keep more of its bytes than one read.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import h11
import msgspec
from anyio.abc import SocketStream

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders: TypeAlias = list[tuple[bytes, bytes]]

BODILESS = frozenset({204, 304})
"""Statuses whose replies have no body (RFC 9110, section 6.4.1)."""
READ_BYTES = 64 * 1024
WRITE_BYTES = 256 * 1024
"""A slice of a long body; `write_s` holds for one slice, so a slow reader is judged by progress and not by length."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may cost."""

    connections_max: int = 512
    header_bytes_max: int = 32 * 1024
    headers_max: int = 100
    body_bytes_max: int = 66 * 1024 * 1024
    """The largest image (64 MiB) and its multipart wrapping; routes set lower ones of their own."""
    idle_s: float = 75.0
    """Between two requests."""
    header_s: float = 10.0
    """From the first byte of a request to the end of its header."""
    body_s: float = 30.0
    """Between two pieces of a body that the application waits for."""
    write_s: float = 30.0
    """For the client to take one slice of a reply."""
    drain_s: float = 2.0
    """For requests in flight when the server is told to stop."""
    linger_s: float = 2.0
    """For the client to read an early refusal before its unread bytes make the kernel reset the connection."""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a connection came from, as the server knows it (never from what the client says)."""

    transport: str
    """`unix` or `tcp`."""
    host: str = ""
    port: int = 0
    user_id: int | None = None
    """Of the process at the other end of a unix socket, where the system tells."""


class ClientGone(OSError):
    """The client closed the connection or stopped reading before it had the whole reply (the client's doing)."""


@dataclass(slots=True, eq=False, kw_only=True)
class Line:
    """Bytes in and out of one client's stream, with h11 beside them."""

    stream: SocketStream
    limits: Limits
    peer: Peer
    server: tuple[str, int | None]
    counters: Counter[str]
    last: bool = False
    """The exchange in hand is the last one."""
    broken: bool = False
    """Nothing more can be read or said."""
    h11: Any = field(init=False)
    """h11's connection, from the server's side; `Any` because this field hides the module's name below."""

    def __post_init__(self) -> None:
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self.limits.header_bytes_max)

    async def read(self) -> bool:
        """Feed h11 with what comes next; False at the end of the stream."""
        try:
            data = await self.stream.receive(READ_BYTES)
        except anyio.EndOfStream:
            data = b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            self.broken = True
            return False
        self.h11.receive_data(data)
        return bool(data)

    async def write(self, data: bytes) -> None:
        """Send bytes in slices.

        Raises:
            ClientGone: It is not there any more, or did not take a slice within `write_s`.
        """
        if self.broken:
            raise ClientGone("the client has gone")
        try:
            for start in range(0, len(data), WRITE_BYTES):
                with anyio.fail_after(self.limits.write_s):
                    await self.stream.send(data[start : start + WRITE_BYTES])
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError, TimeoutError) as error:
            self.broken = True
            self.counters["clients_gone"] += 1
            raise ClientGone(f"the client has gone: {error!r}") from error

"""Direct connections between two nodes that a link joins: one listens for the other, once, for a moment.

    listening --a caller shows the ticket--> "OK", its byte pipe       --`within_s` are over--> given up
              --anybody else--> "NO", and the connection closes

What is said first is what is said to a relay (`transport/bearer.py`). The ticket is random, and was given over the
link: so nobody else comes in, and the session's handshake proves the caller besides.
"""

import hmac
import ipaddress
import os

import anyio
import anyio.abc

from atoll.transport.bearer import (
    OK,
    decode_preamble,
    encode_refusal,
    make_bearer_ready,
    preamble_bytes_missing,
    raw_socket_of,
)
from atoll.transport.errors import MalformedFrame, Unreachable

TICKET_BYTES = 16
OFFER_S = 10.0
"""How long a direct connection is waited for."""
OFFERS_MAX = 32
"""Direct connections that are waited for at once; each has a port of its own."""
OFFERS_PER_PEER_MAX = 4
PREAMBLE_S = 2.0
"""How long somebody who has connected may take to show the ticket."""
CALLERS_MAX = 8
"""Who have connected to one port and shown nothing yet."""
_REFUSED = encode_refusal(0, "not the ticket that is waited for")


class DirectOffer:
    """A port on one address of this host that waits for one caller; `ticket` lets it in."""

    def __init__(self, listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> None:
        self.port: int = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        self.ticket = os.urandom(TICKET_BYTES)
        self._listener = listener
        self._callers = 0
        self._found: anyio.abc.SocketStream | None = None
        self._scope = anyio.CancelScope()

    @classmethod
    async def open(cls, host: str) -> "DirectOffer":
        """Listen on an address of this host.

        Raises:
            Unreachable: It is none of its addresses.
        """
        try:
            # The scope of a link-local address is the caller's own name for its network; ours differs.
            local = "::" if host.lower().startswith("fe80:") else str(ipaddress.ip_address(host))
            multi = await anyio.create_tcp_listener(local_host=local, local_port=0)
        except (OSError, ValueError) as error:
            raise Unreachable(f"this node cannot listen on {host}: {error}") from error
        return cls(multi)

    async def wait(self, within_s: float = OFFER_S) -> anyio.abc.SocketStream | None:
        """Give the caller's byte pipe, from its first byte on; None when it did not come in time."""
        async with self._listener:
            with self._scope, anyio.move_on_after(within_s):
                await self._listener.serve(self._greet)
        return self._found

    async def _greet(self, stream: anyio.abc.SocketStream) -> None:
        if self._callers >= CALLERS_MAX or self._found is not None:
            await anyio.aclose_forcefully(stream)
            return
        self._callers += 1
        genuine = False
        try:
            with anyio.move_on_after(PREAMBLE_S):
                data = b""
                while missing := preamble_bytes_missing(data):
                    data += await stream.receive(missing)
                genuine = hmac.compare_digest(decode_preamble(data), self.ticket) and self._found is None
                if genuine:
                    self._found = stream
                    make_bearer_ready(raw_socket_of(stream))
                await stream.send(OK if genuine else _REFUSED)
        except (OSError, MalformedFrame, anyio.EndOfStream, anyio.BrokenResourceError):
            genuine = genuine and self._found is stream
        finally:
            self._callers -= 1
            if not genuine:
                await anyio.aclose_forcefully(stream)
        if genuine:
            self._scope.cancel()

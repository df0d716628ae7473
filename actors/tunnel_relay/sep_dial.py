"""Dials a relay's SEP, by its own port or, where no connection comes to be, by its other door.

The ticket may be on one connection only, so the two are not tried side by side: the port is given `SEP_CONNECT_S` for
its TCP connection, once; where that was not enough the other door is tried first for a while (`Doors`).
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from atoll.actors.tunnel_relay.doors import Doors, through_websocket, why
from atoll.actors.tunnel_relay.relay_address import WebDoor
from atoll.actors.tunnel_relay.sep_client import FreshKey, NoConnection, SepClient
from atoll.transport.errors import Unreachable
from atoll.transport.identity import NodeId

SEP_CONNECT_S = 1.5
"""For TCP's handshake, with one lost SYN."""


class SepAddress(msgspec.Struct, frozen=True):
    """A relay's SEP, and what is shown there."""

    host: str
    port: int
    relay: NodeId
    ticket: bytes
    web: WebDoor | None = None


@asynccontextmanager
async def open_sep(at: SepAddress, key: FreshKey, doors: Doors) -> AsyncIterator[tuple[SepClient, str]]:
    """Hold a connection to a relay's SEP for the time of the block; says why it goes by the other door, or "".

    Raises:
        SepRefused, Expired, Unreachable: As `SepClient`; of the other door, where that was tried last.
        Refused, MalformedFrame: As `through_websocket`.
    """
    async with AsyncExitStack() as stack:
        if at.web is None:
            yield await stack.enter_async_context(SepClient(at.host, at.port, at.relay, at.ticket, key)), ""
            return
        client: SepClient | None = None
        missing = "it could not be reached a while ago"
        if not doors.is_closed(at.host, at.port):
            try:
                client = await stack.enter_async_context(
                    SepClient(at.host, at.port, at.relay, at.ticket, key, connect_s=SEP_CONNECT_S)
                )
            except NoConnection as error:
                missing = str(error)
        if client is not None:
            yield client, ""
            return
        try:
            host, port = await stack.enter_async_context(through_websocket(at.host, at.web))
            client = await stack.enter_async_context(SepClient(host, port, at.relay, at.ticket, key))
        except Unreachable as error:
            doors.note(at.host, at.port, closed=False)
            raise Unreachable(f"{error}; and by its own port: {missing}") from error
        doors.note(at.host, at.port, closed=True)
        yield client, why(at.web, at.port)

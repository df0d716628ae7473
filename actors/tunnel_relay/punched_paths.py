"""Connections through NAT as paths of a session: what the Router asks for, and what a peer's TunnelRelay asks."""

import logging
from collections.abc import Awaitable, Callable
from socket import socket

import anyio.abc

from atoll.actors.cloud.messages import SIGNALING, TunnelRequest, TunnelsGranted
from atoll.actors.router.paths import OpenPunched
from atoll.actors.router.routes import Way
from atoll.actors.runtime.actor import ReplyTo
from atoll.actors.runtime.errors import AskDeclined, AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.tunnel_relay.bearer_ends import BearerEnds
from atoll.actors.tunnel_relay.dialling_means import DiallingMeans
from atoll.actors.tunnel_relay.messages import PATH, PunchAgreed, PunchRequest
from atoll.actors.tunnel_relay.puncher import ASKED_RELAYS, Puncher
from atoll.actors.uplink.ask import ask_cloud
from atoll.transport.bearer import make_bearer_ready
from atoll.transport.errors import PeerError, Unreachable, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.tunnel_relay")

PUNCHED = "punched"
"""What stands in place of a relay's name."""
AGREED_S = 6.0
"""For the peer's answer: relays tell it what they see first."""


class PunchedPaths:
    """The attempts of one TunnelRelay; what comes of them is held as bearers are."""

    def __init__(self, means: DiallingMeans, puncher: Puncher, bearers: BearerEnds) -> None:
        self._means, self._puncher, self._bearers = means, puncher, bearers

    async def open(self, order: OpenPunched, reply_to: ReplyTo, deadline: float | None) -> None:
        """Do what the Router asks for: answer with a path, and live it; or decline with the reason."""
        peer = order.peer
        try:
            self._bearers.make_sure_of_room()
            await self._know_relays()
            stream = await _as_stream(await self._puncher.initiate(peer, self._asking(peer)))
        except (AskFailed, PeerError, WorldError) as error:
            reply_to.fail(AskDeclined(str(error)))
            return
        if self._means.late(deadline):
            await anyio.aclose_forcefully(stream)
            return
        path = self._bearers.path(PUNCHED, stream, peer, Way.PUNCHED)
        reply_to.answer(path)
        await self._bearers.hold(path)

    async def answer(self, peer: NodeId, request: PunchRequest, reply_to: ReplyTo) -> None:
        """Take part in an attempt of a peer, and live the path that comes of it."""
        try:
            self._bearers.make_sure_of_room()
            await self._know_relays()
            stream = await _as_stream(await self._puncher.respond(peer, request, reply_to.answer))
        except (AskFailed, PeerError, WorldError) as error:
            # Once it is answered, the peer knocks by itself and sees what comes of it.
            reply_to.fail(AskDeclined(str(error)))
            return
        await self._bearers.hold(self._bearers.path(PUNCHED, stream, peer, Way.PUNCHED))

    def _asking(self, peer: NodeId) -> Callable[[PunchRequest], Awaitable[PunchAgreed]]:
        async def ask(request: PunchRequest) -> PunchAgreed:
            agreed: PunchAgreed = await self._means.system.ask(
                Address(peer, PATH), request, timeout_s=AGREED_S, reply_type=PunchAgreed
            )
            return agreed

        return ask

    async def _know_relays(self) -> None:
        """Have Signaling name relays, where we have dialled fewer than are to be asked what they see."""
        if self._puncher.relays_known >= ASKED_RELAYS:
            return
        try:
            granted = await ask_cloud(self._means.system, SIGNALING, TunnelRequest(ASKED_RELAYS), TunnelsGranted)
        except AskFailed as error:
            # Those we know may do.
            log.debug("no more relays to be asked what they see: %s", error)
            return
        for pair in granted.pairs:
            self._puncher.note_relay(pair.host, pair.bearer_port)


async def _as_stream(sock: socket) -> anyio.abc.SocketStream:
    try:
        make_bearer_ready(sock)
        return await anyio.abc.SocketStream.from_socket(sock)
    except OSError as error:
        sock.close()
        raise Unreachable(f"the punched connection broke at once: {error}") from error

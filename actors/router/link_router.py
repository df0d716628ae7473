"""A Router that knows one link, to its cloud: all that a relay needs of one, which should be small.

    Reach(cloud) --a link comes within `LINK_WAIT_S`--> answered      --none--> declined, with the reason

It has no sessions, so nothing of them has to be in memory.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import anyio
import anyio.abc

from atoll.actors.router.cloud_address import LINK_WAIT_S, CloudAddress
from atoll.actors.router.messages import LetGo, PeerDown, PeerUp, Reach
from atoll.actors.router.routes import Route, Way
from atoll.actors.runtime.actor import LATER, Actor, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskDeclined
from atoll.transport.base import Delivered, DialFailed, LinkDown, LinkUp, Standing, Transport
from atoll.transport.envelope import Envelope, decode_envelope
from atoll.transport.errors import MalformedFrame, Unreachable
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.router")


class LinkRouter(Actor):
    """Reaches the cloud, and nobody else."""

    open_to: ClassVar[frozenset[Standing]] = frozenset()

    def __init__(self, transport: Callable[[], AbstractAsyncContextManager[Transport]], cloud: CloudAddress) -> None:
        """Take what makes links, and where the cloud is."""
        self._make_transport, self._cloud = transport, cloud
        self._transport: Transport
        self._links: dict[NodeId, Standing] = {}
        self._why_not = ""
        self._changed = anyio.Event()

    async def started(self) -> None:
        """Open the links' socket and become the system's outlet.

        Raises:
            UsageError: The port is taken; the text says what to do.
        """
        await self.tasks.start(self._hold_transport)
        self.system.outlet = self.send

    async def stopped(self) -> None:
        """Say that the link is gone: others believe in it."""
        self.system.outlet = None
        for peer in tuple(self._links):
            self._down(peer, "this relay's Router ended")

    async def _hold_transport(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with self._make_transport() as transport:
            self._transport = transport
            task_status.started()
            while True:
                self._on_event(await transport.receive())

    def send(self, envelope: Envelope) -> None:
        """Put an envelope on the link; the system's outlet.

        Raises:
            Unreachable: There is none.
            Congested: The link is full.
        """
        target = envelope.header.target_node
        if target not in self._links:
            raise Unreachable(f"{target.short} cannot be reached: no link")
        self._transport.send_envelope(target, envelope)

    def _on_event(self, event: LinkUp | LinkDown | DialFailed | Delivered) -> None:
        match event:
            case Delivered(peer, data):
                self._deliver(peer, data)
            case LinkUp(peer, standing, label, host):
                self._links[peer] = standing
                self.system.announce(PeerUp(peer, standing, label, host))
                self._wake()
            case LinkDown(peer, reason):
                self._down(peer, reason)
            case DialFailed(_, reason):
                self._why_not = reason
                self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _down(self, peer: NodeId, reason: str) -> None:
        if self._links.pop(peer, None) is not None:
            self.system.announce(PeerDown(peer, reason))
            self.system.way_lost(peer, f"the link to {peer.short} went down: {reason}")

    def _deliver(self, peer: NodeId, data: bytes) -> None:
        standing = self._links.get(peer)
        if standing is None:
            return
        try:
            envelope = decode_envelope(data)
        except MalformedFrame as error:
            log.debug("%s sent no envelope: %s", peer.short, error)
            return
        if envelope.header.source_node == peer:
            self.system.deliver(envelope, standing)

    async def receive(self, delivery: Delivery) -> Any:
        """Take orders of this process."""
        match delivery.message:
            case Reach(peer) if delivery.standing is None and delivery.reply_to is not None:
                self.tasks.start_soon(self._reach, peer, delivery.reply_to)
            case LetGo(peer, reason) if delivery.standing is None:
                self._transport.hang_up(peer, reason)
                self._down(peer, reason)
            case _:
                return await super().receive(delivery)
        return LATER

    async def _reach(self, peer: NodeId, reply_to: ReplyTo) -> None:
        cloud = self._cloud
        if peer != cloud.node:
            reply_to.fail(AskDeclined(f"a relay reaches its cloud only, and {peer.short} is not"))
            return
        if peer not in self._links:
            self._why_not = f"no link within {LINK_WAIT_S:g} s"
            self._transport.dial(peer, cloud.host, cloud.port)
            with anyio.move_on_after(LINK_WAIT_S):
                await self._changed.wait()
        if peer in self._links:
            reply_to.answer(Route(Way.DIRECT, "an authenticated link is up"))
        else:
            reply_to.fail(AskDeclined(f"the cloud at {cloud.host}:{cloud.port} cannot be reached: {self._why_not}"))

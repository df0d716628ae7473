"""The Router of a node: how every other node is reached, and the only door to them.

    envelope out --> a link? --> it
                     a session over a bearer? over SEP? --> sealed, over its path
                     none --> Unreachable, with the reason; `Reach` opens a way first
    link, path in --> envelope, its source checked against the proved peer --> the system, with the peer's standing

It decides nothing about ways (`routes.py`), seals nothing (`conversations.py`), and dials no relay (TunnelRelay). After
the first call that was answered over SEP a bearer is opened (`bearers.py`), and the route changes to it. When a way is
lost, what waits for an answer is sent again over the next, or fails at once with the reason.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import anyio.abc

from atoll.actors.cloud.messages import GRANT_AUDIENCE
from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import DialWanted, LinkComing, LinkWanted
from atoll.actors.router.bearers import Bearers
from atoll.actors.router.circuits import CircuitsThere
from atoll.actors.router.conversations import Conversation, Conversations, Ended, Moved, Opened, Said, Turn
from atoll.actors.router.messages import (
    DescribeRoutes,
    LetGo,
    LinkSeen,
    PeerDown,
    PeerRoute,
    PeerUp,
    Reach,
    RoutesDescribed,
    SepDelivery,
)
from atoll.actors.router.paths import OpenSep, Path, PathFound, PathLost, RecordsArrived, SepPaths
from atoll.actors.router.routes import Route, RouteTable, Way
from atoll.actors.runtime.actor import LATER, Actor, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskDeclined, AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.tunnel_relay.messages import PATH as TUNNEL_RELAY
from atoll.actors.uplink.messages import PATH as UPLINK
from atoll.actors.uplink.messages import GrantWanted
from atoll.transport.base import Delivered, DialFailed, LinkDown, LinkUp, Standing, Transport
from atoll.transport.envelope import Envelope, Kind, decode_envelope, encode_envelope
from atoll.transport.errors import MalformedFrame, PeerError, Refused, Unreachable, WorldError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.network_watch import NetworkChanged
from atoll.transport.tokens import check_grant

log = logging.getLogger("atoll.router")

TICK_S = 0.25
"""How often sessions are looked after while there are any; their shortest deadline is a second."""
REACH_S = 15.0
"""Directory, relay and handshake take three round trips; a relay that does not answer takes ten seconds."""
REACHES_MAX = 256
"""Ways that are being opened at once."""
NEAR_S = 1.5
"""For a link on the local network; a dial of an address that is there takes a tenth of it."""
LINK_WAIT_S = 6.0
"""For a link to the cloud, its DNS and its handshake."""


@dataclass(frozen=True, slots=True)
class CloudAddress:
    """The cloud that is pinned here, and where it is."""

    node: NodeId
    host: str
    port: int


class Router(Actor):
    """Reaches other nodes; see the module."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(
        self,
        key: NodeKey,
        transport: Callable[[], AbstractAsyncContextManager[Transport]],
        cloud: CloudAddress | None = None,
    ) -> None:
        self._key = key
        self._make_transport = transport
        self._transport: Transport
        self._cloud = cloud
        self.routes = RouteTable(key.node_id)
        self._links: dict[NodeId, LinkSeen] = {}
        self._conversations = Conversations(key, self._judge, self._on_turn)
        self._circuits = CircuitsThere()
        self._bearers: Bearers
        self._reaching: dict[NodeId, list[ReplyTo]] = {}
        self._interrupted: dict[NodeId, str] = {}
        """Peers to which a way is looked for because the last one was lost, and why; what they owe us waits for it."""
        self._waiting: dict[object, anyio.Event] = {}
        self._grown = anyio.Event()
        self._cloud_failure = ""
        """Why the cloud could not be dialled last."""
        self._counts: Counter[str] = Counter()

    # Life

    async def started(self) -> None:
        """Open the links' socket and become the system's outlet.

        Raises:
            UsageError: The port is taken; the text says what to do.
        """
        self.system.subscribe(DialWanted, self.ref)
        self.system.subscribe(LetGo, self.ref)
        self.system.subscribe(NetworkChanged, self.ref)
        self._bearers = Bearers(self.system, self.routes, self.tasks.start_soon, self._converse)
        await self.tasks.start(self._hold_transport)
        self.tasks.start_soon(self._keep_time)
        self.system.outlet = self.send

    async def stopped(self) -> None:
        """Say goodbye to all sessions, and that the links are gone: others believe in them."""
        self.system.outlet = None
        now = self.system.clock()
        for peer in tuple(self._links):
            self.system.announce(PeerDown(peer, "this node's Router ended"))
            self.system.way_lost(peer, "this node's Router ended")
        for conversation in self._conversations.all():
            self._conversations.end(conversation, "this node stops", now)
        for peer in tuple(self._interrupted):
            self._resume(peer)

    async def _hold_transport(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with self._make_transport() as transport:
            self._transport = transport
            task_status.started()
            while True:
                self._on_link_event(await transport.receive())

    async def _keep_time(self) -> None:
        while True:
            if not len(self._conversations):
                self._grown = anyio.Event()
                await self._grown.wait()
            await anyio.sleep(TICK_S)
            self._conversations.tick(self.system.clock())

    # Out

    def send(self, envelope: Envelope) -> None:
        """Put an envelope on the best way there is; the system's outlet.

        Raises:
            Unreachable: There is none; the text is the route's reason.
            Congested: The way is full.
        """
        target = envelope.header.target_node
        if target in self._links:
            self._transport.send(target, encode_envelope(envelope))
            return
        route = self.routes.route(target, self.system.clock())
        conversation = self._conversations.with_peer(target) if route.way in (Way.BEP, Way.SEP) else None
        if conversation is None:
            raise Unreachable(f"{target.short} cannot be reached: {route.reason}")
        self._conversations.send(conversation, encode_envelope(envelope))

    # Links

    def _on_link_event(self, event: LinkUp | LinkDown | DialFailed | Delivered) -> None:
        match event:
            case Delivered(peer, data):
                link = self._links.get(peer)
                if link is not None:
                    self._take_envelope(peer, link.standing, data)
            case LinkUp(peer, standing, label, host):
                self._links[peer] = LinkSeen(peer, standing, label, host, self.system.clock())
                self.routes.link_up(peer, standing)
                self._wake(peer)
                self.system.announce(PeerUp(peer, standing, label, host))
            case LinkDown(peer, reason):
                self._link_down(peer, reason)
            case DialFailed(peer, reason):
                self._counts["dials_failed"] += 1
                if peer not in self._links:
                    self.routes.link_down(peer, reason)
                if self._cloud is not None and peer == self._cloud.node:
                    self._cloud_failure = reason
                self._wake(peer)
                self.system.announce(event)

    def _link_down(self, peer: NodeId, reason: str) -> None:
        if self._links.pop(peer, None) is None:
            return
        self.routes.link_down(peer, reason)
        for circuit in self._circuits.drop(peer):
            self._conversations.path_lost(circuit, f"the link to this site's proxy went down: {reason}")
        self.system.announce(PeerDown(peer, reason))
        self.system.way_lost(peer, f"the link to {peer.short} went down: {reason}")

    def _let_go(self, peer: NodeId, reason: str) -> None:
        """Hang up, at once for everybody here: who asks for a way from now on gets a new link."""
        self._transport.hang_up(peer, reason)
        self._link_down(peer, reason)

    def _take_envelope(self, peer: NodeId, standing: Standing, data: bytes) -> Envelope | None:
        """Check that the peer speaks for itself, and deliver."""
        try:
            envelope = decode_envelope(data)
        except MalformedFrame as error:
            self._counts["malformed"] += 1
            log.debug("%s sent no envelope: %s", peer.short, error)
            return None
        if envelope.header.source_node != peer:
            self._counts["misattributed"] += 1
            return None
        self.system.deliver(envelope, standing)
        return envelope

    # Messages of this node and of Routers

    async def receive(self, delivery: Delivery) -> Any:  # noqa: C901, PLR0912 - one case a message
        """Take facts, records and orders."""
        match delivery.message:
            case RecordsArrived(path, records):
                now = self.system.clock()
                for record in records:
                    self._conversations.take(path, record, now)
                self._grown.set()
            case SepDelivery() as message if delivery.sender is not None:
                self._take_sep_delivery(delivery.sender.address.node, message)
            case PathLost(path, reason):
                self._conversations.path_lost(path, reason)
                return None
            case PathFound(beside, path):
                if not self._conversations.path_found(beside, path):
                    path.close()
            case LetGo(peer, reason) if delivery.standing is None:
                self._let_go(peer, reason)
            case DialWanted(peer, host, port):
                self._transport.dial(peer, host, port)
            case NetworkChanged(gone=gone) if gone:
                # TCP would notice after seconds of silence; the peer is dialled again from an address that is there.
                for peer in self._transport.links_over(gone):
                    self._counts["links_left_behind"] += 1
                    self._let_go(peer, "this host has lost the address that the link ended at")
            case NetworkChanged():
                return None
            case Reach(peer) if delivery.standing is None and delivery.reply_to is not None:
                self._begin_to_reach(peer, delivery.reply_to)
            case DescribeRoutes() if delivery.standing is None:
                return self._described()
            case _:
                return await super().receive(delivery)
        return LATER

    def _take_sep_delivery(self, proxy: NodeId, message: SepDelivery) -> None:
        path = self._circuits.of(proxy, message, self.system.tell)
        self._conversations.take(path, message.record, self.system.clock())
        self._grown.set()

    def _described(self) -> RoutesDescribed:
        now = self.system.clock()
        routes = []
        for peer in self.routes.peers():
            conversation = self._conversations.with_peer(peer)
            round_trip_s = None if conversation is None else conversation.round_trip_s
            routes.append(PeerRoute(peer, self.routes.route(peer, now), round_trip_s))
        counters = {
            **{f"links_{name}": value for name, value in self._transport.statistics().items()},
            **{f"sessions_{name}": value for name, value in self._conversations.counts.items()},
            "sessions": len(self._conversations),
            **self._counts,
        }
        return RoutesDescribed(tuple(self._links.values()), tuple(routes), counters)

    # Opening ways

    def _begin_to_reach(self, peer: NodeId, *waiting: ReplyTo) -> None:
        route = self._standing_route(peer)
        if route is None and peer not in self._reaching and len(self._reaching) < REACHES_MAX:
            self._reaching[peer] = []
            self.tasks.start_soon(self._reach, peer)
        if route is None and peer in self._reaching:
            self._reaching[peer] += waiting
            return
        for reply_to in waiting:
            if route is not None:
                reply_to.answer(route)
            else:
                reply_to.fail(AskDeclined(f"{REACHES_MAX} ways are being opened already; try again in a moment"))
        self._resume(peer)

    def _standing_route(self, peer: NodeId) -> Route | None:
        """Give the route to a peer if something that stands already carries it."""
        route = self.routes.route(peer, self.system.clock())
        if route.way in (Way.HERE, Way.DIRECT):
            return route
        return route if route.way is not Way.NONE and self._talks_with(peer) else None

    async def _reach(self, peer: NodeId) -> None:
        answer: Route | AskFailed
        try:
            with anyio.fail_after(REACH_S):
                if self._cloud is not None and peer == self._cloud.node:
                    await self._dial_cloud(self._cloud)
                elif not await self._linked_nearby(peer):
                    await self._open_sep(peer)
            answer = self.routes.route(peer, self.system.clock())
        except TimeoutError:
            answer = AskDeclined(f"{peer.short} could not be reached within {REACH_S:g} s")
        except (AskFailed, WorldError, PeerError) as error:
            answer = AskDeclined(str(error))
        finally:
            waiting = self._reaching.pop(peer, [])
        self._resume(peer)
        for reply_to in waiting:
            if isinstance(answer, Route):
                reply_to.answer(answer)
            else:
                reply_to.fail(answer)

    async def _linked_nearby(self, peer: NodeId) -> bool:
        """Have a link made to a member that a large site gave us none to; tell whether it is there."""
        try:
            asked: LinkComing = await self._ask_here(DISCOVERER, LinkWanted(peer), NEAR_S)
        except AskFailed:
            return False  # There is no Discoverer, or it begins anew.
        if asked.coming and peer not in self._links:
            await self._wait(peer, NEAR_S)
        return peer in self._links

    async def _dial_cloud(self, cloud: CloudAddress) -> None:
        if not cloud.host:
            raise Unreachable("the config names no address of the cloud: set cloud.host")
        self._cloud_failure = f"no link within {LINK_WAIT_S:g} s"
        self._transport.dial(cloud.node, cloud.host, cloud.port)
        await self._wait(cloud.node, LINK_WAIT_S)
        if cloud.node not in self._links:
            raise Unreachable(f"the cloud at {cloud.host}:{cloud.port} cannot be reached: {self._cloud_failure}")

    async def _open_sep(self, peer: NodeId) -> None:
        """Open a session with `peer` over the relays that its site is registered on."""
        opened: SepPaths = await self._ask_here(TUNNEL_RELAY, OpenSep(peer), REACH_S)
        for path in opened.paths:
            self.routes.signaling_found(peer, path.relay, opened.expires_at)
        await self._converse(peer, opened.paths)

    async def _converse(self, peer: NodeId, paths: tuple[Path, ...]) -> Conversation:
        """Dial a session over paths that are ours now, and wait until it is established.

        Raises:
            AskFailed: There is no grant to show.
            Unreachable: It came to nothing; the text says why.
        """
        try:
            grant: bytes = await self._ask_here(UPLINK, GrantWanted(), REACH_S)
        except BaseException:
            for path in paths:
                path.close()
            raise
        conversation = self._conversations.dial(peer, paths, grant, self.system.clock())
        self._grown.set()
        if not conversation.established and not conversation.ended:
            await self._wait(conversation, REACH_S)
        if not conversation.established:
            raise Unreachable(f"no session with {peer.short}: {conversation.ended or 'it gave no answer'}")
        return conversation

    async def _ask_here(self, path: str, message: Any, timeout_s: float) -> Any:
        return await self.system.ask(Address(self._key.node_id, path), message, timeout_s=timeout_s)

    async def _wait(self, subject: object, timeout_s: float) -> None:
        """Wait until `_wake` is called for the subject, or the time is over."""
        event = self._waiting.setdefault(subject, anyio.Event())
        with anyio.move_on_after(timeout_s):
            await event.wait()
        self._waiting.pop(subject, None)

    def _wake(self, subject: object) -> None:
        event = self._waiting.pop(subject, None)
        if event is not None:
            event.set()

    # Sessions

    def _on_turn(self, turn: Turn) -> None:
        conversation, peer = turn.conversation, turn.conversation.peer
        match turn:
            case Said(data=data) if peer is not None:
                envelope = self._take_envelope(peer, conversation.standing, data)
                answered = envelope is not None and envelope.header.kind in (Kind.REPLY, Kind.FAULT)
                if answered and conversation.way is Way.SEP and conversation.dialled:
                    self._bearers.called_by_signaling(peer)
            case Opened() if peer is not None:
                if conversation.way is Way.BEP:
                    self.routes.bearer_open(peer, conversation.relay)
                elif not conversation.dialled:
                    self.routes.called_us(peer, conversation.relay)
                self._resume(peer)
            case Moved(reason=reason) if peer is not None:
                self.system.way_lost(peer, f"the path to {peer.short} was lost: {reason}")
            case Ended():
                self._on_ended(conversation, peer, turn)
        self._wake(conversation)

    def _on_ended(self, conversation: Conversation, peer: NodeId | None, turn: Ended) -> None:
        reason = turn.reason
        log.info("the session with %s over %s ended: %s", peer.short if peer else "?", conversation.relay, reason)
        if peer is None:
            return
        others = [
            each
            for each in self._conversations.all()
            if each.peer == peer and each.way is conversation.way and each.dialled == conversation.dialled
        ]
        if conversation.way is Way.BEP:
            if self._conversations.with_peer(peer, Way.BEP) is None:
                self.routes.bearer_lost(peer, reason, self.system.clock())
            if conversation.dialled and not others:
                self._bearers.ended(peer, lost=turn.lost)
        elif conversation.dialled and not others:
            self.routes.signaling_over(peer)
        elif not others:
            self.routes.caller_gone(peer)
        talks = self._talks_with(peer)
        if conversation.round_trip_s is None and talks:
            return
        self._interrupted[peer] = f"the session with {peer.short} ended: {reason}"
        if turn.lost and conversation.dialled and not talks and self.system.awaits(peer):
            # Nobody wanted it to end: what waits for an answer waits for the next way instead of failing.
            self._begin_to_reach(peer)
        else:
            self._resume(peer)

    def _resume(self, peer: NodeId) -> None:
        """Send what was interrupted again, or fail it where no way was found."""
        reason = self._interrupted.pop(peer, None)
        if reason is not None:
            self.system.way_lost(peer, reason)

    def _talks_with(self, peer: NodeId) -> bool:
        conversation = self._conversations.with_peer(peer)
        return conversation is not None and conversation.established

    def _judge(self, peer: NodeId, grant: bytes) -> Standing:
        """Decide about a node that opens a session with us."""
        if self._cloud is None:
            raise Refused("this node trusts no cloud, so no grant means anything to it")
        check_grant(grant, issuer=self._cloud.node, bearer=peer, audience=GRANT_AUDIENCE, now=time.time())
        return Standing.GRANTED

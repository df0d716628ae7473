"""The Router of a node: how every other node is reached, and the only door to them.

    envelope out --> a link? --> it
                     a session over a bearer? over SEP? --> sealed, over its path
                     none --> Unreachable, with the reason; `Reach` opens a way first, and so does an ask of a peer
                              that a session led to before
    link, path in --> envelope, its source checked against the proved peer --> the system, with the peer's standing

It decides nothing about ways (`routes.py`), seals nothing (`conversations.py`), and dials no relay (TunnelRelay). Where
there is much to carry over SEP (`demand.py`) a bearer is opened (`bearers.py`), and the session changes to it. When a
way is lost, what waits for an answer is sent again over the next, or fails at once with the reason
(`session_turns.py`). Byte streams (`streams.py`) go over sessions always; for one with a peer nearby a direct
connection is opened, and to one behind relays punching through NAT is tried (`punches.py`).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

import anyio
import anyio.abc
import msgspec

from atoll.actors.cloud.messages import GRANT_AUDIENCE
from atoll.actors.discoverer.messages import DialWanted
from atoll.actors.router.bearers import Bearers, BearersSeen
from atoll.actors.router.circuits import CircuitsThere
from atoll.actors.router.cloud_address import CloudAddress
from atoll.actors.router.conversation import Conversation, Said, StreamTurn, Turn
from atoll.actors.router.conversations import Conversations
from atoll.actors.router.demand import Demand, Thresholds
from atoll.actors.router.lifetimes import Renew
from atoll.actors.router.messages import (
    DescribeRoutes,
    EndSessions,
    LetGo,
    LinkSeen,
    OpenStream,
    PathSeen,
    PeerDown,
    PeerRoute,
    PeerUp,
    Reach,
    RoutesDescribed,
    SepDelivery,
    ServeStreams,
)
from atoll.actors.router.paths import (
    Path,
    PathDrained,
    PathFound,
    PathLost,
    PathRenewed,
    RecordsArrived,
    RelayGoing,
)
from atoll.actors.router.punches import Punches
from atoll.actors.router.routes import RouteTable, Way
from atoll.actors.router.session_turns import SessionTurns
from atoll.actors.router.streams import Services, Streams
from atoll.actors.router.upkeep import Upkeep
from atoll.actors.router.ways import Means, Ways
from atoll.actors.runtime.actor import LATER, Actor, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskCongested, AskDeclined, AskFailed, AskNotUnderstood
from atoll.transport.base import Delivered, DialFailed, LinkDown, LinkUp, Standing, Transport
from atoll.transport.envelope import Envelope, Kind, decode_envelope, encode_envelope
from atoll.transport.errors import (
    Congested,
    MalformedFrame,
    Refused,
    TransportError,
    Unreachable,
    UsageError,
)
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.naps import nap_s
from atoll.transport.network_watch import NetworkChanged

log = logging.getLogger("atoll.router")

TICK_S = 0.25
"""How often sessions are looked after while there are any; sooner where one has a deadline before."""
TICK_S_MIN = 0.01
"""And not more often than that."""


class Router(Actor):
    """Reaches other nodes; see the module."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(
        self,
        key: NodeKey,
        transport: Callable[[], AbstractAsyncContextManager[Transport]],
        cloud: CloudAddress | None = None,
        services: Services | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        """Take the key, what makes links, the cloud, and who serves streams: it outlives a Router that crashes."""
        self._key = key
        self._make_transport = transport
        self._transport: Transport
        self._cloud = cloud
        thresholds = thresholds or Thresholds()
        self.routes = RouteTable(key.node_id, bearer_retry_s=thresholds.retry_s)
        self._links: dict[NodeId, LinkSeen] = {}
        self._conversations = Conversations(key, self._judge, self._on_turn)
        self._upkeep: Upkeep
        self._demand = Demand(thresholds)
        self._circuits = CircuitsThere()
        self._bearers: Bearers
        self._punches: Punches
        self._services = services or Services()
        self._streams: Streams
        self._look_at = 0.0
        """When sessions are looked after next."""
        self._sooner = anyio.Event()
        self._ways: Ways
        self._turns: SessionTurns
        self._grown = anyio.Event()
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
        self._upkeep = Upkeep(self._conversations, self.system.clock, self._renew, self._needless_for)
        means = Means(
            self._links,
            self._conversations,
            self.routes,
            self._dial,
            self.tasks.start_soon,
            self._note_deadline,
            self._upkeep.is_fresh,
        )
        self._ways = Ways(self.system, self._cloud, means)
        self._bearers = Bearers(
            self.system,
            self.routes,
            self.tasks.start_soon,
            self._ways.use_paths,
            BearersSeen(
                self._conversations.has_streams, self._upkeep.relays_to, self._upkeep.avoided, self._upkeep.ends
            ),
        )
        self._punches = Punches(
            self.system,
            self.tasks.start_soon,
            self._ways.use_paths,
            over_bearer=self._conversations.goes_over_bearer,
            has_streams=self._conversations.has_streams,
        )
        self._streams = Streams(self.system, self._conversations, self._services, self._note_deadline)
        self._turns = SessionTurns(
            system=self.system,
            links=self._links,
            routes=self.routes,
            conversations=self._conversations,
            streams=self._streams,
            upkeep=self._upkeep,
            ways=self._ways,
            bearers=self._bearers,
            punches=self._punches,
        )
        self.tasks.start_soon(self._streams.reset_untaken)
        await self.tasks.start(self._hold_transport)
        self.tasks.start_soon(self._keep_time)
        self.system.outlet, self.system.reopen = self.send, self._ways.reopen

    async def stopped(self) -> None:
        """Say goodbye to all sessions, and that the links are gone: others believe in them."""
        self.system.outlet = self.system.reopen = None
        for peer in tuple(self._links):
            self.system.announce(PeerDown(peer, "this node's Router ended"))
            self.system.way_lost(peer, "this node's Router ended")
        self._conversations.end_all("this node stops", self.system.clock())
        self._streams.end_all("this node stops")
        self._ways.resume_all()

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
            now = self.system.clock()
            deadline = self._conversations.deadline
            self._look_at = now + TICK_S if deadline is None else min(now + TICK_S, max(now + TICK_S_MIN, deadline))
            self._sooner = anyio.Event()
            with anyio.move_on_after(nap_s(self._look_at - now)):
                await self._sooner.wait()
            self._conversations.tick(self.system.clock())
            self._upkeep.look()

    def _note_deadline(self, conversation: Conversation) -> None:
        """Look after a session sooner, if it has a deadline before the next look."""
        self._grown.set()
        deadline = conversation.session.deadline
        if deadline is not None and deadline < self._look_at - TICK_S_MIN:
            self._look_at = deadline
            self._sooner.set()

    # Out

    def _dial(self, peer: NodeId, host: str, port: int) -> None:
        self._transport.dial(peer, host, port)

    def send(self, envelope: Envelope) -> None:
        """Put an envelope on the best way there is; the system's outlet.

        Raises:
            Unreachable: There is none; the text is the route's reason.
            Congested: The way is full.
        """
        target = envelope.header.target_node
        if target in self._links:
            self._transport.send_envelope(target, envelope)
            return
        route = self.routes.route(target, self.system.clock())
        conversation = self._conversations.with_peer(target) if route.way in (Way.PUNCHED, Way.BEP, Way.SEP) else None
        if conversation is None:
            raise Unreachable(f"{target.short} cannot be reached: {route.reason}")
        now = self.system.clock()
        served = conversation.way is Way.SEP and not conversation.dialled
        if served and envelope.header.kind is Kind.REPLY and self._demand.of_all(now):
            envelope = Envelope(msgspec.structs.replace(envelope.header, offers_bearer=True), envelope.body)
        data = encode_envelope(envelope)
        self._demand.carried(target, 0, len(data), now)
        if served:
            self._demand.served(0, len(data), now)
        self._conversations.send(conversation, data, now)

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
                self._ways.wake(peer)
                self.system.announce(PeerUp(peer, standing, label, host))
            case LinkDown(peer, reason):
                self._link_down(peer, reason)
            case DialFailed(peer, reason):
                self._counts["dials_failed"] += 1
                if peer not in self._links:
                    self.routes.link_down(peer, reason)
                self._ways.dial_failed(peer, reason)
                self.system.announce(event)

    def _link_down(self, peer: NodeId, reason: str) -> None:
        if self._links.pop(peer, None) is None:
            return
        self.routes.link_down(peer, reason)
        for circuit in self._circuits.drop(peer):
            gone = f"the link to this site's proxy went down: {reason}"
            self._conversations.path_lost(circuit, gone, self.system.clock())
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

    async def receive(self, delivery: Delivery) -> Any:  # noqa: C901, PLR0911, PLR0912 - one case a message
        """Take facts, records and orders."""
        match delivery.message:
            case RecordsArrived(path, records):
                now = self.system.clock()
                for record in records:
                    self._conversations.take(path, record, now)
                self._grown.set()
            case SepDelivery() as message if delivery.sender is not None:
                self._take_sep_delivery(delivery.sender.address.node, message)
            case PathDrained(path):
                self._conversations.drained(path, self.system.clock())
            case PathLost(path, reason):
                self._conversations.path_lost(path, reason, self.system.clock())
                return None
            case PathRenewed(path, expires_at):
                self._path_renewed(path, expires_at)
            case RelayGoing(relay) if delivery.standing is None:
                self._upkeep.relay_going(relay)
            case PathFound(beside, path):
                if not self._conversations.path_found(beside, path, self.system.clock()):
                    path.close()
            case LetGo(peer, reason) if delivery.standing is None:
                self._let_go(peer, reason)
            case DialWanted(peer, host, port):
                self._transport.dial(peer, host, port)
            case NetworkChanged(gone=gone) if gone:
                self._punches.network_changed()
                # TCP would notice after seconds of silence; the peer is dialled again from an address that is there.
                for peer in self._transport.links_over(gone):
                    self._counts["links_left_behind"] += 1
                    self._let_go(peer, "this host has lost the address that the link ended at")
            case NetworkChanged():
                self._punches.network_changed()
                return None
            case Reach(peer) if delivery.standing is None and delivery.reply_to is not None:
                self._ways.begin(peer, delivery.reply_to)
            case OpenStream() as order if delivery.standing is None and delivery.reply_to is not None:
                self.tasks.start_soon(self._open_stream, order, delivery.reply_to, delivery.deadline)
            case ServeStreams(service, path) if delivery.standing is None:
                return self._serve(service, path, delivery.reply_to)
            case EndSessions(reason) if delivery.standing is None:
                self._conversations.end_all(reason, self.system.clock())
                return None
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
            route = self.routes.route(peer, now)
            if conversation is None:
                routes.append(PeerRoute(peer, route, None, punching=self._punches.seen(peer)))
                continue
            paths, streams = _paths_seen(conversation), self._streams.of(conversation)
            in_use_s = next((each.round_trip_s for each in paths if each.in_use), None)
            round_trip_s = conversation.round_trip_s if in_use_s is None else in_use_s
            punching = self._punches.seen(peer)
            routes.append(PeerRoute(peer, route, round_trip_s, paths, streams, punching))
        counters = {
            **{f"links_{name}": value for name, value in self._transport.statistics().items()},
            **{f"sessions_{name}": value for name, value in self._conversations.counts.items()},
            "sessions": len(self._conversations),
            "streams": len(self._streams),
            "streams_refused": self._streams.refused,
            **self._counts,
        }
        return RoutesDescribed(tuple(self._links.values()), tuple(routes), counters)

    # Streams

    def _serve(self, service: str, path: str, reply_to: ReplyTo | None) -> Any:
        try:
            self._services.serve(self.system, service, path)
        except AskFailed as error:
            if reply_to is not None:
                reply_to.fail(error)
            return LATER
        return None

    async def _open_stream(self, order: OpenStream, reply_to: ReplyTo, deadline: float | None) -> None:
        peer = order.peer
        try:
            if peer == self._key.node_id:
                stream = self._streams.open_here(order.service)
            else:
                stream = self._streams.open(await self._ways.session_with(peer), order.service)
                self._bearers.wanted_for_stream(peer)
                self._punches.wanted(peer)
        except AskFailed as error:
            reply_to.fail(error)
        except Congested as error:
            reply_to.fail(AskCongested(str(error)))
        except UsageError as error:
            reply_to.fail(AskNotUnderstood(str(error)))
        except TransportError as error:
            reply_to.fail(AskDeclined(str(error)))
        else:
            if deadline is not None and self.system.clock() >= deadline:
                stream.reset("whoever wanted it waits no longer")
                return
            reply_to.answer(stream)

    # Sessions

    def _on_turn(self, turn: Turn) -> None:
        conversation, peer = turn.conversation, turn.conversation.peer
        if isinstance(turn, StreamTurn):
            self._streams.take(turn)
        elif not isinstance(turn, Said):
            self._turns.take(turn)
        elif peer is not None:
            self._on_said(conversation, peer, turn.data)

    def _on_said(self, conversation: Conversation, peer: NodeId, data: bytes) -> None:
        """Take an envelope out of a session; one that came over signaling may make a bearer worth having."""
        envelope = self._take_envelope(peer, conversation.standing, data)
        if envelope is None:
            return
        now = self.system.clock()
        self._demand.carried(peer, 1, len(data), now)
        answered = envelope.header.kind in (Kind.REPLY, Kind.FAULT)
        if answered and conversation.way is Way.BEP and conversation.dialled:
            self._punches.called(peer)
        if conversation.way is not Way.SEP or answered != conversation.dialled:
            return
        if not answered:
            self._demand.served(1, len(data), now)
            return
        why = self._demand.of(peer, now)
        if not why and envelope.header.offers_bearer:
            why = "the peer, which serves many"
        if why:
            self._bearers.called_by_signaling(peer, why)

    def _needless_for(self, conversation: Conversation) -> str:
        """Say why a session needs no bearer any more; empty while it does."""
        peer = conversation.peer
        if peer is None or conversation.has_streams() or not self._demand.is_idle(peer, self.system.clock()):
            return ""
        return f"nobody has used it for {self._demand.thresholds.idle_s:g} s"

    def _renew(self, peer: NodeId, order: Renew) -> None:
        """Open a path in place of one that is about to end."""
        if order.way is Way.BEP:
            self._bearers.renew(peer)
        else:
            self._ways.widen(peer, at_once=True)

    def _path_renewed(self, path: Path, expires_at: float) -> None:
        for conversation in self._conversations.all():
            if conversation.peer is not None and path in conversation.paths:
                self.routes.signaling_found(conversation.peer, path.relay, expires_at)

    def _judge(self, peer: NodeId, grant: bytes) -> Standing:
        """Decide about a node that opens a session with us; what its link has proved counts, too."""
        link = self._links.get(peer)
        if link is not None and (not grant or link.standing is Standing.MEMBER):
            return link.standing
        if self._cloud is None:
            raise Refused("this node trusts no cloud, so no grant means anything to it")
        # Imported where it is wanted: without a cloud there are no grants, and what checks them takes 10 MB.
        from atoll.transport.tokens import check_grant  # noqa: PLC0415

        check_grant(grant, issuer=self._cloud.node, bearer=peer, audience=GRANT_AUDIENCE, now=time.time())
        return Standing.GRANTED


def _paths_seen(conversation: Conversation) -> tuple[PathSeen, ...]:
    paths = conversation.session.paths
    return tuple(
        PathSeen(
            path.relay,
            path.way,
            known.condition.value,
            known.round_trip_s,
            in_use=known.number == paths.current,
            through=path.through,
        )
        for known in paths.all()
        if (path := conversation.numbers.get(known.number)) is not None
    )

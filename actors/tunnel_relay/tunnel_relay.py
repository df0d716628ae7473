"""The dialling end of tunnels on a node: everything it has at relays.

    OpenSep      looks a node up, dials the relays of its site, gives a path each
    ServeSite    (proxy duty) keeps this site registered; what comes in goes to the Router of the node it is for
    OpenBearer   dials the calling half of a tunnel; BearerRequest, from a caller, the offering half
    OpenDirect   dials a peer that a link leads to, where its answer to DirectRequest says

It reads paths and hands records to Routers; it never opens one. What it holds is bounded, and ends with it.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import anyio
import anyio.abc

from atoll.actors.cloud.messages import (
    DIRECTORY,
    SIGNALING,
    Found,
    LookUp,
    PlaceSep,
    SepPlaced,
    SepRoute,
    TunnelPair,
    TunnelRequest,
    TunnelsGranted,
)
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import SepAnswer, SepDelivery
from atoll.actors.router.paths import (
    OpenBearer,
    OpenDirect,
    OpenSep,
    PathDrained,
    PathFound,
    PathLost,
    RecordsArrived,
    SepPaths,
)
from atoll.actors.router.routes import Way
from atoll.actors.runtime.actor import LATER, Actor, ActorRef, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskDeclined, AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.tunnel_relay.bearer_path import BearerPath
from atoll.actors.tunnel_relay.direct import OFFERS_MAX, OFFERS_PER_PEER_MAX, DirectOffer
from atoll.actors.tunnel_relay.frames import Going, Inbound, Returned, Undelivered
from atoll.actors.tunnel_relay.messages import (
    PATH,
    BearerHalf,
    BearerOffered,
    BearerRequest,
    BearerSeen,
    DescribeTunnels,
    DirectOffered,
    DirectRequest,
    ServeSite,
    SiteServed,
    SpareWanted,
    StopServing,
    TunnelsDescribed,
)
from atoll.actors.tunnel_relay.reasons import Reason, sentence_of
from atoll.actors.tunnel_relay.registrations import Registration, Registrations
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient
from atoll.actors.tunnel_relay.sep_paths import CircuitPath, LabelPath
from atoll.actors.uplink.ask import ask_cloud
from atoll.transport.base import Standing
from atoll.transport.bearer import dial_bearer
from atoll.transport.errors import Congested, PeerError, Unreachable, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.tunnel_relay")

ROUTES = 2
"""A caller holds a path over each relay of a site."""
ROUTES_PAUSES_S = (0.1,) * 10 + (0.25,) * 16
"""Between questions for a site's routes: a new supernode has its site at a relay within about a second."""
SECOND_PATH_S = 0.25
"""How long the first path waits for the second, before calls begin without it."""
CALLS_MAX = 256
"""Paths to other sites that are open at once."""
BEARERS_MAX = 256
BEARERS_PER_PEER_MAX = 4
BEARER_DIAL_S = 40.0
CIRCUITS_MAX = 4096
DIRECT_DIAL_S = 5.0
"""For a peer on the same network."""
DIRECT = "direct"
"""What stands in place of a relay's name."""
PAIRS = 2
"""A tunnel and a spare on another relay."""


class TunnelRelay(Actor):
    """Dials relays for the other actors of its node; see the module."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER, Standing.GRANTED})

    def __init__(self, own: NodeId, rng: Random | None = None) -> None:
        self._own = own
        self._rng = rng or Random()
        self._router: ActorRef
        self._registrations: Registrations | None = None
        self._serving: anyio.CancelScope | None = None
        self._circuits: dict[tuple[NodeId, bytes], CircuitPath] = {}
        self._calls = 0
        self._bearers: list[BearerPath] = []
        self._offered: Counter[NodeId] = Counter()
        self._spare_now: dict[NodeId, list[anyio.Event]] = {}
        """To be set where a peer wants the spares of its bearers open."""
        self._direct_offers: Counter[NodeId] = Counter()
        self._counts: Counter[str] = Counter()

    async def started(self) -> None:
        """Find the way to this node's Router."""
        self._router = self.system.ref(Address(self._own, ROUTER))

    async def receive(self, delivery: Delivery) -> Any:  # noqa: C901, PLR0912 - one case a message
        """Take orders of this node, answers of the site's nodes, and callers' requests for bearers."""
        message, reply_to, local = delivery.message, delivery.reply_to, delivery.standing is None
        match message:
            case SepAnswer() if local or delivery.standing is Standing.MEMBER:
                self._answer(message)
            case BearerRequest(avoid) if delivery.sender is not None and reply_to is not None:
                self.tasks.start_soon(self._offer, delivery.sender.address.node, avoid, reply_to)
            case SpareWanted() if delivery.sender is not None:
                for spare_now in self._spare_now.get(delivery.sender.address.node, ()):
                    spare_now.set()
            case OpenSep() if local and reply_to is not None:
                self.tasks.start_soon(self._open_sep, message, reply_to, delivery.deadline)
            case OpenBearer() if local and reply_to is not None:
                self.tasks.start_soon(self._open_bearer, message, reply_to, delivery.deadline)
            case DirectRequest() if delivery.sender is not None and reply_to is not None:
                self.tasks.start_soon(self._offer_direct, delivery.sender.address.node, message, reply_to)
            case OpenDirect() if local and reply_to is not None:
                self.tasks.start_soon(self._open_direct, message, reply_to, delivery.deadline)
            case ServeSite(site, labels) if local:
                self._serve(site)
                if self._registrations is not None:
                    self._registrations.set_labels(labels)
            case StopServing() if local:
                self._stop_serving()
            case DescribeTunnels() if local:
                return self._described()
            case _:
                return await super().receive(delivery)
        return LATER

    def _late(self, deadline: float | None) -> bool:
        """Tell whether the asker has gone: what is opened for it now nobody would ever close."""
        return deadline is not None and self.system.clock() >= deadline

    async def _tell_lost(self, path: LabelPath | BearerPath, reason: str) -> None:
        await self._router.wait_room()
        self._router.tell(PathLost(path, reason))

    # Calling other sites

    async def _look_up(self, peer: NodeId, keys: tuple[bytes, ...]) -> Found:
        """Ask for the routes to a peer; wait a little for a site that is just changing its supernode.

        Raises:
            AskDeclined: The peer is not known, or its site stays at no relay.
        """
        pauses_s = iter(ROUTES_PAUSES_S)
        while True:
            found = await ask_cloud(self.system, DIRECTORY, LookUp(str(peer), keys), Found)
            if found.routes:
                return found
            pause_s = next(pauses_s, None)
            if pause_s is None:
                raise AskDeclined(f"{found.record.site}/{found.record.name} is known, but its site is at no relay now")
            await anyio.sleep(pause_s)

    async def _open_sep(self, order: OpenSep, reply_to: ReplyTo, deadline: float | None) -> None:
        keys = [FreshKey.generate() for _ in range(ROUTES)]
        try:
            found = await self._look_up(order.peer, tuple(key.public for key in keys))
            if self._calls + len(found.routes) > CALLS_MAX:
                raise AskDeclined(f"{CALLS_MAX} paths to other sites are open already")
            # Each route's ticket is bound to the key of its place.
            dials = [each for each in zip(found.routes, keys, strict=False) if _name(each[0]) not in order.besides]
            if not dials:
                raise AskDeclined("its site is at no other relay now")
            paths = await self._dial_all(dials)
        except AskFailed as error:
            reply_to.fail(error)
            return
        if self._late(deadline):
            for path in paths:
                path.close()
            return
        lasts_s = min(route.expires_at for route in found.routes) - found.now
        reply_to.answer(SepPaths(tuple(paths), self.system.clock() + lasts_s))

    async def _dial_all(self, dials: list[tuple[SepRoute, FreshKey]]) -> list[LabelPath]:
        """Dial the relays at once; give what stands shortly after the first does.

        Raises:
            AskDeclined: None of them let us in.
        """
        up: list[LabelPath] = []
        failed: list[str] = []
        answered = False
        changed = anyio.Event()

        def settle(result: LabelPath | str) -> None:
            nonlocal changed
            if isinstance(result, str):
                failed.append(result)
            elif answered:
                # In time for the next loss of a path, if not for the first record.
                self._router.tell(PathFound(up[0], result))
            else:
                up.append(result)
            changed.set()
            changed = anyio.Event()

        for route, key in dials:
            self._calls += 1
            self.tasks.start_soon(self._hold_call, route, key, settle)
        while not up and len(failed) < len(dials):
            await changed.wait()
        with anyio.move_on_after(SECOND_PATH_S):
            while len(up) + len(failed) < len(dials):
                await changed.wait()
        if not up:
            raise AskDeclined("no relay of its site let us in: " + "; ".join(failed))
        answered = True
        return up

    async def _hold_call(self, route: SepRoute, key: FreshKey, settle: Callable[[LabelPath | str], None]) -> None:
        """Live one connection to a relay that we call a label at."""
        relay = _name(route)
        path: LabelPath | None = None
        reason = "this end closed it"
        try:
            with anyio.CancelScope() as scope:
                async with SepClient(route.host, route.sep_port, route.relay, route.ticket, key) as client:
                    path = LabelPath(relay, route.label, client, scope.cancel)
                    await self._router.wait_room()
                    settle(path)
                    reason = await self._read_call(path, client)
        except (PeerError, WorldError) as error:
            reason = f"{relay}: {error}"
        finally:
            self._calls -= 1
        if path is None:
            settle(reason)
        else:
            await self._tell_lost(path, reason)

    async def _read_call(self, path: LabelPath, client: SepClient) -> str:
        while True:
            match await client.receive():
                case Returned(label, record) if label == path.label:
                    await self._router.wait_room()
                    self._router.tell(RecordsArrived(path, (record,)))
                case Undelivered(reason, _) if reason == Reason.CONGESTED:
                    self._counts["congested_at_relay"] += 1
                case Undelivered(reason, _):
                    return f"{path.relay} did not deliver: {sentence_of(reason)}"
                case Going():
                    self._counts["told_of_drains"] += 1

    # Serving this site

    def _serve(self, site: str) -> None:
        if self._registrations is not None:
            return
        self._registrations = Registrations(
            site,
            place=self._place,
            on_inbound=self._take_inbound,
            on_change=self._registrations_changed,
            clock=self.system.clock,
            rng=self._rng,
        )
        self._serving = anyio.CancelScope()
        self.tasks.start_soon(self._run_registrations, self._registrations, self._serving)

    async def _run_registrations(self, registrations: Registrations, scope: anyio.CancelScope) -> None:
        with scope:
            await registrations.run()

    def _stop_serving(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
        self._serving = self._registrations = None
        self._circuits.clear()
        self.system.announce(SiteServed(()))

    async def _place(self, message: PlaceSep) -> SepPlaced:
        return await ask_cloud(self.system, SIGNALING, message, SepPlaced)

    def _registrations_changed(self) -> None:
        if self._registrations is not None:
            up = tuple(each.placement.relay for each in self._registrations.all() if each.up)
            self.system.announce(SiteServed(up))

    def _take_inbound(self, registration: Registration, node: NodeId, inbound: Inbound) -> None:
        """Hand a record that came in under a node's label to that node."""
        relay = registration.placement.relay
        try:
            if node != self._own:
                delivery = SepDelivery(inbound.circuit, relay, inbound.record, registration.relay)
                self.system.tell(Address(node, ROUTER), delivery, sender=self.ref)
                return
            key = (relay, inbound.circuit)
            path = self._circuits.get(key)
            if path is None or path.client is not registration.client:
                if registration.client is None:
                    return
                if len(self._circuits) >= CIRCUITS_MAX:
                    self._circuits.pop(next(iter(self._circuits)))
                path = self._circuits[key] = CircuitPath(registration.relay, inbound.circuit, registration.client)
            self._router.tell(RecordsArrived(path, (inbound.record,)))
        except Congested:
            # The caller's session resends what matters; a proxy must not grow for a slow node.
            self._counts["inbound_dropped"] += 1

    def _answer(self, message: SepAnswer) -> None:
        """Put a node's answer on the circuit that its caller waits at."""
        client = self._registrations.at(message.relay) if self._registrations is not None else None
        if client is None:
            self._counts["answers_without_registration"] += 1
            return
        try:
            client.answer(message.circuit, message.record)
        except (Congested, Unreachable) as error:
            self._counts["answers_dropped"] += 1
            log.debug("an answer was dropped: %s", error)

    # Bearers

    async def _open_bearer(self, order: OpenBearer, reply_to: ReplyTo, deadline: float | None) -> None:
        try:
            self._room_for_bearer()
            stream = await dial_bearer(order.host, order.port, order.ticket, timeout_s=BEARER_DIAL_S)
        except (PeerError, WorldError) as error:
            reply_to.fail(AskDeclined(f"the bearer through {order.relay} did not open: {error}"))
            return
        if self._late(deadline):
            await anyio.aclose_forcefully(stream)
            return
        path = self._bearer(order.relay, stream, order.peer)
        reply_to.answer(path)
        await self._hold_bearer(path)

    async def _offer(self, peer: NodeId, avoid: tuple[str, ...], reply_to: ReplyTo) -> None:
        """Take a tunnel and a spare from Signaling, hand their calling halves to the peer, and dial ours.

        The spare is on another relay; its half is dialled when the first bearer is lost, or never came to be, which
        the peer sees in the same moment, or when the peer wants both. So failing over asks neither cloud nor peer.
        """
        if self._offered[peer] >= BEARERS_PER_PEER_MAX:
            reply_to.fail(AskDeclined(f"{BEARERS_PER_PEER_MAX} bearers for this caller are open or under way"))
            return
        self._offered[peer] += 1
        try:
            self._room_for_bearer()
            granted = await ask_cloud(self.system, SIGNALING, TunnelRequest(PAIRS), TunnelsGranted)
            if not granted.pairs:
                raise AskDeclined("no relay takes a tunnel now")
            pairs = sorted(granted.pairs, key=lambda pair: _name_of(pair) in avoid)
            if _name_of(pairs[0]) in avoid:
                raise AskDeclined("no other relay takes a tunnel now")
            reply_to.answer(_offered(pairs))
            await self._live_halves(pairs, peer)
        except AskFailed as error:
            reply_to.fail(error)
        finally:
            self._offered[peer] -= 1
            if not self._offered[peer]:
                del self._offered[peer]

    async def _live_halves(self, pairs: Sequence[TunnelPair], peer: NodeId) -> None:
        spare_now = anyio.Event()
        self._spare_now.setdefault(peer, []).append(spare_now)
        try:
            async with anyio.create_task_group() as tasks:

                async def live_first() -> None:
                    if await self._dial_offered(pairs[0], peer):
                        spare_now.set()
                    elif not spare_now.is_set():
                        tasks.cancel_scope.cancel()

                tasks.start_soon(live_first)
                for pair in pairs[1:]:
                    await spare_now.wait()
                    await self._dial_offered(pair, peer)
        finally:
            self._spare_now[peer].remove(spare_now)
            if not self._spare_now[peer]:
                del self._spare_now[peer]

    async def _dial_offered(self, pair: TunnelPair, peer: NodeId) -> bool:
        """Live our half of a tunnel; True when it was lost, False when it was ended."""
        try:
            stream = await dial_bearer(pair.host, pair.bearer_port, pair.offer, timeout_s=BEARER_DIAL_S)
        except (PeerError, WorldError) as error:
            log.info("a bearer for %s did not open: %s", peer.short, error)
            return True
        return await self._hold_bearer(self._bearer(_name_of(pair), stream, peer))

    # Direct connections

    async def _open_direct(self, order: OpenDirect, reply_to: ReplyTo, deadline: float | None) -> None:
        peer = order.peer
        try:
            self._room_for_bearer()
            offered: DirectOffered = await self.system.ask(
                Address(peer, PATH), DirectRequest(order.host), timeout_s=DIRECT_DIAL_S, reply_type=DirectOffered
            )
            stream = await dial_bearer(
                order.host, offered.port, offered.ticket, timeout_s=DIRECT_DIAL_S, whose="the peer's own port"
            )
        except (AskFailed, PeerError, WorldError) as error:
            reply_to.fail(AskDeclined(f"no direct connection to {peer.short}: {error}"))
            return
        if self._late(deadline):
            await anyio.aclose_forcefully(stream)
            return
        path = self._bearer(DIRECT, stream, peer, Way.DIRECT)
        reply_to.answer(path)
        await self._hold_bearer(path)

    async def _offer_direct(self, peer: NodeId, message: DirectRequest, reply_to: ReplyTo) -> None:
        """Wait for a peer at the address at which it knows us."""
        if self._direct_offers.total() >= OFFERS_MAX or self._direct_offers[peer] >= OFFERS_PER_PEER_MAX:
            reply_to.fail(AskDeclined("too many direct connections are waited for already; try again"))
            return
        self._direct_offers[peer] += 1
        try:
            self._room_for_bearer()
            offer = await DirectOffer.open(message.host)
            reply_to.answer(DirectOffered(offer.port, offer.ticket))
            stream = await offer.wait()
        except (AskFailed, WorldError) as error:
            reply_to.fail(error if isinstance(error, AskFailed) else AskDeclined(str(error)))
            return
        finally:
            self._direct_offers[peer] -= 1
            self._direct_offers = +self._direct_offers
        if stream is None:
            self._counts["direct_offers_unused"] += 1
            return
        await self._hold_bearer(self._bearer(DIRECT, stream, peer, Way.DIRECT))

    def _bearer(self, relay: str, stream: anyio.abc.SocketStream, peer: NodeId, way: Way = Way.BEP) -> BearerPath:
        return BearerPath(relay, stream, self.system.clock(), peer, way, on_drained=self._tell_drained)

    def _tell_drained(self, path: BearerPath) -> None:
        try:
            self._router.tell(PathDrained(path))
        except Congested:
            # It looks by itself, a little later.
            self._counts["drained_untold"] += 1

    def _room_for_bearer(self) -> None:
        if len(self._bearers) >= BEARERS_MAX:
            raise AskDeclined(f"{BEARERS_MAX} bearers end here already")

    async def _hold_bearer(self, path: BearerPath) -> bool:
        """Read a bearer until it is over; True when nobody had closed it."""

        async def take(records: tuple[bytes, ...]) -> None:
            # The Router's mailbox is the brake: a bearer is read as fast as its records are taken.
            await self._router.wait_room()
            self._router.tell(RecordsArrived(path, records))

        self._bearers.append(path)
        try:
            reason = await path.run(take)
        finally:
            self._bearers.remove(path)
        await self._router.wait_room()
        try:
            # The goodbye of the peer's session may still wait in the Router's mailbox; behind it, we know.
            await self._router.ask(PathLost(path, reason), timeout_s=BEARER_DIAL_S)
        except AskFailed as error:
            # With the Router went everything that used the path; its supervisor starts us anew as well.
            log.info("the Router did not hear that a bearer is over: %s", error)
            return False
        return not path.closed

    def _described(self) -> TunnelsDescribed:
        registrations = self._registrations.all() if self._registrations is not None else []
        problem = self._registrations.problem if self._registrations is not None else ""
        return TunnelsDescribed(
            tuple(each.seen() for each in registrations),
            tuple(
                BearerSeen(each.peer, each.relay, each.opened_at, each.sent_bytes, each.received_bytes)
                for each in self._bearers
            ),
            {"calls_open": self._calls, "bearers_open": len(self._bearers), **self._counts},
            problem,
        )


def _name(route: SepRoute) -> str:
    """Give what people call the relay of a route."""
    return route.name or route.relay.short


def _name_of(pair: TunnelPair) -> str:
    """Name its relay, as both ends call it."""
    return pair.name or pair.relay.short


def _offered(pairs: Sequence[TunnelPair]) -> BearerOffered:
    first, *rest = (BearerHalf(each.relay, each.name, each.host, each.bearer_port, each.call) for each in pairs)
    spare = rest[0] if rest else None
    expires_at = pairs[0].expires_at
    return BearerOffered(first.relay, first.name, first.host, first.port, first.ticket, expires_at, spare)

"""Bearers that end at this node: dialled for its Router, offered to callers, direct ones, and what holds them.

OpenBearer      the calling half of a tunnel is dialled
BearerRequest   a tunnel and a spare are taken from Signaling; the caller gets its halves, ours are dialled
OpenDirect      a peer that a link leads to is dialled where its answer to DirectRequest says
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence

import anyio
import anyio.abc

from atoll.actors.cloud.messages import SIGNALING, TunnelPair, TunnelRequest, TunnelsGranted
from atoll.actors.router.paths import OpenBearer, OpenDirect, PathDrained, PathLost, RecordsArrived
from atoll.actors.router.routes import Way
from atoll.actors.runtime.actor import ReplyTo
from atoll.actors.runtime.errors import AskDeclined, AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.tunnel_relay.bearer_path import BearerPath
from atoll.actors.tunnel_relay.dialling_means import DiallingMeans
from atoll.actors.tunnel_relay.direct import OFFERS_MAX, OFFERS_PER_PEER_MAX, DirectOffer
from atoll.actors.tunnel_relay.messages import (
    PATH,
    BearerHalf,
    BearerOffered,
    DirectOffered,
    DirectRequest,
)
from atoll.actors.uplink.ask import ask_cloud
from atoll.transport.bearer import dial_bearer
from atoll.transport.errors import Congested, PeerError, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.tunnel_relay")

BEARERS_MAX = 256
BEARERS_PER_PEER_MAX = 4
BEARER_DIAL_S = 40.0
DIRECT_DIAL_S = 5.0
"""For a peer on the same network."""
DIRECT = "direct"
"""What stands in place of a relay's name."""
PAIRS = 2
"""A tunnel and a spare on another relay."""


class BearerEnds:
    """The bearers of one node."""

    def __init__(self, means: DiallingMeans, note_relay: Callable[[str, int], None]) -> None:
        """`note_relay` hears where relays take bearers."""
        self._means = means
        self._note_relay = note_relay
        self.held: list[BearerPath] = []
        self._offered: Counter[NodeId] = Counter()
        self._spare_now: dict[NodeId, list[anyio.Event]] = {}
        """To be set where a peer wants the spares of its bearers open."""
        self._direct_offers: Counter[NodeId] = Counter()

    @property
    def offered(self) -> int:
        """How many offers are open or under way: each until the Router knows that its bearers are over."""
        return self._offered.total()

    def spares_wanted(self, peer: NodeId) -> None:
        """Dial our halves of a peer's spares now."""
        for spare_now in self._spare_now.get(peer, ()):
            spare_now.set()

    async def open(self, order: OpenBearer, reply_to: ReplyTo, deadline: float | None) -> None:
        """Dial the calling half of a tunnel, and hold the bearer."""
        try:
            self.make_sure_of_room()
            self._note_relay(order.host, order.port)
            stream, through = await self._means.doors.dial_bearer(
                order.host, order.port, order.ticket, order.web, timeout_s=BEARER_DIAL_S
            )
        except (PeerError, WorldError) as error:
            reply_to.fail(AskDeclined(f"the bearer through {order.relay} did not open: {error}"))
            return
        if self._means.late(deadline):
            await anyio.aclose_forcefully(stream)
            return
        path = self.path(order.relay, stream, order.peer, through=through)
        reply_to.answer(path)
        await self.hold(path)

    async def offer(self, peer: NodeId, avoid: tuple[str, ...], reply_to: ReplyTo) -> None:
        """Take a tunnel and a spare from Signaling, hand their calling halves to the peer, and dial ours.

        The spare is on another relay; its half is dialled when the first bearer is lost, or never came to be, which
        the peer sees in the same moment, or when the peer wants both. So failing over asks neither cloud nor peer.
        """
        if self._offered[peer] >= BEARERS_PER_PEER_MAX:
            reply_to.fail(AskDeclined(f"{BEARERS_PER_PEER_MAX} bearers for this caller are open or under way"))
            return
        self._offered[peer] += 1
        try:
            self.make_sure_of_room()
            granted = await ask_cloud(self._means.system, SIGNALING, TunnelRequest(PAIRS), TunnelsGranted)
            if not granted.pairs:
                raise AskDeclined("no relay takes a tunnel now")
            for pair in granted.pairs:
                self._note_relay(pair.host, pair.bearer_port)
            pairs = [pair for pair in granted.pairs if _name_of(pair) not in avoid]
            if not pairs:
                raise AskDeclined("no other relay takes a tunnel now")
            reply_to.answer(_offered(pairs, granted.now))
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
            stream, through = await self._means.doors.dial_bearer(
                pair.host, pair.bearer_port, pair.offer, pair.web, timeout_s=BEARER_DIAL_S
            )
        except (PeerError, WorldError) as error:
            log.info("a bearer for %s did not open: %s", peer.short, error)
            return True
        return await self.hold(self.path(_name_of(pair), stream, peer, through=through))

    async def open_direct(self, order: OpenDirect, reply_to: ReplyTo, deadline: float | None) -> None:
        """Dial a peer nearby, and hold the connection."""
        peer = order.peer
        try:
            self.make_sure_of_room()
            offered: DirectOffered = await self._means.system.ask(
                Address(peer, PATH), DirectRequest(order.host), timeout_s=DIRECT_DIAL_S, reply_type=DirectOffered
            )
            stream = await dial_bearer(
                order.host, offered.port, offered.ticket, timeout_s=DIRECT_DIAL_S, whose="the peer's own port"
            )
        except (AskFailed, PeerError, WorldError) as error:
            reply_to.fail(AskDeclined(f"no direct connection to {peer.short}: {error}"))
            return
        if self._means.late(deadline):
            await anyio.aclose_forcefully(stream)
            return
        path = self.path(DIRECT, stream, peer, Way.DIRECT)
        reply_to.answer(path)
        await self.hold(path)

    async def offer_direct(self, peer: NodeId, message: DirectRequest, reply_to: ReplyTo) -> None:
        """Wait for a peer at the address at which it knows us."""
        if self._direct_offers.total() >= OFFERS_MAX or self._direct_offers[peer] >= OFFERS_PER_PEER_MAX:
            reply_to.fail(AskDeclined("too many direct connections are waited for already; try again"))
            return
        self._direct_offers[peer] += 1
        try:
            self.make_sure_of_room()
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
            self._means.counts["direct_offers_unused"] += 1
            return
        await self.hold(self.path(DIRECT, stream, peer, Way.DIRECT))

    def path(
        self, relay: str, stream: anyio.abc.ByteStream, peer: NodeId, way: Way = Way.BEP, *, through: str = ""
    ) -> BearerPath:
        """Make a path of a stream."""
        clock = self._means.system.clock()
        return BearerPath(relay, stream, clock, peer, way, through=through, on_drained=self._tell_drained)

    def _tell_drained(self, path: BearerPath) -> None:
        try:
            self._means.router.tell(PathDrained(path))
        except Congested:
            # It looks by itself, a little later.
            self._means.counts["drained_untold"] += 1

    def make_sure_of_room(self) -> None:
        """Refuse what there is no room for; raises `AskDeclined`."""
        if len(self.held) >= BEARERS_MAX:
            raise AskDeclined(f"{BEARERS_MAX} bearers end here already")

    async def hold(self, path: BearerPath) -> bool:
        """Read a bearer until it is over; True when nobody had closed it."""

        async def take(records: tuple[bytes, ...]) -> None:
            # The Router's mailbox is the brake: a bearer is read as fast as its records are taken.
            await self._means.router.wait_room()
            self._means.router.tell(RecordsArrived(path, records))

        self.held.append(path)
        try:
            reason = await path.run(take)
        finally:
            self.held.remove(path)
        await self._means.router.wait_room()
        try:
            # The goodbye of the peer's session may still wait in the Router's mailbox; behind it, we know.
            await self._means.router.ask(PathLost(path, reason), timeout_s=BEARER_DIAL_S)
        except AskFailed as error:
            # With the Router went everything that used the path; its supervisor starts us anew as well.
            log.info("the Router did not hear that a bearer is over: %s", error)
            return False
        return not path.closed


def _name_of(pair: TunnelPair) -> str:
    """Name its relay, as both ends call it."""
    return pair.name or pair.relay.short


def _offered(pairs: Sequence[TunnelPair], now: float) -> BearerOffered:
    first, *rest = (
        BearerHalf(each.relay, each.name, each.host, each.bearer_port, each.call, each.web) for each in pairs
    )
    return BearerOffered(
        first.relay,
        first.name,
        first.host,
        first.port,
        first.ticket,
        pairs[0].expires_at,
        rest[0] if rest else None,
        now,
        first.web,
    )

"""Opens bearers to peers that are called over SEP, and the next one when one is lost.

    none --a stream, so many calls (`demand.py`)--> asked for --our half dialled--> a path of the session that stands
    open --streams are carried--> two: the spare half is dialled, and stands by
    open --lost--> the spare half is dialled --nothing of that--> none, and asked for again after a while
    open --its ticket nears its end, its relay is drained (`upkeep.py`)--> another one is asked for, and takes its place

Calls and streams go on over SEP all the time. The callee is asked once and hands over two halves, the second of a
tunnel over another relay: so whoever loses a bearer with its relay has the next without asking anybody.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import anyio
import msgspec

from atoll.actors.router.paths import OpenBearer, Path
from atoll.actors.router.routes import RouteTable
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.actors.tunnel_relay.messages import AVOIDED_MAX, BearerHalf, BearerOffered, BearerRequest, SpareWanted
from atoll.actors.tunnel_relay.messages import PATH as TUNNEL_RELAY
from atoll.transport.errors import PeerError, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.router")

ASK_S = 5.0
ASK_ATTEMPTS = 2
DIAL_S = 45.0
"""Longer than a relay lets one half wait for the other."""
SPARE_S = 5.0
"""The same for a spare: the callee sees the same loss and dials its half at once, unless it has died, and with it that
half; then every second of waiting is one without a bearer."""
SPARES_MAX = 256
"""Spare halves that are kept; without one the next bearer costs a question more."""

LASTS_S_MIN, LASTS_S_MAX = 2.0, 600.0
"""A ticket's life is taken for so long, whatever the peer says: or it could make us ask again and again."""
SECOND_AGAIN_S = 1.0
"""Between two attempts to have a second bearer stand by: a relay that died may be there again. Each takes `SPARE_S` at
most: the halves that were offered may have died with it."""

Converse: TypeAlias = Callable[[NodeId, tuple[Path, ...]], Awaitable[object]]
"""Makes paths those of the session with a peer; opens one where there is none, or raises."""


class Halves(msgspec.Struct, frozen=True):
    """What a callee has handed over: the halves to dial, and when their tickets end by the system's clock."""

    halves: list[BearerHalf]
    ends_at: float


class BearersSeen(msgspec.Struct, frozen=True):
    """What the Router lends: what it knows about the bearers that there are."""

    has_streams: Callable[[NodeId], bool]
    """The session with a peer has carried streams."""
    relays: Callable[[NodeId], set[str]]
    """Names those that carry a bearer to a peer to stay with."""
    avoided: Callable[[NodeId], tuple[str, ...]] = lambda _: ()
    """Names those that no new bearer to a peer should lead over."""
    opened: Callable[[Path, float], None] = lambda _path, _at: None
    """Called with a new bearer, and when it ends."""


class Bearers:
    """The bearers that this node's Router has asked for."""

    def __init__(
        self,
        system: ActorSystem,
        routes: RouteTable,
        start_soon: Callable[..., Any],
        converse: Converse,
        seen: BearersSeen,
    ) -> None:
        self._system = system
        self._routes = routes
        self._start_soon = start_soon
        self._converse = converse
        self._has_streams, self._relays = seen.has_streams, seen.relays
        self._avoided, self._opened = seen.avoided, seen.opened
        self._renewing: set[NodeId] = set()
        """Peers to which a bearer is being opened that takes the place of another."""
        self._doubling: set[NodeId] = set()
        """Peers to which a second bearer is being opened."""
        self._spares: dict[NodeId, Halves] = {}

    def called_by_signaling(self, peer: NodeId, why: str) -> None:
        """Note that a bearer is worth having, and ask for one if it is time."""
        self._routes.bearer_for(peer, why)
        self.wanted(peer)

    def wanted(self, peer: NodeId) -> None:
        """Ask for a bearer if it is time."""
        if self._routes.bearer_wanted(peer, self._system.clock()):
            self._routes.bearer_asked(peer)
            self._start_soon(self._open, peer, None)

    def wanted_for_stream(self, peer: NodeId) -> None:
        """Ask for a bearer at once: a stream is open, and signaling is not made for it."""
        self._routes.bearer_for(peer, "a stream")
        self.wanted(peer)
        self.keep_two(peer)

    def keep_two(self, peer: NodeId) -> None:
        """Have a second bearer stand by, where streams are carried: a frozen relay does not say that it is lost."""
        if peer not in self._doubling and len(self._relays(peer)) == 1 and self._has_streams(peer):
            self._doubling.add(peer)
            self._start_soon(self._keep_two, peer)

    def ended(self, peer: NodeId, *, lost: bool) -> None:
        """Note that the last bearer that we dialled to a peer has ended; one that was lost has a successor."""
        spare = self._spares.pop(peer, None)
        if lost and (spare is not None or self._has_streams(peer)):
            self._routes.bearer_asked(peer)
            self._start_soon(self._open, peer, spare)

    def renew(self, peer: NodeId) -> None:
        """Open a bearer that takes the place of one that is about to end."""
        if peer not in self._renewing:
            self._renewing.add(peer)
            self._start_soon(self._renew, peer)

    async def _renew(self, peer: NodeId) -> None:
        try:
            offered = await self._ask_for_halves(peer, self._avoided(peer))
            await self._use(peer, await self._dial(peer, offered, DIAL_S))
        except (AskFailed, WorldError, PeerError) as error:
            log.info("no bearer to %s in place of the one that ends: %s", peer.short, error)
        else:
            self.keep_two(peer)
        finally:
            self._renewing.discard(peer)

    async def _open(self, peer: NodeId, spare: Halves | None) -> None:
        try:
            if spare is None:
                path = await self._dial(peer, await self._ask_for_halves(peer, self._avoided(peer)), DIAL_S)
            else:
                path = await self._dial(peer, spare, SPARE_S)
            await self._use(peer, path)
        except (AskFailed, WorldError, PeerError) as error:
            log.info("no bearer to %s: %s", peer.short, error)
            self._spares.pop(peer, None)
            self._routes.bearer_lost(peer, str(error), self._system.clock())
            return
        self.keep_two(peer)

    async def _keep_two(self, peer: NodeId) -> None:
        try:
            while len(used := self._relays(peer)) == 1 and self._has_streams(peer):
                spare = self._spares.pop(peer, None)
                try:
                    avoid = {*used, *self._avoided(peer)}
                    if spare is None or _name_of(spare.halves[0]) in avoid:
                        path = await self._dial(peer, await self._ask_for_halves(peer, avoid), SPARE_S)
                    else:
                        self._system.tell(Address(peer, TUNNEL_RELAY), SpareWanted())
                        path = await self._dial(peer, spare, SPARE_S)
                    await self._use(peer, path)
                except (AskFailed, WorldError, PeerError) as error:
                    log.info("no second bearer to %s: %s", peer.short, error)
                await anyio.sleep(SECOND_AGAIN_S)
        finally:
            self._doubling.discard(peer)

    async def _use(self, peer: NodeId, path: Path) -> None:
        """Make a bearer a path of the session; a second one over the same relay would only take another's place."""
        if path.relay in self._relays(peer):
            path.close()
            self._routes.bearer_open(peer, path.relay)
            return
        await self._converse(peer, (path,))

    async def _ask_for_halves(self, peer: NodeId, avoid: Iterable[str] = ()) -> Halves:
        offered: BearerOffered = await self._system.ask(
            Address(peer, TUNNEL_RELAY),
            BearerRequest(tuple(sorted(avoid))[:AVOIDED_MAX]),
            timeout_s=ASK_S,
            reply_type=BearerOffered,
            attempts=ASK_ATTEMPTS,
        )
        half = BearerHalf(offered.relay, offered.name, offered.host, offered.port, offered.ticket, offered.web)
        lasts_s = min(max(offered.expires_at - (offered.now or time.time()), LASTS_S_MIN), LASTS_S_MAX)
        halves = [half] if offered.spare is None else [half, offered.spare]
        return Halves(halves, self._system.clock() + lasts_s)

    async def _dial(self, peer: NodeId, offered: Halves, within_s: float) -> Path:
        """Dial the first half that opens, and keep the one behind it.

        Raises:
            AskFailed: None opened.
        """
        half, *rest = offered.halves
        order = OpenBearer(peer, _name_of(half), half.host, half.port, half.ticket, half.web)
        try:
            path: Path = await self._system.ask(Address(self._system.node_id, TUNNEL_RELAY), order, timeout_s=within_s)
        except AskFailed as error:
            if not rest:
                raise
            # The callee sees its own half fail, and goes to the spare as well.
            log.info("the first bearer to %s did not open: %s", peer.short, error)
            return await self._dial(peer, Halves(rest, offered.ends_at), within_s)
        if rest:
            if len(self._spares) >= SPARES_MAX:
                self._spares.pop(next(iter(self._spares)))
            self._spares[peer] = Halves(rest, offered.ends_at)
        self._opened(path, offered.ends_at)
        return path


def _name_of(half: BearerHalf) -> str:
    """Name its relay, as both ends call it."""
    return half.name or half.relay.short

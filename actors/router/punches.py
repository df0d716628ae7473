"""Tries to punch through NAT to peers that are reached over relays, while that has sense, and makes it a path.

    a session that we dialled goes over a bearer, and carries streams or many calls
        --a try, by the TunnelRelay--> a path more of the same session, which is better than a relay's: it goes there
        --in vain--> the relay is used, as before, and it is tried again after a pause (`punch_book.py`)

The paths over relays stay: when the punched one is lost or silent, the session goes on over them.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio

from atoll.actors.router.bearers import Converse
from atoll.actors.router.paths import OpenPunched, Path
from atoll.actors.router.punch_book import PEERS_MAX, PunchBook
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.actors.tunnel_relay.messages import PATH as TUNNEL_RELAY
from atoll.transport.errors import PeerError, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.router")

TRY_S = 20.0
"""For one attempt: relays and the peer are asked, and both knock for three seconds."""
CALLS_WANTED = 16
"""Calls over a bearer before its relay shall be spared them; a stream is reason enough."""
LOOK_S = 60.0
"""How often it is looked whether a peer is still worth another attempt, at the latest."""


class Punches:
    """The attempts that this node's Router has made."""

    def __init__(
        self,
        system: ActorSystem,
        start_soon: Callable[..., Any],
        converse: Converse,
        *,
        over_bearer: Callable[[NodeId], bool],
        has_streams: Callable[[NodeId], bool],
    ) -> None:
        """`over_bearer`: whether a session that we dialled to a peer goes over a bearer now."""
        self._system = system
        self._start_soon = start_soon
        self._converse = converse
        self._over_bearer, self._has_streams = over_bearer, has_streams
        self._book = PunchBook()
        self._trying: set[NodeId] = set()
        self._called: Counter[NodeId] = Counter()
        self._changed = anyio.Event()

    def seen(self, peer: NodeId) -> str:
        """Say for people how punching to a peer stands."""
        return self._book.seen(peer, self._system.clock())

    def wanted(self, peer: NodeId) -> None:
        """Look whether it is time to try, now and from now on while it is worth it."""
        if peer not in self._trying and self._is_worth(peer):
            self._trying.add(peer)
            self._start_soon(self._keep_trying, peer)

    def called(self, peer: NodeId) -> None:
        """Note that a call over a bearer was answered."""
        self._called[peer] += 1
        if self._called[peer] % CALLS_WANTED == 0:
            self.wanted(peer)
        if len(self._called) > PEERS_MAX:
            self._called.clear()

    def lost(self, peer: NodeId, reason: str) -> None:
        """Note that a punched path is over."""
        self._book.lost(peer, reason, self._system.clock())
        self.wanted(peer)

    def network_changed(self) -> None:
        """Let everything be tried again."""
        self._book.network_changed()
        self._changed.set()
        self._changed = anyio.Event()

    def _is_worth(self, peer: NodeId) -> bool:
        return self._over_bearer(peer) and (self._has_streams(peer) or self._called[peer] >= CALLS_WANTED)

    async def _keep_trying(self, peer: NodeId) -> None:
        try:
            while self._is_worth(peer):
                wait_s = self._book.due_in_s(peer, self._system.clock())
                if wait_s is None:
                    return
                if not wait_s:
                    await self._try(peer)
                    continue
                with anyio.move_on_after(min(wait_s, LOOK_S)):
                    await self._changed.wait()
        finally:
            self._trying.discard(peer)

    async def _try(self, peer: NodeId) -> None:
        self._book.begun(peer)
        own = Address(self._system.node_id, TUNNEL_RELAY)
        try:
            path: Path = await self._system.ask(own, OpenPunched(peer), timeout_s=TRY_S)
            await self._converse(peer, (path,))
        except (AskFailed, PeerError, WorldError) as error:
            log.info("nothing punched to %s: %s", peer.short, error)
            self._book.failed(peer, str(error), self._system.clock())
        except BaseException:
            self._book.failed(peer, "this node's Router ended", self._system.clock())
            raise
        else:
            log.info("punched through NAT to %s", peer.short)
            self._book.opened(peer, self._system.clock())

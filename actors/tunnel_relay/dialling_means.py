"""What a TunnelRelay lends to its parts that dial: its system, its Router, its tasks, its counters, its doors."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from atoll.actors.router.paths import Path, PathLost, RelayGoing
from atoll.actors.runtime.actor import ActorRef
from atoll.actors.runtime.system import ActorSystem
from atoll.actors.tunnel_relay.doors import Doors
from atoll.transport.errors import Congested


class DiallingMeans(msgspec.Struct, frozen=True):
    """Lent for the life of the actor."""

    system: ActorSystem
    router: ActorRef
    start_soon: Callable[..., Any]
    counts: Counter[str]
    doors: Doors

    def late(self, deadline: float | None) -> bool:
        """Tell whether the asker has gone: what is opened for it now nobody would ever close."""
        return deadline is not None and self.system.clock() >= deadline

    async def tell_lost(self, path: Path, reason: str) -> None:
        """Tell the Router that a path is over."""
        await self.router.wait_room()
        self.router.tell(PathLost(path, reason))

    def tell_going(self, relay: str) -> None:
        """Tell the Router that a relay is being drained."""
        self.counts["told_of_drains"] += 1
        try:
            self.router.tell(RelayGoing(relay))
        except Congested:
            # Then its paths are lost when it ends, as those of a relay that dies.
            self.counts["drains_untold"] += 1

"""The talks that peers have begun with this node: so many of each are heard at once, and what breaks off is counted."""

from collections import Counter
from collections.abc import Awaitable, Callable

from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId
from atoll.transport.talk import StreamLost


class TalksHeard:
    """Those under way, by peer."""

    def __init__(self, counts: Counter[str], per_peer_max: int) -> None:
        self._counts = counts
        self._per_peer_max = per_peer_max
        self._under_way: Counter[NodeId] = Counter()

    def __len__(self) -> int:
        return self._under_way.total()

    async def hear(self, peer: NodeId, listen: Callable[[], Awaitable[None]]) -> None:
        """Listen to the end, unless too many talks of the peer are heard; a loss and a broken rule are counted."""
        if self._under_way[peer] >= self._per_peer_max:
            self._counts["not_heard"] += 1
            return
        self._under_way[peer] += 1
        try:
            await listen()
        except StreamLost:
            self._counts["streams_lost"] += 1
        except MalformedFrame:
            self._counts["broken_rules"] += 1
        finally:
            self._under_way[peer] -= 1
            if not self._under_way[peer]:
                del self._under_way[peer]

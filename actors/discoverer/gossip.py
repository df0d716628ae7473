"""What a member passes on: the newest rumour of each node, to a bounded number of members, a few in each message.

    heard --news--> waiting --sent to enough members--> dropped
    waiting --newer rumour of the same node--> waiting, counted anew

Rumours ride on pings and acks, those sent least often first. After about lambda * log(n) sendings everybody has heard
them (SWIM, Das, Gupta, Motivala 2002, section 4.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from atoll.actors.discoverer.messages import GOSSIP_MAX, Rumour
from atoll.transport.identity import NodeId

LAMBDA = 4
"""Sendings of one rumour are this times log10 of the members, as in the deployments that Lifeguard was measured in."""


@dataclass(slots=True)
class _Waiting:
    rumour: Rumour
    order: int
    sent: int = 0


class GossipQueue:
    """The rumours one node passes on; at most one of each node."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._waiting: dict[NodeId, _Waiting] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def spread(self, rumour: Rumour) -> None:
        """Pass this on, and no longer what was said of that node before."""
        self._order += 1
        self._waiting[rumour.node] = _Waiting(rumour, self._order)

    def forget(self, node: NodeId) -> None:
        """Pass nothing on about a node."""
        self._waiting.pop(node, None)

    def take(self, members: int, to: NodeId, beside: Sequence[Rumour] = ()) -> tuple[Rumour, ...]:
        """Give what the next message to `to` carries beside these; what concerns it or ourselves goes first."""
        if not self._waiting:
            return ()
        ranked = sorted(
            (each for each in self._waiting.values() if each.rumour not in beside),
            key=lambda each: (each.rumour.node not in (to, self._own), each.sent, -each.order),
        )
        chosen = ranked[: self.room() - len(beside)]
        times_max = LAMBDA * math.ceil(math.log10(members + 2))
        for each in chosen:
            each.sent += 1
            if each.sent >= times_max:
                del self._waiting[each.rumour.node]
        return tuple(each.rumour for each in chosen)

    def room(self) -> int:
        """Give how many rumours one message carries."""
        return GOSSIP_MAX

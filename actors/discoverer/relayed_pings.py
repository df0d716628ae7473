"""The pings that a member sends because another one asked it to: SWIM's indirect probes, from the middle. Pure.

asked --ping to the target--> under way --its ack--> passed on     --nothing in time--> a nack to whoever asked
"""

from dataclasses import dataclass, field

import msgspec

from atoll.actors.runtime.machine import Seconds
from atoll.transport.identity import NodeId

RELAYED_MAX = 64
"""Under way at once; one more is answered with `Nack` at once."""


class RelayedPing(msgspec.Struct, frozen=True):
    """One of them."""

    origin: NodeId
    """Who asked."""
    origin_sequence: int
    target: NodeId
    until: Seconds


@dataclass(slots=True)
class RelayedPings:
    """Those under way, by the sequence that they have here."""

    _under_way: dict[int, RelayedPing] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._under_way)

    @property
    def full(self) -> bool:
        """No other one may begin."""
        return len(self) >= RELAYED_MAX

    @property
    def within_limits(self) -> bool:
        """Not too many are under way: an invariant."""
        return len(self) <= RELAYED_MAX

    def begin(self, sequence: int, ping: RelayedPing) -> None:
        """Note that it was sent."""
        self._under_way[sequence] = ping

    def answered(self, sequence: int, sender: NodeId) -> RelayedPing | None:
        """Take off the one that an ack of `sender` is for; None: there is none."""
        ping = self._under_way.get(sequence)
        if ping is None or ping.target != sender:
            return None
        return self._under_way.pop(sequence)

    def expired(self, now: Seconds) -> list[RelayedPing]:
        """Take off those without an ack in time."""
        over = [sequence for sequence, each in self._under_way.items() if each.until <= now + 1e-6]
        return [self._under_way.pop(sequence) for sequence in over]

    @property
    def next_at(self) -> Seconds | None:
        """When the next one expires."""
        return min((each.until for each in self._under_way.values()), default=None)

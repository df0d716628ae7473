"""Whether there is so much to carry that a bearer is worth having. Pure: no I/O, time comes in.

    quiet --more than a rate, over `WINDOW_S`--> busy --less than half of it--> quiet
    used  --nothing for `idle_s`--> idle

Signaling passes two proxies and a relay's switch; a bearer costs two tickets, two dials and a place at a relay. One
call now and then is not worth it, the second within seconds is. Whoever calls counts each peer; whoever serves counts
all that comes over signaling, because many callers of little each are much to its proxy. Streams ask for a bearer at
once, and need no threshold.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

import msgspec

from atoll.actors.router.routes import BEARER_RETRY_S
from atoll.transport.identity import NodeId

WINDOW_S = 5.0
"""Over so long rates are measured."""
SLICE_S = 0.5
SLICES = int(WINDOW_S / SLICE_S)
QUIET_PART = 0.5
"""Of a rate: who has been busy is quiet below it, so that nobody goes to and fro at the threshold."""
PEERS_MAX = 4096
"""As many as have routes."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """From when on there is much to carry."""

    calls_s: float = 0.2
    """Of one peer: the second call within `WINDOW_S`. 0: the first."""
    bytes_s: float = 16_384.0
    served_calls_s: float = 10.0
    """Of all together, over signaling."""
    served_bytes_s: float = 262_144.0
    idle_s: float = 60.0
    """A bearer that nobody has used for so long is let go."""
    retry_s: float = BEARER_RETRY_S
    """After a bearer came to nothing, or was let go, so long no other is asked for."""


@dataclass(slots=True)
class Meter:
    """Calls and bytes of the last `WINDOW_S`, and whether that is much."""

    calls_s: float
    bytes_s: float
    busy: str = ""
    """Why it is; empty while it is not."""
    used_at: float = 0.0
    _slices: deque[list[float]] = field(default_factory=lambda: deque(maxlen=SLICES))
    """Of each `SLICE_S` in which there was something: its number, calls, bytes. Bounded, because nobody looks while
    there is a bearer, or where the peer is who calls."""

    def carried(self, calls: int, size: int, now: float) -> None:
        """Count."""
        self.used_at = now
        number = now // SLICE_S
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append([number, 0, 0])
        self._slices[-1][1] += calls
        self._slices[-1][2] += size

    def look(self, now: float) -> str:
        """Say why it is busy; empty when it is not."""
        first = now // SLICE_S - WINDOW_S / SLICE_S
        while self._slices and self._slices[0][0] <= first:
            self._slices.popleft()
        calls_s, bytes_s = (sum(each[which] for each in self._slices) / WINDOW_S for which in (1, 2))
        if calls_s > self.calls_s:
            self.busy = f"more than {self.calls_s:g} calls a second"
        elif bytes_s > self.bytes_s:
            self.busy = f"more than {self.bytes_s / 1000:g} KB a second"
        elif calls_s <= self.calls_s * QUIET_PART and bytes_s <= self.bytes_s * QUIET_PART:
            self.busy = ""
        return self.busy


class Demand:
    """What this node carries to and fro, peer by peer, and what it serves over signaling."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self._peers: OrderedDict[NodeId, Meter] = OrderedDict()
        self._served = Meter(thresholds.served_calls_s, thresholds.served_bytes_s)

    def carried(self, peer: NodeId, calls: int, size: int, now: float) -> None:
        """Count what goes to a peer, or comes from it."""
        meter = self._peers.get(peer)
        if meter is None:
            if len(self._peers) >= PEERS_MAX:
                self._peers.popitem(last=False)
            meter = self._peers[peer] = Meter(self.thresholds.calls_s, self.thresholds.bytes_s)
        self._peers.move_to_end(peer)
        meter.carried(calls, size, now)

    def served(self, calls: int, size: int, now: float) -> None:
        """Count what is served over signaling."""
        self._served.carried(calls, size, now)

    def of(self, peer: NodeId, now: float) -> str:
        """Say why a peer is worth a bearer; empty when it is not."""
        meter = self._peers.get(peer)
        return "" if meter is None else meter.look(now)

    def of_all(self, now: float) -> str:
        """Say why those who are served are offered bearers; empty when they are not."""
        return self._served.look(now)

    def is_idle(self, peer: NodeId, now: float) -> bool:
        """Tell whether nothing has gone to a peer or come from it for `idle_s`."""
        meter = self._peers.get(peer)
        return meter is None or now >= meter.used_at + self.thresholds.idle_s

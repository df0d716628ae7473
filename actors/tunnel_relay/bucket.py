"""A token bucket: how many bytes may pass now so that in the long run no more than the rate does.

Over any stretch of `t` seconds at most `burst_bytes + rate_bytes_s * t` pass. Pure: the time comes in, from any clock
that does not matter; one that jumps back gives nothing. It is the algorithm of RFC 2697, section 3, with one bucket.
"""

from dataclasses import dataclass

BURST_S = 0.1
"""What may pass at once after a rest, in seconds of the rate: a round trip or two, so that answers are not delayed."""
BURST_BYTES_MIN = 65_536
"""One record of a session at least, or a low rate would cut each into slivers."""
STEP_S = 0.02
"""How much of the rate is waited for before a pause ends: 50 wake-ups a second for each tunnel that is held back."""


@dataclass(slots=True, kw_only=True)
class Bucket:
    """What is left of a rate; it begins full, or empty where a predecessor may have used up the burst."""

    rate_bytes_s: int
    now: float
    full: bool = True
    burst_bytes: int = 0
    _bytes: float = 0.0

    def __post_init__(self) -> None:
        self.burst_bytes = max(BURST_BYTES_MIN, int(self.rate_bytes_s * BURST_S))
        self._bytes = float(self.burst_bytes) if self.full else 0.0

    def available(self, now: float) -> int:
        """Give how many bytes may pass at this time."""
        if now > self.now:
            self._bytes = min(self.burst_bytes, self._bytes + (now - self.now) * self.rate_bytes_s)
        # A clock that was set back begins anew from there.
        self.now = now
        return int(self._bytes)

    def take(self, count: int) -> None:
        """Note that so many bytes have passed; the caller asked `available` first."""
        self._bytes -= count

    def wait_s(self) -> float:
        """Tell how long from the last look it takes until a worthwhile piece may pass."""
        wanted = max(1.0, min(self.rate_bytes_s * STEP_S, float(self.burst_bytes)))
        return max(0.0, wanted - self._bytes) / self.rate_bytes_s

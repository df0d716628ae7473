"""How far a node distrusts itself: Lifeguard's local health multiplier (Dadgar, Phillips, Currey 2018, section 3.1).

    0 (well) --a probe failed, a nack is missing, others suspect us, we stood still--> up to 8 --a probe succeeds--> 0

A node that is short of processor or network sees everybody else as silent. The worse it finds itself, the longer it
waits before it says so of others: every wait is multiplied by the score and one.
"""

SCORE_MAX = 8


class LocalHealth:
    """The score of one node."""

    def __init__(self) -> None:
        self.score = 0

    def note(self, change: int) -> None:
        """Put the score up or down."""
        self.score = min(SCORE_MAX, max(0, self.score + change))

    def stretch(self, wait_s: float) -> float:
        """Make a wait as long as the node distrusts itself."""
        return wait_s * (self.score + 1)

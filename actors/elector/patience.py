"""How long a voter waits before it asks for votes: as long as it is bound, and then a delay drawn by rank.

Heartbeats only move the end of it; the timer looks at the end when it fires, and sleeps on.
"""

from random import Random

from atoll.actors.elector.outlook import Outlook
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Arm, Seconds
from atoll.transport.identity import NodeId

TIMER = "patience"
RANK_SPREAD = 0.25
"""The share of its place in which a voter that knows its rank draws: enough to part two that believe to share one."""
TIMER_S_MIN = 0.001
"""A timer that fires a rounding error too early is armed again for this long, not for zero."""


class Patience:
    """One voter's patience with whoever should be supernode."""

    def __init__(self, outlook: Outlook, settings: ElectionSettings, rng: Random) -> None:
        self._outlook = outlook
        self._settings = settings
        self._rng = rng
        self._delay: Seconds = 0.0
        self.until: Seconds = 0.0
        self.followed: NodeId | None = None
        """The supernode followed last: while this counts it is silent, and its place would be waited for in vain."""

    def wait(self, bound_until: Seconds) -> None:
        """Wait for what binds us, and then for the delay drawn last."""
        self.until = bound_until + self._delay

    def arm(self, now: Seconds) -> Arm:
        """Arm the timer for the end of it."""
        return Arm(TIMER, max(TIMER_S_MIN, self.until - now))

    def draw(self, roster: Roster) -> None:
        """Draw the delay anew, for the next `wait`."""
        self._delay = self.delay(roster)

    def redraw(self, roster: Roster) -> None:
        """Draw it anew for the wait in force: our rank may be another now."""
        before = self._delay
        self.draw(roster)
        self.until += self._delay - before

    def delay(self, roster: Roster) -> Seconds:
        """Draw an election delay: the span is shared out by rank, and whoever's score is unknown may have any rank."""
        own = self._outlook.own
        voters = [voter for voter in roster.voters if voter == own or voter != self.followed]
        if len(roster.voters) == 1:
            return 0.0
        better, unknown = self._outlook.rank(voters)
        spread = 1 + unknown if unknown else RANK_SPREAD
        share = (better + self._rng.random() * spread) / len(voters)
        return self._settings.delay_s_min + (self._settings.delay_s_max - self._settings.delay_s_min) * share

"""Tells this node when its lease was renewed, and that it is over, before anything is sent that relies on the end."""

from atoll.actors.elector.messages import LeaseEnded, LeaseRenewed
from atoll.actors.elector.reign import Reign
from atoll.actors.elector.rosters import Rosters
from atoll.actors.runtime.machine import Announce, Effect


class LeaseNews:
    """What this node was told of its own lease last."""

    def __init__(self) -> None:
        self._told: LeaseRenewed | None = None

    def added_to(self, effects: list[Effect], reign: Reign | None, rosters: Rosters) -> list[Effect]:
        """Put the news before what the machine does because a lease ended, and behind what made a new one."""
        before = self._told
        if reign is None and before is None:
            return effects
        self._told = None
        if reign is not None:
            roster = rosters.current
            self._told = LeaseRenewed(reign.epoch, reign.lease_until, *roster.mark, roster.voters)
        if before is not None and (self._told is None or self._told.epoch != before.epoch):
            # First: with a `Release` that is sent next, another may hold a lease within a round trip.
            effects = [Announce(LeaseEnded(before.epoch)), *effects]
        if self._told is not None and self._told != before:
            effects = [*effects, Announce(self._told)]
        return effects

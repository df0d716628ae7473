"""Finds members of whom nobody has spoken for too long, so that somebody asks about them. Pure.

    told of, no link --nobody with a link speaks of it for long--> asked about, and suspected if nobody has an answer

Those who watch a member may die with it: when half a site loses its power, four neighbours on the ring and the
supernode may be among them, and nobody is left to whom its silence says something. A supernode has a link to everybody,
so a new one soon asks about who has none. All others wait until those that tell of members in turn have told of all.
"""

from collections.abc import Mapping

from atoll.actors.discoverer.belief import Belief
from atoll.actors.discoverer.messages import Life
from atoll.actors.discoverer.suspicion_settings import SuspicionSettings
from atoll.actors.runtime.machine import Seconds
from atoll.transport.identity import NodeId


class Unheard:
    """The silent ones of one node; `members` is its table, as it is now."""

    def __init__(self, members: Mapping[NodeId, Belief], settings: SuspicionSettings) -> None:
        self._members = members
        self._settings = settings
        self._presides_since: Seconds | None = None

    def preside(self, now: Seconds | None) -> None:
        """Note that this node is supernode from now on, if it was not before; None: it is not."""
        if now is None or self._presides_since is None:
            self._presides_since = now

    def longest(self, now: Seconds) -> Belief | None:
        """Give whom nobody has spoken of for longest, if that is too long; None: nobody."""
        silent = [
            each
            for each in self._members.values()
            if not each.linked and not each.watched and each.life is Life.ALIVE and now >= self._until(each)
        ]
        return min(silent, key=lambda each: (each.heard_at, each.node), default=None)

    def _until(self, member: Belief) -> Seconds:
        settings = self._settings
        if self._presides_since is not None:
            return max(member.heard_at, self._presides_since) + settings.unlinked_s
        return member.heard_at + max(settings.unheard_s, settings.unheard_member_s * len(self._members))

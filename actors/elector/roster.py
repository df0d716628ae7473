"""Who votes in a site: a versioned list, never whoever happens to answer.

Version 1 is founded under the site secret; every member can check it. Later versions will carry the signatures of a
majority of the version before; until then a roster, once known, stays.
"""

import hmac
from collections.abc import Iterable

from atoll.transport.codec import Message
from atoll.transport.errors import MalformedFrame, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import SiteKeys

VOTERS_MAX = 7
"""Seven survive three deaths; more voters make every vote slower and no site safer."""


class Roster(Message, frozen=True, array_like=True, tag="elector.roster"):
    """The voters of a site: a message, a record on disk, and what a vote refers to by its version."""

    version: int = 0
    """0 before any roster is known: such a node has no vote."""
    voters: tuple[NodeId, ...] = ()
    """Sorted, without repetition."""
    seal: bytes = b""
    """HMAC-SHA256 of version and voters under the site's roster key."""

    @classmethod
    def found(cls, site_keys: SiteKeys, voters: Iterable[NodeId]) -> "Roster":
        """Make version 1; the same voters always give the same roster.

        Raises:
            UsageError: No voter, more than `VOTERS_MAX`, or one named twice (the caller's fault).
        """
        listed = sorted(voters)
        roster = cls(1, tuple(listed), _seal(site_keys.roster_key, 1, listed))
        if fault := roster.fault(site_keys.roster_key):
            raise UsageError(f"a roster cannot be founded: {fault}")
        return roster

    @property
    def quorum(self) -> int:
        """How many voters are a majority."""
        return len(self.voters) // 2 + 1

    def fault(self, roster_key: bytes) -> str:
        """Name the first thing wrong with this roster; empty when it is the site's."""
        if self.version < 1:
            return f"its version is {self.version}, the first is 1"
        if not 1 <= len(self.voters) <= VOTERS_MAX:
            return f"it names {len(self.voters)} voters, 1 to {VOTERS_MAX} are possible"
        if list(self.voters) != sorted(set(self.voters)):
            return "its voters are not sorted, or one is named twice"
        if not hmac.compare_digest(self.seal, _seal(roster_key, self.version, self.voters)):
            return "its seal is not made with this site's secret"
        return ""

    def verify(self, roster_key: bytes) -> None:
        """Check that the site's secret sealed it.

        Raises:
            MalformedFrame: Anything is wrong with it (the sender's fault).
        """
        if fault := self.fault(roster_key):
            raise MalformedFrame(f"not a roster of this site: {fault}")


def _seal(roster_key: bytes, version: int, voters: Iterable[NodeId]) -> bytes:
    return hmac.digest(roster_key, b"atoll roster" + version.to_bytes(8, "big") + b"".join(voters), "sha256")

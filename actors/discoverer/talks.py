"""Members that somebody on this node talks to, though a large site gives the two no link.

    unknown  --LinkWanted, room-->                 wanted (for `TALK_S`, anew with each)
    wanted   --nobody has wanted it for so long--> over: the link is let go, unless it is wanted for another reason

So a link is dialled when something has to be said, and a site of two hundred does not keep all of them. What the other
end wants it dials again itself.
"""

from atoll.actors.runtime.machine import Seconds
from atoll.transport.identity import NodeId

TALK_S = 30.0
"""How long a link stays after it was wanted last: another pull may follow."""
TALKS_MAX = 64
"""At once; a sign of life every 1.25 s on each is 51 packets a second for a while."""


class Talks:
    """Who is talked to, and until when."""

    def __init__(self) -> None:
        self._until: dict[NodeId, Seconds] = {}

    def __contains__(self, node: NodeId) -> bool:
        return node in self._until

    def __len__(self) -> int:
        return len(self._until)

    def want(self, node: NodeId, now: Seconds) -> bool:
        """Note that somebody talks to that member; tell whether there was room for one more."""
        if node not in self._until and len(self._until) >= TALKS_MAX:
            return False
        self._until[node] = now + TALK_S
        return True

    def nodes(self) -> frozenset[NodeId]:
        """Give all who are talked to."""
        return frozenset(self._until)

    def over(self, now: Seconds) -> list[NodeId]:
        """Give those whom nobody has talked to for `TALK_S`, and forget them."""
        ended = sorted(node for node, until in self._until.items() if now >= until)
        for node in ended:
            del self._until[node]
        return ended

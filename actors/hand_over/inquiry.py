"""Whom to ask for places: the supernode, where somebody has named it; the own node's placement otherwise.

home --an answer names the supernode--> supernode --UNANSWERED_MAX questions without an answer--> home
"""

from atoll.actors.placement.messages import PATH as PLACEMENT
from atoll.actors.placement.messages import FindPlace, Placed, RemovePlace, SwapPlace
from atoll.actors.runtime.machine import Send
from atoll.transport.identity import NodeId

UNANSWERED_MAX = 3


class Inquiry:
    """The questions of one node."""

    __slots__ = ("_home", "_unanswered", "whom")

    def __init__(self, home: NodeId) -> None:
        self._home = home
        self._unanswered = 0
        self.whom = home

    def find(self, actor: str) -> Send:
        """Ask where an actor is."""
        return self._send(FindPlace(actor))

    def swap(self, actor: str, expected: Placed | None, wanted: Placed) -> Send:
        """Ask to put one place for another."""
        return self._send(SwapPlace(actor, expected, wanted))

    def remove(self, actor: str, expected: Placed) -> Send:
        """Ask to take an actor out of the table."""
        return self._send(RemovePlace(actor, expected))

    def _send(self, question: FindPlace | SwapPlace | RemovePlace) -> Send:
        self._unanswered += 1
        if self._unanswered > UNANSWERED_MAX:
            self.whom, self._unanswered = self._home, 1
        return Send(self.whom, question, PLACEMENT)

    def heard(self, supernode: NodeId | None) -> bool:
        """Hear an answer; tell whether it names somebody new, who is to be asked at once."""
        self._unanswered = 0
        if supernode is None or supernode == self.whom:
            return False
        self.whom = supernode
        return True

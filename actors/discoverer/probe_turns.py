"""Whom to ping next: every member in turn, in an order drawn anew each round (SWIM, section 4.3). Pure.

    hurried --> next     all others --one a period--> pinged --all were--> a new round

So none waits longer than two rounds, and no two nodes ping in the same order.
"""

from collections.abc import Mapping
from random import Random

from atoll.actors.discoverer.belief import Belief
from atoll.actors.discoverer.messages import Life
from atoll.transport.identity import NodeId

LOOKED_AT_MAX = 4
"""Members that one search for first-hand news looks at."""


class ProbeTurns:
    """The order of one node; `members` is its table, as it is now."""

    def __init__(self, members: Mapping[NodeId, Belief], rng: Random) -> None:
        self._members = members
        self._rng = rng
        self._round: list[NodeId] = []
        self._urgent: list[NodeId] = []
        self._told = 0

    def hurry(self, node: NodeId) -> None:
        """Let a member be the next one, or one of the next."""
        if node not in self._urgent:
            self._urgent.append(node)

    def take(self) -> Belief | None:
        """Give the next one of those that are not gone and that this node has or had a link with; None: nobody."""
        while self._urgent:
            member = self._members.get(self._urgent.pop(0))
            if member is not None and not member.gone:
                return member
        for _ in range(2):
            while self._round:
                member = self._members.get(self._round.pop())
                if member is not None and member.ours and not member.gone:
                    return member
            self._round = sorted(node for node, each in self._members.items() if each.ours and not each.gone)
            self._rng.shuffle(self._round)
        return None

    def first_hand(self) -> Belief | None:
        """Give in turn those that live by a link of this node's own, so that who came late learns of everybody."""
        for _ in range(min(LOOKED_AT_MAX, len(self._round))):
            self._told = (self._told + 1) % len(self._round)
            member = self._members.get(self._round[self._told])
            if member is not None and member.linked and member.life is Life.ALIVE and member.incarnation:
                return member
        return None

"""Whom to ping next: every member in turn, in an order drawn anew each round (SWIM, section 4.3). Pure.

    hurried --> next     all others --one a period--> pinged --all were--> a new round

So none waits longer than two rounds, and no two nodes ping in the same order.
"""

from collections.abc import Mapping
from random import Random

from atoll.actors.discoverer.belief import Belief
from atoll.transport.identity import NodeId


class ProbeTurns:
    """The order of one node; `members` is its table, as it is now."""

    def __init__(self, members: Mapping[NodeId, Belief], rng: Random) -> None:
        self._members = members
        self._rng = rng
        self._round: list[NodeId] = []
        self._urgent: list[NodeId] = []

    def hurry(self, node: NodeId) -> None:
        """Let a member be the next one, or one of the next."""
        if node not in self._urgent:
            self._urgent.append(node)

    def take(self) -> Belief | None:
        """Give the next one of those that are watched and not gone; None: nobody."""
        while self._urgent:
            member = self._members.get(self._urgent.pop(0))
            if member is not None and not member.gone:
                return member
        for _ in range(2):
            while self._round:
                member = self._members.get(self._round.pop())
                if member is not None and member.watched and not member.gone:
                    return member
            self._round = sorted(node for node, each in self._members.items() if each.watched and not each.gone)
            self._rng.shuffle(self._round)
        return None

"""Whom a member introduces to others: those it has a link with, and who is gone, in turn, a few on each message. Pure.

So who came late hears of everybody, and who has missed a death hears of that. Each receiver has a turn of its own.
"""

from collections.abc import Mapping

from atoll.actors.discoverer.belief import Belief
from atoll.actors.discoverer.messages import Life, Rumour
from atoll.transport.identity import NodeId

MEMBERS_AN_INTRODUCTION = 25
"""One rumour a message, and one more for each so many members: on a site of 200 the supernode, which has a link to
everybody, has introduced all to each within five minutes."""


class Introductions:
    """Those of one node; `members` is its table, as it is now."""

    def __init__(self, own: NodeId, members: Mapping[NodeId, Belief]) -> None:
        self._own = own
        self._members = members

    def take(self, to: NodeId, room: int) -> list[Rumour]:
        """Give what the next message to `to` says, at most `room` rumours, from where the last one ended."""
        receiver, table = self._members.get(to), list(self._members.values())
        said: list[Rumour] = []
        room = min(room, 1 + len(table) // MEMBERS_AN_INTRODUCTION)
        at = receiver.introduced if receiver is not None else 0
        for _ in table:
            if len(said) >= room:
                break
            member = table[at % len(table)]
            at = at % len(table) + 1
            if member.node == to:
                continue
            if member.gone:
                said.append(member.rumour(self._own))
            elif member.linked and member.life is Life.ALIVE and member.incarnation:
                said.append(Rumour(member.node, Life.ALIVE, member.incarnation, self._own))
        if receiver is not None:
            receiver.introduced = at
        return said

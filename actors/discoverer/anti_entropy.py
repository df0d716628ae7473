"""What two members that talk find out they believe differently: anti-entropy on pings and acks. Pure.

    ping: "I suspect X, and have no link to it"  -->  ack: "X has refuted that", or "X is dead"
    ack, request: "I suspect X"                  -->  rumours: the same

Gossip misses somebody now and then, and on a large site, where most members have no link to each other, nobody else
can tell who was missed: a suspect's refutation reaches those with a link to it when they ask it once more, and all
others only so. After Demers et al., *Epidemic Algorithms for Replicated Database Maintenance* (1987), section 1.3.
"""

from collections.abc import Mapping, Sequence

from atoll.actors.discoverer.belief import Belief
from atoll.actors.discoverer.messages import Life, Rumour
from atoll.transport.identity import NodeId

QUESTIONS_MAX = 2
"""Rumours of one message that ask."""
CORRECTIONS_MAX = 4
"""Rumours of one message that answer."""


class AntiEntropy:
    """The questions and corrections of one node; `members` is its table, as it is now."""

    def __init__(self, own: NodeId, members: Mapping[NodeId, Belief]) -> None:
        self._own = own
        self._members = members

    def questions(self, to: NodeId, beside: Sequence[Rumour] = ()) -> list[Rumour]:
        """Give that of which `to` may know better: its own suspicion or death, and suspects without a link here.

        What the message says already is left out.
        """
        said = {each.node for each in beside}
        doubts = [
            each
            for each in self._members.values()
            if (each.life is not Life.ALIVE if each.node == to else each.life is Life.SUSPECT and not each.linked)
            and each.node not in said
        ]
        # Lifeguard's buddy system: whoever pings a suspect says so. Of the others, those that will be dead soonest.
        doubts.sort(key=lambda each: (each.node != to, each.until))
        return [each.rumour(self._own) for each in doubts[:QUESTIONS_MAX]]

    def corrections(self, gossip: Sequence[Rumour]) -> list[Rumour]:
        """Give what is known better here, of those that somebody suspects or believes dead."""
        better = []
        for rumour in gossip:
            member = self._members.get(rumour.node)
            if rumour.life is Life.ALIVE or member is None:
                continue
            if member.newer_than(rumour):
                better.append(member.rumour(self._own))
        return better[:CORRECTIONS_MAX]

"""Who should vote: which one voter a supernode would add or remove next, and why.

    1 voter  --two further members in reach for `settle_s`-->  3  --two more-->  5  --two more-->  7
    a voter leaves in good order      --the others can decide without it-->  it is taken out at once
    a voter is unseen for `absent_s`  --a fit member is there-->  that one is added, then the absent one taken out

An even number is only passed through: two voters survive no death more than one does, and stop at two instead of one.
A site whose voters are named in its config keeps exactly these, and grows back to them after a reform. Nothing here
makes a change safe; that is `roster_change.py`'s.
"""

from collections.abc import Iterable, Mapping

import msgspec

from atoll.actors.elector.roster import VOTERS_MAX, Roster
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Seconds
from atoll.transport.identity import NodeId

DECLINED_S = 60.0
"""How long a member that did not answer an invitation is passed over."""
BLIND_S = 30.0
"""Whoever has not looked for so long was asleep itself, and knows nothing of others' absence."""
NODES_MAX = 4096


class Wish(msgspec.Struct, frozen=True):
    """What the roster should become, by one voter more or less."""

    voters: tuple[NodeId, ...]
    reason: str


class Electorate:
    """What one node has seen of the members of its site, and what follows for the roster if it is supernode."""

    def __init__(self, own: NodeId, settings: ElectionSettings, named: Iterable[NodeId] = ()) -> None:
        self.own = own
        self.settings = settings
        self.named = tuple(sorted(named))
        """Voters that a person has named; empty: the site chooses."""
        self._since: dict[NodeId, Seconds] = {}
        self._unseen: dict[NodeId, Seconds] = {}
        self._leaving: dict[NodeId, str] = {}
        self._declined: dict[NodeId, Seconds] = {}
        self._looked_at: Seconds | None = None

    def meet(self, node: NodeId, now: Seconds) -> None:
        """A member came into reach; whether it wants to leave it has to say again."""
        self._unseen.pop(node, None)
        self._leaving.pop(node, None)
        if node != self.own and len(self._since) < NODES_MAX:
            self._since.setdefault(node, now)

    def part(self, node: NodeId) -> None:
        """A member went out of reach."""
        self._since.pop(node, None)
        self._declined.pop(node, None)

    def leaves(self, node: NodeId, reason: str) -> None:
        """A member in reach, or this node, wants to vote no more."""
        if node == self.own or node in self._since:
            self._leaving[node] = reason

    @property
    def leaving(self) -> str:
        """Why this node leaves; empty: it does not."""
        return self._leaving.get(self.own, "")

    def decline(self, node: NodeId, now: Seconds) -> None:
        """A member did not answer an invitation in time."""
        self._declined[node] = now

    def look(self, roster: Roster, now: Seconds) -> None:
        """Note which voters are out of reach; called regularly."""
        if self._looked_at is None or now - self._looked_at > BLIND_S:
            self._unseen.clear()
        self._looked_at = now
        gone = [voter for voter in roster.voters if not self._here(voter)]
        self._unseen = {voter: self._unseen.get(voter, now) for voter in gone}

    def wish(self, roster: Roster, scores: Mapping[NodeId, Score], now: Seconds) -> Wish | None:
        """Say what a supernode should change next; None: nothing."""
        fit = [
            node
            for node, since in self._since.items()
            if node not in roster.voters and now - since >= self.settings.settle_s and self._willing(node, now)
        ]
        fit.sort(key=lambda node: (scores.get(node, Score()), node), reverse=True)
        if self.named:
            return self._as_named(roster, fit)
        return self._departure(roster, scores, fit, now) or self._growth(roster, scores, fit)

    def _as_named(self, roster: Roster, fit: list[NodeId]) -> Wish | None:
        missing = [node for node in fit if node in self.named]
        unnamed = [voter for voter in roster.voters if voter not in self.named]
        if missing and len(roster.voters) < VOTERS_MAX:
            return _with(roster, missing[0], "the config names it as a voter")
        if unnamed and (missing or set(self.named) <= set(roster.voters)):
            return self._without(roster, unnamed[0], "the config does not name it as a voter")
        return None

    def _departure(
        self, roster: Roster, scores: Mapping[NodeId, Score], fit: list[NodeId], now: Seconds
    ) -> Wish | None:
        odd, room = len(roster.voters) % 2 == 1, len(roster.voters) < VOTERS_MAX
        for voter in (each for each in roster.voters if each in self._leaving):
            if len(roster.voters) == 1:
                heirs = [node for node in self._since if self._willing(node, now)]
                heir = max(heirs, key=lambda node: (scores.get(node, Score()), node), default=None)
                return _with(roster, heir, f"in place of {voter.short}, which leaves") if heir else None
            if wish := self._without(roster, voter, f"it leaves: {self._leaving[voter]}"):
                return wish
        for voter, since in sorted(self._unseen.items()):
            if now - since < self.settings.absent_s or voter not in roster.voters:
                continue
            if fit and odd and room:
                return _with(roster, fit[0], f"in place of {voter.short}, which nobody has seen for long")
            if wish := self._without(roster, voter, f"unseen for {self.settings.absent_s / 3600:g} h"):
                return wish
        return None

    def _growth(self, roster: Roster, scores: Mapping[NodeId, Score], fit: list[NodeId]) -> Wish | None:
        count = len(roster.voters)
        if count % 2 == 0:
            if fit and count < VOTERS_MAX:
                return _with(roster, fit[0], f"the fittest of {len(fit)}: an odd number of voters bears more")
            others = [voter for voter in roster.voters if voter != self.own]
            least = min(others, key=lambda node: (self._here(node), scores.get(node, Score()), node), default=None)
            return (
                self._without(roster, least, "an even number of voters bears no more than one less") if least else None
            )
        if count + 2 <= VOTERS_MAX and len(fit) >= 2:
            return _with(roster, fit[0], f"the fittest of {len(fit)} further members: {count + 2} voters bear more")
        return None

    def _here(self, node: NodeId) -> bool:
        return node == self.own or node in self._since

    def _willing(self, node: NodeId, now: Seconds) -> bool:
        declined = self._declined.get(node)
        return node not in self._leaving and (declined is None or now - declined >= DECLINED_S)

    def _without(self, roster: Roster, voter: NodeId, reason: str) -> Wish | None:
        """Take one out, if the others can decide without it."""
        left = tuple(each for each in roster.voters if each != voter)
        in_reach = sum(self._here(each) for each in left)
        return Wish(left, f"without {voter.short}: {reason}") if left and in_reach >= len(left) // 2 + 1 else None


def _with(roster: Roster, node: NodeId, reason: str) -> Wish:
    return Wish((*roster.voters, node), f"with {node.short}: {reason}")

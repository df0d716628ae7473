"""What a node believes about its site: who is in reach, how fit each is, who is supernode.

        nobody      --told by a supernode with a majority-->       confirmed
        nobody      --nothing heard for `provisional_after_s`-->   provisional: the fittest in reach
        provisional --told by a supernode with a majority-->       confirmed
        any         --silence, or the lease is gone-->             nobody

A belief is for the soft duties and for people. It grants nothing: what is exclusive asks `Election.lease_held`. Several
sides of a cut may each have a provisional supernode, never two confirmed ones of one epoch.
"""

from collections.abc import Sequence

import msgspec

from atoll.actors.elector.messages import Presiding, SupernodeElected, SupernodeLost
from atoll.actors.elector.roster import Mark, Roster
from atoll.actors.elector.score import Score, best_of, why_best
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Announce, Effect, Seconds, Send
from atoll.transport.identity import NodeId

MEMBERS_MAX = 4096
"""Members that are kept in mind; a site larger than this should be two."""


class Belief(msgspec.Struct, frozen=True):
    """Who is supernode, as far as this node knows, and when it heard so."""

    node: NodeId
    epoch: int
    confirmed: bool
    reason: str
    heard_at: Seconds


class Outlook:
    """Keeps the beliefs of one node and turns their changes into announcements."""

    def __init__(self, own: NodeId, score: Score, settings: ElectionSettings) -> None:
        self.own = own
        self.settings = settings
        self.scores: dict[NodeId, Score] = {own: score}
        self.reachable: dict[NodeId, None] = {}
        self.belief: Belief | None = None
        self.roster: Mark = (0, 0)
        """Of the roster in force; told to those without a vote, so that they notice a newer one."""
        self.highest_epoch = 0
        """The highest that a supernode was heard of in; what a node without a vote shows."""
        self._better: tuple[NodeId, Seconds] | None = None
        self.unconfirmed_since: Seconds = 0.0
        """Since when no majority's supernode is known; meaningless while one is."""

    @property
    def score(self) -> Score:
        """This node's own fitness."""
        return self.scores[self.own]

    @property
    def provisional(self) -> bool:
        """Whether this node serves provisionally."""
        belief = self.belief
        return belief is not None and belief.node == self.own and not belief.confirmed

    def members(self) -> list[NodeId]:
        """List who is in reach, in an order that does not depend on who came first."""
        return sorted(self.reachable)

    def rate(self, node: NodeId, score: Score) -> None:
        """Remember how fit another node is."""
        if node in self.scores or len(self.scores) < MEMBERS_MAX:
            self.scores[node] = score

    def meet(self, node: NodeId) -> None:
        """A member came into reach."""
        if node != self.own and len(self.reachable) < MEMBERS_MAX:
            self.reachable[node] = None

    def part(self, node: NodeId) -> None:
        """A member went out of reach; its score goes too, since it may come back as another host."""
        self.reachable.pop(node, None)
        if node != self.own:
            self.scores.pop(node, None)

    def rank(self, voters: Sequence[NodeId]) -> tuple[int, int]:
        """Count the voters that are better than this node, and those whose fitness is unknown."""
        own = (self.score, self.own)
        better = sum((self.scores[voter], voter) > own for voter in voters if voter in self.scores)
        return better, sum(voter not in self.scores for voter in voters)

    def best_among(self, voters: Sequence[NodeId]) -> NodeId | None:
        """Choose the fittest voter in reach, other than this node; None when there is none."""
        in_reach = {voter: self.scores.get(voter, Score()) for voter in voters if voter in self.reachable}
        return best_of(in_reach) if in_reach else None

    def clearly_better(self, voters: Sequence[NodeId], now: Seconds) -> NodeId | None:
        """Name the voter that has had the higher score for `better_for_s`; asked regularly by a supernode."""
        best = self.best_among(voters)
        if best is None or self.scores.get(best, Score()) <= self.score:
            self._better = None
        elif self._better is None or self._better[0] != best:
            self._better = (best, now)
        elif now - self._better[1] >= self.settings.better_for_s:
            self._better = None
            return best
        return None

    def voters_in_reach(self, roster: Roster) -> int:
        """Count the voters that are in reach, with this node if it votes."""
        return sum(voter == self.own or voter in self.reachable for voter in roster.voters)

    def no_majority_because(self, roster: Roster) -> str:
        """Say in words why there is no confirmed supernode."""
        if not roster.voters:
            return "no roster of this site is known yet: `atoll site reform` at one node founds one"
        in_reach = self.voters_in_reach(roster)
        verdict = "an election is under way" if in_reach >= roster.quorum else "no majority"
        return f"{in_reach} of {len(roster.voters)} voters in reach, {roster.quorum} needed: {verdict}"

    def why_elected(self, roster: Roster, votes: int) -> str:
        """Say in words why this node was chosen by so many."""
        if len(roster.voters) == 1:
            return "the only voter of its site"
        scores = {voter: self.scores[voter] for voter in roster.voters if voter in self.scores}
        return f"{votes} of {len(roster.voters)} voters chose it; {why_best(self.own, scores)}"

    def why_better(self, node: NodeId) -> str:
        """Say in words what `node` is ahead of this one in."""
        return why_best(node, {node: self.scores.get(node, Score()), self.own: self.score})

    def believe(self, belief: Belief) -> list[Effect]:
        """Take over a belief; announced only when it says something new."""
        before, self.belief = self.belief, belief
        self.highest_epoch = max(self.highest_epoch, belief.epoch)
        if before and (before.node, before.epoch, before.confirmed) == (belief.node, belief.epoch, belief.confirmed):
            return []
        if before and before.confirmed and not belief.confirmed:
            self.unconfirmed_since = belief.heard_at
        return [Announce(SupernodeElected(belief.node, belief.epoch, belief.confirmed, belief.reason))]

    def disbelieve(self, reason: str, now: Seconds) -> list[Effect]:
        """Give up the belief; `reason` says why."""
        lost, self.belief = self.belief, None
        if lost is None:
            return []
        if lost.confirmed:
            self.unconfirmed_since = now
        return [Announce(SupernodeLost(lost.node, lost.epoch, reason))]

    def hear(self, sender: NodeId, told: Presiding, now: Seconds) -> list[Effect]:
        """Judge a node's claim that it presides."""
        current = self.belief
        if current is not None and current.node != sender:
            if current.confirmed and (not told.confirmed or told.epoch < current.epoch):
                return []
            if not current.confirmed and not told.confirmed and not self._fitter(sender, current.node):
                return []
        return self.believe(Belief(sender, told.epoch, told.confirmed, told.reason, now))

    def _fitter(self, node: NodeId, than: NodeId) -> bool:
        rated = {node: self.scores.get(node, Score()), than: self.scores.get(than, Score())}
        return best_of(rated) == node

    def tick(self, epoch: int, standing: str, now: Seconds) -> list[Effect]:
        """Once in `announce_s`, on a node that is not supernode: forget the stale, and step in where nobody presides.

        `standing` says in words why there is no majority.
        """
        effects: list[Effect] = []
        belief = self.belief
        if belief and belief.node != self.own and now - belief.heard_at >= self.settings.belief_s:
            effects += self.disbelieve(f"{belief.node.short} has been silent for {self.settings.belief_s:g} s", now)
        if self.belief and self.belief.node != self.own:
            return effects
        in_reach = {self.own: self.score} | {n: self.scores[n] for n in self.members() if n in self.scores}
        best = best_of(in_reach)
        if self.provisional:
            if best != self.own:
                return [*effects, *self.disbelieve(f"{best.short} is in reach and better", now)]
            return effects + self.tell(self.members())
        if best == self.own and now - self.unconfirmed_since >= self.settings.provisional_after_s:
            reason = f"provisional, {standing}; {why_best(self.own, in_reach)}"
            epoch = max(epoch, self.highest_epoch)
            effects += self.believe(Belief(self.own, epoch, False, reason, now))
            effects += self.tell(self.members())
        return effects

    def tell(self, members: Sequence[NodeId]) -> list[Effect]:
        """Tell `members` that this node presides."""
        if self.belief is None or self.belief.node != self.own:
            return []
        (incarnation, version), belief = self.roster, self.belief
        message = Presiding(belief.epoch, belief.confirmed, belief.reason, self.score, version, incarnation)
        return [Send(member, message) for member in members]

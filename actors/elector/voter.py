"""What binds a voter: its ballot on disk, its promises, its rest after a restart.

        free      --votes, or acknowledges a heartbeat-->   promised (to one node, for L on this voter's clock)
        promised  --L is over, or it is released-->         free
        restarted --L is over-->                            free        (after damage: `recollection.py`)

It must never say yes before the ballot is on disk, and never to a second node while a promise lasts, whatever epoch the
second one comes with: the lease of the first rests on it.
"""

import msgspec

from atoll.actors.elector.messages import Ballot, Release
from atoll.actors.elector.roster import Mark
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Effect, Persist, Seconds, insist
from atoll.transport.identity import NodeId


class Promise(msgspec.Struct, frozen=True):
    """To vote for nobody but `to` until `until`; made in `epoch`."""

    to: NodeId
    epoch: int
    until: Seconds


class Voter:
    """One voter's obligations. Every rule is a method of its own, and has a mutant that breaks it."""

    def __init__(self, own: NodeId, settings: ElectionSettings) -> None:
        self.own = own
        self.settings = settings
        self.ballot = Ballot()
        self.promise: Promise | None = None
        self.no_vote_until: Seconds = 0.0
        self.forgetful = False
        """Its journal was damaged, and it does not know yet in which epochs it may have voted."""
        self.roster: Mark = (0, 0)
        """Of the roster in force here; its version goes onto every ballot."""

    @property
    def epoch(self) -> int:
        """The highest epoch this voter has taken part in."""
        return self.ballot.epoch

    def restart(self, ballot: Ballot | None, now: Seconds, *, forgetful: bool = False) -> None:
        """Take up the ballot found on disk, if there is one; `forgetful` says that there may have been a later one."""
        self.ballot = ballot or self.ballot
        self.forgetful = forgetful
        self.no_vote_until = now + self.rest_s()

    def rest_s(self) -> Seconds:
        """How long to vote for nobody after a restart: promises are not on disk, so the longest one must pass.

        Whoever has no ballot on disk never voted and never acknowledged: both write one first.
        """
        return self.settings.lease_s if self.ballot.epoch or self.forgetful else 0.0

    def recover(self, epoch: int) -> list[Effect]:
        """Take part again, knowing that no epoch above `epoch` was won with a vote that is forgotten."""
        self.forgetful = False
        epoch = max(epoch, self.epoch)
        known = self.ballot.voted_for if epoch == self.epoch else None
        # Our own name spends the vote of that epoch: it may have been given to somebody already.
        return self.durably(epoch, known or self.own)

    def promised_elsewhere(self, candidate: NodeId, _epoch: int, now: Seconds) -> bool:
        """Tell whether a promise to another than `candidate` lasts."""
        return self.promise is not None and self.promise.to != candidate and now < self.promise.until

    def vote_spent(self, candidate: NodeId, epoch: int) -> bool:
        """Tell whether the vote of `epoch` can no longer go to `candidate`."""
        ballot = self.ballot
        if epoch < ballot.epoch:
            return True
        return epoch == ballot.epoch and ballot.voted_for not in (None, candidate)

    def outdated(self, roster: Mark) -> bool:
        """Tell whether a candidate's roster is older than ours: a majority of ours may have decided without its own."""
        return roster < self.roster

    def refusal(self, candidate: NodeId, epoch: int, roster: Mark, now: Seconds) -> str:
        """Say why this voter cannot vote for the candidate now; empty when it can."""
        if self.forgetful:
            return "its journal is damaged, and it may have voted already"
        if self.outdated(roster):
            return "its roster is older than ours"
        if now < self.no_vote_until:
            return "just restarted, older promises may still bind"
        if self.promised_elsewhere(candidate, epoch, now):
            return "promised to another"
        if self.vote_spent(candidate, epoch):
            return "the vote of this epoch is spent"
        return ""

    def bind(self, to: NodeId, epoch: int, now: Seconds) -> None:
        """Promise from now on."""
        self.promise = Promise(to, epoch, now + self.settings.lease_s)

    def bind_by_ack(self, to: NodeId, epoch: int, now: Seconds) -> None:
        """Acknowledging a heartbeat promises as much as a vote does."""
        self.bind(to, epoch, now)

    def releases(self, sender: NodeId, message: Release) -> bool:
        """Tell whether `message` frees this voter: one that comes late must not end a promise of a later epoch."""
        return self.promise is not None and self.promise.to == sender and self.promise.epoch == message.epoch

    def pass_on(self, successor: NodeId | None) -> None:
        """Let the promise pass to `successor` for as long as it lasts, or end it."""
        if self.promise is not None:
            held = self.promise
            self.promise = None if successor is None else Promise(successor, held.epoch, held.until)

    def free_at(self, candidate: NodeId, epoch: int, now: Seconds) -> Seconds:
        """Say when this voter may vote for `candidate`: `now`, or later."""
        bound = self.promise is not None and self.promised_elsewhere(candidate, epoch, now)
        return max(now, self.no_vote_until, self.promise.until if bound and self.promise else now)

    def durably(self, epoch: int, voted_for: NodeId | None, *effects: Effect) -> list[Effect]:
        """Enter `epoch` with this vote, and only then do what rests on it."""
        ballot = Ballot(epoch, voted_for, self.roster[1])
        if ballot == self.ballot:
            return list(effects)
        self.ballot = ballot
        # In this order: a vote that is sent and then forgotten can be cast twice.
        return [Persist(ballot), *effects]

    def check(self) -> None:
        """Assert what always holds."""
        insist(
            self.promise is None or self.promise.epoch <= self.ballot.epoch,
            "a promise from a later epoch than the ballot",
        )

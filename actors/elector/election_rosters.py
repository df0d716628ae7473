"""What rosters, reforms and damaged journals do to an election; why that is safe is told in `roster_change.py`.

supernode  --a majority signed its proposal, and its lease holds under it-->  goes on under the new roster
any        --a newer roster comes, or a person reforms the site-->            what that roster makes of it
recalling  --enough nodes told what they know-->                              follower
"""

from atoll.actors.elector.election_state import (
    ASKING,
    CANDIDATE,
    FOLLOWER,
    RECALLING,
    ElectionState,
)
from atoll.actors.elector.messages import (
    Amnesia,
    Leaving,
    Recall,
    Recalled,
    Release,
    RosterChain,
    RosterProposed,
    RosterSigned,
)
from atoll.actors.elector.recollection import RECALL_S, Recollection
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.rosters import REFORM_EPOCHS
from atoll.actors.runtime.machine import (
    Arm,
    Disarm,
    Effect,
    Persist,
    Seconds,
    Send,
)
from atoll.transport.identity import NodeId


class RosterElection(ElectionState):
    """The part of an election that changes who votes."""

    def _on_recall(self, now: Seconds) -> list[Effect]:
        if self.recollection is None:
            return []
        if self.recollection.complete():
            return self._remember(self.recollection, now)
        incarnation, version = self.roster.mark
        ask = Recall(self.recollection.nonce, version, incarnation)
        return [*(Send(voter, ask) for voter in self.recollection.asked()), Arm("recall", RECALL_S)]

    def _on_recall_asked(self, sender: NodeId, message: Recall, _now: Seconds) -> list[Effect]:
        (incarnation, version), signer = self.roster.mark, self.rosters.signer
        sure = self.recollection is None
        told = Send(sender, Recalled(message.nonce, self.epoch, sure, version, incarnation, signer.pending()))
        return signer.fence(self.epoch, told) if sure else [told]

    def _on_recalled(self, sender: NodeId, message: Recalled, now: Seconds) -> list[Effect]:
        if self.recollection is None:
            return []
        self.recollection.take(sender, message)
        return self._remember(self.recollection, now) if self.recollection.complete() else []

    def _remember(self, learned: Recollection, now: Seconds) -> list[Effect]:
        """Vote again from the highest epoch on that may have been won with this node's vote."""
        effects = self.voter.recover(max(learned.epoch(), self.roster.epoch))
        if (pending := learned.pending()) is not None:
            effects += self.rosters.signer.sign(pending)
        self.recollection = None
        return [*effects, Persist(Amnesia()), Disarm("recall"), *self._begin_to_vote(now)]

    def _change_roster(self, now: Seconds, *, beats: bool = False) -> list[Effect]:
        change = self.rosters.change
        if self.reign is None or change is None:
            return []
        effects = self.rosters.pursue(self.reign, self.outlook.scores, now, beats=beats)
        if change.blocked:
            # Some voter signs nothing more in this epoch; those promised to us may vote for us at once in the next.
            return [*effects, Disarm("heartbeat"), *self._stand(max(self.epoch, change.blocked) + 1, now)]
        if (roster := change.final(self.reign, now)) is None:
            return effects
        before = self.roster
        self.rosters.book.adopt(roster)
        return effects + self._in_force(before, now)

    def _on_roster_proposed(self, sender: NodeId, message: RosterProposed, _now: Seconds) -> list[Effect]:
        if self.recollection is not None or (self._votes and sender not in self.roster.voters):
            return []
        return self.rosters.answer(sender, message, self.epoch, votes=self._votes)

    def _on_roster_signed(self, sender: NodeId, message: RosterSigned, now: Seconds) -> list[Effect]:
        if self.rosters.change is None:
            return []
        self.rosters.change.take(sender, message)
        return self._change_roster(now)

    def _on_roster_chain(self, _sender: NodeId, message: RosterChain, now: Seconds) -> list[Effect]:
        before = self.roster
        if self.rosters.book.take(message):
            return self._in_force(before, now)
        self.ignored += bool(self.rosters.book.refused)
        return []

    def _on_leaving(self, sender: NodeId, message: Leaving, _now: Seconds) -> list[Effect]:
        self.rosters.electorate.leaves(sender, message.reason)
        return []

    def reform_refusal(self) -> str:
        """Say why a person should not reform the site now; empty: nothing speaks against it."""
        belief, in_reach = self.outlook.belief, self.outlook.voters_in_reach(self.roster)
        if belief and belief.confirmed:
            return f"{belief.node.short} is supernode with a majority of the voters: nothing needs to be reformed"
        if self.roster.version and in_reach >= self.roster.quorum and self.recollection is None:
            return f"{self.outlook.no_majority_because(self.roster)}; wait for it"
        return ""

    def _reform(self, reason: str, now: Seconds) -> list[Effect]:
        """Begin a new incarnation, as a person wants it; what the damaged journal had said counts no more."""
        before, effects = self.roster, self._give_up(now) if self.role is CANDIDATE else []
        effects += [*self._follow(now, reason), *self.outlook.disbelieve(reason, now)]
        self.rosters.reformed(max(self.epoch, self.outlook.highest_epoch), reason, self.rng)
        if self.recollection is not None:
            self.recollection, self.voter.forgetful = None, False
            effects += [Persist(Amnesia()), Disarm("recall")]
        self.voter.no_vote_until = now + self.settings.lease_s
        return effects + self._in_force(before, now) + self.rosters.tell(self.outlook.members(), before.mark)

    def _in_force(self, before: Roster, now: Seconds) -> list[Effect]:
        """Let a roster that has just come into force change what this node is."""
        roster, effects = self.roster, self.rosters.in_force()
        leads, voted = self.reign is not None, self._votes
        if leads:
            effects += self.rosters.tell([*self.outlook.members(), *before.voters, *roster.voters], before.mark)
        if leads and self.own not in roster.voters and (heir := self.outlook.best_among(roster.voters)):
            release = Release(self.epoch, heir)
            effects += [Send(voter, release) for voter in roster.voters]
        if self.role is CANDIDATE:
            effects += self._give_up(now)
        if self.reign is not None:
            self.reign.follow(roster.voters, self.quorum)
            foreign = roster.incarnation != before.incarnation or roster.epoch > self.epoch
            if foreign or self.own not in roster.voters or now >= self.reign.lease_until:
                effects += self._follow(now, f"the roster has changed: {roster.reason or 'a newer one is known'}")
        if self.role is ASKING:
            self.role = FOLLOWER
        if roster.incarnation != before.incarnation and before.version and self.epoch >= roster.epoch:
            # Nobody of this incarnation may get into an epoch that another one has had, or will get into from there.
            above = REFORM_EPOCHS + roster.incarnation % REFORM_EPOCHS
            effects += self.voter.durably(self.epoch + above, None)
        effects += self._enter(roster)
        if voted and self.own in roster.voters and self.role is not RECALLING:
            return effects
        return [*effects, *(Disarm(timer) for timer in ("patience", "again") if voted), *self._begin_to_vote(now)]

"""Decides, epoch by epoch, which node of a site is supernode: a majority of the roster's voters, and a lease.

        bystander  --a roster names it-->                    follower, or recalling
        recalling  --enough voters told their epochs-->      follower    (its journal was damaged; `recollection.py`)
        follower   --patience runs out-->                    asking      (PreVote: raises no epoch)
        asking     --a majority would vote for it-->         candidate   (epoch + 1, its own vote on disk)
        candidate  --a majority promises-->                  supernode
        candidate  --patience runs out, or refused-->        follower    (releases the promises it got)
        supernode  --lease runs out, hands over-->           follower
        supernode  --a voter is in a higher epoch-->         candidate
        any voter  --a heartbeat of its epoch or higher-->   follower
        follower   --named successor-->                      candidate

Why two never hold a lease at once. A vote, and every acknowledgement of a heartbeat, promises to vote for nobody else
for L on the voter's clock (`voter.py`). The supernode counts its lease from when it *sent* what a majority then
acknowledged, and only L * (1 - 2 * drift) (`reign.py`): on any two clocks within the drift bound it ends before those
promises do. Another candidate needs a majority too, so at least one of the same voters, whose promise has ended and who
follows no lower epoch again. For the same reason a heartbeat needs no look at promises: its sender had a majority, so
every lower lease is over. Rosters change by one voter at a time, so that this holds from each to the next; how, and why
no further, is told in `roster_change.py`. A node that becomes a voter needs no rest: its ballot and its promises have
stayed with it.

It must never answer before the ballot is on disk, never count anybody who is not on the roster, and never read a clock:
`now` is the lease clock, which goes on while the host sleeps (CLOCK_BOOTTIME).

Source: Raft with PreVote (Ongaro, 2014, sections 3 and 9.6), leases as in Gray and Cheriton (1989).
"""

from collections.abc import Callable, Sequence
from typing import Any

from atoll.actors.elector.election_rosters import RosterElection
from atoll.actors.elector.election_state import (
    ASKING,
    BYSTANDER,
    CANDIDATE,
    FOLLOWER,
    RECALLING,
    SUPERNODE,
)
from atoll.actors.elector.messages import (
    Amnesia,
    Ballot,
    Fitness,
    Heartbeat,
    HeartbeatAck,
    Leave,
    Leaving,
    MemberReachable,
    MemberUnreachable,
    Outdated,
    PlacementSettled,
    Presiding,
    PreVote,
    PreVoteReply,
    Recall,
    Recalled,
    Reform,
    Release,
    Resign,
    RosterChain,
    RosterProposed,
    RosterSigned,
    ScoreChanged,
    Vote,
    VoteRequest,
    mark_of,
)
from atoll.actors.elector.outlook import Belief
from atoll.actors.elector.patience import TIMER_S_MIN
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.score import Score
from atoll.actors.runtime.machine import (
    Arm,
    Disarm,
    Effect,
    Input,
    Received,
    Record,
    Seconds,
    Send,
    TimerFired,
)
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

EPOCHS_AHEAD_MAX = 2**32
"""No honest site gets so far while a node is away: an election a second takes 136 years, a reform less than 2**21."""


class Election(RosterElection):
    """The election machine of one node; the module tells its states and its argument."""

    def __init__(self, own: NodeId, roster: Roster, **more: Any) -> None:
        """Take what `ElectionState` takes.

        Raises:
            MalformedFrame: The roster is not sealed with the site's secret.
        """
        super().__init__(own, roster, **more)
        self._voter_handlers: dict[type, Callable[[NodeId, Any, Seconds], list[Effect]]] = {
            PreVote: self._on_prevote,
            PreVoteReply: self._on_prevote_reply,
            VoteRequest: self._on_vote_request,
            Vote: self._on_vote,
            Heartbeat: self._on_heartbeat,
            HeartbeatAck: self._on_ack,
            Outdated: self._on_outdated,
            RosterSigned: self._on_roster_signed,
        }
        self._from_members: dict[type, Callable[[NodeId, Any, Seconds], list[Effect]]] = {
            Presiding: self._on_presiding,
            Fitness: self._on_fitness,
            Release: self._on_release,
            Recall: self._on_recall_asked,
            Recalled: self._on_recalled,
            RosterProposed: self._on_roster_proposed,
            RosterChain: self._on_roster_chain,
            Leaving: self._on_leaving,
        }
        self._fact_handlers: dict[type, Callable[[Any, Seconds], list[Effect]]] = {
            MemberReachable: lambda fact, now: self._on_reachable(fact.node, now),
            MemberUnreachable: lambda fact, _now: self._on_unreachable(fact.node),
            ScoreChanged: lambda fact, _now: self._on_score(fact.score),
            Resign: lambda fact, now: self._on_resign(fact.reason, now),
            PlacementSettled: lambda fact, _now: self._on_settled(fact),
            Leave: lambda fact, _now: self._on_leave(fact.reason),
            Reform: lambda fact, now: self._reform(fact.reason, now),
        }
        self._timers: dict[str, Callable[[Seconds], list[Effect]]] = {
            "heartbeat": self._beat,
            "patience": self._on_patience,
            "recall": self._on_recall,
            "again": self._ask_again,
            "lease": lambda _now: [],  # `handle` has looked at the lease already
            "tick": self._on_tick,
        }

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        return self._lease_news.added_to(self._start(restored, now), self.reign, self.rosters)

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        effects: list[Effect] = []
        if self.reign is not None and now >= self.reign.lease_until:
            because = self.outlook.no_majority_because(self.roster)
            effects = self._follow(now, f"no majority answered for {self.settings.lease_s:g} s ({because})")
        if type(event) is Received:
            effects += self._receive(event.sender, event.message, now)
        elif type(event) is TimerFired:
            effects += self._timers[event.name](now)
        elif handler := self._fact_handlers.get(type(event.fact)):
            effects += handler(event.fact, now)
        return self._lease_news.added_to(effects, self.reign, self.rosters)

    def _start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        ballot: Ballot | None = None
        damage = ""
        for record in restored:
            if isinstance(record, Ballot):
                ballot = record
            elif isinstance(record, Amnesia):
                damage = record.damage
        effects = self.rosters.restore(restored)
        if damage:
            self.recollection = self.recollection_kind(damage, self.own, self.rosters.book, self.rng)
        self.voter.restart(ballot, now, forgetful=self.recollection is not None)
        self.outlook.unconfirmed_since = now
        effects += [Arm("tick", self.settings.announce_s), *self._enter(self.roster)]
        if self.recollection is not None:
            effects.append(Arm("recall", max(TIMER_S_MIN, self.voter.no_vote_until - now)))
        return effects + self._begin_to_vote(now)

    def _receive(self, sender: NodeId, message: Message, now: Seconds) -> list[Effect]:
        if sender == self.own:
            # Nobody links to itself. A `Release` in our own name would end the promise that our lease rests on.
            self.ignored += 1
            return []
        epoch = getattr(message, "epoch", 0)
        if epoch > EPOCHS_AHEAD_MAX and epoch > self._epoch_max():
            self.ignored += 1
            return []
        theirs, ours = mark_of(message), self.voter.roster
        known = theirs is None or theirs == ours
        effects = [] if known or theirs is None else self.rosters.compare(sender, theirs, self.outlook.score)
        from_voter = self._voter_handlers.get(type(message))
        # Epochs of one incarnation mean nothing in another, and must not get there.
        foreign = theirs is not None and theirs[0] != ours[0]
        if from_voter and not foreign and self._heeds(sender, message):
            return effects + from_voter(sender, message, now)
        if from_member := self._from_members.get(type(message)):
            return effects + from_member(sender, message, now)
        self.ignored += 1
        return effects

    def _epoch_max(self) -> int:
        """Say how far others may be ahead: one word of one voter must not use up all the epochs that there are."""
        return max(self.epoch, self.outlook.highest_epoch, self.roster.epoch) + EPOCHS_AHEAD_MAX

    def _heeds(self, sender: NodeId, message: Message) -> bool:
        """Tell whether a voter's message is from a voter, or between a supernode and whom it is about to add."""
        if self._votes and sender in self.roster.voters:
            return True
        if isinstance(message, Heartbeat):
            return self.recollection is None and self.rosters.guest_of == (sender, message.epoch)
        change = self.rosters.change
        return isinstance(message, HeartbeatAck | Outdated) and change is not None and change.newcomer == sender

    def _on_prevote(self, sender: NodeId, message: PreVote, now: Seconds) -> list[Effect]:
        self.outlook.rate(sender, message.score)
        refusal = self.voter.refusal(sender, message.epoch, (message.incarnation, message.roster_version), now)
        epoch = self.epoch
        if not refusal and message.epoch <= epoch:
            refusal = "that epoch has begun already"
        return [Send(sender, PreVoteReply(message.epoch, refusal, epoch, self.outlook.score))]

    def _on_vote_request(self, sender: NodeId, message: VoteRequest, now: Seconds) -> list[Effect]:
        roster = message.incarnation, message.roster_version
        if refusal := self.voter.refusal(sender, message.epoch, roster, now):
            return [Send(sender, Vote(message.epoch, refusal, self.epoch))]
        effects = self._follow(now, f"{sender.short} stands in epoch {message.epoch}")
        self.voter.bind(sender, message.epoch, now)
        self.patience.wait(now + self.settings.lease_s)
        grant = Send(sender, Vote(message.epoch, "", message.epoch, self.rosters.signer.pending()))
        return effects + self.voter.durably(message.epoch, sender, grant)

    def _on_heartbeat(self, sender: NodeId, message: Heartbeat, now: Seconds) -> list[Effect]:
        if self.role is RECALLING:
            return self.outlook.believe(Belief(sender, message.epoch, True, message.reason, now))
        if message.epoch < self.epoch:
            return [Send(sender, Outdated(self.epoch))]
        effects: list[Effect] = []
        if self.role is not FOLLOWER and self._votes:
            effects = self._follow(now, f"{sender.short} was elected in epoch {message.epoch}")
        if self.patience.followed != sender:
            self.patience.followed = sender
            self.patience.draw(self.roster)
        self.voter.bind_by_ack(sender, message.epoch, now)
        self.patience.wait(now + self.settings.lease_s)
        effects += self.outlook.believe(Belief(sender, message.epoch, True, message.reason, now))
        incarnation, version = self.roster.mark
        ack = Send(sender, HeartbeatAck(message.epoch, message.sequence, version, incarnation))
        if message.epoch == self.epoch:
            return [*effects, ack]
        # The epoch is decided: a vote for anybody else in it could only do harm.
        return effects + self.voter.durably(message.epoch, sender, ack)

    def _on_release(self, sender: NodeId, message: Release, now: Seconds) -> list[Effect]:
        if not self._votes or not self.voter.releases(sender, message):
            return []
        self.voter.pass_on(message.successor)
        named = message.successor == self.own and message.epoch == self.epoch
        if named and self.role is FOLLOWER and now >= self.voter.no_vote_until:
            return self._stand(self.epoch + 1, now)
        return []

    def _on_patience(self, now: Seconds) -> list[Effect]:
        if self.reign is not None:
            return []
        if now < self.patience.until:
            return [self.patience.arm(now)]
        effects = self._give_up(now) if self.role is CANDIDATE else []
        if self.outlook.belief and self.outlook.belief.confirmed:
            effects += self.outlook.disbelieve(f"no heartbeat for {self.settings.lease_s:g} s", now)
        self.patience.draw(self.roster)
        free_at = self.voter.free_at(self.own, self.epoch + 1, now)
        self.patience.wait(free_at)
        if free_at <= now:
            effects += self._ask(now)
        return [*effects, self.patience.arm(now)] if self.reign is None else effects

    def _ask(self, now: Seconds) -> list[Effect]:
        self.role = ASKING
        self._for, self._against = {self.own: None}, {}
        if len(self._for) >= self.quorum:
            return self._stand(self.epoch + 1, now)
        return [*self._to_others(self._question()), Arm("again", self.settings.again_s)]

    def _question(self, epoch: int | None = None) -> Message:
        incarnation, version = self.roster.mark
        if self.role is ASKING:
            return PreVote(self.epoch + 1, version, self.outlook.score, incarnation)
        return VoteRequest(self.epoch if epoch is None else epoch, version, incarnation)

    def _ask_again(self, _now: Seconds) -> list[Effect]:
        """Ask who has not answered: a lost message would cost all the others a whole delay, or a lease."""
        if self.role is not ASKING and self.role is not CANDIDATE:
            return []
        answered = {**self._for, **self._against}
        silent, question = [voter for voter in self.roster.voters if voter not in answered], self._question()
        return [*(Send(voter, question) for voter in silent), Arm("again", self.settings.again_s)]

    def _on_prevote_reply(self, sender: NodeId, message: PreVoteReply, now: Seconds) -> list[Effect]:
        self.outlook.rate(sender, message.score)
        if self.role is not ASKING:
            return []
        if message.epoch > self.epoch:
            return self._catch_up(message.epoch)
        if message.asked != self.epoch + 1:
            return []
        if message.refusal:
            self._against[sender] = None
            return []
        self._for[sender] = None
        return self._stand(self.epoch + 1, now) if len(self._for) >= self.quorum else []

    def _stand(self, epoch: int, now: Seconds) -> list[Effect]:
        self.role, self.reign, self.rosters.change = CANDIDATE, None, None
        self._stood_at = now
        self._for, self._against = {self.own: None}, {}
        self.voter.bind(self.own, epoch, now)
        self.patience.draw(self.roster)
        self.patience.wait(now)
        effects = self.voter.durably(epoch, self.own, *self._to_others(self._question(epoch)))
        if len(self._for) >= self.quorum:
            return effects + self._preside(now)
        return [*effects, self.patience.arm(now), Arm("again", self.settings.again_s)]

    def _on_vote(self, sender: NodeId, message: Vote, now: Seconds) -> list[Effect]:
        if self.role is not CANDIDATE or not self._answers_this_candidacy(message):
            return []
        if message.refusal:
            self._against[sender] = None
            if message.epoch > self.epoch:
                return self._give_up(now) + self._catch_up(message.epoch)
            # Refused by so many that no majority is left: nobody should wait until our patience runs out.
            hopeless = len(self.roster.voters) - len(self._against) < self.quorum
            return self._give_up(now) if hopeless else []
        self._for[sender] = message.pending
        return self._preside(now) if len(self._for) >= self.quorum else []

    def _answers_this_candidacy(self, message: Vote) -> bool:
        return message.asked == self.epoch

    def _catch_up(self, epoch: int) -> list[Effect]:
        """Enter a higher epoch without a vote, so that the next candidacy is above it."""
        self.role = FOLLOWER
        return self.voter.durably(epoch, None)

    def _preside(self, now: Seconds) -> list[Effect]:
        reign = self.reign_kind(self.own, self.epoch, self.roster.voters, self.quorum, self.settings)
        reign.begin(self._for, self._stood_at)
        if now >= reign.lease_until:
            # The votes came so late that the promises may be over.
            return self._give_up(now)
        self.role, self.reign = SUPERNODE, reign
        self.rosters.begin_reign(self.epoch, self._for.values())
        belief = Belief(self.own, self.epoch, True, self.outlook.why_elected(self.roster, len(self._for)), now)
        effects: list[Effect] = [Disarm("patience"), *self.outlook.believe(belief), *self._beat(now)]
        return effects + self.outlook.tell(self._bystanders())

    def _beat(self, now: Seconds) -> list[Effect]:
        if self.reign is None:
            return []
        self.voter.bind(self.own, self.epoch, now)
        sequence = self.reign.beat(now)
        belief = self.outlook.belief
        incarnation, version = self.roster.mark
        beat = Heartbeat(self.epoch, sequence, belief.reason if belief else "", version, incarnation)
        effects = self._to_others(beat)
        if self.rosters.change is not None and self.rosters.change.newcomer is not None:
            effects.append(Send(self.rosters.change.newcomer, beat))
        effects.append(Arm("heartbeat", self.settings.heartbeat_s))
        left = self.reign.lease_until - now
        if left < self.settings.heartbeat_s:
            effects.append(Arm("lease", max(TIMER_S_MIN, left)))
        return effects + self._change_roster(now, beats=True)

    def _on_ack(self, sender: NodeId, message: HeartbeatAck, now: Seconds) -> list[Effect]:
        if self.reign is None or self.rosters.change is None:
            return []
        self.reign.acknowledge(sender, message.epoch, message.sequence, now)
        if self.reign.answers(message.epoch):
            self.rosters.change.adopted[sender] = message.incarnation, message.roster_version
        return self._change_roster(now) if self.rosters.change.proposal else []

    def _on_outdated(self, _sender: NodeId, message: Outdated, now: Seconds) -> list[Effect]:
        if self.reign is None or message.epoch <= self.epoch:
            return []
        # That voter can only follow us in a higher epoch; those promised to us may vote for us at once.
        return [Disarm("heartbeat"), *self._stand(message.epoch + 1, now)]

    def _hand_over(self, successor: NodeId, reason: str, now: Seconds) -> list[Effect]:
        """Give the lease up first, and then let the promises pass to the successor."""
        effects = self._follow(now, reason)
        self.voter.bind(successor, self.epoch, now)
        self.patience.wait(now + self.settings.lease_s)
        return effects + self._to_others(Release(self.epoch, successor))

    def _on_tick(self, now: Seconds) -> list[Effect]:
        effects: list[Effect] = [Arm("tick", self.settings.announce_s)]
        belief = self.outlook.belief
        self.rosters.electorate.look(self.roster, now)
        if self.reign is not None:
            effects += self.outlook.tell(self._bystanders())
            if successor := self.outlook.clearly_better(self.roster.voters, now):
                why = self.outlook.why_better(successor)
                effects += self._hand_over(successor, f"handed over to {successor.short}: {why}", now)
        elif self.role in (BYSTANDER, RECALLING) or not (belief and belief.confirmed):
            effects += self.outlook.tick(self.epoch, self.outlook.no_majority_because(self.roster), now)
        return effects

    def _on_unreachable(self, member: NodeId) -> list[Effect]:
        self.outlook.part(member)
        self.rosters.electorate.part(member)
        return []

    def _on_score(self, score: Score) -> list[Effect]:
        self.outlook.rate(self.own, score)
        return [Send(member, self._fitness()) for member in self.outlook.members()]

    def _on_resign(self, reason: str, now: Seconds) -> list[Effect]:
        successor = self.outlook.best_among(self.roster.voters)
        if successor is None or self.reign is None:
            return []
        return self._hand_over(successor, f"{reason}; handed over to {successor.short}", now)

    def _on_settled(self, fact: PlacementSettled) -> list[Effect]:
        if self.rosters.change is not None:
            self.rosters.change.settle(fact.epoch, (fact.incarnation, fact.roster_version))
        return []

    def _on_leave(self, reason: str) -> list[Effect]:
        self.rosters.electorate.leaves(self.own, reason)
        return [Send(member, Leaving(reason)) for member in self.outlook.members()]

    def _on_reachable(self, member: NodeId, now: Seconds) -> list[Effect]:
        self.outlook.meet(member)
        self.rosters.electorate.meet(member, now)
        effects: list[Effect] = [Send(member, self._fitness())]
        if reason := self.rosters.electorate.leaving:
            effects.append(Send(member, Leaving(reason)))
        if self.outlook.provisional or (self.reign is not None and member not in self.roster.voters):
            effects += self.outlook.tell([member])
        return effects

    def _on_presiding(self, sender: NodeId, message: Presiding, now: Seconds) -> list[Effect]:
        self.outlook.rate(sender, message.score)
        return [] if self.reign is not None else self.outlook.hear(sender, message, now)

    def _on_fitness(self, sender: NodeId, message: Fitness, _now: Seconds) -> list[Effect]:
        self.outlook.rate(sender, message.score)
        if self.role is FOLLOWER:
            self.patience.redraw(self.roster)
        return []

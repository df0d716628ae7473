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

import enum
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from atoll.actors.elector.lease_news import LeaseNews
from atoll.actors.elector.messages import (
    Amnesia,
    Ballot,
    ElectionStatus,
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
from atoll.actors.elector.outlook import Belief, Outlook
from atoll.actors.elector.patience import TIMER_S_MIN, Patience
from atoll.actors.elector.recollection import RECALL_S, Recollection
from atoll.actors.elector.reign import Reign
from atoll.actors.elector.roster import Notary, Roster
from atoll.actors.elector.rosters import REFORM_EPOCHS, Rosters
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.elector.voter import Voter
from atoll.actors.runtime.machine import (
    Arm,
    Disarm,
    Effect,
    Input,
    Persist,
    Received,
    Record,
    Seconds,
    Send,
    TimerFired,
    insist,
)
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

EPOCHS_AHEAD_MAX = 2**32
"""No honest site gets so far while a node is away: an election a second takes 136 years, a reform less than 2**21."""


class Role(enum.Enum):
    """What a node is in the election at the moment."""

    BYSTANDER = "bystander"
    RECALLING = "recalling"
    FOLLOWER = "follower"
    ASKING = "asking"
    CANDIDATE = "candidate"
    SUPERNODE = "supernode"


class Election:
    """The election machine of one node; the module tells its states and its argument.

    The kinds exist for the mutants of the tests.
    """

    rosters_kind = Rosters
    voter_kind = Voter
    reign_kind = Reign
    recollection_kind = Recollection

    def __init__(
        self,
        own: NodeId,
        roster: Roster,
        *,
        rng: Random,
        notary: Notary,
        score: Score | None = None,
        settings: ElectionSettings | None = None,
        named: Sequence[NodeId] = (),
        gated: bool = True,
    ) -> None:
        """Take a roster of the site, or `Roster()` where none is known yet.

        `named` are voters that a person chose; with none the site chooses. `gated`: the roster is only changed after
        `PlacementSettled` was told for this epoch and the roster in force.

        Raises:
            MalformedFrame: The roster is not sealed with the site's secret.
        """
        if roster.version:
            roster.verify(notary.roster_key)
        self.own = own
        self.rng = rng
        self.settings = settings or ElectionSettings()
        self.rosters = self.rosters_kind(own, roster, notary, self.settings, named=named, gated=gated)
        self.outlook = Outlook(own, score or Score(), self.settings)
        self.voter = self.voter_kind(own, self.settings)
        self.role = Role.BYSTANDER
        self.reign: Reign | None = None
        """Present exactly while this node is supernode."""
        self.ignored = 0
        """Messages that only voters may send, from others; refused rosters; messages nobody here understands."""
        self.recollection: Recollection | None = None
        """Present exactly while a damaged journal costs this node its vote."""
        self.patience = Patience(self.outlook, self.settings, rng)
        self._lease_news = LeaseNews()
        self._votes = False
        self._stood_at: Seconds = 0.0
        self._for: dict[NodeId, Roster | None] = {}
        """Who would vote, or voted, for this node, and what each has signed that may be final."""
        self._against: dict[NodeId, None] = {}
        self._from_voters: dict[type, Callable[[NodeId, Any, Seconds], list[Effect]]] = {
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
        self._timers: dict[str, Callable[[Seconds], list[Effect]]] = {
            "heartbeat": self._beat,
            "patience": self._on_patience,
            "recall": self._on_recall,
            "again": self._ask_again,
            "lease": lambda _now: [],  # `handle` has looked at the lease already
            "tick": self._on_tick,
        }

    @property
    def epoch(self) -> int:
        """The highest epoch this voter has taken part in."""
        return self.voter.epoch

    @property
    def roster(self) -> Roster:
        """Who votes, as far as this node knows."""
        return self.rosters.current

    @property
    def quorum(self) -> int:
        """How many voters are a majority: of the roster, never of whoever answered."""
        return self.roster.quorum

    def lease_held(self, now: Seconds) -> bool:
        """Tell whether this node is the one confirmed supernode at this very moment; ask at each exclusive act."""
        return self.reign is not None and now < self.reign.lease_until

    def status(self, now: Seconds) -> ElectionStatus:
        """Describe the election as this node sees it."""
        belief = self.outlook.belief
        why = belief.reason if belief else self.outlook.no_majority_because(self.roster)
        # A lease that ran out while the process stood still is over, also before the first input after that.
        lapsed = self.reign is not None and not self.lease_held(now)
        return ElectionStatus(
            role=self.role.value,
            # Who has voted in a later epoch than its supernode's must not show the one with the other.
            epoch=belief.epoch if belief else max(self.epoch, self.outlook.highest_epoch),
            supernode=belief.node if belief else None,
            confirmed=belief is not None and belief.confirmed and not lapsed,
            lease_remaining_s=max(0.0, self.reign.lease_until - now) if self.reign else 0.0,
            why=f"{why}; {self.recollection.because(self.roster)}" if self.recollection else why,
            roster_version=self.roster.version,
            voters=self.roster.voters,
            voters_in_reach=self.outlook.voters_in_reach(self.roster),
            incarnation=self.roster.incarnation,
            roster_reason=self.roster.reason,
            change=self.rosters.describe(),
        )

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        return self._lease_news.added_to(self._start(restored, now), self.reign, self.roster)

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        return self._lease_news.added_to(self._handle(event, now), self.reign, self.roster)

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

    def _handle(self, event: Input, now: Seconds) -> list[Effect]:
        effects: list[Effect] = []
        if self.reign is not None and now >= self.reign.lease_until:
            because = self.outlook.no_majority_because(self.roster)
            effects = self._follow(now, f"no majority answered for {self.settings.lease_s:g} s ({because})")
        if isinstance(event, Received):
            effects += self._receive(event.sender, event.message, now)
        elif isinstance(event, TimerFired):
            effects += self._timers[event.name](now)
        else:
            effects += self._take_fact(event.fact, now)
        return effects

    def check(self) -> None:
        role, ballot, promise = self.role, self.voter.ballot, self.voter.promise
        self.voter.check()
        insist((self.reign is not None) == (role is Role.SUPERNODE), "a reign and the role of supernode come together")
        insist((self.reign is None) == (self.rosters.change is None), "only a supernode changes rosters")
        insist((role is not Role.BYSTANDER) == self._votes, "exactly those on the roster take part")
        insist((role is Role.RECALLING) == (self._votes and self.recollection is not None), "who forgot takes part")
        if role is Role.CANDIDATE or role is Role.SUPERNODE:
            insist(ballot.voted_for == self.own, "stands in an epoch without its own vote")
            insist(promise is not None and promise.to == self.own, "stands without a promise to itself")
        if self.reign is not None:
            self.reign.check()

    def _receive(self, sender: NodeId, message: Message, now: Seconds) -> list[Effect]:
        if sender == self.own:
            # Nobody links to itself. A `Release` in our own name would end the promise that our lease rests on.
            self.ignored += 1
            return []
        if getattr(message, "epoch", 0) > self._epoch_max():
            self.ignored += 1
            return []
        theirs = mark_of(message)
        known = theirs is None or theirs == self.roster.mark
        effects = [] if known or theirs is None else self.rosters.compare(sender, theirs, self.outlook.score)
        from_voter = self._from_voters.get(type(message))
        if from_voter and self._heeds(sender, message):
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
        if not refusal and message.epoch <= self.epoch:
            refusal = "that epoch has begun already"
        return [Send(sender, PreVoteReply(message.epoch, refusal, self.epoch, self.outlook.score))]

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
        if self.role is Role.RECALLING:
            return self.outlook.believe(Belief(sender, message.epoch, True, message.reason, now))
        if message.epoch < self.epoch:
            return [Send(sender, Outdated(self.epoch))]
        effects: list[Effect] = []
        if self.role is not Role.FOLLOWER and self._votes:
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
        if named and self.role is Role.FOLLOWER and now >= self.voter.no_vote_until:
            return self._stand(self.epoch + 1, now)
        return []

    def _begin_to_vote(self, now: Seconds) -> list[Effect]:
        self._votes = self.own in self.roster.voters
        if not self._votes:
            self.role = Role.BYSTANDER
            return []
        if self.recollection is not None:
            self.role = Role.RECALLING
            return []
        self.role = Role.FOLLOWER
        if self.quorum == 1 and now >= self.voter.no_vote_until:
            return self._stand(self.epoch + 1, now)
        self.patience.draw(self.roster)
        self.patience.wait(self.voter.free_at(self.own, self.epoch + 1, now))
        return [self.patience.arm(now)]

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

    def _on_patience(self, now: Seconds) -> list[Effect]:
        if self.reign is not None:
            return []
        if now < self.patience.until:
            return [self.patience.arm(now)]
        effects = self._give_up(now) if self.role is Role.CANDIDATE else []
        if self.outlook.belief and self.outlook.belief.confirmed:
            effects += self.outlook.disbelieve(f"no heartbeat for {self.settings.lease_s:g} s", now)
        self.patience.draw(self.roster)
        free_at = self.voter.free_at(self.own, self.epoch + 1, now)
        self.patience.wait(free_at)
        if free_at <= now:
            effects += self._ask(now)
        return [*effects, self.patience.arm(now)] if self.reign is None else effects

    def _ask(self, now: Seconds) -> list[Effect]:
        self.role = Role.ASKING
        self._for, self._against = {self.own: None}, {}
        if len(self._for) >= self.quorum:
            return self._stand(self.epoch + 1, now)
        return [*self._to_others(self._question()), Arm("again", self.settings.again_s)]

    def _question(self, epoch: int | None = None) -> Message:
        incarnation, version = self.roster.mark
        if self.role is Role.ASKING:
            return PreVote(self.epoch + 1, version, self.outlook.score, incarnation)
        return VoteRequest(self.epoch if epoch is None else epoch, version, incarnation)

    def _ask_again(self, _now: Seconds) -> list[Effect]:
        """Ask who has not answered: a lost message would cost all the others a whole delay, or a lease."""
        if self.role is not Role.ASKING and self.role is not Role.CANDIDATE:
            return []
        answered = {**self._for, **self._against}
        silent = [voter for voter in self.roster.voters if voter not in answered]
        return [*(Send(voter, self._question()) for voter in silent), Arm("again", self.settings.again_s)]

    def _on_prevote_reply(self, sender: NodeId, message: PreVoteReply, now: Seconds) -> list[Effect]:
        self.outlook.rate(sender, message.score)
        if self.role is not Role.ASKING:
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
        self.role, self.reign, self.rosters.change = Role.CANDIDATE, None, None
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
        if self.role is not Role.CANDIDATE or not self._answers_this_candidacy(message):
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
        self.role = Role.FOLLOWER
        return self.voter.durably(epoch, None)

    def _give_up(self, now: Seconds) -> list[Effect]:
        """End a candidacy that cannot win any more, and free those who voted for it."""
        self.voter.pass_on(None)
        return self._follow(now, "not elected again in a new epoch") + self._to_others(Release(self.epoch))

    def _preside(self, now: Seconds) -> list[Effect]:
        reign = self.reign_kind(self.own, self.epoch, self.roster.voters, self.quorum, self.settings)
        reign.begin(self._for, self._stood_at)
        if now >= reign.lease_until:
            # The votes came so late that the promises may be over.
            return self._give_up(now)
        self.role, self.reign = Role.SUPERNODE, reign
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
        before, effects = self.roster, self._give_up(now) if self.role is Role.CANDIDATE else []
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
        if self.role is Role.CANDIDATE:
            effects += self._give_up(now)
        if self.reign is not None:
            self.reign.follow(roster.voters, self.quorum)
            foreign = roster.incarnation != before.incarnation or roster.epoch > self.epoch
            if foreign or self.own not in roster.voters or now >= self.reign.lease_until:
                effects += self._follow(now, f"the roster has changed: {roster.reason or 'a newer one is known'}")
        if self.role is Role.ASKING:
            self.role = Role.FOLLOWER
        if roster.incarnation != before.incarnation and before.version and self.epoch >= roster.epoch:
            # Nobody of this incarnation may get into an epoch that the other one has had.
            effects += self.voter.durably(self.epoch + REFORM_EPOCHS, None)
        effects += self._enter(roster)
        if voted and self.own in roster.voters and self.role is not Role.RECALLING:
            return effects
        return [*effects, *(Disarm(timer) for timer in ("patience", "again") if voted), *self._begin_to_vote(now)]

    def _enter(self, roster: Roster) -> list[Effect]:
        """Be in no lower epoch than the roster in force is of."""
        self.voter.roster = self.outlook.roster = roster.mark
        return self.voter.durably(roster.epoch, None) if roster.epoch > self.epoch else []

    def _follow(self, now: Seconds, reason: str) -> list[Effect]:
        """Be a follower, whatever it was; who was supernode says so, with `reason`."""
        was, self.reign, self.rosters.change = self.role, None, None
        self.role = Role.FOLLOWER if self._votes and self.recollection is None else was
        if was is not Role.CANDIDATE and was is not Role.SUPERNODE:
            return []
        effects: list[Effect] = []
        if was is Role.SUPERNODE:
            self.patience.draw(self.roster)
            self.patience.wait(now)
            effects = [Disarm("heartbeat"), Disarm("lease"), self.patience.arm(now)]
        belief = self.outlook.belief
        if belief and belief.node == self.own and belief.confirmed:
            effects += self.outlook.disbelieve(reason, now)
        return effects

    def _to_others(self, message: Message) -> list[Effect]:
        return [Send(voter, message) for voter in self.roster.voters if voter != self.own]

    def _bystanders(self) -> list[NodeId]:
        return [member for member in self.outlook.members() if member not in self.roster.voters]

    def _on_tick(self, now: Seconds) -> list[Effect]:
        effects: list[Effect] = [Arm("tick", self.settings.announce_s)]
        belief = self.outlook.belief
        self.rosters.electorate.look(self.roster, now)
        if self.reign is not None:
            effects += self.outlook.tell(self._bystanders())
            if successor := self.outlook.clearly_better(self.roster.voters, now):
                why = self.outlook.why_better(successor)
                effects += self._hand_over(successor, f"handed over to {successor.short}: {why}", now)
        elif self.role in (Role.BYSTANDER, Role.RECALLING) or not (belief and belief.confirmed):
            effects += self.outlook.tick(self.epoch, self.outlook.no_majority_because(self.roster), now)
        return effects

    def _take_fact(self, fact: Any, now: Seconds) -> list[Effect]:
        if isinstance(fact, MemberReachable):
            return self._on_reachable(fact.node, now)
        if isinstance(fact, MemberUnreachable):
            self.outlook.part(fact.node)
            self.rosters.electorate.part(fact.node)
        elif isinstance(fact, ScoreChanged):
            self.outlook.rate(self.own, fact.score)
            return [Send(member, self._fitness()) for member in self.outlook.members()]
        elif isinstance(fact, Resign):
            successor = self.outlook.best_among(self.roster.voters)
            if successor and self.reign is not None:
                return self._hand_over(successor, f"{fact.reason}; handed over to {successor.short}", now)
        elif isinstance(fact, PlacementSettled) and self.rosters.change is not None:
            self.rosters.change.settle(fact.epoch, (fact.incarnation, fact.roster_version))
        elif isinstance(fact, Leave):
            self.rosters.electorate.leaves(self.own, fact.reason)
            return [Send(member, Leaving(fact.reason)) for member in self.outlook.members()]
        elif isinstance(fact, Reform):
            return self._reform(fact.reason, now)
        return []

    def _fitness(self) -> Fitness:
        incarnation, version = self.roster.mark
        return Fitness(self.outlook.score, version, incarnation)

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
        if self.role is Role.FOLLOWER:
            self.patience.redraw(self.roster)
        return []

"""How a roster is changed: one voter at a time, as a Paxos register for each version.

    voter       proposal of its epoch, one voter more or less  --on disk-->  its signature
    supernode   idle --a wish--> inviting (who is added acknowledges a heartbeat) --> signing --a majority--> final

Why no two rosters of one version are ever final. A voter signs only in the epoch it is in, and what follows the roster
in force with it. A majority of the voters before must have signed in *one* epoch. Whoever is elected later has asked a
majority, which entered the higher epoch before it answered and told what it had signed; the newest of that is proposed
again, and nothing else. So once a roster is final, every later proposal in its place is the same.

Why majorities of the old and of the new roster never act apart. They differ by one voter, so they overlap. Version
n + 2 is only signed by who has n + 1 in force, and refuses candidates with version n from then on.

A supernode puts a final roster in force itself only when its lease holds under it too: until then it goes on under the
old one, and nobody else knows that the new one is final.

Source: Lamport, Paxos Made Simple (2001); one server at a time: Ongaro (2014), section 4.1, and his correction of 2015
(raft-dev), that a leader must have committed something in its own epoch first.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from atoll.actors.elector.electorate import Wish
from atoll.actors.elector.messages import RosterProposed, RosterSigned, Signing
from atoll.actors.elector.reign import Reign
from atoll.actors.elector.roster import Mark, Notary, Roster
from atoll.actors.elector.roster_book import RosterBook
from atoll.actors.runtime.machine import Effect, Persist, Seconds, Send
from atoll.transport.identity import NodeId

INVITE_S = 3.0
"""How long a member that shall be added may take to acknowledge a heartbeat; fifteen of them are sent."""


class Signer:
    """What one voter has signed. Every rule is a method of its own, and has a mutant that breaks it."""

    def __init__(self, book: RosterBook) -> None:
        self.book = book
        self.signed: Roster | None = None
        self.fenced = 0
        """Nothing new is signed up to this epoch."""

    def restart(self, record: Signing | None) -> None:
        """Take up what is on disk."""
        if record is not None:
            self.signed, self.fenced = record.proposal, record.fenced

    def pending(self) -> Roster | None:
        """Give the proposal that may be final without our knowing it."""
        signed, current = self.signed, self.book.current
        return signed if signed and follows(signed, current) else None

    def refusal(self, proposal: Roster, epoch: int) -> str:
        """Say why this voter, in that epoch, does not sign; empty when it does."""
        if not self.in_its_epoch(proposal, epoch):
            return "it is not of the epoch that this voter is in"
        if fault := self.book.step_fault(self.book.current, proposal):
            return fault
        if proposal == self.signed:
            return ""
        if epoch <= self.fenced:
            return "a voter with a damaged journal relies on it that nothing more is signed in this epoch"
        pending = self.pending()
        if pending and pending.epoch == epoch and pending.digest != proposal.digest:
            return "another one was signed in this epoch"
        return ""

    def in_its_epoch(self, proposal: Roster, epoch: int) -> bool:
        """Tell whether the proposal belongs to the epoch that this voter is in."""
        return proposal.epoch == epoch

    def sign(self, proposal: Roster, *effects: Effect) -> list[Effect]:
        """Sign, and then do what rests on it."""
        return self._durably(Signing(proposal, self.fenced), *effects)

    def fence(self, epoch: int, *effects: Effect) -> list[Effect]:
        """Sign nothing new in this epoch or any before, and then do what rests on it."""
        return self._durably(Signing(self.signed, max(epoch, self.fenced)), *effects)

    def _durably(self, signing: Signing, *effects: Effect) -> list[Effect]:
        if signing == Signing(self.signed, self.fenced):
            return list(effects)
        self.signed, self.fenced = signing.proposal, signing.fenced
        return self.in_order(Persist(signing), *effects)

    def in_order(self, persist: Persist, *effects: Effect) -> list[Effect]:
        """Write first: a signature that is sent and then forgotten lets a later supernode propose another roster."""
        return [persist, *effects]


class RosterChange:
    """One supernode's changes of the roster in one epoch; a new one is made for each reign."""

    def __init__(self, own: NodeId, epoch: int, signer: Signer, *, gated: bool) -> None:
        self.own = own
        self.epoch = epoch
        self.signer = signer
        self.book = signer.book
        self.gated = gated
        """Wait for `PlacementSettled` before a change of our own wish."""
        self.inherited: Roster | None = None
        self.proposal: Roster | None = None
        self.inviting: NodeId | None = None
        """Who shall be added, until it has acknowledged a heartbeat."""
        self.declined: NodeId | None = None
        """Who did not, last."""
        self.signatures: dict[NodeId, bytes] = {}
        self.adopted: dict[NodeId, Mark] = {}
        """Voter to the roster that it named when it last acknowledged a heartbeat of this epoch."""
        self.blocked = 0
        """Epoch up to which some voter signs nothing any more; 0: none has said so."""
        self._settled: Mark | None = None
        self._begun_at: Seconds = 0.0

    @property
    def notary(self) -> Notary:
        """Signs and checks."""
        return self.book.notary

    def inherit(self, pending: Iterable[Roster | None]) -> None:
        """Take over what a majority told when it voted: the newest of it may be final."""
        told = [each for each in pending if each is not None and follows(each, self.book.current)]
        self.inherited = max(told, key=lambda each: each.epoch, default=None)

    def settle(self, epoch: int, mark: Mark) -> None:
        """Note that the placement is on a majority of the voters of that roster."""
        if epoch == self.epoch:
            self._settled = mark

    @property
    def newcomer(self) -> NodeId | None:
        """The node that the proposal adds: it gets heartbeats, so that the lease does not break when it counts."""
        if self.proposal is None:
            return None
        added = set(self.proposal.voters) - set(self.book.current.voters)
        return min(added) if added else None

    def obstacle(self) -> str:
        """Say what a change of our own has to wait for; empty: nothing."""
        current = self.book.current
        if not self.settled():
            return "the placement is not settled on this roster yet"
        known = sum(voter == self.own or self.adopted.get(voter, (0, 0)) >= current.mark for voter in current.voters)
        return "" if known >= current.quorum else "a majority has not taken this roster over yet"

    def settled(self) -> bool:
        """Tell whether something was committed in this epoch, under this roster."""
        return not self.gated or self._settled == self.book.current.mark

    def advance(self, reign: Reign, wish: Wish | None, now: Seconds, *, beats: bool) -> list[Effect]:
        """Do what is next; called at each answer, and with each heartbeat, when who is silent is asked again."""
        current = self.book.current
        if self.proposal is not None and not follows(self.proposal, current):
            self._drop()
        if self.inherited is not None and not follows(self.inherited, current):
            self.inherited = None
        if self.proposal is None:
            return self._begin(current, wish, now)
        if self.inviting is not None:
            if reign.acknowledged.get(self.inviting, -1.0) >= self._begun_at:
                self.inviting = None
                return self._sign(self.proposal)
            if now - self._begun_at >= INVITE_S:
                self.declined = self.inviting
                self._drop()
                return []
        return self.ask() if beats else []

    def _begin(self, current: Roster, wish: Wish | None, now: Seconds) -> list[Effect]:
        if self.inherited is not None:
            return self._sign(replace(self.inherited, epoch=self.epoch))
        if wish is None or self.obstacle():
            return []
        self._begun_at = now
        self.proposal = current.next(wish.voters, self.epoch, wish.reason)
        self.inviting = self.newcomer
        return self._sign(self.proposal) if self.inviting is None else self.ask()

    def _sign(self, proposal: Roster) -> list[Effect]:
        if self.signer.fenced >= self.epoch:
            self.blocked = self.signer.fenced
            return []
        self.proposal = proposal
        self.signatures = {self.own: self.notary.signature(proposal)}
        return self.signer.sign(proposal, *self.ask())

    def ask(self) -> list[Effect]:
        """Ask who has not answered, or only whom we invite; the newcomer hears it as long as it is one."""
        if self.proposal is None:
            return []
        asked = [voter for voter in self.book.current.voters if voter != self.own and voter not in self.signatures]
        if self.inviting is not None:
            asked = []
        newcomer = [] if self.newcomer is None else [self.newcomer]
        return [Send(node, RosterProposed(self.epoch, self.proposal)) for node in (*asked, *newcomer)]

    def take(self, voter: NodeId, answer: RosterSigned) -> None:
        """Count a signature, if it is one of this proposal in this epoch."""
        proposal = self.proposal
        if proposal is not None and answer.fenced >= self.epoch:
            self.blocked = answer.fenced
        if proposal is None or answer.refusal or answer.version != proposal.version or not self.counts(answer.epoch):
            return
        if voter in self.book.current.voters and self.notary.signed(proposal, voter, answer.signature):
            self.signatures[voter] = answer.signature

    def counts(self, epoch: int) -> bool:
        """Tell whether a signature of that epoch counts."""
        return epoch == self.epoch

    def final(self, reign: Reign, now: Seconds) -> Roster | None:
        """Give the proposal, sealed, when a majority signed it and we could go on under it, or are not on it."""
        proposal = self.proposal
        if proposal is None or self.inviting is not None or len(self.signatures) < self.book.current.quorum:
            return None
        if self.own in proposal.voters and now >= reign.lease_under(proposal.voters, proposal.quorum):
            return None
        signatures = tuple(sorted(self.signatures.items()))[: self.book.current.quorum]
        return replace(proposal, signatures=signatures).sealed(self.notary.roster_key)

    def _drop(self) -> None:
        self.proposal = self.inviting = None
        self.signatures = {}

    def describe(self) -> str:
        """Say in words what is being done; empty for nothing."""
        if self.proposal is None:
            return ""
        if self.inviting is not None:
            return f"{self.proposal.reason}; it is invited"
        signed, needed = len(self.signatures), self.book.current.quorum
        waits = "; waits for a majority of the new roster" if signed >= needed else ""
        return f"{self.proposal.reason}; signed by {signed}, {needed} needed{waits}"


def follows(proposal: Roster, current: Roster) -> bool:
    """Tell whether a proposal is for the place after `current`."""
    return proposal.mark == (current.incarnation, current.version + 1) and proposal.previous == current.digest

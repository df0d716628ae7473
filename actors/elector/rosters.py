"""Everything a node does about rosters: keeps the one in force, signs, changes it as supernode, passes it on.

It knows no role and no promise: `election.py` says when this node may sign, and what a roster in force changes for it.
"""

from collections.abc import Iterable, Sequence
from random import Random

from atoll.actors.elector.electorate import Electorate
from atoll.actors.elector.messages import (
    EPOCH_MAX,
    Fitness,
    RosterChain,
    RosterInForce,
    RosterProposed,
    RosterSigned,
    Signing,
)
from atoll.actors.elector.reign import Reign
from atoll.actors.elector.roster import Mark, Notary, Roster
from atoll.actors.elector.roster_book import RosterBook
from atoll.actors.elector.roster_change import RosterChange, Signer
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Announce, Effect, Persist, Record, Seconds, Send
from atoll.transport.identity import NodeId

REFORM_EPOCHS = 2**20
"""How far above all known epochs a new incarnation begins: what is left of the old one cannot come that far."""


class Rosters:
    """The rosters of one node; the kinds exist for the mutants of the tests."""

    book_kind = RosterBook
    signer_kind = Signer
    change_kind = RosterChange
    electorate_kind = Electorate

    def __init__(
        self,
        own: NodeId,
        roster: Roster,
        notary: Notary,
        settings: ElectionSettings,
        *,
        named: Iterable[NodeId],
        gated: bool,
    ) -> None:
        self.own = own
        self.book = self.book_kind(roster, notary)
        self.signer = self.signer_kind(self.book)
        self.electorate = self.electorate_kind(own, settings, named)
        self.gated = gated
        self.change: RosterChange | None = None
        """Present exactly while this node is supernode."""
        self.guest_of: tuple[NodeId, int] | None = None
        """The supernode that wants to add this node, and its epoch: its heartbeats are acknowledged already."""

    @property
    def current(self) -> Roster:
        """The roster in force."""
        return self.book.current

    def restore(self, records: Sequence[Record]) -> list[Effect]:
        """Take up what is on disk, or put there what a config says.

        Raises:
            MalformedFrame: A roster there is not this site's.
        """
        found = not self.current.version
        for record in records:
            if isinstance(record, RosterChain):
                self.book.restore(record)
                found = True
            elif isinstance(record, Signing):
                self.signer.restart(record)
        return [] if found else [Persist(self.book.record())]

    def compare(self, sender: NodeId, theirs: Mark, score: Score) -> list[Effect]:
        """Send rosters to whoever is behind; let whoever is ahead know that we are."""
        mark = self.current.mark
        if theirs < mark:
            return [Send(sender, self.book.since(theirs))]
        return [Send(sender, Fitness(score, mark[1], mark[0]))] if theirs > mark else []

    def in_force(self) -> list[Effect]:
        """Write down and say what is in force now."""
        current = self.current
        fact = RosterInForce(current.incarnation, current.version, current.voters, current.reason)
        return [Persist(self.book.record()), Announce(fact)]

    def answer(self, sender: NodeId, asked: RosterProposed, epoch: int, *, votes: bool) -> list[Effect]:
        """Sign what a supernode proposes, or say why not; a node that shall be added notes whose guest it is."""
        proposal = asked.proposal
        if not votes:
            if self.own in proposal.voters and sender in self.current.voters:
                self.guest_of = sender, asked.epoch
            return []
        refusal = self.signer.refusal(proposal, epoch)
        if refusal:
            fenced = self.signer.fenced if epoch <= self.signer.fenced else 0
            return [Send(sender, RosterSigned(asked.epoch, proposal.version, b"", refusal, fenced))]
        signature = self.book.notary.signature(proposal)
        return self.signer.sign(proposal, Send(sender, RosterSigned(asked.epoch, proposal.version, signature)))

    def begin_reign(self, epoch: int, pending: Iterable[Roster | None]) -> None:
        """Take over what the voters told, and change nothing before it is finished."""
        self.change = self.change_kind(self.own, epoch, self.signer, gated=self.gated)
        self.change.inherit([*pending, self.signer.pending()])

    def pursue(self, reign: Reign, scores: dict[NodeId, Score], now: Seconds, *, beats: bool) -> list[Effect]:
        """Go on with a change, or with a heartbeat begin one that is wished for."""
        change = self.change
        if change is None:
            return []
        wish = self.electorate.wish(self.current, scores, now) if beats and change.proposal is None else None
        effects = change.advance(reign, wish, now, beats=beats)
        if change.declined is not None:
            self.electorate.decline(change.declined, now)
            change.declined = None
        return effects

    def reformed(self, epoch: int, reason: str, rng: Random) -> None:
        """Begin a new incarnation with this node alone, in an epoch that nobody else has."""
        above = REFORM_EPOCHS + rng.randrange(REFORM_EPOCHS)
        first = min(EPOCH_MAX, max(epoch, self.current.epoch) + above)
        key = self.book.notary.roster_key
        self.book.chain = (self.current.reformed(self.own, first, reason, roster_key=key, rng=rng),)

    def tell(self, nodes: Iterable[NodeId], before: Mark) -> list[Effect]:
        """Send the roster in force to nodes that had the one before."""
        chain = self.book.since(before)
        return [Send(node, chain) for node in sorted(set(nodes)) if node != self.own]

    def describe(self) -> str:
        """Say in words what is being done to the roster, or what is wrong with one that came; empty for nothing."""
        doing = self.change.describe() if self.change is not None else ""
        return doing or (f"a roster that came was refused: {self.book.refused}" if self.book.refused else "")

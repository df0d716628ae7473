"""How a node whose journal was damaged gets its vote back: by learning what may have been decided with it.

    sound --a start finds the journal damaged--> resting --L is over--> asking --enough answered--> sound

What is lost may have been a vote in any epoch, a promise to anybody, a signature under any roster, and the knowledge of
a newer roster. So until the end of this a voter must not vote, stand, sign, or acknowledge a heartbeat: each could be
the second half of a majority that it was the first half of already.

- *Not before L is over*: a candidacy that had our vote is decided by then, and a lease on our promise has ended. An
  answer from before that could be older than the last vote of the winner's majority.
- *Enough is n - q + 1 others of a roster*: whoever won an epoch with our vote had q - 1 other voters, who have it on
  disk, and of n - 1 others these two sets cannot miss each other. Only nodes with a sound journal count.
- *Of which rosters*: of ours, of the one before (its voters may have elected somebody after ours was final, not knowing
  it), and of each that anybody told to have signed. Whatever is newer, a majority of ours has signed or taken over, so
  that one of those who answer knows it.
- *Whoever answers signs nothing more in its epoch*: so a certificate that our forgotten signature is half of is either
  told to us by another signer, or never complete.
- *The vote of the highest epoch that is told counts as spent*: it may be the one that was won with ours.

Where too many voters are damaged at once nobody can know, and a person must decide; the reason says so. That holds for
a site's only voter too: it may have made its roster larger, and forgotten so.

Source: Liskov and Cowling, Viewstamped Replication Revisited (2012), section 4.3, with a lease in place of the view.
"""

from random import Random

from atoll.actors.elector.messages import Recalled
from atoll.actors.elector.roster import Mark, Roster
from atoll.actors.elector.roster_book import RosterBook
from atoll.actors.elector.roster_change import follows
from atoll.transport.identity import NodeId

RECALL_S = 0.25
"""How often voters that have not answered are asked again."""
NONCE_BITS = 52
TOLD_MAX = 4096
"""Answers that are kept; no site has more members."""


class Recollection:
    """What one node has learned since it found its journal damaged."""

    def __init__(self, damage: str, own: NodeId, book: RosterBook, rng: Random) -> None:
        self.damage = damage
        self.own = own
        self.book = book
        self.nonce = rng.getrandbits(NONCE_BITS)
        """New at each start: only answers to questions of this life count."""
        self.told: dict[NodeId, int] = {}
        """Nodes with a sound journal, and the highest epoch each has taken part in."""
        self.damaged: dict[NodeId, None] = {}
        """Nodes that cannot help, since theirs is damaged too."""
        self._marks: dict[NodeId, Mark] = {}
        self._pending: dict[NodeId, Roster] = {}

    def needed(self, roster: Roster) -> int:
        """Say how many others of its voters must answer."""
        return len(roster.voters) - roster.quorum + 1

    def take(self, sender: NodeId, answer: Recalled) -> None:
        """Note an answer; one to an earlier question changes nothing."""
        if answer.nonce != self.nonce or (sender not in self.told and len(self.told) >= TOLD_MAX):
            return
        if answer.roster_version and answer.incarnation < self.book.current.incarnation:
            return  # Its epochs are those of another incarnation.
        if not answer.sure:
            self.damaged[sender] = None
            return
        self.told[sender] = max(answer.epoch, self.told.get(sender, 0))
        self._marks[sender] = answer.incarnation, answer.roster_version
        self._pending.pop(sender, None)
        if answer.pending is not None:
            self._pending[sender] = answer.pending
        self.damaged.pop(sender, None)

    def pending(self) -> Roster | None:
        """Give what was signed last, as far as anybody told, and may be final."""
        told = [each for each in self._pending.values() if follows(each, self.book.current)]
        return max(told, key=lambda each: each.epoch, default=None)

    def rosters(self) -> list[Roster]:
        """List the rosters under which our vote or signature may have counted, or that tell of newer ones."""
        pending = {each.digest: each for each in self._pending.values() if follows(each, self.book.current)}
        before = self.book.previous
        counted = [before] if before is not None and self.own in before.voters else []
        return [self.book.current, *counted, *(pending[key] for key in sorted(pending))]

    def asked(self) -> list[NodeId]:
        """List who has to be asked still."""
        voters = {voter for roster in self.rosters() for voter in roster.voters}
        return sorted(voter for voter in voters if voter != self.own and voter not in self.told)

    def lacks(self, roster: Roster) -> int:
        """Count the answers that are missing from voters of `roster`."""
        return max(0, self.needed(roster) - sum(voter in self.told for voter in roster.voters if voter != self.own))

    def complete(self) -> bool:
        """Tell whether enough is known to vote again."""
        current = self.book.current
        newest = max(self._marks.values(), default=(0, 0))
        return bool(current.version) and newest <= current.mark and not any(map(self.lacks, self.rosters()))

    def epoch(self) -> int:
        """Give the highest epoch that any voter told, or that the roster in force is of."""
        return max(self.told.values(), default=0)

    def because(self, roster: Roster) -> str:
        """Say in words why this node has no vote, and what helps."""
        others, needed = len([voter for voter in roster.voters if voter != self.own]), self.needed(roster)
        told = sum(voter in self.told for voter in roster.voters)
        damaged = sum(voter in self.damaged for voter in roster.voters)
        words = f"this node has no vote, because its election journal is damaged ({self.damage[:120]})"
        if others - damaged < needed:
            whose = f"so are those of {damaged} of {others} other voters" if others else "it is the only voter"
            return (
                f"{words}, and {whose}, too many to know who was elected: when all of them run, "
                "`atoll site reform` at one node begins anew with its word alone"
            )
        return f"{words}; {told} of the {needed} other voters have answered whose word it needs to vote again"

"""What a node knows of its site's rosters: the one in force, and a few before it as the proof for those behind.

    nothing known   --any sealed roster-->                                   known
    version k       --k + 1 .. n, each signed by a majority before it-->     version n
    version k       --a gap that no chain covers, on the seal alone-->       version n
    any             --a higher incarnation, on the seal alone-->             that one

It must never take an older roster than it has, and never another of the same incarnation and version.
"""

from collections.abc import Sequence
from itertools import pairwise

from atoll.actors.elector.messages import RosterChain
from atoll.actors.elector.roster import Mark, Notary, Roster

CHAIN_MAX = 32
"""Rosters kept and sent: 26 KiB at most. Who has missed more changes than that trusts the seal, as a joiner does."""


class RosterBook:
    """The rosters of one site; every rule of what may follow what is a method of its own."""

    def __init__(self, roster: Roster, notary: Notary) -> None:
        self.notary = notary
        self.current = Roster()
        """The one in force; `Roster()` where none is known."""
        self._chain: tuple[Roster, ...] = ()
        self.chain = (roster,) if roster.version else ()
        self.refused = ""
        """What was wrong with the last chain that was not taken."""

    @property
    def chain(self) -> tuple[Roster, ...]:
        """The one in force, last, and those before it."""
        return self._chain

    @chain.setter
    def chain(self, rosters: tuple[Roster, ...]) -> None:
        self._chain = rosters
        self.current = rosters[-1] if rosters else Roster()

    @property
    def previous(self) -> Roster | None:
        """The one before it, of the same incarnation; None where it is not known or never was."""
        before = self.chain[-2] if len(self.chain) > 1 else None
        return before if before and before.incarnation == self.current.incarnation else None

    def restore(self, record: RosterChain) -> None:
        """Take up what was found on disk.

        Raises:
            MalformedFrame: It is not this site's: the secret was changed.
        """
        for roster in record.rosters:
            roster.verify(self.notary.roster_key)
        # What is on disk wins over what a config says: others may rely on it.
        if record.rosters and record.rosters[-1].mark >= self.current.mark:
            self.chain = record.rosters

    def since(self, mark: Mark) -> RosterChain:
        """Give what somebody needs who knows the roster of that mark, with one before as far as there is one."""
        first = next((place for place, roster in enumerate(self.chain) if roster.mark > mark), len(self.chain))
        return RosterChain(self.chain[max(0, min(first, len(self.chain) - 1) - 1) :])

    def record(self) -> RosterChain:
        """Give what belongs on disk."""
        return RosterChain(self.chain)

    def take(self, chain: RosterChain) -> bool:
        """Take newer rosters over, if they are what they claim; tell whether the one in force is another now."""
        self.refused = ""
        rosters = chain.rosters
        if not rosters or rosters[-1].mark < self.current.mark:
            return False
        self.refused = self._fault(rosters)
        if self.refused or rosters[-1].mark == self.current.mark:
            return False
        kept = tuple(each for each in self.chain if each.mark < rosters[0].mark) if self._joins(rosters) else ()
        self.chain = (*kept, *rosters)[-CHAIN_MAX:]
        return True

    def adopt(self, roster: Roster) -> None:
        """Put a roster in force that this node itself has made final."""
        self.chain = (*self.chain, roster)[-CHAIN_MAX:]

    def _joins(self, rosters: Sequence[Roster]) -> bool:
        first, current = rosters[0], self.current
        return first.incarnation == current.incarnation and first.version <= current.version + 1

    def _fault(self, rosters: Sequence[Roster]) -> str:
        key = self.notary.roster_key
        if fault := next((found for each in rosters if (found := each.fault(key))), ""):
            return fault
        for before, after in pairwise(rosters):
            if fault := self._link_fault(before, after):
                return fault
        if not self._joins(rosters):
            return ""
        known = {each.mark: each for each in self.chain}
        for each in rosters:
            if each.mark in known and known[each.mark].digest != each.digest:
                return f"another roster of version {each.version} is known here"
        follows = next((each for each in rosters if each.version == self.current.version + 1), None)
        return self._link_fault(self.current, follows) if follows else ""

    def _link_fault(self, before: Roster, after: Roster) -> str:
        if after.mark <= before.mark:
            return "its rosters are not in order"
        if after.incarnation != before.incarnation:
            return "" if after.version == 1 else "a new incarnation begins with version 1"
        if after.version != before.version + 1:
            return f"version {before.version + 1} is missing"
        return self.step_fault(before, after) or self._certificate_fault(before, after)

    def step_fault(self, before: Roster, after: Roster) -> str:
        """Say why `after` cannot follow `before`, whoever signs it; empty when it can."""
        if fault := after.shape_fault():
            return fault
        if after.mark != (before.incarnation, before.version + 1) or after.previous != before.digest:
            return "it does not follow the roster before"
        if len(before.difference(after)) != 1:
            return f"it changes {len(before.difference(after))} voters, one at a time can be"
        if after.epoch < before.epoch:
            return "it comes from an older epoch than the roster before"
        return ""

    def _certificate_fault(self, before: Roster, after: Roster) -> str:
        signers = {voter for voter, signature in after.signatures if self.notary.signed(after, voter, signature)}
        missing = before.quorum - len(signers & set(before.voters))
        return f"{missing} more signatures of the voters before are needed" if missing > 0 else ""

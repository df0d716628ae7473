"""One voter's copy of the table: the acceptor of a Paxos register.

    empty, or a table  --Prepare of an epoch as high as any before-->   promised: nothing from a lower epoch
    promised           --Write of an epoch as high as any before-->     that table
    sound              --a start finds the journal damaged-->           forgetful
    forgetful          --Write that names this life's nonce-->          sound

It must never answer before the disk has it, never take anything from an epoch below one it promised, and never tell
what it has as if that were all it ever had, while it is forgetful.

Why a forgetful voter may take part again after such a write. What it lost is promises to, and tables of, supernodes
that wrote to it before it lost them. The nonce is new at each start, and a supernode answers it only if it holds its
lease when it hears of it: after the loss. Leases follow each other in the order of their epochs, so every supernode
from before the loss has this epoch or a lower one: no promise to a higher one can be lost. And a supernode writes only
what it has read from a majority of sound voters, so nothing that was agreed upon with the lost copy is missing in it.
"""

from collections.abc import Sequence
from random import Random

from atoll.actors.placement.messages import Accepted, Amnesia, Outbid, Prepared, Promised, Written
from atoll.actors.runtime.machine import Effect, Persist, Record, insist

NONCE_BITS = 52


class Register:
    """What one voter has promised and taken. Every rule is a method of its own, and has a mutant that breaks it."""

    def __init__(self, rng: Random) -> None:
        self.promised = 0
        self.accepted: Accepted | None = None
        self.agreed: Accepted | None = None
        """The newest table of which a supernode said in this life that a majority has it."""
        self.damage = ""
        self.nonce = 0
        """Not 0 while this voter is forgetful; another one in each life."""
        self._rng = rng

    @property
    def forgetful(self) -> bool:
        """Its journal was damaged, and no supernode has filled it again."""
        return self.nonce != 0

    @property
    def newest(self) -> Accepted | None:
        """What this voter would show: agreed upon, if it knows of it."""
        return self.agreed or self.accepted

    def restart(self, restored: Sequence[Record]) -> None:
        """Take up what is on disk."""
        for record in restored:
            if isinstance(record, Accepted):
                self.accepted = record
            elif isinstance(record, Promised):
                self.promised = record.epoch
            elif isinstance(record, Amnesia):
                self.damage = record.damage
        self.promised = max(self.promised, self.accepted.epoch if self.accepted else 0)
        self.nonce = self.nonce_of_this_life() if self.damage else 0

    def nonce_of_this_life(self) -> int:
        """Draw what only answers to this life's questions can name."""
        return self._rng.randrange(1, 2**NONCE_BITS)

    def outbid(self, epoch: int) -> bool:
        """Tell whether this voter promised to take nothing from that epoch."""
        return epoch < self.promised

    def prepare(self, epoch: int) -> tuple[list[Effect], Prepared | Outbid]:
        """Promise, and tell what was taken last; carry out the effects before you hand on the answer."""
        if self.outbid(epoch):
            return [], Outbid(epoch, self.promised)
        effects = self.durably(Promised(epoch)) if epoch > self.promised else []
        self.promised = epoch
        return effects, Prepared(epoch, self.told(), self.nonce)

    def told(self) -> Accepted | None:
        """Give what this voter can vouch for."""
        return None if self.forgetful else self.accepted

    def write(self, wanted: Accepted, nonce: int) -> tuple[list[Effect], Written | Outbid | None]:
        """Take a table; the answer is None where a newer one of the same epoch is here already."""
        if self.outbid(wanted.epoch):
            return [], Outbid(wanted.epoch, self.promised)
        if not self.vouched(nonce):
            return [], Outbid(wanted.epoch, self.promised, self.nonce)
        answer = Written(wanted.epoch, wanted.version)
        if self.accepted is not None and not self.forgetful:
            place, taken = (wanted.epoch, wanted.version), (self.accepted.epoch, self.accepted.version)
            if place <= taken:
                return [], answer if place == taken else None
        effects = self.durably(wanted)
        self.accepted, self.promised = wanted, wanted.epoch
        if self.forgetful:
            # Behind the table: a crash in between leaves a voter that is still forgetful.
            effects += self.durably(Amnesia())
            self.damage, self.nonce = "", 0
        return effects, answer

    def vouched(self, nonce: int) -> bool:
        """Tell whether a write may be taken: always by a sound voter, else with the nonce of this life."""
        return not self.forgetful or nonce == self.nonce

    def agree(self, epoch: int, version: int) -> None:
        """Note that a majority has a table, if it is the one that is here."""
        if self.accepted is not None and (self.accepted.epoch, self.accepted.version) == (epoch, version):
            self.agreed = self.accepted

    def durably(self, record: Record) -> list[Effect]:
        """Write down what the next answer rests on."""
        return [Persist(record)]

    def check(self) -> None:
        """Assert what always holds."""
        insist(
            self.accepted is None or self.accepted.epoch <= self.promised, "took a table of an epoch above its promise"
        )
        insist(bool(self.damage) == self.forgetful, "damage and forgetfulness come together")

"""A supernode's side of the register, for one epoch: what it reads and writes, and when it may answer.

    reading  --a majority promised, and told what it has-->    writing (the highest of it, again, under this epoch)
    writing  --a majority has it-->                            serving
    serving  --a swap-->                                       serving, one write in flight; others wait for the next
    serving  --the roster changes-->                           serving, and writing to a majority of the new voters
    any      --the lease is over-->                            ended; what is in flight may be done, or not

Why a later supernode finds what an earlier one told to be done. What is done stands on a majority of a roster, under
the earlier epoch. The later one has the promise of a majority of its own roster before it reads, and those who promised
take nothing from lower epochs afterwards. Rosters change by one voter, and the next change waits until the table is on
a majority of the roster before (`PlacementSettled`): so the two rosters are the same, or one voter apart. Majorities of
n and of the same n voters overlap; those of n and n + 1 too, for n // 2 + 1 + (n + 1) // 2 + 1 = n + 2 of n + 1. A
voter in both took the write before it promised, and told of it; or it promised first, and the write was never done.
Of all that it was told, the table of the highest (epoch, version) holds everything done: its writer had read so too.

So it may go on answering while it writes to the voters of a new roster: whoever comes next has that one or the one
before, and what it answers stands on a majority of the one before. Only `PlacementSettled` has to wait.

It must write again before it answers: what it read may be on one voter only, which dies; the next supernode would then
find an older table than the one that was shown.

A forgetful voter (`register.py`) promises but tells nothing, so reading wants a majority that tells. It may promise:
what it forgot it promised to epochs up to this one.

Answering without writing wants the lease: another supernode could have written since. A swap that a majority has is
done, lease or not.

Source: Lamport, Paxos Made Simple (2001); the register as in Lampson, How to Build a Highly Available System Using
Consensus (1996).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from atoll.actors.elector.messages import LeaseRenewed, PlacementSettled
from atoll.actors.placement.messages import (
    Accepted,
    Committed,
    Outbid,
    PlaceSwapped,
    Prepare,
    Prepared,
    Write,
    Written,
)
from atoll.actors.placement.register import Register
from atoll.actors.placement.table import Change, PlaceTable
from atoll.actors.runtime.machine import Announce, Arm, Effect, Reply, Seconds, Send, insist
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

AGAIN = "again"
AGAIN_S = 0.2
"""How often voters that have not answered are asked again: far above a round trip of a LAN and a disk's fsync."""
STRAGGLERS_S = 2.0
"""How often voters that miss what a majority has are sent it; nobody waits for them."""


@dataclass(slots=True)
class Flight:
    """The write under way, who has it on disk, and what to answer when a majority has."""

    record: Accepted
    table: PlaceTable
    answers: list[tuple[Any, PlaceSwapped]] = field(default_factory=list)
    holders: dict[NodeId, None] = field(default_factory=dict)


class Leadership:
    """One epoch of one supernode; a new one is made for each. Every rule is a method, and has a mutant."""

    table_kind = PlaceTable

    def __init__(self, own: NodeId, register: Register, lease: LeaseRenewed) -> None:
        self.own = own
        self.register = register
        self.lease = lease
        self.epoch = lease.epoch
        self.told: dict[NodeId, Prepared] = {}
        """What voters promised and told."""
        self.forgetful: dict[NodeId, int] = {}
        """Voters with a damaged journal, and the nonce of each, heard while the lease was held."""
        self.committed: Flight | None = None
        """The newest write that a majority has; None before this epoch's first."""
        self.flight: Flight | None = None
        self.waiting: list[tuple[Any, Change]] = []
        """Swaps and removals for the next write."""
        self.outbid_by = 0
        """The highest epoch that a voter put in our way."""
        self._settled: tuple[int, int] | None = None

    @property
    def mark(self) -> tuple[int, int]:
        """Which roster is in force: incarnation and version."""
        return self.lease.incarnation, self.lease.roster_version

    @property
    def voters(self) -> tuple[NodeId, ...]:
        """Whose majority counts: that of the roster in force."""
        return self.lease.voters

    @property
    def quorum(self) -> int:
        """How many voters are a majority of the roster, never of whoever answered."""
        return len(self.voters) // 2 + 1

    def lease_held(self, now: Seconds) -> bool:
        """Tell whether this node is the one supernode at this very moment."""
        return now < self.lease.until

    def serves(self, now: Seconds) -> bool:
        """Tell whether the table here is the newest there is; under a roster just in force too, see the module."""
        return self.lease_held(now) and self.committed is not None

    def settled(self) -> bool:
        """Tell whether a majority of the roster in force has the table under this epoch."""
        return self.committed is not None and self._settled == self.mark

    def begin(self, now: Seconds) -> list[Effect]:
        """Ask the voters for what they have, this node first."""
        effects, own = self.register.prepare(self.epoch)
        if isinstance(own, Outbid):
            self.outbid_by = own.promised
            return effects
        self.told[self.own] = own
        return [*effects, *self._to_others(Prepare(self.epoch)), Arm(AGAIN, AGAIN_S), *self._read(now)]

    def renew(self, lease: LeaseRenewed, now: Seconds) -> list[Effect]:
        """Take a longer lease, or one under another roster."""
        before, self.lease = self.mark, lease
        if self.mark == before:
            return self.advance(now)
        if self.committed is None and self.flight is None:
            return [*self._to_others(Prepare(self.epoch), self.told), Arm(AGAIN, AGAIN_S), *self._read(now)]
        if self.flight is None:
            return self._write(now)
        # The new voters lack it; what counts from now on is their majority.
        return [*self._send_write(self.flight), Arm(AGAIN, AGAIN_S), *self._commit_if_held(now)]

    def take_promise(self, sender: NodeId, message: Prepared, now: Seconds) -> list[Effect]:
        """Take a voter's answer to `Prepare`."""
        if message.epoch != self.epoch or self.flight is not None or self.committed is not None:
            return []
        if message.nonce and not self._vouches_for(sender, message.nonce, now):
            return []
        self.told[sender] = message
        return self._read(now)

    def _vouches_for(self, sender: NodeId, nonce: int, now: Seconds) -> bool:
        """Note a forgetful voter: only while the lease is held, which proves that no later epoch knew it before."""
        if not self.lease_held(now):
            return False
        self.forgetful[sender] = nonce
        return True

    def read_enough(self) -> bool:
        """Tell whether everything done before is among what was told, and nothing can be done any more without us."""
        return sum(voter in self.told and not self.told[voter].nonce for voter in self.voters) >= self.quorum

    def adopted(self) -> Accepted | None:
        """Choose what to go on with: the highest epoch, and its highest version, of all that was told."""
        found = [each.accepted for each in self.told.values() if each.accepted is not None]
        return max(found, key=lambda accepted: (accepted.epoch, accepted.version), default=None)

    def _read(self, now: Seconds) -> list[Effect]:
        if self.flight is not None or self.committed is not None or not self.read_enough():
            return []
        return self.begin_to_write(self.adopted(), now)

    def begin_to_write(self, adopted: Accepted | None, now: Seconds) -> list[Effect]:
        """Write what was read again, under this epoch, before anybody is told of it."""
        if adopted is None:
            return self._launch(self.table_kind(), 0, [], now)
        table = self.table_kind(adopted.places, adopted.retired)
        table.lift(adopted.incarnation, self.lease.incarnation)
        return self._launch(table, adopted.version, [], now)

    def change(self, reply_to: Any, change: Change, now: Seconds) -> list[Effect]:
        """Take a swap or a removal for the next write."""
        self.waiting.append((reply_to, change))
        return self.advance(now)

    def advance(self, now: Seconds) -> list[Effect]:
        """Begin the next write, if somebody waits for it and none is under way."""
        return self._write(now) if self.waiting and self.flight is None and self.serves(now) else []

    def _write(self, now: Seconds) -> list[Effect]:
        """Write the next version, with all changes that wait and can be done."""
        if self.committed is None:
            return []
        table, answers, changed = self.committed.table.copy(), [], False
        waiting, self.waiting = self.waiting, []
        for reply_to, change in waiting:
            refusal = table.refusal(change)
            if not refusal:
                table.change(change)
                changed = True
            actor, decided = change.actor, not refusal or table.never(change)
            answer = PlaceSwapped(
                actor, not refusal, table.find(actor), refusal, self.own, decided, table.first_of(actor)
            )
            answers.append((reply_to, answer))
        if not changed and self.settled():
            return [Reply(reply_to, answer) for reply_to, answer in answers]
        return self._launch(table, self.committed.record.version, answers, now)

    def _launch(
        self, table: PlaceTable, version: int, answers: list[tuple[Any, PlaceSwapped]], now: Seconds
    ) -> list[Effect]:
        record = Accepted(self.epoch, version + 1, *self.mark, table.places(), table.retired)
        # This node first, on disk: should it lead again in this epoch after a crash, it must know what it wrote.
        effects, own = self.register.write(record, 0)
        if not isinstance(own, Written):
            self.outbid_by = max(self.outbid_by, self.register.promised)
            return [*effects, *self._undecided(answers, "another supernode has come")]
        self.flight = Flight(record, table, answers, {self.own: None})
        return [*effects, *self._send_write(self.flight), Arm(AGAIN, AGAIN_S), *self._commit_if_held(now)]

    def _send_write(self, flight: Flight) -> list[Effect]:
        missing = [voter for voter in self.voters if voter not in flight.holders]
        return [Send(voter, Write(flight.record, self.forgetful.get(voter, 0))) for voter in missing]

    def take_written(self, sender: NodeId, message: Written, now: Seconds) -> list[Effect]:
        """Take a voter's word that a table is on its disk."""
        self.forgetful.pop(sender, None)
        for flight in (self.flight, self.committed):
            if flight is not None and (flight.record.epoch, flight.record.version) == (message.epoch, message.version):
                flight.holders[sender] = None
        return self._commit_if_held(now)

    def take_outbid(self, sender: NodeId, message: Outbid, now: Seconds) -> list[Effect]:
        """Take a voter's refusal: a higher epoch, which ends our writing sooner or later, or a damaged journal."""
        if message.promised > self.epoch:
            self.outbid_by = max(self.outbid_by, message.promised)
            return []
        newest = self.flight or self.committed
        if not message.nonce or newest is None or not self._vouches_for(sender, message.nonce, now):
            return []
        newest.holders.pop(sender, None)
        return [Send(sender, Write(newest.record, message.nonce))]

    def held(self, flight: Flight) -> bool:
        """Tell whether a majority of the roster in force has it."""
        return sum(voter in flight.holders for voter in self.voters) >= self.quorum

    def _commit_if_held(self, now: Seconds) -> list[Effect]:
        flight = self.flight
        if flight is None or not self.held(flight):
            return []
        self.committed, self.flight = flight, None
        epoch, version = flight.record.epoch, flight.record.version
        self.register.agree(epoch, version)
        effects: list[Effect] = [Reply(reply_to, answer) for reply_to, answer in flight.answers]
        effects += self._to_others(Committed(epoch, version))
        if self._settled != self.mark:
            self._settled = self.mark
            effects.append(Announce(PlacementSettled(self.epoch, *self.mark)))
        return [*effects, Arm(AGAIN, STRAGGLERS_S), *self.advance(now)]

    def again(self, now: Seconds) -> list[Effect]:
        """Ask those again who have not answered."""
        if self.flight is not None:
            return [*self._send_write(self.flight), Arm(AGAIN, AGAIN_S)]
        if self.committed is not None:
            missing = self._send_write(self.committed)
            return [*missing, Arm(AGAIN, STRAGGLERS_S), *self.advance(now)] if missing else self.advance(now)
        return [*self._to_others(Prepare(self.epoch), self.told), Arm(AGAIN, AGAIN_S)] if self.told else []

    def end(self, why: str) -> list[Effect]:
        """Answer whoever waits: what is in flight may be done or not."""
        waiting, self.waiting = self.waiting, []
        flight, self.flight = self.flight, None
        effects = self._undecided(flight.answers, why) if flight is not None else []
        return effects + [
            Reply(to, PlaceSwapped(change.actor, False, None, why, decided=False)) for to, change in waiting
        ]

    @staticmethod
    def _undecided(answers: list[tuple[Any, PlaceSwapped]], why: str) -> list[Effect]:
        return [Reply(to, PlaceSwapped(answer.actor, False, None, why, decided=False)) for to, answer in answers]

    def _to_others(self, message: Message, answered: Iterable[NodeId] = ()) -> list[Effect]:
        spared = {self.own, *answered}
        return [Send(voter, message) for voter in self.voters if voter not in spared]

    def check(self) -> None:
        """Assert what always holds."""
        rising = [each.record.version for each in (self.committed, self.flight) if each is not None]
        insist(rising == sorted(set(rising)), "versions rise with each write")
        insist(self.flight is None or self.own in self.flight.holders, "writes what it has not on its own disk")

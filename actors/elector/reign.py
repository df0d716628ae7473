"""How long a supernode may act: the lease, counted from what a majority acknowledged.

        elected --votes of a majority-->                    lease from when they were asked for
        lease   --a majority acknowledged a heartbeat-->    lease from when that heartbeat was sent

It must never count from the moment an answer arrives (the promise behind it is older than that), and never from fewer
than a majority of the roster.
"""

from collections.abc import Iterable, Sequence

from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Seconds, insist
from atoll.transport.identity import NodeId

HEARTBEATS_OUTSTANDING_MAX = 16
"""Send times kept to be acknowledged; at five a second older ones could not prolong a lease anyway."""


class Reign:
    """One epoch of one supernode; a new one is made for each."""

    def __init__(
        self, own: NodeId, epoch: int, voters: Sequence[NodeId], quorum: int, settings: ElectionSettings
    ) -> None:
        self.own = own
        self.epoch = epoch
        self.voters = tuple(voters)
        self.quorum = quorum
        self.settings = settings
        self.lease_until: Seconds = 0.0
        self.sequence = 0
        self.acknowledged: dict[NodeId, Seconds] = {}
        """Voter, or who is to become one, to when the latest message that it promised upon was sent."""
        self._sent_at: dict[int, Seconds] = {}

    def begin(self, voters: Iterable[NodeId], asked_at: Seconds) -> None:
        """Start from votes that were asked for at `asked_at`."""
        self.acknowledged = dict.fromkeys(voters, asked_at)
        self._renew()

    def follow(self, voters: Sequence[NodeId], quorum: int) -> None:
        """Go on under another roster: from now on a lease rests on a majority of it, and on nothing else."""
        self.voters, self.quorum = tuple(voters), quorum
        self.lease_until = self.lease_under(self.voters, quorum)

    def lease_under(self, voters: Sequence[NodeId], quorum: int) -> Seconds:
        """Say until when a majority of these voters has promised; 0 for never."""
        acknowledged = self.acknowledged
        latest_first = sorted([acknowledged[each] for each in voters if each in acknowledged], reverse=True)
        return self.lease_from(latest_first[quorum - 1]) if len(latest_first) >= quorum else 0.0

    def lease_from(self, sent_at: Seconds) -> Seconds:
        """Say when a lease ends that rests on promises made after `sent_at`.

        Our clock may be slow and a voter's fast, by `drift` each: (1 - 2d) / (1 - d) <= 1 / (1 + d).
        """
        return sent_at + self.settings.lease_s * (1 - 2 * self.settings.drift)

    def beat(self, now: Seconds) -> int:
        """Count a heartbeat that is sent now, and our own promise with it; gives its number."""
        self.sequence += 1
        self._sent_at[self.sequence] = now
        self._sent_at.pop(self.sequence - HEARTBEATS_OUTSTANDING_MAX, None)
        self.acknowledged[self.own] = now
        self._renew()
        return self.sequence

    def acknowledge(self, voter: NodeId, epoch: int, sequence: int, now: Seconds) -> None:
        """Take a voter's acknowledgement; one of another epoch, or too old to matter, changes nothing."""
        if self.answers(epoch) and sequence in self._sent_at:
            promised_at = self.promised_at(self._sent_at[sequence], now)
            self.acknowledged[voter] = max(self.acknowledged.get(voter, promised_at), promised_at)
            self._renew()

    def answers(self, epoch: int) -> bool:
        """Tell whether an acknowledgement belongs to this epoch; sequence numbers start anew in each."""
        return epoch == self.epoch

    def promised_at(self, sent_at: Seconds, _now: Seconds) -> Seconds:
        """Give the earliest moment, on our clock, at which the voter can have promised."""
        return sent_at

    def _renew(self) -> None:
        self.lease_until = max(self.lease_until, self.lease_under(self.voters, self.quorum))

    def check(self) -> None:
        """Assert what always holds."""
        promised = self.acknowledged.keys() & self.voters
        insist(len(promised) >= self.quorum, "presides without a majority")

"""The numbers of the election, each with its reason."""

from dataclasses import dataclass

from atoll.transport.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class ElectionSettings:
    """Times of the election, in seconds of the lease clock; every voter of a site must use the same."""

    lease_s: float = 0.9
    """L: how long a promise binds a voter. Fail-over cannot be quicker, and a pause longer than this costs a term."""
    heartbeat_s: float = 0.2
    """Four heartbeats fit into a lease, so that three may be lost in a row."""
    delay_s_min: float = 0.1
    """Several round trips of a LAN: the best voter's round is over before the next one starts its own."""
    delay_s_max: float = 0.4
    """The worst voter's delay; more voters share the span between the two."""
    again_s: float = 0.05
    """How often a candidate asks voters that are silent: above a round trip, and twice within the shortest delay."""
    drift: float = 0.02
    """How far a clock's rate may be off. Quartz is a thousand times better; virtual machines are not."""
    announce_s: float = 1.0
    """How often members without a vote are told. 200 of them cost the supernode 200 messages a second."""
    belief_s: float = 3.0
    """How long such a member believes it without hearing it again; as long as a link may be silent."""
    provisional_after_s: float = 2.7
    """Three leases: when a majority can be reached, an election is over by then."""
    better_for_s: float = 30.0
    """How long another voter must be better before the supernode hands over: a move costs more than it gains."""

    settle_s: float = 60.0
    """How long a member must be in reach before it may become a voter: who has just come may go again."""
    absent_s: float = 86_400.0
    """How long a voter may be unseen before the supernode takes it out: longer than a night."""

    def __post_init__(self) -> None:
        if not 0 <= self.drift < 0.25:
            raise UsageError(f"a clock drift bound of {self.drift} leaves no lease; 0.02 is usual")
        if not 0 < self.delay_s_min < self.delay_s_max < self.lease_s:
            raise UsageError("election delays must be positive, rising, and shorter than the lease")
        if not 0 < self.heartbeat_s * 2 <= self.lease_s * (1 - 2 * self.drift):
            raise UsageError(f"a lease of {self.lease_s} s needs heartbeats at least twice as often")

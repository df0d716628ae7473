"""What the actors of the hand-over tell each other within one node: orders, facts, and answers of the shells."""

from dataclasses import dataclass

from atoll.actors.placement.messages import Placed
from atoll.transport.identity import NodeId


@dataclass(frozen=True, slots=True)
class Move:
    """Fact in: move the actor to another host."""

    actor: str
    target: NodeId


@dataclass(frozen=True, slots=True)
class Found:
    """Fact in: host this actor, new where the placement does not know it."""

    actor: str
    kind: str
    stores: tuple[NodeId, ...]
    """Where a durable one keeps its log; nowhere for a soft one."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Fact in: a soft actor has finished an operation."""

    actor: str
    number: int
    reply: bytes


@dataclass(frozen=True, slots=True)
class Serving:
    """Fact out: this node serves the actor in that generation."""

    actor: str
    generation: int
    why: str


@dataclass(frozen=True, slots=True)
class Ceased:
    """Fact out: this node serves the actor no longer."""

    actor: str
    generation: int
    why: str


@dataclass(frozen=True, slots=True)
class Moved:
    """Fact out, at the source: a move is over; `why` it failed, or empty."""

    actor: str
    target: NodeId
    paused_s: float
    why: str


@dataclass(frozen=True, slots=True)
class StoresChanged:
    """Fact out, at the owner: a change of stores is over; `why` it failed, or empty."""

    actor: str
    stores: tuple[NodeId, ...]
    why: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """Fact out, at the caller: a call has its answer, or (`failed`) will have none."""

    actor: str
    key: int
    """That of the `PlaceCall`."""
    sequence: int
    reply: bytes
    failed: str


@dataclass(frozen=True, slots=True)
class CallActor:
    """Ask this node's callers to call a migratable actor; answered with the bytes of its reply."""

    actor: str
    operation: bytes


@dataclass(frozen=True, slots=True)
class HostActor:
    """Tell this node's hosting that an actor was added to its repertoire."""

    actor: str


@dataclass(frozen=True, slots=True)
class DrainHosted:
    """Ask this node's hosting to move everything away, and to take nothing more; answered with `HostedDrained`."""

    within_s: float


@dataclass(frozen=True, slots=True)
class GivenAway:
    """An actor that a drained node moved."""

    actor: str
    target: NodeId
    took_s: float
    paused_s: float


@dataclass(frozen=True, slots=True)
class HostedDrained:
    """The answer to `DrainHosted`."""

    moved: tuple[GivenAway, ...]
    stayed: tuple[tuple[str, str], ...]
    """Actor, and why."""


@dataclass(frozen=True, slots=True)
class DescribeOffers:
    """Ask this node's hosting for its `HostOffers`."""


@dataclass(frozen=True, slots=True)
class DescribeHosting:
    """Ask this node's hosting for `HostingDescribed`."""


@dataclass(frozen=True, slots=True)
class HostedActor:
    """An actor that this node owns."""

    actor: str
    kind: str
    placed: Placed
    phase: str
    why: str


@dataclass(frozen=True, slots=True)
class HostingDescribed:
    """What this node hosts."""

    actors: tuple[HostedActor, ...]

"""What the actors of the hand-over tell each other within one node: orders, facts, and answers of the shells."""

import msgspec

from atoll.transport.identity import NodeId


class Move(msgspec.Struct, frozen=True):
    """Fact in: move the actor to another host."""

    actor: str
    target: NodeId


class Remove(msgspec.Struct, frozen=True):
    """Fact in: end the actor for good."""

    actor: str
    founded: int = 0
    """Only the one that was founded in that generation; 0: whichever has the name."""


class Removed(msgspec.Struct, frozen=True):
    """Fact out: a removal is over; `why` the actor is still there, or empty."""

    actor: str
    why: str


class Found(msgspec.Struct, frozen=True):
    """Fact in: host this actor, new where the placement does not know it."""

    actor: str
    kind: str
    stores: tuple[NodeId, ...]
    """Where a durable one keeps its log; nowhere for a soft one."""


class Applied(msgspec.Struct, frozen=True):
    """Fact in: a soft actor has finished an operation."""

    actor: str
    number: int
    reply: bytes


class Serving(msgspec.Struct, frozen=True):
    """Fact out: this node serves the actor in that generation."""

    actor: str
    generation: int
    why: str


class Ceased(msgspec.Struct, frozen=True):
    """Fact out: this node serves the actor no longer."""

    actor: str
    generation: int
    why: str


class Moved(msgspec.Struct, frozen=True):
    """Fact out, at the source: a move is over; `why` it failed, or empty."""

    actor: str
    target: NodeId
    paused_s: float
    why: str


class StoresChanged(msgspec.Struct, frozen=True):
    """Fact out, at the owner: a change of stores is over; `why` it failed, or empty."""

    actor: str
    stores: tuple[NodeId, ...]
    why: str


class CallEnded(msgspec.Struct, frozen=True):
    """Fact out, at the caller: a call has its answer, or (`failed`) will have none."""

    actor: str
    key: int
    """That of the `PlaceCall`."""
    sequence: int
    reply: bytes
    failed: str


class CallActor(msgspec.Struct, frozen=True):
    """Ask this node's callers to call a migratable actor; answered with the bytes of its reply."""

    actor: str
    operation: bytes


class HostActor(msgspec.Struct, frozen=True):
    """Tell this node's hosting that an actor was added to its repertoire."""

    actor: str


class DrainHosted(msgspec.Struct, frozen=True):
    """Ask this node's hosting to move everything away, and to take nothing more; answered with `HostedDrained`."""

    within_s: float


class GivenAway(msgspec.Struct, frozen=True):
    """An actor that a drained node moved."""

    actor: str
    target: NodeId
    took_s: float
    paused_s: float


class HostedDrained(msgspec.Struct, frozen=True):
    """The answer to `DrainHosted`."""

    moved: tuple[GivenAway, ...]
    stayed: tuple[tuple[str, str], ...]
    """Actor, and why."""


class DescribeOffers(msgspec.Struct, frozen=True):
    """Ask this node's hosting for its `HostOffers`."""

"""What the supernode and the hosts of a site say to each other about who runs which migratable actor.

host      --HostHere-->                              supernode    on every change, and every REPORT_S
supernode --TakePlace, StoresWanted, MoveAdvised, OwnerDoubted-->  host
anybody   --DescribeHosting-->                       host         --HostingDescribed--> anybody
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

from atoll.actors.elector.score import Score
from atoll.actors.hand_over.messages import PAUSE_MS_MAX, Generation, Kind, Stores, Why
from atoll.actors.placement.messages import ACTORS_MAX, ActorName, Placed
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

RELOCATION = "relocation"
KINDS_MAX = 128
"""Classes of migratable actors that one node can run."""


class ActorOwned(msgspec.Struct, frozen=True, array_like=True):
    """An actor that a host owns, ready or not."""

    actor: ActorName
    generation: Generation
    kind: Kind
    """Empty while it has not been read from the log."""


class HostHere(Message, frozen=True, array_like=True, tag="hand_over.host_here"):
    """A host tells the supernode what it can run and what it owns."""

    score: Score
    kinds: Annotated[tuple[Kind, ...], msgspec.Meta(max_length=KINDS_MAX)]
    owned: Annotated[tuple[ActorOwned, ...], msgspec.Meta(max_length=ACTORS_MAX)]
    draining: bool = False
    """It wants no more."""


class MoveAdvised(Message, frozen=True, array_like=True, tag="hand_over.move_advised"):
    """Another host has been fitter for long: move the actor there, if you still own it in that generation."""

    actor: ActorName
    generation: Generation
    target: NodeId


class OwnerDoubted(Message, frozen=True, array_like=True, tag="hand_over.owner_doubted"):
    """The placement does not say that you own this actor: ask it. Nothing is done on this word alone."""

    actor: ActorName


class DescribeHosting(Message, frozen=True, array_like=True, tag="hand_over.describe_hosting"):
    """Ask a host what it has; answered with `HostingDescribed`."""


HostedState: TypeAlias = Literal["running", "frozen", "moving", "waiting"]


class HostedActor(msgspec.Struct, frozen=True, array_like=True):
    """An actor that a host owns, and how it is."""

    actor: ActorName
    kind: Kind
    placed: Placed
    state: HostedState
    """Running: it takes calls. Frozen: for a moment it takes none, for its next generation. Moving: its state is on its
    way to another host. Waiting: for its stores, as a rule."""
    why: Why
    paused_ms: Annotated[float, msgspec.Meta(ge=0, le=PAUSE_MS_MAX)] | None = None
    """How long it took no calls when it moved here; None where it began here, or that was not told."""
    behind: Stores = ()
    """Those of its stores that do not have all that was acknowledged, or have not said so yet."""


class HostingDescribed(Message, frozen=True, array_like=True, tag="hand_over.hosting_described"):
    """What a host has."""

    actors: Annotated[tuple[HostedActor, ...], msgspec.Meta(max_length=ACTORS_MAX)]


MESSAGES: tuple[type[Message], ...] = (HostHere, MoveAdvised, OwnerDoubted, DescribeHosting, HostingDescribed)


class HostOffers(msgspec.Struct, frozen=True):
    """Fact in: what this node can run and what it owns; told on every change."""

    kinds: tuple[str, ...]
    owned: tuple[ActorOwned, ...]


class Relocated(msgspec.Struct, frozen=True):
    """Fact out, at the supernode: an actor got another host."""

    actor: str
    host: NodeId
    generation: int
    why: str

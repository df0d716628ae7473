"""What the supernode and the hosts of a site say to each other about who runs which migratable actor.

host      --HostHere-->                              supernode    on every change, and every REPORT_S
supernode --TakePlace, StoresWanted, MoveAdvised-->  host
"""

from dataclasses import dataclass
from typing import Annotated

import msgspec

from atoll.actors.elector.score import Score
from atoll.actors.hand_over.messages import Generation, Kind
from atoll.actors.placement.messages import ACTORS_MAX, ActorName
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


MESSAGES: tuple[type[Message], ...] = (HostHere, MoveAdvised)


@dataclass(frozen=True, slots=True)
class HostOffers:
    """Fact in: what this node can run and what it owns; told on every change."""

    kinds: tuple[str, ...]
    owned: tuple[ActorOwned, ...]


@dataclass(frozen=True, slots=True)
class Relocated:
    """Fact out, at the supernode: an actor got another host."""

    actor: str
    host: NodeId
    generation: int
    why: str

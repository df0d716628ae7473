"""What the actors of a node ask of its Uplink, and the fact it announces. Nothing here goes over the wire."""

from dataclasses import dataclass
from typing import Any

PATH = "uplink"


@dataclass(frozen=True, slots=True)
class AskCloud:
    """Ask an actor of the cloud, opening the link first if need be; answered with its reply."""

    actor: str
    message: Any
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class GrantWanted:
    """Ask for this node's grant (bytes), which other nodes of the cloud check off line."""


@dataclass(frozen=True, slots=True)
class CloudSeen:
    """Fact: whether the cloud answered when it was asked last; announced when that changes."""

    reachable: bool
    reason: str

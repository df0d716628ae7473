"""What the actors of a node ask of its Uplink, and the fact it announces. Nothing here goes over the wire."""

from typing import Any

import msgspec

PATH = "uplink"
LINK_S = 10.0
"""For a link to the cloud, where none stands."""
ANSWER_S = 5.0
"""For an answer over it, where the asker names no other time."""


class AskCloud(msgspec.Struct, frozen=True):
    """Ask an actor of the cloud, opening the link first if need be; answered with its reply."""

    actor: str
    message: Any
    timeout_s: float = ANSWER_S
    """For the answer, once there is a link."""
    reply_type: Any = None
    """The only class of message that is an answer; None takes any."""


class GrantWanted(msgspec.Struct, frozen=True):
    """Ask for this node's grant (bytes), which other nodes of the cloud check off line."""


class CloudSeen(msgspec.Struct, frozen=True):
    """Fact: whether the cloud answered when it was asked last; announced when that changes."""

    reachable: bool
    reason: str

"""What the SEP switch is told and what it wants done: inputs and effects that name connections instead of nodes."""

from typing import NamedTuple, TypeAlias

from atoll.actors.tunnel_relay.reasons import Reason
from atoll.transport.arrivals import Arrived, ConnectionId, Gone


class Opened(NamedTuple):
    """A connection with this CURVE key is there; optional, the first `Arrived` says the same."""

    connection: ConnectionId
    key: bytes


class Elapsed(NamedTuple):
    """Some time has passed; wanted several times a second while there are connections."""


class Draining(NamedTuple):
    """The relay will close in `seconds`."""

    seconds: int


class Deliver(NamedTuple):
    """Send the frame. When it cannot be sent, hand this effect back in `Stuck`."""

    connection: ConnectionId
    frame: bytes
    sender: ConnectionId | None = None
    """Who pays for it and is told when it is stuck."""
    address: bytes = b""
    """What the sender addressed: a label or a circuit."""


class Cut(NamedTuple):
    """Close the connection, after what was delivered to it."""

    connection: ConnectionId
    reason: Reason


class Stuck(NamedTuple):
    """A delivery was not taken: the receiver's queue is full, or it has just `gone`."""

    delivery: Deliver
    gone: bool = False


Input: TypeAlias = Opened | Arrived | Gone | Elapsed | Draining | Stuck
Effect: TypeAlias = Deliver | Cut

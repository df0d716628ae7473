"""Where a session stands, and what happens to it; see `session.py`."""

import enum
from typing import Any, TypeAlias

import msgspec

from atoll.transport.identity import NodeId
from atoll.transport.multipath import MultipathEvent


class State(enum.Enum):
    """Where a session stands; see the diagram in `session.py`."""

    DIALLING = "dialling"
    PROVING = "proving"
    ANSWERING = "answering"
    OPEN = "open"
    CLOSED = "closed"


class Established(msgspec.Struct, frozen=True):
    """The peer has proved its key; `verdict` is what the judge returned (None at the initiator)."""

    peer: NodeId
    verdict: Any


class MessageArrived(msgspec.Struct, frozen=True, gc=False):
    """One whole message of the peer."""

    data: bytes


class Closed(msgspec.Struct, frozen=True):
    """The session is over; the last event."""

    reason: str
    by_peer: bool
    broken: bool = False
    """The peer has sent what no peer sends."""
    forgotten: bool = False
    """The peer did not want it to end: it knows the session no more."""


SessionEvent: TypeAlias = Established | MessageArrived | Closed | MultipathEvent

"""What a link transport promises, whatever carries it.

A *link* joins two neighbouring nodes that have proved their keys to each other. Guarantees:

- A message is delivered whole and at most once, or not at all; between two nodes messages keep their order.
- `send` never waits. A slow peer costs at most `QUEUE_BYTES_MAX` and nobody else notices; what does not fit is refused
  with `Congested` and counted.
- `LinkUp` comes before the first `Delivered` of a peer, `LinkDown` after the last. Both ends see both.
- A link that carries nothing for `SILENCE_S` is declared down; traffic or heartbeats prove life.
"""

import enum
from typing import Protocol, TypeAlias

import msgspec

from atoll.transport.envelope import Envelope
from atoll.transport.identity import NodeId

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Largest message on a link or a session; longer things are streams over bearers."""
QUEUE_BYTES_MAX = 16 * 1024 * 1024
"""What one slow peer may hold back here before its messages are refused."""
SILENCE_S = 3.0
"""How long a link may be silent before it counts as down."""


class Standing(enum.Enum):
    """What a peer has proved beyond its key; every actor says which standings may reach it."""

    NEIGHBOUR = "neighbour"
    """Nothing: it is on the same wire. Shown in lists; no vote, no duty, no call."""
    GRANTED = "granted"
    """Its key holds a grant of the cloud that this node trusts: may call services."""
    MEMBER = "member"
    """It holds this site's secret: votes, duties, the site's records."""
    CLOUD = "cloud"
    """It is the cloud whose key is pinned here."""


class LinkUp(msgspec.Struct, frozen=True):
    """The peer's key and standing are proved and messages may flow."""

    peer: NodeId
    standing: Standing
    label: str
    """The name its operator gave it: for people, never for decisions."""
    host: str
    """The address it is reached at or came from."""


class LinkDown(msgspec.Struct, frozen=True):
    """Nothing more will arrive over this link."""

    peer: NodeId
    reason: str


class DialFailed(msgspec.Struct, frozen=True):
    """A dial came to nothing: nobody there, another key there, or refused; `reason` says which."""

    peer: NodeId
    reason: str


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """One whole message."""

    peer: NodeId
    data: bytes


LinkEvent: TypeAlias = LinkUp | LinkDown | DialFailed | Delivered


class Admission(Protocol):
    """Decides what a peer may be; pure, quick, and without side effects that a refusal would have to undo."""

    def credential_for(self, peer: NodeId) -> bytes:
        """Give what we show `peer` of ourselves; may be empty, at most 4 KiB."""
        ...

    def judge(self, peer: NodeId, credential: bytes) -> Standing:
        """Judge what `peer`, whose key is already proved, shows us.

        Raises:
            Refused: It may not even be a neighbour; the text is told to it.
        """
        ...


class Transport(Protocol):
    """Links to other nodes. Open and close it with `async with`."""

    def dial(self, peer: NodeId, host: str, port: int) -> None:
        """Begin to open a link; `LinkUp` or `DialFailed` follows. Harmless when one is up.

        While one is under way another address joins it: `DialFailed` comes when none of them led anywhere.
        """
        ...

    def hang_up(self, peer: NodeId, reason: str) -> None:
        """Close the link to `peer`, if there is one; `LinkDown` follows at both ends."""
        ...

    def links_over(self, addresses: frozenset[str]) -> list[NodeId]:
        """Give the peers whose links end at one of these addresses of this host."""
        ...

    def send(self, peer: NodeId, data: bytes) -> None:
        """Queue one message of at most `MESSAGE_BYTES_MAX` bytes, without waiting.

        Raises:
            Unreachable: No link to `peer` is up.
            Congested: The peer's queue is full; the message was not taken.
            UsageError: The message is too long.
        """
        ...

    def send_envelope(self, peer: NodeId, envelope: Envelope) -> None:
        """Queue an envelope as one message, or in a run with those before it; raises what `send` does."""
        ...

    async def receive(self) -> LinkEvent:
        """Wait for the next event; one reader at a time."""
        ...

    def statistics(self) -> dict[str, int]:
        """Counters since the start: messages, bytes, refused and malformed frames, drops, links."""
        ...

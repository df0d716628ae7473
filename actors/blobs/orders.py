"""What a node's own actors ask of its Blobs, and what they are told; nothing of it leaves the node."""

from dataclasses import dataclass

import msgspec

from atoll.transport.identity import NodeId

SENT_STEPS = frozenset({"taken", "refused", "changed", "expired", "withdrawn", "failed"})
"""How an order to send may have ended."""


@dataclass(slots=True)
class OutgoingState:
    """How far a file is that this node sends."""

    order: bytes
    path: str
    peer: NodeId
    name: str
    digest: bytes = b""
    """Empty until the file was read through."""
    size_bytes: int = 0
    read_bytes: int = 0
    """How much of it was read through."""
    there_bytes: int = 0
    """How much of it the other node has, or has on its way."""
    step: str = "reading"
    """`reading`, `reaching`, `offering`, `waiting`, `sending`, or how it ended."""
    why: str = ""

    @property
    def ended(self) -> bool:
        """Tell whether nothing follows."""
        return self.step in SENT_STEPS


@dataclass(slots=True)
class IncomingState:
    """How far a blob is that was offered to this node."""

    peer: NodeId
    digest: bytes
    name: str
    size_bytes: int
    got_bytes: int = 0
    step: str = "waiting"
    """`waiting` for a yes, `checking` what has come before, `receiving`, `broken` off and
    waited for, `refused`, `whole`."""
    why: str = ""
    path: str = ""
    """Where a whole one lies."""


class SendBlob(msgspec.Struct, frozen=True):
    """Send a file of this host, or go on with that; answered with `OutgoingState` after a step, or after `wait_s`.

    Who does not know the order yet goes on with one of the same words, if the file is what it was, and nobody has
    called that order back.
    """

    path: str
    peer: NodeId
    name: str
    wait_s: float = 10.0
    order: bytes = b""
    """The order that was answered before; empty: none."""


class EndHeard(msgspec.Struct, frozen=True):
    """Whoever sent it knows how the order ended: the same words mean a new one from now on; answered with None."""

    order: bytes


class WithdrawBlob(msgspec.Struct, frozen=True):
    """Call an order back; answered with its last `OutgoingState`, or declined."""

    order: bytes


class DescribeBlobs(msgspec.Struct, frozen=True):
    """Ask what is on its way and what is here; answered with `BlobsDescribed`."""


class BlobsDescribed(msgspec.Struct, frozen=True):
    """What comes and lies here, what goes, and what there is room for."""

    incoming: tuple[IncomingState, ...]
    outgoing: tuple[OutgoingState, ...]
    used_bytes: int
    quota_bytes: int
    counters: dict[str, int]


class AwaitBlobs(msgspec.Struct, frozen=True):
    """Wait for offers, and accept them where `accept`; answered with `BlobsDescribed` after news, or after `wait_s`.

    Whoever waits says it again: it holds while it is being answered, and for `RECEIVER_S` after.
    """

    receiver: str
    """Who waits: a word that is the caller's own."""
    accept: bool
    source: NodeId | None = None
    """Only what that node offers."""
    wait_s: float = 10.0


class StopAwaiting(msgspec.Struct, frozen=True):
    """Accept nothing more for somebody who has waited; answered with None."""

    receiver: str
    for_good: bool = True
    """What comes late of that one has no effect either; else it was cut off, and may come again."""


class DecideBlob(msgspec.Struct, frozen=True):
    """Say yes or no to an offer that waits; answered with its `IncomingState`, or declined."""

    digest: bytes
    accept: bool
    peer: NodeId | None = None
    """Where several offer it."""


class ReadBlob(msgspec.Struct, frozen=True):
    """Ask for a chunk of a whole blob; answered with its bytes, or declined."""

    digest: bytes
    index: int
    peer: NodeId | None = None


class RemoveBlob(msgspec.Struct, frozen=True):
    """Let go of a blob: one that was fetched is remembered, any other is forgotten; answered with its state."""

    digest: bytes
    peer: NodeId | None = None

"""What the Forwarder takes and tells, inside one node; nothing of it is sent to others."""

import msgspec

from atoll.transport.identity import NodeId

PATH = "forwarder"
SERVICE = "tcp"
"""Streams to `tcp/5432` are connections to that port."""


class OpenForward(msgspec.Struct, frozen=True):
    """Listen at an address of this host, and carry each connection to a port of a node; answered with `ForwardSeen`."""

    peer: NodeId
    peer_name: str
    port: int
    host: str
    """Where to listen."""
    listen_port: int
    """0 takes any free one."""
    for_s: float
    """It ends then, unless it is renewed: whoever asked for it may die."""


class RenewForward(msgspec.Struct, frozen=True):
    """Let a forward live for so long from now; answered with `ForwardSeen`."""

    number: int
    for_s: float


class CloseForward(msgspec.Struct, frozen=True):
    """End a forward and its connections; answered with `ForwardSeen`."""

    number: int


class DescribeForwards(msgspec.Struct, frozen=True):
    """Ask what is forwarded; answered with `ForwardsDescribed`."""


class ForwardSeen(msgspec.Struct, frozen=True):
    """One forward, and what went over it."""

    number: int
    host: str
    listen_port: int
    peer: NodeId
    peer_name: str
    port: int
    connections: int
    """Open now."""
    connections_total: int
    failed: int
    """Connections that came to nothing, or broke."""
    sent_bytes: int
    received_bytes: int
    failure: str
    """Why the last one failed."""


class ForwardsDescribed(msgspec.Struct, frozen=True):
    """All forwards of this node, and what others have connected to here."""

    forwards: tuple[ForwardSeen, ...]
    allowed: tuple[int, ...]
    taken: int
    """Connections of others to ports of this host, now."""
    refused: int

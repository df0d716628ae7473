"""What carries a session's records between two nodes that have no link: the Router's view of it.

A path is a handle, like a socket: whoever made it reads it and tells the Router what arrives, as `RecordsArrived`, and
when it is over, as `PathLost`. The Router only sends, and closes.
"""

from typing import Protocol

import msgspec

from atoll.actors.router.routes import Way
from atoll.actors.tunnel_relay.relay_address import WebDoor
from atoll.transport.identity import NodeId


class Path(Protocol):
    """One way for records to one node."""

    @property
    def way(self) -> Way:
        """`DIRECT`, `PUNCHED`, `BEP` or `SEP`."""
        ...

    @property
    def relay(self) -> str:
        """The relay in between, as people call it; or `direct`, or `punched`."""
        ...

    @property
    def through(self) -> str:
        """Which of the relay's doors it goes through, and why, if not the usual one; else empty."""
        ...

    @property
    def record_bytes_max(self) -> int:
        """How long a record may be on it."""
        ...

    @property
    def takes_more(self) -> bool:
        """Whether records should be put on it now; when it does again after it did not, `PathDrained` is told."""
        ...

    def send(self, record: bytes) -> None:
        """Put a record on its way, without waiting.

        Raises:
            Congested: The path takes no more now; the record is lost, as it could be anywhere on the way.
            Unreachable: The path is over; `PathLost` follows, or has been told.
        """
        ...

    def close(self) -> None:
        """Let go of it; harmless when it is over."""
        ...

    def abandon(self) -> None:
        """Let go of it at once as of one that is lost: it leads nowhere any more."""
        ...


class RecordsArrived(msgspec.Struct, frozen=True):
    """Told to the Router: these records came in over the path, in this order."""

    path: Path
    records: tuple[bytes, ...]


class PathLost(msgspec.Struct, frozen=True):
    """Told to the Router: the path is over. It may be asked, too: the answer (None) says that all before it is done."""

    path: Path
    reason: str


class PathDrained(msgspec.Struct, frozen=True):
    """Told to the Router: the path was full, and takes more now."""

    path: Path


class PathFound(msgspec.Struct, frozen=True):
    """Told to the Router: another path to the peer of `beside` is up, too late to be among the `SepPaths`."""

    beside: Path
    path: Path


class PathRenewed(msgspec.Struct, frozen=True):
    """Told to the Router: a path over signaling goes on until then, under a new ticket."""

    path: Path
    expires_at: float
    """Seconds of the system's clock."""


class RelayGoing(msgspec.Struct, frozen=True):
    """Told to the Router: a relay is being drained. What leads over it should lead over another soon."""

    relay: str


class SepPaths(msgspec.Struct, frozen=True):
    """The TunnelRelay's answer to `OpenSep`: every path to the node that stands now, and when they end."""

    paths: tuple[Path, ...]
    expires_at: float
    """Seconds of the system's clock."""


class OpenSep(msgspec.Struct, frozen=True):
    """Asked of the TunnelRelay: paths over relays to this node."""

    peer: NodeId
    besides: frozenset[str] = frozenset()
    """Relays that paths lead over already."""


class OpenBearer(msgspec.Struct, frozen=True):
    """Asked of the TunnelRelay: dial the half of a tunnel that the peer handed to us; answered with a `Path`."""

    peer: NodeId
    relay: str
    host: str
    port: int
    ticket: bytes
    web: WebDoor | None = None
    """The relay's other door."""


class OpenDirect(msgspec.Struct, frozen=True):
    """Asked of the TunnelRelay: a connection to a peer that a link leads to; answered with a `Path`."""

    peer: NodeId
    host: str
    """Where the link ends."""


class OpenPunched(msgspec.Struct, frozen=True):
    """Asked of the TunnelRelay: try a connection through NAT to a peer of a session over relays; gives a `Path`."""

    peer: NodeId

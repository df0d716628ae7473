"""Facts the Router announces on its node, what it is asked there, and what Routers say to each other."""

import msgspec

from atoll.actors.router.routes import Route, Way
from atoll.actors.router.session_stream import SessionStream
from atoll.transport.base import Standing
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "router"


class PeerUp(msgspec.Struct, frozen=True):
    """An authenticated link to a peer is up: the only proof of life there is."""

    peer: NodeId
    standing: Standing
    label: str
    host: str


class PeerDown(msgspec.Struct, frozen=True):
    """The link to a peer is gone; `reason` is for people."""

    peer: NodeId
    reason: str


class Reach(msgspec.Struct, frozen=True):
    """Ask the Router for a way to a node, whatever it takes; answered with the `Route`, or declined with the reason."""

    peer: NodeId


class LetGo(msgspec.Struct, frozen=True):
    """Tell the Router that a link is not needed for now; `PeerDown` follows, and `Reach` opens it again."""

    peer: NodeId
    reason: str


class OpenStream(msgspec.Struct, frozen=True):
    """Ask the Router for a byte stream to a service of a node; answered with a `SessionStream`, or declined."""

    peer: NodeId
    service: str


class ServeStreams(msgspec.Struct, frozen=True):
    """Ask the Router to tell the local actor `path` of streams to `service`, and to what begins with it and a slash.

    Only peers come through whose standing is in that actor's `open_to`.
    """

    service: str
    path: str


class StreamArrived(msgspec.Struct, frozen=True):
    """Told to the actor that serves: a peer has opened a stream; use it, or `aclose` it."""

    stream: SessionStream
    peer: NodeId
    standing: Standing | None
    """None: it is this node itself."""
    service: str


class EndSessions(msgspec.Struct, frozen=True):
    """Tell the Router that the node ends: its peers hear why, while those who carry the word still run."""

    reason: str


class DescribeRoutes(msgspec.Struct, frozen=True):
    """Ask the Router what it knows; answered with `RoutesDescribed`."""


class LinkSeen(msgspec.Struct, frozen=True):
    """A link that is up."""

    peer: NodeId
    standing: Standing
    label: str
    host: str
    up_since: float
    """Seconds of the system's clock."""


class PathSeen(msgspec.Struct, frozen=True):
    """One path of a session."""

    relay: str
    """Or `direct`, or `punched`."""
    way: Way
    condition: str
    """`opening`, `usable` or `silent`."""
    round_trip_s: float | None
    in_use: bool
    through: str = ""
    """Why it goes by the relay's other door; empty where it does not."""


class PeerRoute(msgspec.Struct, frozen=True):
    """How a peer is reached now, and how quick that is."""

    peer: NodeId
    route: Route
    round_trip_s: float | None
    paths: tuple[PathSeen, ...] = ()
    """Of the session with it, if there is one; why the one in use is in use says the route's reason."""
    streams: int = 0
    punching: str = ""
    """How a connection through NAT to it stands, for people; empty: never tried."""


class RoutesDescribed(msgspec.Struct, frozen=True):
    """What `status` shows of the Router."""

    links: tuple[LinkSeen, ...]
    routes: tuple[PeerRoute, ...]
    counters: dict[str, int]


class SepDelivery(Message, frozen=True, tag="router.sep_delivery"):
    """The proxy hands a sealed record that arrived under a node's label to that node."""

    circuit: bytes
    relay: NodeId
    record: bytes
    relay_name: str = ""


class SepAnswer(Message, frozen=True, tag="router.sep_answer"):
    """The node hands its sealed answer back to the proxy that holds the circuit."""

    circuit: bytes
    relay: NodeId
    record: bytes


MESSAGES: tuple[type[Message], ...] = (SepDelivery, SepAnswer)

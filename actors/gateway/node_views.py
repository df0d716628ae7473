"""What REST says about nodes: their status, their hosts, and how they are reached; and what drains one."""

from typing import Annotated

import msgspec

from atoll.actors.gateway.site_views import DutyView, PlacementView, RosterView, SiteRef, SupernodeView
from atoll.actors.gateway.views import NodeRef, Reply, RouteKind, View


class LinkView(View, frozen=True, kw_only=True):
    """A link to a neighbour."""

    peer: str
    name: str
    standing: str
    host: str
    since_s: float


class PathView(View, frozen=True, kw_only=True):
    """One path of the session with a peer."""

    relay: str
    """Or `direct`, or `punched`."""
    kind: RouteKind
    condition: str
    """`opening`, `usable`, or `silent`: nothing comes back through it now."""
    latency_ms: float | None = None
    in_use: bool = False
    through: str = ""
    """Why it goes by the relay's other door; empty where it does not."""


class RouteView(View, frozen=True, kw_only=True):
    """How a peer is reached, and why so."""

    peer: str
    name: str
    kind: RouteKind
    why: str
    latency_ms: float | None = None
    paths: list[PathView] = []
    """Of the session with it, if there is one."""
    streams: int = 0
    """Byte streams that are open with it."""
    punching: str = ""
    """How a connection through NAT to it stands; empty: never tried."""


class SepView(View, frozen=True, kw_only=True):
    """A registration of this site at a relay."""

    relay: str
    state: str
    since_s: float
    why: str = ""


class BepView(View, frozen=True, kw_only=True):
    """A bearer through a relay."""

    peer: str
    name: str
    relay: str
    since_s: float
    sent_bytes: int = 0
    received_bytes: int = 0


class StatusView(Reply, frozen=True, kw_only=True):
    """A node's health and place, for `atoll status`."""

    software: str
    node: NodeRef
    site: SiteRef
    supernode: SupernodeView | None = None
    roster: RosterView | None = None
    placement: PlacementView | None = None
    duties: list[DutyView] = []
    links: list[LinkView] = []
    routes: list[RouteView] = []
    seps: list[SepView] = []
    beps: list[BepView] = []
    problems: list[str] = []
    """What is wrong, in sentences, each with what to do."""
    counters: dict[str, int] = {}


class InterfaceView(View, frozen=True, kw_only=True):
    """A network interface of a host that is up."""

    name: str
    wired: bool
    speed_mbps: int
    """0 where nobody knows."""
    addresses: list[str] = []


class HostView(View, frozen=True, kw_only=True):
    """What a node's host is like, as it said a moment ago."""

    system: str
    machine: str
    processor: str
    cores: int
    processors_idle: float
    memory_bytes: int
    memory_free_bytes: int
    storage_bytes: int
    storage_free_bytes: int
    on_mains: bool
    battery_percent: float | None = None
    interfaces: list[InterfaceView] = []
    accelerators: list[str] = []
    up_s: int = 0


class OfferView(View, frozen=True, kw_only=True):
    """A service that a node has announced."""

    name: str
    path: str
    """Its address at that node."""


class NodeView(View, frozen=True, kw_only=True):
    """A node as this one sees it."""

    id: str
    short: str
    name: str
    site: str
    standing: str
    self: bool
    supernode: bool
    addresses: list[str] = []
    route: RouteKind = "none"
    why: str = ""
    seen_s_ago: float | None = None
    state: str = ""
    """`alive`, `suspect`, `dead` or `left`, of a member; empty of others, who are not watched."""
    state_why: str = ""
    host: HostView | None = None
    """Of one node that was asked for, itself or a member; none in lists, and of others."""
    services: list[OfferView] = []
    """What it has announced; a service started a moment ago may be missing."""


class RelayView(View, frozen=True, kw_only=True):
    """A relay this node knows."""

    name: str
    address: str
    state: str
    why: str = ""
    latency_ms: float | None = None


class RouteTaken(View, frozen=True, kw_only=True):
    """How a call went."""

    kind: RouteKind
    why: str
    elapsed_ms: float
    node: str
    name: str


class NodesReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/nodes`."""

    nodes: list[NodeView]


class NodeReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/nodes/{id}`."""

    node: NodeView


class LinksReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/links`."""

    links: list[LinkView]


class RelaysReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/relays`."""

    relays: list[RelayView]


class DrainNode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that drains a node, or ends that."""

    draining: bool = True
    within_s: Annotated[float, msgspec.Meta(ge=0.1, le=300)] = 10.0
    """How long others may take to take everything over."""


class MovedView(View, frozen=True, kw_only=True):
    """What a drained node gave away."""

    what: str
    node: str
    name: str
    took_ms: float
    pause_ms: float
    """How long nobody did it; 0 where the next holder had begun before this one ended."""


class StayedView(View, frozen=True, kw_only=True):
    """What a drained node could not give away."""

    what: str
    why: str


class DrainReply(View, frozen=True, kw_only=True):
    """What became of everything the node held."""

    draining: bool
    moved: list[MovedView]
    stayed: list[StayedView]

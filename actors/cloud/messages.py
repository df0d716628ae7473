"""What nodes and relays say to the cloud, and what it answers."""

import msgspec

from atoll.actors.tunnel_relay.relay_address import Host, Label, Port, RelayTicket, WebDoor
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

DIRECTORY, SIGNALING, ENROLMENT = "directory", "signaling", "enrolment"
"""The actors of a cloud that answer nodes and relays."""
GRANT_AUDIENCE = "atoll"
"""What grants are good for: to call services of nodes of the same cloud."""


class OfferedService(msgspec.Struct, frozen=True, array_like=True):
    """A service that a node offers to others."""

    name: str
    path: str
    """Its address at that node, with a leading slash."""


class NodeRecord(Message, frozen=True, tag="cloud.node_record"):
    """One node as its site's registrar announces it."""

    node: NodeId
    name: str
    site: str
    version: str = ""
    services: tuple[OfferedService, ...] = ()
    actors: tuple[str, ...] = ()
    """Names of its users' actors."""


class SepLabel(Message, frozen=True, tag="cloud.sep_label"):
    """Under which label a node is reached at one relay."""

    node: NodeId
    relay: NodeId
    label: bytes


class AnnounceSite(Message, frozen=True, tag="cloud.announce_site"):
    """The whole site in one message: its nodes and the labels its proxy holds. Repeated before the lease ends."""

    site: str
    nodes: tuple[NodeRecord, ...]
    labels: tuple[SepLabel, ...] = ()


class SiteAnnounced(Message, frozen=True, tag="cloud.site_announced"):
    """The records are kept for `lease_s` seconds from now."""

    lease_s: float
    left_out: tuple[str, ...] = ()
    """Records that were not kept, each with its reason; the rest of the site does not pay for them."""


class LookUp(Message, frozen=True, tag="cloud.look_up"):
    """Ask for complete routes to a node, by id or by `site/name`; `holders` are fresh CURVE keys, one per route."""

    wanted: str
    holders: tuple[bytes, ...]


class SepRoute(Message, frozen=True, tag="cloud.sep_route"):
    """Everything a caller needs to reach one node over one relay."""

    relay: NodeId
    host: Host
    sep_port: Port
    label: Label
    ticket: RelayTicket
    expires_at: int
    name: str = ""
    """What the relay is called."""
    web: WebDoor | None = None
    """Its other door, for networks that let only HTTPS through."""


class Found(Message, frozen=True, tag="cloud.found"):
    """The node and the routes to it; no routes when its site has no proxy at a relay now."""

    record: NodeRecord
    routes: tuple[SepRoute, ...]
    now: int = 0
    """The cloud's clock (Unix seconds), by which the routes' ends are to be read: the caller's may be off."""


class ListNodes(Message, frozen=True, tag="cloud.list_nodes"):
    """Ask for the nodes whose records are alive, at most `limit`, by `site/name`."""

    limit: int = 1000


class NodeList(Message, frozen=True, tag="cloud.node_list"):
    """The answer to `ListNodes`."""

    nodes: tuple[NodeRecord, ...]


class PlaceSep(Message, frozen=True, tag="cloud.place_sep"):
    """A site's proxy asks for relays to register on, one per fresh CURVE key in `holders`."""

    site: str
    holders: tuple[bytes, ...]


class Placement(Message, frozen=True, tag="cloud.placement"):
    """One relay to register on, under a random registration id."""

    relay: NodeId
    host: Host
    sep_port: Port
    registration: bytes
    holder: bytes
    ticket: RelayTicket
    expires_at: int
    name: str = ""
    web: WebDoor | None = None
    """Its other door, for networks that let only HTTPS through."""


class SepPlaced(Message, frozen=True, tag="cloud.sep_placed"):
    """The answer to `PlaceSep`: at most one placement per holder, on different relays."""

    placements: tuple[Placement, ...]


class TunnelRequest(Message, frozen=True, tag="cloud.tunnel_request"):
    """A node asks for bearers: `count` ticket pairs on different relays."""

    count: int = 2


class TunnelPair(Message, frozen=True, tag="cloud.tunnel_pair"):
    """Both halves of one tunnel; the node keeps `offer` and hands `call` to its caller."""

    relay: NodeId
    host: Host
    bearer_port: Port
    tunnel: bytes
    offer: RelayTicket
    call: RelayTicket
    expires_at: int
    name: str = ""
    web: WebDoor | None = None
    """Its other door, for networks that let only HTTPS through."""


class TunnelsGranted(Message, frozen=True, tag="cloud.tunnels_granted"):
    """The answer to `TunnelRequest`; fewer pairs than asked for when there are fewer relays."""

    pairs: tuple[TunnelPair, ...]
    now: float = 0.0
    """The cloud's clock (Unix seconds), by which the tickets' ends are to be read."""


class RelayReport(Message, frozen=True, tag="cloud.relay_report"):
    """A relay says where it listens and how loaded it is (0 idle … 1 full); repeated before the lease ends."""

    host: str
    sep_port: int
    bearer_port: int
    load: float
    draining: bool = False
    web: WebDoor | None = None
    """Its other door, for networks that let only HTTPS through."""


class RelayKnown(Message, frozen=True, tag="cloud.relay_known"):
    """The relay is placed on for `lease_s` seconds from now."""

    lease_s: float


class GrantRequest(Message, frozen=True, tag="cloud.grant_request"):
    """An enrolled node asks for its grant."""


class GrantIssued(Message, frozen=True, tag="cloud.grant_issued"):
    """The node's grant: a signed statement that other nodes of this cloud check off line."""

    grant: bytes
    expires_at: int


MESSAGES: tuple[type[Message], ...] = (
    NodeRecord,
    SepLabel,
    AnnounceSite,
    SiteAnnounced,
    LookUp,
    SepRoute,
    Found,
    ListNodes,
    NodeList,
    PlaceSep,
    Placement,
    SepPlaced,
    TunnelRequest,
    TunnelPair,
    TunnelsGranted,
    RelayReport,
    RelayKnown,
    GrantRequest,
    GrantIssued,
)

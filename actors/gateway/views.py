"""What `/atoll/v1` and `/mcm/v1` say: these structs are the schema, and OpenAPI is generated from them.

Fields may be added with a default, never renamed or removed. Ids are the 52 characters of a node id; `short` is its
first ten. Every reply has `version` at the top.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec

SCHEMA_VERSION = 1

RouteKind: TypeAlias = Literal["here", "direct", "punched", "sep", "bep", "none"]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what stands inside a reply."""


class Reply(View, frozen=True, kw_only=True):
    """Base of what is a reply by itself."""

    version: int = SCHEMA_VERSION


class NodeRef(View, frozen=True, kw_only=True):
    """A node in a few words."""

    id: str
    short: str
    name: str


class SiteRef(View, frozen=True, kw_only=True):
    """The site this node belongs to."""

    id: str
    name: str = ""
    """What its nodes call it; not unique."""
    mode: str
    """`quorum`, or `provisional` while no majority of voters is there."""
    members: int


class SupernodeView(View, frozen=True, kw_only=True):
    """Who is supernode, and why."""

    node: str
    name: str
    epoch: int
    confirmed: bool
    """A majority has confirmed it in this epoch."""
    why: str


class RosterView(View, frozen=True, kw_only=True):
    """The voters of the site."""

    version: int
    voters: list[NodeRef]
    incarnation: int = 1
    """How often the site was begun: 1, and one more with each reform."""
    reason: str = ""
    """Why this version differs from the one before."""
    change: str = ""
    """What is being done to it, or what is wrong with one that came."""


class PlaceView(View, frozen=True, kw_only=True):
    """Where an exclusive actor is."""

    actor: str
    generation: int
    host: NodeRef
    stores: list[NodeRef] = []
    """Who keeps its operation log."""


class PlacementView(View, frozen=True, kw_only=True):
    """Who runs which exclusive actor, as this node knows it."""

    certain: bool
    """This node is supernode, and answers for the site."""
    why: str
    """Why this node's word is not certain; empty when it is."""
    epoch: int
    version: int
    voters: int
    """On how many voters a certain table is."""
    places: list[PlaceView] = []


class DutyView(View, frozen=True, kw_only=True):
    """A duty of the site and who holds it."""

    duty: str
    node: str
    name: str
    why: str
    generation: int | None = None


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


class ServiceView(View, frozen=True, kw_only=True):
    """A service that can be called."""

    name: str
    path: str
    """Where it lives, with a leading slash."""
    node: str
    node_name: str
    container: str = ""
    state: str = "up"


class ImageView(View, frozen=True, kw_only=True):
    """An image on this node."""

    id: str
    """`<client>-<name>`."""
    name: str
    client: str
    digest: str
    repo_tags: list[str]
    size_bytes: int
    created_ms: int


class PullImage(View, frozen=True, kw_only=True):
    """What is asked of `POST /atoll/v1/images/pull`."""

    image: str
    """`NAME` or `NAME:VERSION`."""
    source: str = msgspec.field(name="from", default="")
    """The node whose image it shall be; empty for whoever of the site has it."""
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 20_000
    """After that the answer says how far it is; ask again to wait on."""


class PullReply(Reply, frozen=True, kw_only=True):
    """How far a pull is; it has ended when `image` is there."""

    name: str
    got_bytes: int
    size_bytes: int
    """As a holder says it; 0 while nobody has been found."""
    source: str = ""
    """Whose bytes they are; this node's own when it had them already."""
    source_name: str = ""
    cached: bool = False
    """It is the site's cache."""
    cache_bytes: int = 0
    """What the cache has of it so far: it gets the whole before it gives any."""
    image: ImageView | None = None


class ContainerView(View, frozen=True, kw_only=True):
    """A container on this node."""

    id: str
    """`<client>-<name>`."""
    name: str
    client: str
    image: str
    image_id: str
    state: str
    status: str
    created_ms: int
    env: dict[str, str] = {}
    path: str = ""
    """Where its service lives."""
    pulled_from: str = ""
    """The node whose image was pulled to run it; empty when it was here."""


class RelayView(View, frozen=True, kw_only=True):
    """A relay this node knows."""

    name: str
    address: str
    state: str
    why: str = ""
    latency_ms: float | None = None


class LogLine(View, frozen=True, kw_only=True):
    """One line a container wrote."""

    at_ms: int
    stream: str
    text: str


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


class ServicesReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/services`."""

    services: list[ServiceView]


class ImagesReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/images`."""

    images: list[ImageView]


class ImageReply(Reply, frozen=True, kw_only=True):
    """One image: loaded, or removed."""

    image: ImageView


class ContainersReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/containers`."""

    containers: list[ContainerView]


class ContainerReply(Reply, frozen=True, kw_only=True):
    """One container: run, started, stopped, or removed."""

    container: ContainerView


class LinksReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/links`."""

    links: list[LinkView]


class RelaysReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/relays`."""

    relays: list[RelayView]


class DutiesReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/duties`."""

    duties: list[DutyView]


class LogsReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/containers/{id}/logs`."""

    container: str
    lines: list[LogLine]


class SiteMemberView(View, frozen=True, kw_only=True):
    """A member of the site, as this node sees it."""

    id: str
    short: str
    name: str
    voter: bool
    supernode: bool
    self: bool
    route: str
    """How it is reached: `here`, `direct`, `punched`, `sep`, `bep` or `none`."""


class SiteView(View, frozen=True, kw_only=True):
    """The site of the node: who is a member, who votes, and how its election stands."""

    id: str
    name: str
    mode: str
    """`quorum`, or `provisional` while no majority of voters is there."""
    why: str
    """Why there is this supernode, or none."""
    roster: RosterView
    voters_in_reach: int
    members: list[SiteMemberView]
    supernode: SupernodeView | None = None


class ReformSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that begins a site anew with this node as its only voter."""

    reason: Annotated[str, msgspec.Meta(max_length=200)] = "a person says so"
    """Kept with the roster, and shown."""
    force: bool = False
    """Do it although a majority of the voters is in reach."""


class LeaveSite(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that takes this node out of the voters."""

    reason: Annotated[str, msgspec.Meta(max_length=200)] = "a person says so"


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


class RunContainer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The body that runs a container, on both interfaces."""

    name: str
    image: str
    env: dict[str, str] = {}


class McmImage(View, frozen=True, kw_only=True, rename="camel"):
    """An image in the words of the published edge-engine interface."""

    created: int
    digest: str
    id: str
    name: str
    repo_tags: list[str]
    size: int
    status: str = "ready"

    @classmethod
    def of(cls, image: ImageView) -> "McmImage":
        """Say an `ImageView` in those words."""
        return cls(
            created=image.created_ms,
            digest=image.digest,
            id=image.id,
            name=image.name,
            repo_tags=image.repo_tags,
            size=image.size_bytes,
        )


class McmContainer(View, frozen=True, kw_only=True, rename="camel"):
    """A container in the words of the published edge-engine interface."""

    client_id: str
    created: int
    env: dict[str, str]
    id: str
    image: str
    image_id: str
    name: str
    state: str
    status: str

    @classmethod
    def of(cls, container: ContainerView) -> "McmContainer":
        """Say a `ContainerView` in those words."""
        return cls(
            client_id=container.client,
            created=container.created_ms,
            env=container.env,
            id=container.id,
            image=container.image,
            image_id=container.image_id,
            name=container.name,
            state=container.state,
            status=container.status,
        )


class McmImages(View, frozen=True, kw_only=True):
    """`GET /mcm/v1/images`."""

    data: list[McmImage]


class McmContainers(View, frozen=True, kw_only=True):
    """`GET /mcm/v1/containers`."""

    data: list[McmContainer]


class NodeConfiguration(View, frozen=True, kw_only=True, rename="camel"):
    """`GET /.well-known/node-configuration`."""

    ssl_port: int = 8084

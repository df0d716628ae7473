"""How the gateway sees its node: one protocol, and the errors it may answer with.

The node implements it (a small real one in the tests does, too). Methods give views or raise; they never give Starlette
or HTTP anything but `HttpRequest` and `HttpReply`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from atoll.actors.gateway.actor_views import ActorMovedReply, ActorRemovedReply, ActorReply, ActorsReply
from atoll.actors.gateway.authority import Principal
from atoll.actors.gateway.blob_views import BlobsReply, BlobView, SendingView
from atoll.actors.gateway.container_views import ContainerView, ImageView, LogLine, PullReply, ServiceView
from atoll.actors.gateway.forward_views import ForwardsReply, ForwardView, OpenForwardBody
from atoll.actors.gateway.messages import HttpReply, HttpRequest
from atoll.actors.gateway.node_views import DrainReply, NodeView, RelayView, RouteTaken, StatusView
from atoll.actors.gateway.site_views import SiteView
from atoll.actors.gateway.topic_views import PublishedReply, PubSubReply
from atoll.actors.topics.subscription import Subscription


class PortError(Exception):
    """Base of what a node answers instead of a view; `remedy` says what to do."""

    remedy = "look into the node's log"

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        if remedy:
            self.remedy = remedy


class UnknownName(PortError):
    """Nothing here has that name or id (the caller's fault, or it has gone)."""

    remedy = "list what is there and take a name from the list"


class UnknownImage(UnknownName):
    """No image has that name; kept apart because a published text belongs to it."""

    remedy = "push the image first: `atoll image push FILE`"


class AmbiguousName(PortError):
    """Several things have that name."""

    remedy = "say which: a node by its id or as `site/name`"

    def __init__(self, text: str, candidates: list[str]) -> None:
        super().__init__(text)
        self.candidates = candidates


class Conflict(PortError):
    """It collides with what is there: a name taken, an image in use."""

    remedy = "remove or rename the other one first"


class Unacceptable(PortError):
    """The input cannot be used: a hostile or broken image, a reserved path (the caller's fault)."""

    remedy = "correct the input"


class BlobPort(Protocol):
    """What a gateway asks of its node about blobs; `source` is the name of a node, or empty for any."""

    async def list(self) -> BlobsReply: ...

    async def send(self, path: str, node: str, name: str, wait_s: float, *, order_id: str) -> SendingView:
        """Send a file of this host, or go on with that order; say how far it is after a step, or after `wait_s`."""
        ...

    async def end_heard(self, order_id: str) -> None:
        """Note that the client has the end of its order: the same `send` means a new one from now on."""
        ...

    async def withdraw(self, order_id: str) -> SendingView: ...

    async def receive(self, receiver: str, source: str, wait_s: float, *, accept: bool) -> BlobsReply:
        """Wait for what is offered, and accept it if that is wanted; say what there is after news or `wait_s`."""
        ...

    async def stop_receiving(self, receiver: str, *, for_good: bool) -> None:
        """Accept nothing more for that receiver; `for_good`: it will not come again."""
        ...

    async def decide(self, digest: str, source: str, *, accept: bool) -> BlobView: ...

    async def chunk(self, digest: str, source: str, index: int) -> bytes: ...

    async def remove(self, digest: str, source: str) -> BlobView: ...


class ForwardPort(Protocol):
    """What a gateway asks of its node about forwarded ports."""

    async def list(self) -> ForwardsReply: ...

    async def open(self, wanted: OpenForwardBody) -> ForwardView:
        """Listen at a port; raise `Conflict` where that cannot be."""
        ...

    async def renew(self, number: int, for_s: float) -> ForwardView: ...

    async def close(self, number: int) -> ForwardView: ...


class ActorPort(Protocol):
    """What a gateway asks of its node about the migratable actors of the site."""

    async def list(self) -> ActorsReply: ...

    async def show(self, name: str) -> ActorReply: ...

    async def move(self, name: str, to: str, within_s: float) -> ActorMovedReply:
        """Move one to a member; raise `Conflict` where it stays, with the reason."""
        ...

    async def remove(self, name: str, *, force: bool, founded: int) -> ActorRemovedReply:
        """End one for good; raise `Conflict` where it is not known whether it has ended.

        `founded`: only the one that was founded in that generation; 0: whichever has the name.
        """
        ...


class TopicPort(Protocol):
    """What a gateway asks of its node about topics; nodes are named, an empty name is this site."""

    async def publish(self, topic: str, payload: bytes, to: str) -> PublishedReply: ...

    async def subscribe(self, filters: Sequence[str], source: str) -> Subscription:
        """Subscribe; whoever gets the subscription closes it."""
        ...

    async def describe(self) -> PubSubReply: ...


class NodePort(Protocol):
    """What a gateway asks of its node.

    Besides `PortError`s the methods may raise the transport's `Unreachable`, `Expired`, `Congested` and `Refused`.
    """

    @property
    def actors(self) -> ActorPort: ...

    @property
    def blobs(self) -> BlobPort: ...

    @property
    def forwards(self) -> ForwardPort: ...

    @property
    def topics(self) -> TopicPort: ...

    async def status(self) -> StatusView: ...

    async def nodes(self, scope: str) -> list[NodeView]:
        """List nodes of `link-local`, `account` or `proximity`."""
        ...

    async def node(self, name: str) -> NodeView:
        """Find one by id, by its short form of 10 characters or more, by name, or by `site/name`."""
        ...

    async def services(self) -> list[ServiceView]: ...

    async def containers(self) -> list[ContainerView]: ...

    async def images(self) -> list[ImageView]: ...

    async def relays(self) -> list[RelayView]: ...

    async def site(self) -> SiteView: ...

    async def leave_site(self, reason: str) -> SiteView:
        """Say to the site that this node should vote no more; the answer may still show it as a voter."""
        ...

    async def reform_site(self, reason: str, *, force: bool) -> SiteView:
        """Begin the site anew with this node as its only voter; raise `Conflict` where a majority lives."""
        ...

    async def drain(self, *, draining: bool, within_s: float) -> DrainReply:
        """Give everything to others that only one node of a site does, or be ready to take it again."""
        ...

    async def load_image(self, client: str, tar: Path) -> ImageView:
        """Take an image from a file, which may be moved away, and which the gateway deletes afterwards."""
        ...

    async def pull_image(self, client: str, image: str, source: str, wait_s: float) -> PullReply:
        """Get an image from another node of the site; after `wait_s` say how far it is, and go on.

        `source` names the node whose image it shall be; empty for any.
        """
        ...

    async def remove_image(self, image: str) -> ImageView:
        """Remove by id (`<client>-<name>`) or, where it is unambiguous, by name; so with containers."""
        ...

    async def run_container(self, client: str, name: str, image: str, env: Mapping[str, str]) -> ContainerView:
        """Create a container and start it; an image that is not here is pulled from the site first."""
        ...

    async def start_container(self, container: str) -> ContainerView: ...

    async def stop_container(self, container: str) -> ContainerView: ...

    async def remove_container(self, container: str) -> ContainerView: ...

    async def logs(self, container: str, lines_max: int) -> list[LogLine]:
        """Give the newest lines, oldest first."""
        ...

    async def call_local(self, request: HttpRequest, principal: Principal) -> HttpReply:
        """Call a service of this node; raise `UnknownName` where none lives at that path."""
        ...

    async def call_node(self, node: str, request: HttpRequest, timeout_s: float) -> tuple[HttpReply, RouteTaken]:
        """Call the gateway of another node (or of this one), by the best way there is.

        `request` carries the correlation id as `x-correlation-id` (32 hexadecimal digits); put it into the envelope.
        """
        ...

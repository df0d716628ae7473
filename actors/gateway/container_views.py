"""What REST says about images, containers and their services, and what is asked about them."""

from typing import Annotated

import msgspec

from atoll.actors.gateway.views import Reply, View


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


class RunContainer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The body that runs a container, on both interfaces."""

    name: str
    image: str
    env: dict[str, str] = {}


class ServiceView(View, frozen=True, kw_only=True):
    """A service that can be called."""

    name: str
    path: str
    """Where it lives, with a leading slash."""
    node: str
    node_name: str
    container: str = ""
    state: str = "up"


class LogLine(View, frozen=True, kw_only=True):
    """One line a container wrote."""

    at_ms: int
    stream: str
    text: str


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


class LogsReply(Reply, frozen=True, kw_only=True):
    """`GET /atoll/v1/containers/{id}/logs`."""

    container: str
    lines: list[LogLine]

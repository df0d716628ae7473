"""What the container manager is asked and answers: images, containers, services, and calls of services.

The structs are the wire messages of the actor and at the same time what `Containers` returns.
"""

from typing import Annotated, TypeAlias

import msgspec

from atoll.transport.codec import Message

PATH = "container_manager"
BODY_BYTES_MAX = 3_670_016
"""Largest body of a call and of its reply: 3.5 MiB leaves half a megabyte of a message for the rest."""
HEADERS_MAX = 200
HEADER_CHARACTERS_MAX = 32 * 1024
PATH_CHARACTERS_MAX = 32 * 1024
NAME_CHARACTERS_MAX = 128
CLIENT_DEFAULT = "api"
"""Whose images and containers are meant where no client is named."""

_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=HEADER_CHARACTERS_MAX)]
Headers: TypeAlias = Annotated[tuple[tuple[_Text, _Text], ...], msgspec.Meta(max_length=HEADERS_MAX)]
"""Names in lower case, order and repetition kept."""
Body: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=BODY_BYTES_MAX)]
Pairs: TypeAlias = tuple[tuple[str, str], ...]


class ServiceCall(Message, frozen=True, array_like=True, tag="container_manager.call"):
    """One HTTP request to a service; `path` is the whole path with its query, such as `/echo/hello?x=1`."""

    path: Annotated[str, msgspec.Meta(max_length=PATH_CHARACTERS_MAX)]
    method: Annotated[str, msgspec.Meta(max_length=40)] = "GET"
    headers: Headers = ()
    body: Body = b""


class ServiceReply(Message, frozen=True, array_like=True, tag="container_manager.reply"):
    """What the service answered; with `fault` set, what the node answers in its place."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    headers: Headers = ()
    body: Body = b""
    fault: str = ""
    """What went wrong, for people; empty when the service answered itself."""


class ImageInfo(Message, frozen=True, array_like=True, tag="container_manager.image"):
    """One image that this node holds."""

    id: str
    """`<client>-<name>`."""
    client: str
    name: str
    repo_tags: tuple[str, ...]
    """`name:version` and `runtime:js`."""
    digest: str
    """`sha256:` and the hash of the archive as it was pushed."""
    size_bytes: int
    created_ms: int
    status: str = "ready"


class ContainerInfo(Message, frozen=True, array_like=True, tag="container_manager.container"):
    """One container, started or stopped."""

    id: str
    """`<client>-<name>`."""
    client: str
    name: str
    image: str
    """As the caller named it."""
    image_id: str
    digest: str
    env: Pairs
    base_path: str
    """Where its service lives: `/<base>`, and also below `/<client>`."""
    created_ms: int
    state: str
    """`started` or `stopped`."""
    status: str
    """`up`, with what it is doing just now, or `down`."""


class ServiceInfo(Message, frozen=True, array_like=True, tag="container_manager.service"):
    """A service that a started container offers."""

    id: str
    name: str
    service_type: str
    path: str
    """Its own address, with a leading slash: `/<client>/<base>`."""
    base_path: str
    """The short address: `/<base>`."""
    container: str


class LogEntry(Message, frozen=True, array_like=True, tag="container_manager.log_entry"):
    """One line that a container wrote."""

    at_ms: int
    stream: str
    """`stdout` for the console, `stderr` for errors, `system` for what the node says about the container."""
    text: str


class LoadImage(Message, frozen=True, array_like=True, tag="container_manager.load_image"):
    """Asks to take an image from a docker-save file of this host; answered by `ImageInfo`."""

    path: str
    client: str = CLIENT_DEFAULT
    expected: str = ""
    """The `name:version` that the archive must have; empty for any."""


class ListImages(Message, frozen=True, array_like=True, tag="container_manager.list_images"):
    """Asks for `Images`."""


class Images(Message, frozen=True, array_like=True, tag="container_manager.images"):
    """All images of this node."""

    images: tuple[ImageInfo, ...]


class ReadArchive(Message, frozen=True, array_like=True, tag="container_manager.read_archive"):
    """Asks for the bytes of an image's archive from `offset` on; answered by `ArchivePart`."""

    digest: str
    """64 hexadecimal digits."""
    offset: int = 0


class ArchivePart(Message, frozen=True, array_like=True, tag="container_manager.archive_part"):
    """At most 256 KiB of an archive; `last` when nothing follows."""

    data: bytes
    last: bool


class RemoveImage(Message, frozen=True, array_like=True, tag="container_manager.remove_image"):
    """Asks to remove an image that no container uses."""

    image: str


class ListContainers(Message, frozen=True, array_like=True, tag="container_manager.list_containers"):
    """Asks for `ContainerList`."""


class ContainerList(Message, frozen=True, array_like=True, tag="container_manager.containers"):
    """All containers of this node."""

    containers: tuple[ContainerInfo, ...]


class RunContainer(Message, frozen=True, array_like=True, tag="container_manager.run"):
    """Asks to create a container and start it."""

    name: str
    image: str
    env: Pairs = ()
    client: str = CLIENT_DEFAULT


class StartContainer(Message, frozen=True, array_like=True, tag="container_manager.start"):
    """Asks to start a stopped container."""

    container: str


class StopContainer(Message, frozen=True, array_like=True, tag="container_manager.stop"):
    """Asks to stop a container; its storage stays."""

    container: str


class RemoveContainer(Message, frozen=True, array_like=True, tag="container_manager.remove"):
    """Asks to remove a container and its storage."""

    container: str


class ReadLogs(Message, frozen=True, array_like=True, tag="container_manager.read_logs"):
    """Asks for the newest lines of a container."""

    container: str
    lines_max: int = 100


class Logs(Message, frozen=True, array_like=True, tag="container_manager.logs"):
    """The newest lines, oldest first."""

    entries: tuple[LogEntry, ...]


class ListServices(Message, frozen=True, array_like=True, tag="container_manager.list_services"):
    """Asks for `Services`."""


class Services(Message, frozen=True, array_like=True, tag="container_manager.services"):
    """All services of started containers."""

    services: tuple[ServiceInfo, ...]


MESSAGES: tuple[type[Message], ...] = (
    ServiceCall,
    ServiceReply,
    ImageInfo,
    ContainerInfo,
    ServiceInfo,
    LogEntry,
    LoadImage,
    ListImages,
    Images,
    ReadArchive,
    ArchivePart,
    RemoveImage,
    ListContainers,
    ContainerList,
    RunContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    ReadLogs,
    Logs,
    ListServices,
    Services,
)

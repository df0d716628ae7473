"""What members say to each other about images, and what a node's own actors ask of its ImageExchange.

An image is its archive, named by SHA-256. A name such as `echo:1.0` is what some member calls it.
"""

from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.container_manager.archive import ARCHIVE_BYTES_MAX
from atoll.actors.container_manager.messages import NAME_CHARACTERS_MAX, ImageInfo
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "images"
CACHE = "cache"
"""The actor of the duty."""
CHUNK_BYTES = 256 * 1024
"""Every chunk but the last has exactly so many: an archive is at most 256 questions."""
OFFERS_MAX = 64
"""Images in one answer; more of one name have no sense."""
SOURCES_MAX = 8
DIGEST_BYTES = 32
PROBLEM_CHARACTERS_MAX = 500

Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=NAME_CHARACTERS_MAX)]
Offset: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=ARCHIVE_BYTES_MAX)]
Size: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=ARCHIVE_BYTES_MAX)]


class HeldImage(msgspec.Struct, frozen=True, array_like=True):
    """One image that a member holds."""

    client: Name
    """Whose it is there; empty for what lies in a cache."""
    name: Name
    version: Name
    digest: Digest
    size_bytes: Size


class FindImages(Message, frozen=True, array_like=True, tag="images.find"):
    """Asks a member which images of that name it holds; any version where none is named."""

    name: Name
    version: Name = ""


class ImagesHeld(Message, frozen=True, array_like=True, tag="images.held"):
    """The answer to `FindImages`."""

    images: Annotated[tuple[HeldImage, ...], msgspec.Meta(max_length=OFFERS_MAX)]


class ReadImage(Message, frozen=True, array_like=True, tag="images.read"):
    """Asks for the bytes of an archive from `offset` on."""

    digest: Digest
    offset: Offset


class ImageChunk(Message, frozen=True, array_like=True, tag="images.chunk"):
    """The answer to `ReadImage`: 256 KiB, or with `last` what is left."""

    data: Annotated[bytes, msgspec.Meta(min_length=1, max_length=CHUNK_BYTES)]
    last: bool


class ImageWanted(Message, frozen=True, array_like=True, tag="images.wanted"):
    """Asks the cache to hold an image, and names members that have it; answered soon, and asked again until it is."""

    digest: Digest
    sources: Annotated[tuple[NodeId, ...], msgspec.Meta(max_length=SOURCES_MAX)]


class ImageCached(Message, frozen=True, array_like=True, tag="images.cached"):
    """The answer to `ImageWanted`: `ready` to be read there, or on its way, or not to be had, with the reason."""

    ready: bool
    got_bytes: Size = 0
    problem: Annotated[str, msgspec.Meta(max_length=PROBLEM_CHARACTERS_MAX)] = ""


MESSAGES: tuple[type[Message], ...] = (FindImages, ImagesHeld, ReadImage, ImageChunk, ImageWanted, ImageCached)


class PullImage(msgspec.Struct, frozen=True):
    """Asks this node's ImageExchange for an image of the site; answered with `PullState` after at most `wait_s`."""

    image: str
    """`NAME` or `NAME:VERSION`."""
    client: str
    source: NodeId | None = None
    """The member whose image it shall be; None for whoever has it."""
    wait_s: float = 10.0


class PullState(msgspec.Struct, frozen=True):
    """How far a pull is; with `image` it has ended well."""

    name: str
    got_bytes: int = 0
    size_bytes: int = 0
    source: NodeId | None = None
    """Who gives the bytes now, or gave them; this node when it had them already."""
    cached: bool = False
    """The source is the site's cache."""
    image: ImageInfo | None = None
    cache_bytes: int = 0
    """What the cache has of it, as it said last: it gets the whole before it gives any."""

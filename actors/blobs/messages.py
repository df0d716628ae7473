"""What two nodes say to each other about a blob, on one stream.

    sender                             receiver
       BlobOffered  ------------------>
                    <------------------  BlobWaits: nobody has said yes yet
                    <------------------  BlobAccepted, with or without the wish for the list
       ListPart ... ------------------>
                    <------------------  ChunksWanted, again and again, at most `WINDOW_BYTES` on their way
       BlobChunk ... ----------------->
                    <------------------  BlobTaken: it is whole, and durable there
       BlobWithdrawn ->   <- BlobRefused    at any time, and last

On the stream a message stands behind its 32-bit length.
"""

from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.blobs.manifest import BLOB_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX, DIGEST_BYTES
from atoll.transport.codec import Message

PATH = "blobs"
SERVICE = "blob"
"""What the stream is opened to."""
ORDER_BYTES = 16
RUN_MAX = 64
"""Chunks in one `ChunksWanted`."""
LIST_PART_DIGESTS = 4096
"""Digests in one `ListPart`: 128 KiB."""
REASON_CHARACTERS_MAX = 500
NAME_CHARACTERS_MAX = 255
FRAME_BYTES_MAX = CHUNK_BYTES_MAX + 256
WORD_BYTES_MAX = 4096
"""Of a message that brings neither chunks nor a list: all that a sender is told, and a receiver before its yes."""

Digest: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Order: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=ORDER_BYTES, max_length=ORDER_BYTES)]
Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=CHUNKS_MAX)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=CHUNKS_MAX)]
Reason: TypeAlias = Annotated[str, msgspec.Meta(max_length=REASON_CHARACTERS_MAX)]


class BlobOffered(Message, frozen=True, array_like=True, tag="blobs.offered"):
    """A node offers a blob; the order is the same whenever it is offered again on the same command."""

    order: Order
    digest: Digest
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=BLOB_BYTES_MAX)]
    name: Annotated[str, msgspec.Meta(max_length=NAME_CHARACTERS_MAX)]


class BlobWaits(Message, frozen=True, array_like=True, tag="blobs.waits"):
    """Nobody has accepted it yet; the stream stays open."""


class BlobAccepted(Message, frozen=True, array_like=True, tag="blobs.accepted"):
    """It is accepted; so many chunks are there already, and the list is wanted or not."""

    have: Count
    list_wanted: bool


class ListPart(Message, frozen=True, array_like=True, tag="blobs.list_part"):
    """Digests of chunks, from the `first` on; 4096, or what is left."""

    first: Index
    digests: Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=LIST_PART_DIGESTS * DIGEST_BYTES)]


class ChunksWanted(Message, frozen=True, array_like=True, tag="blobs.chunks_wanted"):
    """Asks for chunks; each is asked for once on a stream."""

    first: Index
    count: Annotated[int, msgspec.Meta(ge=1, le=RUN_MAX)]


class BlobChunk(Message, frozen=True, array_like=True, tag="blobs.chunk"):
    """One chunk; only an empty blob has one without bytes."""

    index: Index
    data: Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES_MAX)]


class BlobTaken(Message, frozen=True, array_like=True, tag="blobs.taken"):
    """It is whole, and durable."""


class BlobRefused(Message, frozen=True, array_like=True, tag="blobs.refused"):
    """The receiver ends it; `again` when the same offer has sense later."""

    reason: Reason
    again: bool = False


class BlobWithdrawn(Message, frozen=True, array_like=True, tag="blobs.withdrawn"):
    """The sender ends it; `changed` when its file is no longer what was offered, and what has come is of no use."""

    reason: Reason
    changed: bool = False


MESSAGES: tuple[type[Message], ...] = (
    BlobOffered,
    BlobWaits,
    BlobAccepted,
    ListPart,
    ChunksWanted,
    BlobChunk,
    BlobTaken,
    BlobRefused,
    BlobWithdrawn,
)

"""The bytes of the messages about blobs: nodes of different versions send to each other."""

from pathlib import Path

import pytest

from atoll.actors.blobs.manifest import BLOB_BYTES_MAX, CHUNK_BYTES_MAX, CHUNKS_MAX
from atoll.actors.blobs.messages import (
    LIST_PART_DIGESTS,
    MESSAGES,
    RUN_MAX,
    BlobAccepted,
    BlobChunk,
    BlobOffered,
    BlobRefused,
    BlobTaken,
    BlobWaits,
    BlobWithdrawn,
    ChunksWanted,
    ListPart,
)
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame

GOLDEN = Path(__file__).parent.parent / "golden" / "blobs.txt"
CODEC = Codec(MESSAGES)
ORDER, DIGEST = bytes(range(16)), bytes(range(32))
EXAMPLES = (
    BlobOffered(ORDER, DIGEST, 52_428_800, "holiday.jpg"),
    BlobWaits(),
    BlobAccepted(7, list_wanted=True),
    ListPart(4096, DIGEST * 2),
    ChunksWanted(3, 16),
    BlobChunk(3, b"chunk"),
    BlobTaken(),
    BlobRefused("no room", again=True),
    BlobWithdrawn("the file changed", changed=True),
)


def golden():
    return dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())


def test_every_message_about_blobs_has_its_golden_bytes():
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    assert {type(message).__name__: CODEC.encode(message).hex() for message in EXAMPLES} == golden()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_golden_bytes_are_read_as_what_was_written(message):
    assert CODEC.decode(bytes.fromhex(golden()[type(message).__name__])) == message


HOSTILE = {
    "short order": BlobOffered(ORDER[:15], DIGEST, 1, "x"),
    "long digest": BlobOffered(ORDER, DIGEST + b"x", 1, "x"),
    "negative size": BlobOffered(ORDER, DIGEST, -1, "x"),
    "endless blob": BlobOffered(ORDER, DIGEST, BLOB_BYTES_MAX + 1, "x"),
    "endless name": BlobOffered(ORDER, DIGEST, 1, "x" * 256),
    "more chunks than there can be": BlobAccepted(CHUNKS_MAX + 1, list_wanted=True),
    "a list without digests": ListPart(0, b""),
    "too many digests": ListPart(0, bytes(32 * LIST_PART_DIGESTS + 32)),
    "negative chunk": ChunksWanted(-1, 1),
    "chunk beyond any blob": ChunksWanted(CHUNKS_MAX, 1),
    "no chunk": ChunksWanted(0, 0),
    "too many chunks": ChunksWanted(0, RUN_MAX + 1),
    "chunk too long": BlobChunk(0, bytes(CHUNK_BYTES_MAX + 1)),
    "endless reason": BlobRefused("x" * 501),
    "endless reason of a sender": BlobWithdrawn("x" * 501),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_beyond_the_limits_is_no_message(name):
    with pytest.raises(MalformedFrame):
        CODEC.decode(CODEC.encode(HOSTILE[name]))

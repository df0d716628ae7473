"""The bytes of the messages about images: nodes of different versions pull from each other."""

from pathlib import Path

import pytest

from atoll.actors.image_exchange.messages import (
    MESSAGES,
    FindImages,
    HeldImage,
    ImageCached,
    ImageChunk,
    ImagesHeld,
    ImageWanted,
    ReadImage,
)
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

GOLDEN = Path(__file__).parent.parent / "golden" / "images.txt"
CODEC = Codec(MESSAGES)
DIGEST = bytes(range(32))
EXAMPLES = (
    FindImages("echo", "1.0"),
    ImagesHeld((HeldImage("api", "echo", "1.0", DIGEST, 70_000),)),
    ReadImage(DIGEST, 262_144),
    ImageChunk(b"chunk", last=True),
    ImageWanted(DIGEST, (NodeId(b"n" * 32),)),
    ImageCached(False, 4096, "no room"),
)


def golden():
    return dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())


def test_every_message_about_images_has_its_golden_bytes():
    assert {type(message) for message in EXAMPLES} == set(MESSAGES)
    assert {type(message).__name__: CODEC.encode(message).hex() for message in EXAMPLES} == golden()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_golden_bytes_are_read_as_what_was_written(message):
    assert CODEC.decode(bytes.fromhex(golden()[type(message).__name__])) == message


HOSTILE = {
    "negative offset": ReadImage(DIGEST, -1),
    "offset beyond any archive": ReadImage(DIGEST, 64 * 1024 * 1024),
    "short digest": ReadImage(DIGEST[:31], 0),
    "long digest": ImageWanted(DIGEST + b"x", ()),
    "empty chunk": ImageChunk(b"", last=True),
    "chunk too long": ImageChunk(bytes(256 * 1024 + 1), last=False),
    "too many sources": ImageWanted(DIGEST, tuple(NodeId(bytes([number]) * 32) for number in range(9))),
    "too many offers": ImagesHeld((HeldImage("a", "b", "c", DIGEST, 1),) * 65),
    "negative size": ImagesHeld((HeldImage("a", "b", "c", DIGEST, -1),)),
    "endless name": FindImages("x" * 129),
    "endless problem": ImageCached(False, 0, "x" * 501),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_beyond_the_limits_is_no_message(name):
    with pytest.raises(MalformedFrame):
        CODEC.decode(CODEC.encode(HOSTILE[name]))

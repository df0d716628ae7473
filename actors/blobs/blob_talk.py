"""A talk about a blob: short words, until chunks are expected."""

from collections import Counter

from anyio.abc import ByteStream

from atoll.actors.blobs.messages import FRAME_BYTES_MAX, MESSAGES, WORD_BYTES_MAX
from atoll.transport.codec import Codec
from atoll.transport.talk import Talk

_CODEC = Codec(MESSAGES)


class BlobTalk(Talk):
    """One end of it."""

    def __init__(self, stream: ByteStream, counts: Counter[str]) -> None:
        super().__init__(stream, counts, codec=_CODEC, bytes_max=WORD_BYTES_MAX)

    def expect_chunks(self) -> None:
        """Take chunks from now on: they were asked for."""
        self.expect(FRAME_BYTES_MAX)

"""The giving end of one stream: answers what the receiver asks, out of a file that may change. Without I/O.

    start --BlobOffered--> offered --BlobAccepted--> giving --BlobTaken--> Ended, taken
    offered, giving --a chunk is not what it was--> BlobWithdrawn, Ended for good
                    --BlobRefused--> Ended, perhaps to be offered again
                    --what breaks the rules--> Ended for good: the peer's fault

It gives no chunk whose digest is not the list's, and none twice on a stream.
"""

import enum
from typing import TypeAlias

import msgspec

from atoll.actors.blobs.manifest import DIGEST_BYTES, Manifest
from atoll.actors.blobs.messages import (
    LIST_PART_DIGESTS,
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
from atoll.actors.runtime.machine import insist
from atoll.transport.codec import Message
from atoll.transport.errors import MalformedFrame

CHANGED = "the file changed while it was sent; send it again when it rests"


class Say(msgspec.Struct, frozen=True):
    """Send this to the other end."""

    message: Message


class Read(msgspec.Struct, frozen=True):
    """Read a chunk; `read` follows."""

    index: int


class Outcome(enum.Enum):
    """How one stream ended for its sender."""

    TAKEN = "taken"
    REFUSED = "refused"
    """For good."""
    LATER = "later"
    """It may be offered again."""
    CHANGED = "changed"


class Ended(msgspec.Struct, frozen=True):
    """Nothing follows."""

    outcome: Outcome
    reason: str = ""


SendingEffect: TypeAlias = Say | Read | Ended


class Sending:
    """One stream's worth of giving; carry its effects out in order."""

    def __init__(self, offer: BlobOffered, manifest: Manifest) -> None:
        insist(manifest.digest == offer.digest, "what is offered is what the list says")
        self.offer = offer
        self.manifest = manifest
        self.accepted = False
        self.waits = False
        """Nobody there has said yes yet."""
        self.ended = False
        self.had = 0
        """Chunks that the receiver had before."""
        self.given = 0
        """Chunks given on this stream."""
        self._asked = bytearray(manifest.count)

    @property
    def there_bytes(self) -> int:
        """Say how much of it the receiver has, or has on its way."""
        return min(self.manifest.size_bytes, (self.had + self.given) * self.manifest.chunk_bytes)

    def start(self) -> list[SendingEffect]:
        """Offer it."""
        return [Say(self.offer)]

    def take(self, message: Message) -> list[SendingEffect]:
        """Take what the receiver says.

        Raises:
            MalformedFrame: It breaks the rules; the stream must end.
        """
        if self.ended:
            raise MalformedFrame("a message after the last")
        match message:
            case BlobWaits() if not self.accepted:
                self.waits = True
                return []
            case BlobAccepted(have, list_wanted) if not self.accepted and have <= self.manifest.count:
                self.accepted, self.waits, self.had = True, False, have
                return self._give_list() if list_wanted else []
            case ChunksWanted(first, count) if self.accepted:
                return self._give(first, count)
            case BlobTaken():
                return self._end(Outcome.TAKEN)
            case BlobRefused(reason, again):
                return self._end(Outcome.LATER if again else Outcome.REFUSED, reason)
        raise MalformedFrame(f"{type(message).__name__} has no sense here")

    def _give_list(self) -> list[SendingEffect]:
        digests, step = self.manifest.digests, LIST_PART_DIGESTS * DIGEST_BYTES
        return [
            Say(ListPart(start // DIGEST_BYTES, digests[start : start + step]))
            for start in range(0, len(digests), step)
        ]

    def _give(self, first: int, count: int) -> list[SendingEffect]:
        if first + count > self.manifest.count:
            raise MalformedFrame("a chunk was asked for behind the last")
        if any(self._asked[first : first + count]):
            raise MalformedFrame("a chunk was asked for twice")
        self._asked[first : first + count] = b"\1" * count
        return [Read(index) for index in range(first, first + count)]

    def read(self, index: int, data: bytes) -> list[SendingEffect]:
        """Take what the file has at that place now."""
        if not self.manifest.fits(index, data):
            return [Say(BlobWithdrawn(CHANGED, changed=True)), *self._end(Outcome.CHANGED, CHANGED)]
        self.given += 1
        return [Say(BlobChunk(index, data))]

    def _end(self, outcome: Outcome, reason: str = "") -> list[SendingEffect]:
        self.ended = True
        return [Ended(outcome, reason)]

    def check(self) -> None:
        """Assert what always holds."""
        insist(self.given <= sum(self._asked), "nothing is given that was not asked for")

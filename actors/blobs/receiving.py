"""The taking end of one stream: the list first, then what is missing, each chunk verified. Without I/O.

    start --no list yet--> listing --the last part, and the root is the address--> fetching
          --the list is there--> fetching --every chunk is written--> Seal, BlobTaken, Ended
    listing, fetching --a wrong list, a wrong chunk, one that was not asked for--> BlobRefused, Ended: the peer's fault
                      --BlobWithdrawn--> Ended

Effects are carried out in order: the list is durable before the first chunk is asked for, a chunk counts only after
`Write`, the name is given (`Seal`) only when every chunk counts, and `BlobTaken` follows that. It never writes a chunk
whose digest is not the list's.
"""

from typing import TypeAlias

import msgspec

from atoll.actors.blobs.manifest import DIGEST_BYTES, Manifest, chunk_count
from atoll.actors.blobs.messages import (
    LIST_PART_DIGESTS,
    RUN_MAX,
    BlobAccepted,
    BlobChunk,
    BlobOffered,
    BlobRefused,
    BlobTaken,
    BlobWithdrawn,
    ChunksWanted,
    ListPart,
)
from atoll.actors.blobs.sending import Say
from atoll.actors.runtime.machine import insist
from atoll.transport.codec import Message
from atoll.transport.errors import MalformedFrame

WINDOW_BYTES = 4 * 1024 * 1024
"""Chunks asked for and not there yet; 100 ms at 40 MB/s."""


class KeepList(msgspec.Struct, frozen=True):
    """Make the list durable."""

    manifest: Manifest


class Write(msgspec.Struct, frozen=True):
    """Write a chunk at its place."""

    index: int
    data: bytes


class Seal(msgspec.Struct, frozen=True):
    """Make everything that was written durable, and give it its name."""


class Over(msgspec.Struct, frozen=True):
    """Nothing follows; without a reason it is whole."""

    reason: str = ""
    useless: bool = False
    """What has come is good for nothing any more."""


ReceivingEffect: TypeAlias = Say | KeepList | Write | Seal | Over


class Receiving:
    """One stream's worth of taking; carry its effects out in order."""

    def __init__(self, offer: BlobOffered, manifest: Manifest | None = None, have: bytes | None = None) -> None:
        """Go on with the list, if it is there, and the chunks that were verified: a byte each, 0 or 1."""
        self.offer = offer
        self.count = chunk_count(offer.size_bytes)
        self.manifest = manifest
        self._have = bytearray(have if have is not None and manifest is not None else self.count)
        insist(len(self._have) == self.count, "one byte a chunk")
        self.got = sum(self._have)
        """Chunks that are verified, and written."""
        self.taken = 0
        """Of them, those of this stream."""
        self.over = False
        self._asked: set[int] = set()
        self._next = 0
        """Nothing before it is missing, or it was asked for."""
        self._digests = bytearray()

    @property
    def have(self) -> bytes:
        """Give which chunks are verified and written: a byte each."""
        return bytes(self._have)

    @property
    def got_bytes(self) -> int:
        """Say how much of it is there."""
        if self.manifest is None:
            return 0
        last = self.count - 1
        short = self.manifest.chunk_bytes - self.manifest.length(last) if self._have[last] else 0
        return self.got * self.manifest.chunk_bytes - short

    def start(self) -> list[ReceivingEffect]:
        """Say yes, and ask for what is missing."""
        accepted = Say(BlobAccepted(self.got, self.manifest is None))
        return [accepted, *(self._go_on() if self.manifest is not None else ())]

    def take(self, message: Message) -> list[ReceivingEffect]:
        """Take what the sender says.

        Raises:
            MalformedFrame: It breaks the rules; the stream must end.
        """
        if self.over:
            raise MalformedFrame("a message after the last")
        match message:
            case ListPart(first, digests) if self.manifest is None:
                return self._take_list(first, digests)
            case BlobChunk(index, data) if index in self._asked and self.manifest is not None:
                return self._take_chunk(self.manifest, index, data)
            case BlobWithdrawn(reason, changed):
                self.over = True
                return [Over(f"the sender called it back: {reason}", useless=changed)]
        raise MalformedFrame(f"{type(message).__name__} has no sense here, or was not asked for")

    def _take_list(self, first: int, digests: bytes) -> list[ReceivingEffect]:
        at = len(self._digests) // DIGEST_BYTES
        wanted = min(LIST_PART_DIGESTS, self.count - at)
        if first != at or len(digests) != wanted * DIGEST_BYTES:
            return self._refuse("its list of chunks is not as long as its size says")
        self._digests += digests
        if at + wanted < self.count:
            return []
        manifest = Manifest(self.offer.size_bytes, bytes(self._digests))
        if manifest.digest != self.offer.digest:
            return self._refuse("its list of chunks is not that of its address")
        self.manifest = manifest
        self._digests.clear()
        return [KeepList(manifest), *self._go_on()]

    def _take_chunk(self, manifest: Manifest, index: int, data: bytes) -> list[ReceivingEffect]:
        if not manifest.fits(index, data):
            return self._refuse(f"chunk {index} is not what the list says")
        self._asked.remove(index)
        self._have[index] = 1
        self.got += 1
        self.taken += 1
        return [Write(index, data), *self._go_on()]

    def _go_on(self) -> list[ReceivingEffect]:
        insist(self.manifest is not None, "the list comes first")
        if self.got == self.count:
            self.over = True
            return [Seal(), Say(BlobTaken()), Over()]
        return self._ask()

    def _ask(self) -> list[ReceivingEffect]:
        """Ask for runs of what is missing, as soon as half of the window is free."""
        assert self.manifest is not None  # noqa: S101 - for mypy
        window = max(1, WINDOW_BYTES // self.manifest.chunk_bytes)
        if len(self._asked) > window // 2:
            return []
        asks: list[ReceivingEffect] = []
        while len(self._asked) < window and (first := self._have.find(0, self._next)) >= 0:
            room = min(RUN_MAX, window - len(self._asked))
            end = self._have.find(1, first, first + room)
            self._next = end if end >= 0 else min(first + room, self.count)
            self._asked.update(range(first, self._next))
            asks.append(Say(ChunksWanted(first, self._next - first)))
        return asks

    def _refuse(self, why: str) -> list[ReceivingEffect]:
        self.over = True
        return [Say(BlobRefused(why)), Over(why)]

    def check(self) -> None:
        """Assert what always holds."""
        insist(self.got == sum(self._have), "what counts is counted")
        insist(not any(self._have[index] for index in self._asked), "what is there is not asked for")
        insist(self.manifest is not None or not self._asked, "the list comes first")
        insist(len(self._digests) <= self.count * DIGEST_BYTES, "a list is no longer than the size says")

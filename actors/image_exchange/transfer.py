"""Gets one archive from whoever has it, chunk by chunk. Without I/O.

    asking --the chunk asked for--> asking for the next one --the last, and the digest is right--> Complete
           --no answer--> the next source at this offset; a source that fails FAILURES_MAX times is struck off
           --no part of an image, not there, or the last and the digest is wrong-->
                 all before it came from that source, too --> struck off, its bytes thrown away
                 not all --> any of them may have lied: all is thrown away, and that source begins anew
           --nobody is left--> GiveUp

Whole chunks only: 256 questions end any archive, however its sources lie. It never says Complete for other bytes than
the digest's, and with one source that is honest and answers it comes to Complete.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from atoll.actors.container_manager.archive import ARCHIVE_BYTES_MAX
from atoll.actors.image_exchange.messages import CHUNK_BYTES, SOURCES_MAX
from atoll.actors.runtime.machine import insist
from atoll.transport.identity import NodeId

FAILURES_MAX = 3
"""Of one source: a way may be lost and found again."""


class Ask(msgspec.Struct, frozen=True):
    """Ask the source for the chunk at that offset; `take` or `failed` follows."""

    source: NodeId
    offset: int


class Append(msgspec.Struct, frozen=True):
    """Write these bytes behind those before."""

    data: bytes


class StartOver(msgspec.Struct, frozen=True):
    """Throw away what was written."""


class Complete(msgspec.Struct, frozen=True):
    """What was written is the archive."""

    size_bytes: int


class GiveUp(msgspec.Struct, frozen=True):
    """Nobody gives it; nothing of it may be kept."""

    reasons: tuple[tuple[NodeId, str], ...]
    """How each source failed, last."""


Effect: TypeAlias = Ask | Append | StartOver | Complete | GiveUp


class Transfer:
    """One archive on its way; carry its effects out in order."""

    def __init__(self, digest: bytes, sources: Iterable[NodeId], *, bytes_max: int = ARCHIVE_BYTES_MAX) -> None:
        self.digest = digest
        self.offset = 0
        self.source: NodeId | None = None
        """Who is asked now."""
        self.ended = False
        self.liars: list[NodeId] = []
        """Who gave what is not the image."""
        self._bytes_max = bytes_max
        self._sources = list(dict.fromkeys(sources))[:SOURCES_MAX]
        self._failures: Counter[NodeId] = Counter()
        self._reasons: dict[NodeId, str] = {}
        self._hash = hashlib.sha256()
        self._givers: set[NodeId] = set()
        """Who gave the bytes before `offset`."""

    def start(self) -> list[Effect]:
        """Ask the first source."""
        return self._ask_next()

    def take(self, data: bytes, *, last: bool) -> list[Effect]:
        """Take the answer to the last `Ask`."""
        giver = self._asked()
        if not data or len(data) > CHUNK_BYTES or (len(data) < CHUNK_BYTES and not last):
            return self._strike(giver, f"it gave {len(data)} bytes where a chunk has {CHUNK_BYTES}")
        end = self.offset + len(data)
        if end > self._bytes_max or (end == self._bytes_max and not last):
            return self._strike(giver, f"what it gives is longer than {self._bytes_max} bytes")
        self._hash.update(data)
        self._givers.add(giver)
        self.offset = end
        if not last:
            return [Append(data), Ask(giver, self.offset)]
        if self._hash.digest() == self.digest:
            self.ended = True
            return [Append(data), Complete(self.offset)]
        return self._strike(giver, "its bytes have another digest")

    def failed(self, why: str, *, for_good: bool = False) -> list[Effect]:
        """Hear that the last `Ask` came to nothing; `for_good` when asking that source again has no sense."""
        source = self._asked()
        self._reasons[source] = why
        if for_good and self._givers - {source}:
            return self._begin_anew()
        self._failures[source] += 1
        self._sources.remove(source)
        if not for_good and self._failures[source] < FAILURES_MAX:
            self._sources.append(source)
        return self._ask_next()

    def check(self) -> None:
        """Assert what always holds."""
        insist(0 <= self.offset <= self._bytes_max, "never more than an archive may have")
        insist(not set(self.liars) & set(self._sources), "who lied is not asked again")

    def _asked(self) -> NodeId:
        if self.ended or self.source is None:
            raise AssertionError("an answer that nobody waits for")
        return self.source

    def _strike(self, source: NodeId, why: str) -> list[Effect]:
        self._reasons[source] = why
        if self._givers - {source}:
            return self._begin_anew()
        self.liars.append(source)
        self._sources.remove(source)
        return [*(self._start_over() if source in self._givers else ()), *self._ask_next()]

    def _begin_anew(self) -> list[Effect]:
        # One of them lied, and nobody knows who: bytes too many before its own make an honest source look like a liar.
        # This ends, because several give something only after one of them has failed.
        return [*self._start_over(), *self._ask_next()]

    def _start_over(self) -> list[Effect]:
        self._hash = hashlib.sha256()
        self._givers.clear()
        self.offset = 0
        return [StartOver()]

    def _ask_next(self) -> list[Effect]:
        if not self._sources:
            self.ended = True
            return [GiveUp(tuple(self._reasons.items()))]
        self.source = self._sources[0]
        return [Ask(self.source, self.offset)]

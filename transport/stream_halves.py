"""The two directions of one stream: what is sent and not acknowledged yet, what is received and not read yet.

    send half      written --take--> sent --ack--> acknowledged;   go_back(): sent becomes written again
    receive half   arrived in order --read--> read;                beyond a gap, or here already: dropped

Positions count bytes from 0. The end of a stream has a position of its own, behind the last byte, so that it is
acknowledged like a byte. No byte is copied here but what is smaller than the record that holds it by more than half.
"""

from collections import deque
from typing import cast

from atoll.transport.errors import MalformedFrame
from atoll.transport.stream_frames import Buffer

CHUNKS_MAX = 4096
"""What one stream sends in records of one byte each would else cost sixty times its bytes."""
WHOLE_BYTES_MIN = 4096
"""A smaller piece is copied to others: an object costs more."""
JOINED_BYTES = 65_536
"""And joined with them up to this size."""


class SendHalf:
    """What this end has to say."""

    __slots__ = (
        "_chunks",
        "_cursor",
        "_first",
        "_small",
        "_within",
        "acked",
        "end",
        "finished",
        "high",
        "limit",
        "next",
    )

    def __init__(self, limit: int) -> None:
        self.acked = 0
        """All before this position has arrived."""
        self.next = 0
        """The position that is sent next."""
        self.high = 0
        """Behind the highest position ever sent; nobody can have more."""
        self.end = 0
        """Behind the last byte written."""
        self.limit = limit
        """The other end takes bytes before this position."""
        self.finished = False
        self._chunks: deque[bytes] = deque()
        self._first = 0
        """The position at which the first chunk begins."""
        self._cursor, self._within = 0, 0
        """The chunk that `next` is in, and where in it."""
        self._small: list[bytes] = []
        """Written since the last `take`; they become one chunk."""

    @property
    def held(self) -> int:
        """How many bytes wait for their acknowledgement, sent or not."""
        return self.end - min(self.acked, self.end)

    @property
    def crowded(self) -> bool:
        """It is in too many pieces to take more."""
        return len(self._chunks) >= CHUNKS_MAX

    @property
    def sendable(self) -> bool:
        """Something may go out now."""
        return self.next < min(self.end, self.limit) or (self.finished and self.next == self.end)

    @property
    def done(self) -> bool:
        """All of it, and its end, has arrived."""
        return self.finished and self.acked > self.end

    def write(self, data: bytes) -> None:
        """Take bytes to be sent; they are kept, not copied, until they are acknowledged."""
        self._small.append(data)
        self.end += len(data)

    def take(self, room: int) -> tuple[int, list[Buffer], int, bool]:
        """Give at most `room` bytes to send: their position, parts, length, and whether the end is behind them."""
        if self._small:
            self._chunks.append(b"".join(self._small) if len(self._small) > 1 else self._small[0])
            self._small.clear()
        begin = self.next
        length = max(0, min(room, self.limit - begin, self.end - begin))
        parts: list[Buffer] = []
        missing = length
        while missing:
            chunk = self._chunks[self._cursor]
            piece: Buffer = chunk
            if self._within or len(chunk) > missing:
                piece = memoryview(chunk)[self._within : self._within + missing]
            parts.append(piece)
            missing -= len(piece)
            self._within += len(piece)
            if self._within == len(chunk):
                self._cursor, self._within = self._cursor + 1, 0
        last = self.finished and begin + length == self.end
        self.next = begin + length + last
        self.high = max(self.high, self.next)
        return begin, parts, length, last

    def ack(self, position: int) -> bool:
        """Let go of all before `position`; True when that is news.

        Raises:
            MalformedFrame: It was never sent.
        """
        if position > self.high:
            raise MalformedFrame("bytes of a stream were acknowledged that were never sent")
        if position <= self.acked:
            return False
        self.acked = position
        while self._chunks and self._first + len(self._chunks[0]) <= position:
            self._first += len(self._chunks.popleft())
            self._cursor -= 1
        if self.next < position:
            # It was sent before the last `go_back`, and has arrived all the same.
            self._seek(position)
        return True

    def go_back(self) -> None:
        """Send everything again that is not acknowledged."""
        self._seek(self.acked)

    def _seek(self, position: int) -> None:
        self.next = position
        within, self._cursor = min(position, self.end) - self._first, 0
        while within and within >= len(self._chunks[self._cursor]):
            within -= len(self._chunks[self._cursor])
            self._cursor += 1
        self._within = within


class ReceiveHalf:
    """What the other end says."""

    __slots__ = ("_chunks", "answered", "gap", "lent", "limit", "read_bytes", "received", "size")

    def __init__(self, limit: int) -> None:
        self.received = 0
        """All bytes before this position are here, or were."""
        self.size: int | None = None
        """The length of the stream, once its end is here."""
        self.read_bytes = 0
        self.limit = limit
        """What the other end was told that it may send."""
        self.lent = limit
        """How much that was when it was told."""
        self.answered = 0
        """The position that was acknowledged last."""
        self.gap = False
        """A piece is missing, and the other end was told."""
        self._chunks: deque[Buffer] = deque()

    @property
    def position(self) -> int:
        """What is acknowledged: bytes, and the end."""
        return self.received + (self.size is not None)

    @property
    def held(self) -> int:
        """How many bytes wait to be read."""
        return self.received - self.read_bytes

    @property
    def at_end(self) -> bool:
        """All of it was read."""
        return self.size is not None and self.read_bytes == self.size

    def take(self, offset: int, piece: memoryview, *, last: bool) -> bool:
        """Take a piece as it comes; True when it brought something new.

        Raises:
            MalformedFrame: Beyond the credit, or beyond the end, or another end than before.
        """
        end = offset + len(piece)
        if end > self.limit:
            raise MalformedFrame("a stream brought more than its credit")
        if self.size is not None and (end > self.size or (last and end != self.size)):
            raise MalformedFrame("a stream goes on behind its end")
        if last and end < self.received:
            raise MalformedFrame("a stream ends before what it has brought")
        if offset > self.received:
            return False
        fresh = end - self.received
        if fresh > 0:
            self._keep(piece[-fresh:])
            self.received = end
            self.gap = False
        if last and self.size is None:
            self.size = end
            return True
        return fresh > 0

    def read(self, bytes_max: int) -> memoryview:
        """Give what is there, at most so much; empty when nothing is."""
        if not self._chunks or bytes_max <= 0:
            return memoryview(b"")
        chunk = memoryview(self._chunks.popleft())
        if len(chunk) > bytes_max:
            self._chunks.appendleft(chunk[bytes_max:])
            chunk = chunk[:bytes_max]
        self.read_bytes += len(chunk)
        return chunk

    def _keep(self, piece: memoryview) -> None:
        if len(piece) >= WHOLE_BYTES_MIN and len(piece) * 2 >= len(cast("bytes", piece.obj)):
            self._chunks.append(piece)
        elif self._chunks and isinstance(tail := self._chunks[-1], bytearray) and len(tail) < JOINED_BYTES:
            tail += piece
        else:
            # A piece keeps its whole record alive, so a small one is better copied.
            self._chunks.append(bytearray(piece))

"""Messages and the frames that carry them inside records: cut, packed together, put together again. Without I/O.

    kind 1 | flags 1 | message 4 | offset 4 | length 4 | piece        (big-endian)

Small messages that wait together share a record; a large one is cut. On each path messages keep their order, and have
numbers of their own; one that lost a piece on the way is dropped whole and counted, and never mixes with another. Who
goes to another path begins the message in hand anew there.
"""

import enum
import struct
from collections import deque
from collections.abc import Iterator

from atoll.transport.base import MESSAGE_BYTES_MAX, QUEUE_BYTES_MAX
from atoll.transport.errors import Congested, MalformedFrame

FRAME = struct.Struct(">BBIII")
FIRST, LAST = 1, 2
_NUMBERS = 2**32
QUEUE_MESSAGES_MAX = 65_536
"""Also empty messages cost memory."""


class Channel(enum.IntEnum):
    """What a frame belongs to; a session counts and skips what it does not know."""

    CLOSE = 0
    CALLS = 1
    STREAMS = 2
    PATHS = 3
    KEYS = 4


_CALLS, _WHOLE = Channel.CALLS.value, FIRST | LAST
_read_frame, _write_frame, _FRAME_BYTES = FRAME.unpack_from, FRAME.pack, FRAME.size


def frame(kind: Channel, piece: bytes) -> bytes:
    """Make a frame that is whole in itself."""
    return FRAME.pack(kind, FIRST | LAST, 0, 0, len(piece)) + piece


def frames_of(plain: bytes) -> Iterator[tuple[int, int, int, int, memoryview]]:
    """Read the frames of a record: kind, flags, message, offset, piece.

    Raises:
        MalformedFrame: A frame is cut off.
    """
    view, position, size = memoryview(plain), 0, len(plain)
    while position < size:
        if position + FRAME.size > size:
            raise MalformedFrame("a frame header is cut off")
        kind, flags, number, offset, length = FRAME.unpack_from(plain, position)
        position += FRAME.size
        piece = view[position : position + length]
        if len(piece) != length:
            raise MalformedFrame("a frame is cut off")
        position += length
        yield kind, flags, number, offset, piece


class Outbox:
    """Messages that wait to be sent, and how much of the first is already gone."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._numbers: dict[int, int] = {}
        """What the next message of each path is called."""
        self._path = 0
        """Where the first message has begun to go, if its offset is not 0."""
        self._offset = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def put(self, message: bytes) -> None:
        """Queue one message.

        Raises:
            Congested: The queue is full; the message was not taken.
        """
        if self._bytes + len(message) > QUEUE_BYTES_MAX or len(self._messages) >= QUEUE_MESSAGES_MAX:
            raise Congested("the session's queue is full: the path is slower than its sender")
        self._messages.append(message)
        self._bytes += len(message)

    def take(self, room: int, path: int = 0) -> bytes:
        """Give frames for one record of `path` of at most `room` bytes."""
        parts: list[bytes | memoryview] = []
        whole, half = room - FRAME.size, room // 2
        if path != self._path:
            if self._offset:
                self._numbers[self._path] = (self._numbers[self._path] + 1) % _NUMBERS
            self._path, self._offset = path, 0
        number = self._numbers.get(path, 0)
        while self._messages and room > _FRAME_BYTES:
            message = self._messages[0]
            length = len(message)
            if self._offset == 0 and length <= room - _FRAME_BYTES:
                # Most messages are whole in one record; bench/relay shows a tenth more messages for this branch.
                parts += _write_frame(_CALLS, _WHOLE, number, 0, length), message
                room -= _FRAME_BYTES + length
                self._messages.popleft()
                self._bytes -= length
                number = (number + 1) % _NUMBERS
                continue
            if self._offset == 0 and length <= whole and room <= half:
                # It is whole in the next record; cut, it would cost the other end twice the CPU.
                break
            end = min(len(message), self._offset + room - FRAME.size)
            flags = (FIRST if self._offset == 0 else 0) | (LAST if end == len(message) else 0)
            parts.append(FRAME.pack(Channel.CALLS, flags, number, self._offset, end - self._offset))
            parts.append(memoryview(message)[self._offset : end])
            room -= FRAME.size + end - self._offset
            if end < len(message):
                self._offset = end
                break
            self._messages.popleft()
            self._bytes -= len(message)
            number = (number + 1) % _NUMBERS
            self._offset = 0
        self._numbers[path] = number
        return b"".join(parts)

    def clear(self) -> None:
        """Forget everything."""
        self._messages.clear()
        self._bytes = self._offset = 0


class Assembly:
    """Puts the other end's messages together; holds at most one unfinished message."""

    def __init__(self) -> None:
        self._next = 0
        self._current: int | None = None
        self._pieces = bytearray()
        self.lost = 0
        """Messages that lost a piece, or all of themselves, on the way."""

    def take(self, flags: int, number: int, offset: int, piece: memoryview) -> bytes | None:
        """Take one frame and give the message that it completes.

        Raises:
            MalformedFrame: The message is longer than any may be.
        """
        if offset + len(piece) > MESSAGE_BYTES_MAX:
            raise MalformedFrame(f"a message is longer than {MESSAGE_BYTES_MAX} bytes")
        if flags == FIRST | LAST and number == self._next and offset == 0 and self._current is None:
            # Most messages are whole in one record, and none was lost.
            self._next = (number + 1) % _NUMBERS
            return piece.tobytes()
        if number != self._current and not self._begin(flags, number):
            return None
        if offset != len(self._pieces):
            self.lost += 1
            self.clear()
            return None
        if flags & LAST and offset == 0:
            self.clear()
            return bytes(piece)
        self._pieces += piece
        if not flags & LAST:
            return None
        message = bytes(self._pieces)
        self.clear()
        return message

    def take_whole(self, plain: bytes) -> list[bytes] | None:
        """Take a record of nothing but whole messages that come next, as most are under load; None if it is another.

        Another record changes nothing here: read it with `frames_of` and `take`.
        """
        messages: list[bytes] = []
        position, size, following = 0, len(plain), self._next
        if self._current is not None:
            return None
        while position + _FRAME_BYTES <= size:
            kind, flags, number, offset, length = _read_frame(plain, position)
            start = position + _FRAME_BYTES
            position = start + length
            if kind != _CALLS or flags != _WHOLE or number != following or offset or position > size:
                return None
            messages.append(plain[start:position])
            following = (following + 1) % _NUMBERS
        if position != size:
            return None
        self._next = following
        return messages

    def clear(self) -> None:
        """Forget the unfinished message."""
        self._current, self._pieces = None, bytearray()

    def _begin(self, flags: int, number: int) -> bool:
        """Begin message `number`; False when its beginning is lost, or it was given up before."""
        if self._current is not None:
            self.lost += 1
            self.clear()
        gap = (number - self._next) % _NUMBERS
        if gap >= _NUMBERS // 2:
            return False
        self._next = (number + 1) % _NUMBERS
        self.lost += gap
        if not flags & FIRST:
            self.lost += 1
            return False
        self._current = number
        return True

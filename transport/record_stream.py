"""Records on a byte stream: each behind its 32-bit length, big-endian. Without I/O."""

import struct

from atoll.transport.errors import MalformedFrame
from atoll.transport.session_opening import SESSION_ID_BYTES

PIECES_MAX = 64
"""Pieces of an unfinished record that are kept apart; a piece of one byte costs forty."""
_LENGTH = struct.Struct(">I")


def frame_record(record: bytes) -> bytes:
    """Put a record behind its 32-bit length, as it stands on a byte stream."""
    return _LENGTH.pack(len(record)) + record


class RecordStream:
    """Takes records out of a byte stream again; holds at most one unfinished record."""

    def __init__(self, record_bytes_max: int, record_bytes_min: int = SESSION_ID_BYTES + 1) -> None:
        self.record_bytes_max = record_bytes_max
        """May be changed between two records."""
        self._record_bytes_min = record_bytes_min
        self._head = b""
        """The beginning of a length whose end has not come yet."""
        self._pieces: list[bytes] = []
        """What has come of a record whose end has not."""
        self._missing = 0
        """How many bytes it lacks."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they come and give the records that are whole.

        Raises:
            MalformedFrame: A length is out of bounds; the stream cannot be read on.
        """
        # Every byte is copied once, whatever the pieces: joining what has come with what comes cost more than the rest
        # of the session's work on it.
        records: list[bytes] = []
        start = 0
        if self._missing:
            start = self._missing
            self._pieces.append(data[:start])
            self._missing -= len(self._pieces[-1])
            if self._missing:
                if len(self._pieces) >= PIECES_MAX:
                    self._pieces = [b"".join(self._pieces)]
                return records
            records.append(b"".join(self._pieces))
            self._pieces.clear()
        elif self._head:
            data = self._head + data
        size = len(data)
        view = memoryview(data)
        while size - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, start)
            if not self._record_bytes_min <= length <= self.record_bytes_max:
                raise MalformedFrame(f"a record of {length} bytes stands where at most {self.record_bytes_max} may")
            start += _LENGTH.size
            if start + length > size:
                self._pieces.append(data[start:])
                self._missing = start + length - size
                start = size
            else:
                records.append(view[start : start + length].tobytes())
                start += length
        self._head = data[start:]
        return records

"""Records on a byte stream: each behind its 32-bit length, big-endian. Without I/O."""

import struct

from atoll.transport.errors import MalformedFrame
from atoll.transport.session import SESSION_ID_BYTES

_LENGTH = struct.Struct(">I")


def frame_record(record: bytes) -> bytes:
    """Put a record behind its 32-bit length, as it stands on a byte stream."""
    return _LENGTH.pack(len(record)) + record


class RecordStream:
    """Takes records out of a byte stream again; holds at most one unfinished record."""

    def __init__(self, record_bytes_max: int) -> None:
        self._record_bytes_max = record_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they come and give the records that are whole.

        Raises:
            MalformedFrame: A length is out of bounds; the stream cannot be read on.
        """
        # What came before and is not whole is joined with this; else the records are cut out of `data`, copied once.
        waiting = self._buffer
        if waiting:
            waiting += data
        records = []
        start = 0
        with memoryview(waiting or data) as view:
            while len(view) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(view, start)
                if not SESSION_ID_BYTES < length <= self._record_bytes_max:
                    raise MalformedFrame(
                        f"a record of {length} bytes stands where at most {self._record_bytes_max} may"
                    )
                end = start + _LENGTH.size + length
                if end > len(view):
                    break
                records.append(view[start + _LENGTH.size : end].tobytes())
                start = end
        if waiting:
            del waiting[:start]
        else:
            waiting += data[start:]
        return records

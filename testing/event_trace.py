"""What happened in a simulation, as one hash: two runs of one seed have the same, or something is not repeatable."""

import hashlib
import struct

from atoll.actors.runtime.machine import Seconds

NOTED_BYTES_MAX = 2**16
"""So much is hashed at once."""
_HEADER = struct.Struct("<dBB")


class EventTrace:
    """Events in the order in which they happened."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._noted = bytearray()
        """What the hash does not have yet."""

    def note(self, at: Seconds, kind: int, host: int, data: bytes) -> None:
        """Add an event: when, which kind, at which host (both 0 to 255), and its bytes."""
        self._noted += _HEADER.pack(at, kind, host)
        self._noted += data
        if len(self._noted) > NOTED_BYTES_MAX:
            self._take_noted()

    def hexdigest(self) -> str:
        """Give the SHA-256 of all of them."""
        self._take_noted()
        return self._hash.hexdigest()

    def _take_noted(self) -> None:
        self._hash.update(self._noted)
        self._noted.clear()

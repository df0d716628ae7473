"""What the ends under measurement send: messages in records, sealed with AES-256-GCM under one key and a counter.

Messages smaller than a record share one, as a session under load lets them: `u16 length | message` each. `raw` leaves
out the sealing and nothing else.
"""

import os
import struct
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.transport.errors import Unreachable

KEY = bytes(32)
"""A benchmark keeps no secrets."""
RECORD_BYTES = 60_000
RECORDS_MIN = 2
"""One that starts the clock, and one that is counted."""
SEAL_BYTES = 16
_SHORT = struct.Struct(">H")
_NONCE = struct.Struct(">IQ")


def nonce(counter: int) -> bytes:
    """Give the nonce of the record of that number."""
    return _NONCE.pack(0, counter)


def record_body(message_bytes: int) -> list[bytes]:
    """Give the messages of one record: one if it fills it, many if they share it."""
    message = os.urandom(message_bytes)
    return [message] * max(1, RECORD_BYTES // (message_bytes + _SHORT.size))


def _as_it_is(_nonce: bytes, data: bytes | memoryview, _header: None) -> bytes | memoryview:
    return data


class Writer:
    """Seals record after record."""

    def __init__(self, message_bytes: int, *, raw: bool = False) -> None:
        self._seal: Callable[..., Any] = _as_it_is if raw else AESGCM(KEY).encrypt
        self._messages = record_body(message_bytes)
        self._records = 0

    @property
    def messages(self) -> int:
        """How many messages were sealed."""
        return self._records * len(self._messages)

    def record(self) -> bytes:
        """Seal the next one."""
        if len(self._messages) == 1:
            body = self._messages[0]
        else:
            # Joined anew each time, as a session must: its messages are not known beforehand.
            body = b"".join([part for message in self._messages for part in (_SHORT.pack(len(message)), message)])
        self._records += 1
        record: bytes = self._seal(nonce(self._records - 1), body, None)
        return record


class Reader:
    """Opens record after record and takes them apart; the clock starts with the first, which is not counted."""

    def __init__(self, message_bytes: int, *, raw: bool = False) -> None:
        self._unseal: Callable[..., Any] = _as_it_is if raw else AESGCM(KEY).decrypt
        self._shared = len(record_body(message_bytes)) > 1
        self._records = self._messages = self._received = 0
        self._began = 0.0

    def take(self, record: bytes | memoryview) -> None:
        """Open the next record."""
        if not self._records:
            self._began = time.perf_counter()
            self._records = 1
            return
        body = self._unseal(nonce(self._records), record, None)
        self._records += 1
        if not self._shared:
            self._messages += 1
            self._received += len(body)
            return
        offset = messages = received = 0
        while offset < len(body):
            start = offset + _SHORT.size
            offset = start + (body[offset] << 8 | body[offset + 1])
            message = body[start:offset]
            messages += 1
            received += len(message)
        self._messages += messages
        self._received += received

    def result(self) -> dict[str, Any]:
        """Stop the clock, and tell what has come.

        Raises:
            Unreachable: Nothing after the first record.
        """
        if not self._messages:
            raise Unreachable("no record came after the first")
        took_s = time.perf_counter() - self._began
        return {"messages": self._messages, "bytes": self._received, "took_s": took_s}


def quantiles(times: list[float]) -> dict[str, Any]:
    """Give the median and the 99th percentile of at least one time."""
    times = sorted(times)
    return {"round_trips": len(times), "p50_s": times[len(times) // 2], "p99_s": times[len(times) * 99 // 100]}

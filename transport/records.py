"""Sealed records: what one direction of a session puts on its path, and how the other end opens it. Without I/O.

    session id 8 | key phase 1 | path 1 | counter 8 | ciphertext and tag        (big-endian)

The header is the associated data, the nonce is path and counter. A counter rises strictly per path, so what is
replayed or late is told apart before any decryption and never opened twice. No nonce is used twice under one key,
because a counter is never reset.

Key phases: after `PHASE_S` or `PHASE_RECORDS` the sender goes on with the next key of a one-way ratchet (HMAC-SHA256)
and erases the one before, so that older records cannot be opened with a newer key. The receiver follows at the first
genuine record of a newer phase. The ratchet does not heal: whoever steals a key can derive the later ones, and only a
new session, with a fresh agreement, ends that.
"""

import enum
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.transport.errors import UsageError
from atoll.transport.noise import TAG_BYTES

PHASE_S = 900.0
PHASE_RECORDS = 2**20
OLD_KEY_S = 5.0
"""How long a record of the phase before is still opened: what was in flight on another path at the change."""
PHASES = 128
"""Phases are counted modulo this; higher values of the byte are free, 0xFF marks handshakes."""
PHASES_AHEAD_MAX = 8
"""How many phases a receiver can have missed: a fast sender fills one in seconds while the path is down."""
PATHS_MAX = 16
"""Paths are numbered below this; one that is no longer used lends its number to the next."""
EVERYWHERE = 8
"""What stands in place of a path's number in records that go over every connection: none is in use yet, or any more.
No path has this number: it is what it was when there were eight paths at most."""

HEADER = struct.Struct(">8sBBQ")
OVERHEAD_BYTES = HEADER.size + TAG_BYTES


class Fault(enum.Enum):
    """Why a record was not opened; the value is the name of its counter."""

    MALFORMED = "malformed"
    REPLAYED = "replayed"
    FORGED = "forged"


_nonce = struct.Struct(">IQ").pack
"""Path and counter."""


def _key_after(key: bytes) -> bytes:
    return hmac.digest(key, b"atoll next key phase", "sha256")


class Sealer:
    """Seals what one end sends."""

    def __init__(self, session_id: bytes, key: bytes, now: float) -> None:
        self._session_id = session_id
        self._key = key
        self._cipher = AESGCM(key)
        self._since = now
        self._records = 0
        self._counter = 0
        self.phase = 0

    def seal(self, plain: bytes, path: int, now: float) -> bytes:
        """Make the record that carries `plain` over `path`.

        Raises:
            UsageError: There is no such path.
        """
        if not 0 <= path < PATHS_MAX:
            raise UsageError(f"the paths of a session are numbered from 0 to {PATHS_MAX - 1}, not {path}")
        if self._records >= PHASE_RECORDS or now >= self._since + PHASE_S:
            self._key = _key_after(self._key)
            self._cipher = AESGCM(self._key)
            self.phase = (self.phase + 1) % PHASES
            self._since, self._records = now, 0
        header = HEADER.pack(self._session_id, self.phase, path, self._counter)
        sealed = self._cipher.encrypt(_nonce(path, self._counter), plain, header)
        self._counter += 1
        self._records += 1
        return header + sealed


class Opener:
    """Opens what the other end sealed."""

    def __init__(self, key: bytes, now: float) -> None:
        self._key = key
        self._cipher = AESGCM(key)
        self._old: AESGCM | None = None
        self._since = now
        self._seen = [-1] * PATHS_MAX
        self.phase = 0

    @property
    def deadline(self) -> float | None:
        """When the key of the phase before is to be forgotten."""
        return None if self._old is None else self._since + OLD_KEY_S

    def forget_old(self, now: float) -> None:
        """Erase the key of the phase before, if its time has come."""
        if self._old is not None and now >= self._since + OLD_KEY_S:
            self._old = None

    def open(self, record: bytes, now: float) -> bytes | Fault:
        """Give what the record carries, or why it is not opened; a fault changes nothing here."""
        if len(record) < OVERHEAD_BYTES:
            return Fault.MALFORMED
        _, phase, path, counter = HEADER.unpack_from(record)
        if path >= PATHS_MAX:
            return Fault.MALFORMED
        if counter <= self._seen[path]:
            return Fault.REPLAYED
        keys: list[bytes] = []
        if phase == self.phase:
            cipher: AESGCM | None = self._cipher
        elif phase == (self.phase - 1) % PHASES:
            cipher = self._old
        else:
            keys = self._keys_to(phase)
            cipher = AESGCM(keys[-1]) if keys else None
        if cipher is None:
            return Fault.FORGED
        view = memoryview(record)
        try:
            plain = cipher.decrypt(_nonce(path, counter), view[HEADER.size :], view[: HEADER.size])
        except InvalidTag:
            return Fault.FORGED
        if keys:
            self._old = self._cipher if len(keys) == 1 else AESGCM(keys[-2])
            self._key, self._cipher, self.phase, self._since = keys[-1], cipher, phase, now
        self._seen[path] = counter
        return plain

    def _keys_to(self, phase: int) -> list[bytes]:
        """Derive the keys from the present phase, without it, to `phase`, if that is at most a little ahead."""
        ahead = (phase - self.phase) % PHASES if phase < PHASES else PHASES
        keys: list[bytes] = []
        for _ in range(ahead if ahead <= PHASES_AHEAD_MAX else 0):
            keys.append(_key_after(keys[-1] if keys else self._key))
        return keys

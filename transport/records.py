"""Sealed records: what one direction of a session puts on its path, and how the other end opens it. Without I/O.

    session id 8 | epoch and key phase 1 | path 1 | counter 8 | ciphertext and tag        (big-endian)

The header is the associated data, the nonce is path and counter. A counter rises strictly per path, so what is
replayed or late is told apart before any decryption and never opened twice. No nonce is used twice under one key,
because a counter is never reset.

    phase 0 --900 s or 2^20 records--> phase 1 --…--> phase 15, worn: nothing more is sealed, or opened
    any phase of epoch n --a re-handshake (`rehandshake.py`)--> phase 0 of epoch n + 1

A phase is a step of a one-way ratchet (HMAC-SHA256): older records cannot be opened with a newer key, but who steals a
key can derive the later ones. An epoch begins with a key out of a fresh agreement, and what was stolen before opens
nothing of it. The receiver follows a sender at the first genuine record of a newer phase, or of the next epoch once
`expect` has given it the key. Keys that are done with are overwritten; what Python cannot overwrite, decision 0030
tells.
"""

import enum
import hmac
import struct

from atoll.transport import ciphers
from atoll.transport.errors import Expired, UsageError
from atoll.transport.noise import TAG_BYTES

PHASE_S = 900.0
PHASE_RECORDS = 2**20
OLD_KEY_S = 5.0
"""How long a record of the phase before is still opened: what was in flight on another path at the change."""
PHASES = 16
"""Of one epoch, counted from 0: so many turns of the ratchet may a re-handshake take at most, less one."""
EPOCH_S_MAX = PHASES * PHASE_S
"""For which keys of one agreement are used at most, whatever the peer does."""
EPOCHS = 8
"""Epochs are counted modulo this in records: the two ends are never more than one apart."""
PHASES_AHEAD_MAX = 8
"""How many phases a receiver can have missed: a fast sender fills one in seconds while the path is down."""
PATHS_MAX = 16
"""Paths are numbered below this; one that is no longer used lends its number to the next."""
EVERYWHERE = 8
"""What stands in place of a path's number in records that go over every connection: none is in use yet, or any more.
No path has this number: it is what it was when there were eight paths at most."""

HEADER = struct.Struct(">8sBBQ")
OVERHEAD_BYTES = HEADER.size + TAG_BYTES
_NO_TAG = -1


class Fault(enum.Enum):
    """Why a record was not opened; the value is the name of its counter."""

    MALFORMED = "malformed"
    REPLAYED = "replayed"
    FORGED = "forged"
    WORN = "worn"


_nonce = struct.Struct(">IQ").pack
"""Path and counter."""


class Ratchet:
    """The key of one direction in one epoch, phase by phase. It owns the bytes of its key, and overwrites them."""

    __slots__ = ("_key", "epoch", "phase")

    def __init__(self, key: bytes | bytearray, epoch: int = 0, phase: int = 0) -> None:
        self._key = bytearray(key)
        self.epoch = epoch
        self.phase = phase

    @property
    def tag(self) -> int:
        """What stands for epoch and phase in a record; the highest bit is free, 0xFF marks handshakes."""
        return (self.epoch % EPOCHS) << 4 | self.phase

    def cipher(self) -> "ciphers.AESGCM":
        """Give what seals and opens in this phase."""
        # A copy: some builds of the library keep what they are given, and would go on with an overwritten key.
        return ciphers.AESGCM(bytes(self._key))

    def advance(self) -> None:
        """Go on to the next phase; the key before is gone."""
        self._key[:] = hmac.digest(self._key, b"atoll next key phase", "sha256")
        self.phase += 1

    def ahead(self, phases: int) -> "Ratchet":
        """Give what this one will be, without moving it."""
        later = Ratchet(self._key, self.epoch, self.phase)
        for _ in range(phases):
            later.advance()
        return later

    def erase(self) -> None:
        """Overwrite the key."""
        self._key[:] = bytes(len(self._key))


class Sealer:
    """Seals what one end sends."""

    def __init__(self, session_id: bytes, key: bytes | bytearray, now: float) -> None:
        self._session_id = session_id
        self._counter = 0
        self._ratchet = Ratchet(key)
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._cipher = self._ratchet.cipher()
        self._tag = self._ratchet.tag
        self._since = self._epoch_since = now
        self._records = 0
        self.worn = False
        """The keys of this epoch are used up: only a goodbye is still sealed."""

    @property
    def epoch(self) -> int:
        """How many re-handshakes its keys come from."""
        return self._ratchet.epoch

    @property
    def phase(self) -> int:
        """Turns of the ratchet in this epoch."""
        return self._ratchet.phase

    def renew(self, key: bytes | bytearray, now: float) -> None:
        """Begin the next epoch with its key; the one before is erased."""
        self._ratchet.erase()
        self._ratchet = Ratchet(key, self._ratchet.epoch + 1)
        self._begin(now)

    def erase(self) -> None:
        """Overwrite the key: nothing can be sealed any more."""
        self._ratchet.erase()
        del self._cipher

    def seal(self, plain: bytes, path: int, now: float, *, goodbye: bool = False) -> bytes:
        """Make the record that carries `plain` over `path`.

        Raises:
            UsageError: There is no such path.
            Expired: The keys are worn, and this is no goodbye.
        """
        if not 0 <= path < PATHS_MAX:
            raise UsageError(f"the paths of a session are numbered from 0 to {PATHS_MAX - 1}, not {path}")
        if self._records >= PHASE_RECORDS or now >= self._since + PHASE_S:
            self._turn(now, goodbye=goodbye)
        header = HEADER.pack(self._session_id, self._tag, path, self._counter)
        sealed = self._cipher.encrypt(_nonce(path, self._counter), plain, header)
        self._counter += 1
        self._records += 1
        return header + sealed

    def _turn(self, now: float, *, goodbye: bool) -> None:
        self.worn = self.worn or self._ratchet.phase == PHASES - 1 or now >= self._epoch_since + EPOCH_S_MAX
        if not self.worn:
            self._ratchet.advance()
            self._cipher, self._tag = self._ratchet.cipher(), self._ratchet.tag
            self._since, self._records = now, 0
        elif not goodbye:
            raise Expired("the keys of this session are used up")


class Opener:
    """Opens what the other end sealed."""

    def __init__(self, key: bytes | bytearray, now: float) -> None:
        self._ratchet = Ratchet(key)
        self._cipher = self._ratchet.cipher()
        self._tag = self._ratchet.tag
        self._next: Ratchet | None = None
        self._old: ciphers.AESGCM | None = None
        self._old_tag = _NO_TAG
        self._since = now
        self._worn_at = now + EPOCH_S_MAX + OLD_KEY_S
        self._seen = [-1] * PATHS_MAX

    @property
    def epoch(self) -> int:
        """Of the last key that a genuine record came under."""
        return self._ratchet.epoch

    @property
    def phase(self) -> int:
        """Of that key, in its epoch."""
        return self._ratchet.phase

    def expect(self, key: bytes | bytearray) -> None:
        """Have the key of the next epoch ready: the first genuine record under it moves this end there."""
        self._next = Ratchet(key, self._ratchet.epoch + 1)

    def erase(self) -> None:
        """Overwrite every key: nothing can be opened any more."""
        self._ratchet.erase()
        if self._next is not None:
            self._next.erase()
        self._next = self._old = None
        self._old_tag = self._tag = _NO_TAG
        del self._cipher

    @property
    def deadline(self) -> float | None:
        """When the key of the phase before is to be forgotten."""
        return None if self._old is None else self._since + OLD_KEY_S

    def forget_old(self, now: float) -> None:
        """Erase the key of the phase before, if its time has come."""
        if self._old is not None and now >= self._since + OLD_KEY_S:
            self._old, self._old_tag = None, _NO_TAG

    def open(self, record: bytes, now: float) -> bytes | Fault:
        """Give what the record carries, or why it is not opened; a fault changes nothing here."""
        if len(record) < OVERHEAD_BYTES:
            return Fault.MALFORMED
        _, tag, path, counter = HEADER.unpack_from(record)
        if path >= PATHS_MAX:
            return Fault.MALFORMED
        if counter <= self._seen[path] or now >= self._worn_at:
            return Fault.REPLAYED if counter <= self._seen[path] else Fault.WORN
        if tag != self._tag:
            return self._open_other(record, tag, now)
        view = memoryview(record)
        try:
            plain = self._cipher.decrypt(_nonce(path, counter), view[HEADER.size :], view[: HEADER.size])
        except ciphers.InvalidTag:
            return Fault.FORGED
        self._seen[path] = counter
        return plain

    def _open_other(self, record: bytes, tag: int, now: float) -> bytes | Fault:
        """Open a record of the phase before, or of a later one, and go there."""
        newer = None if tag == self._old_tag else self._ratchet_to(tag)
        cipher = self._old if newer is None and tag == self._old_tag else None if newer is None else newer.cipher()
        if cipher is None:
            return Fault.FORGED
        _, _, path, counter = HEADER.unpack_from(record)
        try:
            plain = cipher.decrypt(_nonce(path, counter), record[HEADER.size :], record[: HEADER.size])
        except ciphers.InvalidTag:
            if newer is not None:
                newer.erase()
            return Fault.FORGED
        if newer is not None:
            self._follow(newer, cipher, now)
        self._seen[path] = counter
        return plain

    def _follow(self, newer: Ratchet, cipher: "ciphers.AESGCM", now: float) -> None:
        """Go on with a newer key, and keep the one before for what is under way on other paths."""
        if newer.epoch != self._ratchet.epoch:
            self._worn_at = now + EPOCH_S_MAX + OLD_KEY_S
            if self._next is not None:
                self._next.erase()
            self._next = None
        self._old, self._old_tag = self._cipher, self._tag
        self._ratchet.erase()
        self._ratchet, self._cipher, self._tag, self._since = newer, cipher, newer.tag, now

    def _ratchet_to(self, tag: int) -> Ratchet | None:
        """Derive the key that a record says it is under, if that is at most a little ahead."""
        if tag >= EPOCHS * PHASES:
            return None
        for known in (self._ratchet, self._next):
            ahead = -1 if known is None else tag - known.tag
            if known is not None and tag >> 4 == known.epoch % EPOCHS and 0 <= ahead <= PHASES_AHEAD_MAX:
                return known.ahead(ahead)
        return None

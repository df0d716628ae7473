"""The handshake `Noise_XK_25519_AESGCM_SHA256`, without I/O (Noise Protocol Framework, revision 34).

    initiator                                   responder
      -> e, es          (the responder's static key is known beforehand)
      <- e, ee
      -> s, se          (the initiator's static key and payload, forward secret)

XK and not IK: an IK payload in the first message would be opened for ever by whoever gets the responder's static key.
The object is of one use; after message 3 `split` gives the two keys and the ephemeral secret is forgotten.
"""

import hashlib
import hmac

from atoll.transport import ciphers
from atoll.transport.errors import MalformedFrame, Refused, UsageError

PROTOCOL = b"Noise_XK_25519_AESGCM_SHA256"
KEY_BYTES = 32
TAG_BYTES = 16
_ZERO_NONCE = bytes(4)
MESSAGES = 3
PAYLOAD_BYTES_MAX = 8192
"""What a handshake message may carry; a grant needs less than half."""


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs (section 4.3)."""
    secret = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(secret, b"\x01", "sha256")
    return first, hmac.digest(secret, first + b"\x02", "sha256")


def _agree(secret: "ciphers.X25519PrivateKey | None", public: bytes) -> bytes:
    if secret is None:
        raise UsageError("the handshake is over, and its ephemeral key forgotten")
    try:
        return secret.exchange(ciphers.X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        # RFC 7748, section 6.1: a point of small order would give a secret that everybody knows.
        raise Refused("a handshake message holds a key of small order") from error


def _public(secret: "ciphers.X25519PrivateKey") -> bytes:
    return secret.public_key().public_bytes_raw()


class Handshake:
    """One end of one handshake: `write` and `read` alternate, the initiator writing first.

    `static` is this end's X25519 secret; the initiator gives `peer`, the responder's public key. `ephemeral` is for
    test vectors only.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        static: bytes,
        prologue: bytes,
        peer: bytes | None = None,
        ephemeral: bytes | None = None,
    ) -> None:
        if initiator != (peer is not None):
            raise UsageError("the initiator of XK knows the responder's key, and the responder knows nobody's")
        self.initiator = initiator
        self.peer = peer
        """The other end's static public key; the responder learns it from message 3."""
        # As objects: making one out of its bytes costs as much as an agreement, for it derives the public key.
        self.static = ciphers.X25519PrivateKey.from_private_bytes(static)
        self._ephemeral = None if ephemeral is None else ciphers.X25519PrivateKey.from_private_bytes(ephemeral)
        self._peer_ephemeral = b""
        self._turn = 0
        self._key: bytes | None = None
        self._nonce = 0
        self._hash = PROTOCOL.ljust(32, b"\x00")
        self._chaining_key = self._hash
        self._mix_hash(prologue)
        self._mix_hash(peer if peer is not None else _public(self.static))

    @property
    def turn(self) -> int:
        """How many messages have passed."""
        return self._turn

    @property
    def complete(self) -> bool:
        """All three messages have passed."""
        return self._turn == MESSAGES

    @property
    def my_turn(self) -> bool:
        """It is this end's turn to write."""
        return not self.complete and (self._turn % 2 == 0) == self.initiator

    def write(self, payload: bytes = b"") -> bytes:
        """Make this end's next message.

        Raises:
            UsageError: It is not this end's turn, or the payload is too long.
        """
        if not self.my_turn or len(payload) > PAYLOAD_BYTES_MAX:
            raise UsageError("it is not this end's turn, or the payload is too long")
        if self._turn < 2:
            self._ephemeral = self._ephemeral or ciphers.X25519PrivateKey.generate()
            message = _public(self._ephemeral)
            self._mix_hash(message)
        else:
            message = self._seal(_public(self.static))
        self._mix_keys()
        message += self._seal(payload)
        self._turn += 1
        return message

    def read(self, message: bytes) -> bytes:
        """Take the other end's next message and give its payload. After an error the object is of no more use.

        Raises:
            MalformedFrame: Too short or too long (the peer's fault).
            Refused: It was not made for this handshake: altered, or of another key.
        """
        if self.my_turn or self.complete:
            raise MalformedFrame("a handshake message came out of turn")
        head = KEY_BYTES if self._turn < 2 else KEY_BYTES + TAG_BYTES
        if not head + TAG_BYTES <= len(message) <= head + TAG_BYTES + PAYLOAD_BYTES_MAX:
            raise MalformedFrame(f"handshake message {self._turn + 1} cannot have {len(message)} bytes")
        if self._turn < 2:
            self._peer_ephemeral = message[:head]
            self._mix_hash(self._peer_ephemeral)
        else:
            self.peer = self._open(message[:head])
        self._mix_keys()
        payload = self._open(message[head:])
        self._turn += 1
        return payload

    def split(self) -> tuple[bytes, bytes, bytes]:
        """Give the keys (sending, receiving) of this end and a third secret, and forget what could derive them again.

        The third is the same at both ends, and tells nothing of the others: later keys are mixed out of it.
        """
        if not self.complete:
            raise UsageError("the handshake is not complete")
        secret = hmac.digest(self._chaining_key, b"", "sha256")
        first = hmac.digest(secret, b"\x01", "sha256")
        second = hmac.digest(secret, first + b"\x02", "sha256")
        third = hmac.digest(secret, second + b"\x03", "sha256")
        self._chaining_key, self._key, self._ephemeral = b"", None, None
        return (first, second, third) if self.initiator else (second, first, third)

    @property
    def binding(self) -> bytes:
        """The handshake hash (32 bytes): the same at both ends, and for this session only (section 11.2)."""
        return self._hash

    def _mix_keys(self) -> None:
        """Mix in the agreement that this turn's message stands for: es, ee, se."""
        if self._turn == 1:
            shared = _agree(self._ephemeral, self._peer_ephemeral)
        else:
            # es and se are mirror images: the initiator's key pair of the one is the responder's of the other.
            ephemeral_is_own = self.initiator == (self._turn == 0)
            shared = (
                _agree(self._ephemeral, self.peer or b"")
                if ephemeral_is_own
                else _agree(self.static, self._peer_ephemeral)
            )
        self._chaining_key, self._key = _hkdf(self._chaining_key, shared)
        self._nonce = 0

    def _mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def _seal(self, plain: bytes) -> bytes:
        sealed = ciphers.AESGCM(self._key or b"").encrypt(self._next_nonce(), plain, self._hash)
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        try:
            plain = ciphers.AESGCM(self._key or b"").decrypt(self._next_nonce(), sealed, self._hash)
        except ciphers.InvalidTag as error:
            raise Refused("a handshake message was altered, or made for another key") from error
        self._mix_hash(sealed)
        return plain

    def _next_nonce(self) -> bytes:
        nonce = _ZERO_NONCE + self._nonce.to_bytes(8, "big")
        self._nonce += 1
        return nonce

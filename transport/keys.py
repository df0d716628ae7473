"""Private keys: a node's Ed25519 key pair, and the keys that follow from a site's secret."""

import hmac
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import nacl.bindings
import nacl.exceptions

from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

SEED_BYTES = 32
SIGNATURE_BYTES = 64
SITE_SECRET_BYTES = 32
RESET_TOKEN_BYTES = 16


@dataclass(frozen=True)
class NodeKey:
    """A node's Ed25519 key pair; `seed` is its 32 secret bytes and never appears in a `repr`."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise UsageError(f"a node key's seed has {SEED_BYTES} bytes, this one has {len(self.seed)}")

    @classmethod
    def generate(cls) -> "NodeKey":
        """Make a fresh key pair from the operating system's randomness."""
        return cls(os.urandom(SEED_BYTES))

    @classmethod
    def load_or_create(cls, path: Path) -> "NodeKey":
        """Read the key at `path`, or make one there (mode 0600) at first start.

        Raises:
            UsageError: The file exists and is not a 32-byte key, or others may read it.
        """
        try:
            seed = path.read_bytes()
        except FileNotFoundError:
            key = cls.generate()
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key.seed)
                file.flush()
                os.fsync(file.fileno())
            return key
        if len(seed) != SEED_BYTES:
            raise UsageError(f"{path} is not a node key: {len(seed)} bytes instead of {SEED_BYTES}; move it away")
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{path} can be read by others: run `chmod 600 {path}`")
        return cls(seed)

    @cached_property
    def _ed25519(self) -> tuple[bytes, bytes]:
        return nacl.bindings.crypto_sign_seed_keypair(self.seed)

    @cached_property
    def node_id(self) -> NodeId:
        """The id that others know this key by."""
        return NodeId(self._ed25519[0])

    @cached_property
    def curve_secret(self) -> bytes:
        """The X25519 secret (32 bytes) that belongs to `node_id.curve_key`."""
        return nacl.bindings.crypto_sign_ed25519_sk_to_curve25519(self._ed25519[1])

    def reset_token(self, session_id: bytes) -> bytes:
        """Give the 16 bytes that tell an initiator, and only it, that this node knows its session no more."""
        return hmac.digest(self._reset_key, session_id, "sha256")[:RESET_TOKEN_BYTES]

    @cached_property
    def _reset_key(self) -> bytes:
        return hmac.digest(self.seed, b"atoll session reset", "sha256")

    def sign(self, message: bytes) -> bytes:
        """Sign `message`; 64 bytes, Ed25519 (RFC 8032), without the message."""
        return nacl.bindings.crypto_sign(message, self._ed25519[1])[:SIGNATURE_BYTES]


def signature_valid(signer: NodeId, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` (64 bytes) over `message` is by `signer`; False for any malformed input."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, bytes(signer))
    except (nacl.exceptions.CryptoError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class SiteKeys:
    """Everything that follows from a site's 32-byte secret (HKDF-SHA256, one label each)."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != SITE_SECRET_BYTES:
            raise UsageError(f"a site secret has {SITE_SECRET_BYTES} bytes, this one has {len(self.secret)}")

    @classmethod
    def generate(cls) -> "SiteKeys":
        """Found a new site: a fresh secret."""
        return cls(os.urandom(SITE_SECRET_BYTES))

    def _derive(self, label: bytes, length: int = 32) -> bytes:
        """Derive at most 32 bytes for one use, named by `label`: RFC 5869 without salt, as far as its first block."""
        # By hand: `cryptography` would take 9 MB for no more.
        extracted = hmac.digest(bytes(32), self.secret, "sha256")
        return hmac.digest(extracted, b"atoll site " + label + b"\x01", "sha256")[:length]

    @cached_property
    def tag(self) -> bytes:
        """8 public bytes by which members recognise their site in beacons; shown as hex as the site's id."""
        return self._derive(b"tag", 8)

    @cached_property
    def beacon_key(self) -> bytes:
        """Key of the HMAC in members' beacons."""
        return self._derive(b"beacon")

    @cached_property
    def roster_key(self) -> bytes:
        """Key of the HMAC that founds a roster."""
        return self._derive(b"roster")

    def link_proof(self, prover: NodeId, verifier: NodeId) -> bytes:
        """What `prover` shows `verifier` on a link to be admitted as a member (32 bytes).

        The link's CURVE handshake has already proved both keys, so the proof is worthless to anybody else and needs
        no nonce.
        """
        return hmac.digest(self._derive(b"link"), prover + verifier, "sha256")

    def link_proof_valid(self, proof: bytes, *, prover: NodeId, verifier: NodeId) -> bool:
        """Check a `link_proof` in constant time."""
        return hmac.compare_digest(proof, self.link_proof(prover, verifier))

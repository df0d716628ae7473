"""What the tests of keys and handshakes hold ours against."""

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


def public_of(secret):
    """Give the X25519 public key of a secret one."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()

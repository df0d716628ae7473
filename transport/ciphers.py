"""AES-GCM and X25519 out of `cryptography`, which is loaded when the first of these names is used.

It takes 9 MB, and nodes at rest have no session, nor have relays: links are CURVE's. A node with a cloud loads it when
it starts, for its grant; another one when it begins its first session, once, in 8 ms. Ask for the names here, as
`ciphers.AESGCM`: to import one by its name loads the library.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["AESGCM", "InvalidTag", "X25519PrivateKey", "X25519PublicKey"]

if TYPE_CHECKING:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
else:

    def __getattr__(name: str) -> Any:
        """Load the library at the first use (PEP 562); from then on the names are found like any others."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - see above
        from cryptography.hazmat.primitives.asymmetric import x25519  # noqa: PLC0415 - see above
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - see above

        globals().update(
            AESGCM=AESGCM,
            InvalidTag=InvalidTag,
            X25519PrivateKey=x25519.X25519PrivateKey,
            X25519PublicKey=x25519.X25519PublicKey,
        )
        return globals()[name]

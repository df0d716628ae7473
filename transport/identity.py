"""Who a node is: its public key, and nothing else.

A `NodeId` is the 32 bytes of an Ed25519 public key. It needs no registry to be unique, and whoever knows it can dial
the node, because the X25519 key of links and sessions follows from it (`NodeId.curve_key`).
"""

import base64
import binascii
from functools import lru_cache
from typing import Self

import nacl.bindings
import nacl.exceptions

from atoll.transport.errors import MalformedFrame, UsageError

NODE_ID_BYTES = 32
SHORT_CHARACTERS = 10
IDS_KEPT = 4096
"""Ids whose key and whose text are kept once they were computed."""


@lru_cache(IDS_KEPT)
def _curve_key(ed25519_public: bytes) -> bytes:
    try:
        return nacl.bindings.crypto_sign_ed25519_pk_to_curve25519(ed25519_public)
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise MalformedFrame("this node id is not a point of Ed25519; no key follows from it") from error


class NodeId(bytes):
    """The 32 bytes of a node's Ed25519 public key; shown as lower-case base32 without padding."""

    __slots__ = ()

    def __new__(cls, key: bytes) -> Self:
        if len(key) != NODE_ID_BYTES:
            raise MalformedFrame(f"a node id has {NODE_ID_BYTES} bytes, this one has {len(key)}")
        return super().__new__(cls, key)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the long form that `str` gives.

        Raises:
            UsageError: The text is not 52 base32 characters, or not those that `str` gives (the caller's fault).
        """
        try:
            found = cls(base64.b32decode(text.upper() + "=" * (-len(text) % 8)))
        except (binascii.Error, ValueError, MalformedFrame) as error:
            raise UsageError(_no_node_id(text)) from error
        # 52 characters have room for 4 bits more than 32 bytes, and `upper` makes an S of a long s: one id, one text.
        if str(found) != text.lower():
            raise UsageError(_no_node_id(text))
        return found

    @property
    def short(self) -> str:
        """The first 10 characters: enough for people, never for protocols."""
        return _text(self)[:SHORT_CHARACTERS]

    @property
    def curve_key(self) -> bytes:
        """The X25519 public key (32 bytes) that follows from this id, for CURVE and Noise.

        Raises:
            MalformedFrame: The bytes are no Ed25519 public key (the peer's fault).
        """
        return _curve_key(bytes(self))

    def __str__(self) -> str:
        return _text(bytes(self))

    def __repr__(self) -> str:
        return _shown(self)


@lru_cache(IDS_KEPT)
def _text(key: bytes) -> str:
    return base64.b32encode(key).decode().lower().rstrip("=")


@lru_cache(IDS_KEPT)
def _shown(key: bytes) -> str:
    return f"NodeId({_text(key)[:SHORT_CHARACTERS]})"


def _no_node_id(text: str) -> str:
    return f"{text!r:.80} is not a node id: expected 52 characters of a-z and 2-7"

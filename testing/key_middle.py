"""Somebody in the middle who has stolen all keys of a living session, but no static key of either end.

He opens each record, changes what it says about fresh keys, and seals it again under the same number: `plant` puts a
key of his own in place of both ends', `bend` writes a public key in another way that gives the same agreements (X25519
ignores the highest bit: RFC 7748, section 5). The two ends must notice both, and end the session.
"""

# ruff: noqa: SLF001  # whoever judges secrets must look at them

import hmac
from typing import Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from atoll.transport.fragments import FRAME, Channel, frames_of
from atoll.transport.noise import KEY_BYTES
from atoll.transport.records import HEADER, Ratchet
from atoll.transport.rehandshake import PROOF_BYTES, KeyVerb
from atoll.transport.session import Session


class KeyMiddle:
    """Alters what goes from end to end."""

    def __init__(self, initiator: Session, how: Literal["plant", "bend"]) -> None:
        end: Any = initiator
        self.how = how
        self.altered = 0
        self._kind = type(end._keys.rehandshake)
        bond = end._keys.rehandshake._bond
        self._root, self._transcript = bytes(bond.root), bond.transcript
        self._ciphers = {True: end._keys.sealer._ratchet.cipher(), False: end._keys.opener._ratchet.cipher()}
        """By whether the initiator seals with them."""
        self._own = X25519PrivateKey.generate()
        self._publics: dict[bool, bytes] = {}
        self.keys: dict[bool, list[bytes]] = {}
        """What he derives with each end: keys of both directions, root, proof."""

    def alter(self, records: list[bytes]) -> list[bytes]:
        """Give what goes on in place of these."""
        return [self._alter(each) for each in records]

    def reads(self, record: bytes) -> bool:
        """Tell whether a record can be opened with a key that he derived."""
        head = record[: HEADER.size]
        _, _, path, counter = HEADER.unpack(head)
        for key in (each for keys in self.keys.values() for each in keys[:2]):
            try:
                nonce = path.to_bytes(4, "big") + counter.to_bytes(8, "big")
                Ratchet(key).cipher().decrypt(nonce, record[HEADER.size :], head)
            except InvalidTag:
                continue
            return True
        return False

    def _alter(self, record: bytes) -> bytes:
        head = record[: HEADER.size]
        _, _, path, counter = HEADER.unpack(head)
        nonce = path.to_bytes(4, "big") + counter.to_bytes(8, "big")
        for by_initiator, cipher in self._ciphers.items():
            try:
                plain = cipher.decrypt(nonce, record[HEADER.size :], head)
            except InvalidTag:
                continue
            altered: bytes = head + cipher.encrypt(nonce, self._frames(plain, by_initiator=by_initiator), head)
            return altered
        return record

    def _frames(self, plain: bytes, *, by_initiator: bool) -> bytes:
        written = b""
        for kind, verb, number, offset, piece in frames_of(plain):
            said = bytes(piece)
            if kind == Channel.KEYS and verb in (KeyVerb.OFFER, KeyVerb.ANSWER):
                said = self._said(said, verb, by_initiator=by_initiator)
                self.altered += 1
            written += FRAME.pack(kind, verb, number, offset, len(said)) + said
        return written

    def _said(self, said: bytes, verb: int, *, by_initiator: bool) -> bytes:
        if self.how == "bend":
            # Of the initiator's key only: one is enough.
            return said[:31] + bytes([said[31] ^ 0x80]) + said[32:] if by_initiator else said
        self._publics[by_initiator] = said[:KEY_BYTES]
        own: bytes = self._own.public_key().public_bytes_raw()
        if verb == KeyVerb.OFFER:
            return own
        hearer = not by_initiator
        publics = (self._publics.get(True, own), own) if hearer else (own, self._publics.get(False, own))
        transcript = self._kind.bind(self._transcript, 1, *publics)
        ee = self._own.exchange(X25519PublicKey.from_public_bytes(self._publics.get(hearer, own)))
        # He lacks a static secret for each of the other two, and can only guess.
        self.keys[hearer] = self._kind.derive(self._root, (ee, ee, ee), transcript)
        role = b"initiator" if by_initiator else b"responder"
        proof = hmac.digest(self.keys[hearer][3], role, "sha256")
        return own + proof[:PROOF_BYTES]

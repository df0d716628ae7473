"""Somebody who has stolen all that one end of a session knows at one moment, and has recorded every record.

He does what the ends do with what they know: follows the ratchets, reads the frames of re-handshakes, and derives the
next keys wherever he finds the three agreements among those he can compute. He knows that he was right when the proof
in an ANSWER is the one he expects.
"""

# ruff: noqa: SLF001  # whoever judges secrets must look at them

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.transport.errors import MalformedFrame
from atoll.transport.fragments import Channel, frames_of
from atoll.transport.noise import KEY_BYTES
from atoll.transport.records import HEADER, Ratchet
from atoll.transport.rehandshake import PROOF_BYTES, KeyVerb, Rehandshake
from atoll.transport.session import Session


@dataclass(frozen=True, slots=True)
class Recorded:
    """One record as it went over a path, and what only the world knows about it."""

    by_initiator: bool
    epoch: int
    data: bytes
    sent_at: float

    @property
    def tag(self) -> int:
        """Epoch and phase, as the record says."""
        return self.data[8]

    @property
    def phase(self) -> int:
        """Of its epoch."""
        return self.tag & 0x0F


@dataclass(slots=True)
class Roots:
    """What the keys of the next epoch are mixed out of."""

    epoch: int
    root: bytes
    transcript: bytes


@dataclass(slots=True)
class KeyThief:
    """What he knows; `read` tells which records he can open."""

    kind: type[Rehandshake]
    """How the two ends derive their keys: no secret."""
    statics: tuple[bytes, bytes]
    """Public static keys of initiator and responder."""
    secrets: list[X25519PrivateKey] = field(default_factory=list)
    ratchets: dict[bool, list[Ratchet]] = field(default_factory=lambda: {True: [], False: []})
    """By who seals with them: the initiator, or the responder."""
    ciphers: dict[tuple[bool, int], AESGCM] = field(default_factory=dict)
    """Of phases that an end still opens and has no key of; by who seals, and tag."""
    roots: list[Roots] = field(default_factory=list)
    publics: dict[int, dict[bool, bytes]] = field(default_factory=dict)
    """Ephemeral keys that were said in frames he could read; by epoch and who said it."""
    proofs: dict[int, dict[bool, bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, session: Session) -> "KeyThief":
        """Steal everything."""
        end: Any = session
        keys, bond = end._keys.rehandshake, end._keys.rehandshake._bond
        ours = bond.static.public_key().public_bytes_raw()
        statics = (ours, bond.peer_static) if bond.initiator else (bond.peer_static, ours)
        thief = cls(type(keys), statics, [bond.static])
        mine, sealer, opener = bond.initiator, end._keys.sealer, end._keys.opener
        # Whatever is left lying about, under whatever name, is stolen too.
        thief.secrets += [each for each in vars(keys).values() if isinstance(each, X25519PrivateKey)]
        for who, holder in ((mine, sealer), (not mine, opener)):
            thief.ratchets[who] += [each.ahead(0) for each in vars(holder).values() if isinstance(each, Ratchet)]
            thief.ratchets[who] += [each.ahead(0) for each in getattr(holder, "kept", ())]
        if opener._old is not None:
            thief.ciphers[not mine, opener._old_tag] = opener._old
        thief.roots.append(Roots(keys.epoch, bytes(bond.root), bond.transcript))
        if keys._agreed is not None:
            thief.ratchets[mine].append(Ratchet(keys._agreed.sending, keys.epoch + 1))
            thief.roots.append(Roots(keys.epoch + 1, bytes(keys._agreed.root), keys._agreed.transcript))
        for who, public in ((mine, keys._public), (not mine, keys._peer_public)):
            if public:
                thief.publics.setdefault(keys.epoch + 1, {})[who] = public
        return thief

    def read(self, records: Iterable[Recorded]) -> list[Recorded]:
        """Give the records that he can open, whatever it takes."""
        closed, found = list(records), list[Recorded]()
        while True:
            opened = [each for each in closed if self._opens(each)]
            if not opened and not self._derive():
                return found
            found += opened
            closed = [each for each in closed if each not in opened]

    def _opens(self, record: Recorded) -> bool:
        who, head = record.by_initiator, record.data[: HEADER.size]
        _, tag, path, counter = HEADER.unpack(head)
        ciphers = [self.ciphers[who, tag]] if (who, tag) in self.ciphers else []
        ciphers += [
            each.ahead(record.phase - each.phase).cipher()
            for each in self.ratchets[who]
            if each.tag >> 4 == tag >> 4 and each.phase <= record.phase
        ]
        for cipher in ciphers:
            try:
                nonce = path.to_bytes(4, "big") + counter.to_bytes(8, "big")
                self._learn(who, cipher.decrypt(nonce, record.data[HEADER.size :], head))
            except InvalidTag:
                continue
            return True
        return False

    def _learn(self, who: bool, plain: bytes) -> None:  # noqa: FBT001  # a side, as everywhere here
        try:
            for kind, verb, epoch, _, piece in frames_of(plain):
                if kind == Channel.KEYS and verb in (KeyVerb.OFFER, KeyVerb.ANSWER):
                    self.publics.setdefault(epoch, {})[who] = bytes(piece[:KEY_BYTES])
                    if verb == KeyVerb.ANSWER:
                        self.proofs.setdefault(epoch, {})[who] = bytes(piece[KEY_BYTES:])
        except MalformedFrame:
            return

    def _derive(self) -> bool:
        """Derive keys of an epoch that he has not yet; False when there is nothing he can do."""
        for known in tuple(self.roots):
            epoch, publics = known.epoch + 1, self.publics.get(known.epoch + 1, {})
            if len(publics) < 2 or any(each.epoch == epoch for each in self.roots):
                continue
            transcript = self.kind.bind(known.transcript, epoch, publics[True], publics[False])
            shared = {
                secret.exchange(X25519PublicKey.from_public_bytes(public))
                for secret in self.secrets
                for public in (*publics.values(), *self.statics)
            }
            for ee, es, se in product(sorted(shared), repeat=3):
                there, back, root, proof = self.kind.derive(known.root, (ee, es, se), transcript)
                if self._is_right(epoch, proof):
                    self.ratchets[True].append(Ratchet(there, epoch))
                    self.ratchets[False].append(Ratchet(back, epoch))
                    self.roots.append(Roots(epoch, root, transcript))
                    return True
        return False

    def _is_right(self, epoch: int, proof: bytes) -> bool:
        roles = {True: b"initiator", False: b"responder"}
        return any(
            hmac.digest(proof, roles[who], "sha256")[:PROOF_BYTES] == said
            for who, said in self.proofs.get(epoch, {}).items()
        )

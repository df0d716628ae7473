"""Somebody who has recorded whole sessions and gets the static keys of both ends afterwards, or more.

He replays the derivations of `noise.py` and `rehandshake.py` with what he has: from a handshake he can compute es and
se, and tries every agreement of a secret that he has with a key that he has seen in place of ee. With an ephemeral
secret of either end he succeeds; so the tests of forward secrecy can fail.
"""

# ruff: noqa: SLF001  # whoever judges secrets must look at them

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from atoll.testing.key_thief import KeyThief, Recorded, Roots
from atoll.transport import session_opening
from atoll.transport.errors import Refused
from atoll.transport.identity import NODE_ID_BYTES
from atoll.transport.keys import NodeKey
from atoll.transport.noise import KEY_BYTES, TAG_BYTES, Handshake, _hkdf
from atoll.transport.records import Ratchet
from atoll.transport.rehandshake import Rehandshake

_HEAD = session_opening.SESSION_ID_BYTES + 2


@dataclass(slots=True)
class Overheard:
    """What he got out of one session."""

    greeting: bool = False
    """He could open the payload of message 1, which is padding."""
    grant: bytes | None = None
    """What message 3 shows, behind the initiator's id."""
    records: list[Recorded] = field(default_factory=list)


class Eavesdropper:
    """Knows the static keys of both ends, and the ephemeral secrets that he is given."""

    def __init__(self, initiator: NodeKey, responder: NodeKey, ephemerals: Sequence[X25519PrivateKey] = ()) -> None:
        self._initiator = X25519PrivateKey.from_private_bytes(initiator.curve_secret)
        self._responder = responder
        answerer = X25519PrivateKey.from_private_bytes(responder.curve_secret)
        self._secrets = [self._initiator, answerer, *ephemerals]
        self._statics = (initiator.node_id.curve_key, responder.node_id.curve_key)

    def listen(self, handshake: Sequence[bytes], records: Sequence[Recorded]) -> Overheard:
        """Open what can be opened of a session; `handshake` are its three messages as records."""
        heard = Overheard()
        first, second, third = (each[_HEAD:] for each in handshake)
        session_id = handshake[0][: session_opening.SESSION_ID_BYTES]
        prologue = session_opening._prologue(session_id, self._responder.node_id)
        listener = Handshake(initiator=False, static=self._responder.curve_secret, prologue=prologue)
        heard.greeting = not any(listener.read(first))
        publics = {first[:KEY_BYTES], second[:KEY_BYTES], *self._statics}
        shared = {
            secret.exchange(X25519PublicKey.from_public_bytes(public)) for secret in self._secrets for public in publics
        }
        for ee in sorted(shared | publics | {bytes(KEY_BYTES), listener._chaining_key, listener.binding}):
            trial = copy.copy(listener)
            try:
                heard.grant = self._open_proof(trial, second, third, ee)
            except Refused:
                continue
            heard.records = self._read(trial, records)
            break
        return heard

    def _open_proof(self, trial: Handshake, second: bytes, third: bytes, ee: bytes) -> bytes:
        """Go on from message 1, with this in place of what only the two ends can compute."""
        public = second[:KEY_BYTES]
        trial._mix_hash(public)
        trial._chaining_key, trial._key = _hkdf(trial._chaining_key, ee)
        trial._nonce = 0
        trial._open(second[KEY_BYTES:])
        trial._open(third[: KEY_BYTES + TAG_BYTES])
        se = self._initiator.exchange(X25519PublicKey.from_public_bytes(public))
        trial._chaining_key, trial._key = _hkdf(trial._chaining_key, se)
        trial._nonce = 0
        grant = trial._open(third[KEY_BYTES + TAG_BYTES :])[NODE_ID_BYTES:]
        trial._turn = 3
        return grant

    def _read(self, trial: Handshake, records: Sequence[Recorded]) -> list[Recorded]:
        transcript = trial.binding
        back, there, root = trial.split()
        thief = KeyThief(Rehandshake, self._statics, self._secrets)
        thief.ratchets[True].append(Ratchet(there))
        thief.ratchets[False].append(Ratchet(back))
        thief.roots.append(Roots(0, root, transcript))
        return thief.read(records)

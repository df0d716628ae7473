"""The re-handshake of a living session: fresh keys that nothing stolen before can derive. Frames in and out, no I/O.

    resting --PHASE_S, a turn of the ratchet, or the peer's OFFER--> offered --the peer's public key--> agreed
    agreed  --the peer proves that it has the same keys--> turned: seals with them --a record under them--> resting

Both ends make an ephemeral key pair; the new root is mixed out of the old root and three agreements, and bound to all
that was agreed on before:

    h'   = SHA-256(h | "atoll re-handshake" | epoch 4 | ephemeral of the initiator 32 | of the responder 32)
    k    = HKDF(HKDF(HKDF(root, ee), es), se)          es: the initiator's ephemeral key, the responder's static one
    keys = HKDF-Expand(HKDF-Extract(k, h'))            initiator to responder, back, next root, proof

ee is what heals (as the DH ratchet of Signal's Double Ratchet does, section 2.2); es and se, as in Noise KK, so that
who has stolen the keys of a session but no static key cannot sit down between the two ends either. There are no roles:
an end that hears an OFFER when its own is on its way just agrees. Frames stand in sealed records, and may be lost,
doubled and overtaken: each is made anew from the state until the peer shows that it is further.

Nobody seals with keys that the peer has not proved to have. It never reads a clock; see decision 0030.
"""

import enum
import hashlib
import hmac
import struct
from collections import Counter
from dataclasses import dataclass

from atoll.transport import ciphers
from atoll.transport.errors import MalformedFrame
from atoll.transport.fragments import FRAME, Channel
from atoll.transport.noise import KEY_BYTES
from atoll.transport.records import EPOCH_S_MAX, PHASE_S, Opener, Sealer

REPEAT_S = 0.5
"""Until a frame without an answer is sent again; then twice as long, and so on."""
REPEAT_S_MAX = 30.0
FOLLOW_TRIES = 10
"""So often is a peer asked to use keys that it has proved to have, in about two minutes. Then the session ends."""
YOUNG_S = 1.0
"""Keys are not renewed twice in this time: a re-handshake costs three agreements."""
PROOF_BYTES = 16

_EPOCH = struct.Struct(">I")
_LABEL = b"atoll re-handshake"


class KeyVerb(enum.IntEnum):
    """What a frame of channel KEYS says; its message field is the epoch that it is about."""

    OFFER = 0
    ANSWER = 1
    TURNED = 2


class Step(enum.Enum):
    """How far an end has come."""

    RESTING = "resting"
    OFFERED = "offered"
    AGREED = "agreed"
    TURNED = "turned"


@dataclass(slots=True)
class Agreed:
    """What both ends derive."""

    root: bytearray
    transcript: bytes
    sending: bytearray
    proof: bytes
    """Ours."""
    expected: bytes
    """The peer's."""


@dataclass(slots=True, kw_only=True)
class Bond:
    """What the two ends have in common besides keys for records; the root is overwritten by each re-handshake."""

    initiator: bool
    static: "ciphers.X25519PrivateKey"
    peer_static: bytes
    root: bytearray
    transcript: bytes


def key_frame(verb: KeyVerb, epoch: int, piece: bytes = b"") -> bytes:
    """Write an OFFER with a public key, an ANSWER with a public key and a proof, or a TURNED."""
    return FRAME.pack(Channel.KEYS, verb, epoch, 0, len(piece)) + piece


def _extract(chaining_key: bytes | bytearray, material: bytes) -> bytes:
    return hmac.digest(chaining_key, material, "sha256")


def _expand(secret: bytes, outputs: int) -> list[bytes]:
    """Noise's HKDF with as many outputs as one wants (section 4.3; RFC 5869 with empty info)."""
    made: list[bytes] = [b""]
    for number in range(1, outputs + 1):
        made.append(hmac.digest(secret, made[-1] + bytes([number]), "sha256"))
    return made[1:]


def _exchange(secret: "ciphers.X25519PrivateKey", public: bytes) -> bytes:
    try:
        return secret.exchange(ciphers.X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        # RFC 7748, section 6.1: a point of small order would give a secret that everybody knows.
        raise MalformedFrame("a re-handshake offers a key of small order") from error


def transcript_after(transcript: bytes, epoch: int, of_initiator: bytes, of_responder: bytes) -> bytes:
    """Bind a re-handshake to all that was agreed on before, and to both its public keys."""
    return hashlib.sha256(transcript + _LABEL + _EPOCH.pack(epoch) + of_initiator + of_responder).digest()


def derive(root: bytes | bytearray, agreements: tuple[bytes, bytes, bytes], transcript: bytes) -> list[bytes]:
    """Give the keys of the next epoch: initiator to responder, back, root, proof; from ee, es and se."""
    chaining_key: bytes | bytearray = root
    for each in agreements:
        chaining_key = _expand(_extract(chaining_key, each), 1)[0]
    return _expand(_extract(chaining_key, transcript), 4)


class Rehandshake:
    """One end; it turns the `Sealer` and readies the `Opener` of its session. Times are monotonic seconds."""

    bind = staticmethod(transcript_after)
    derive = staticmethod(derive)

    def __init__(self, bond: Bond, sealer: Sealer, opener: Opener, now: float) -> None:
        self._bond = bond
        self._sealer = sealer
        self._opener = opener
        self._ephemeral: ciphers.X25519PrivateKey | None = None
        self._public = b""
        self._peer_public = b""
        self._agreed: Agreed | None = None
        self.step = Step.RESTING
        self._began_at = now
        """When the keys in use were agreed on."""
        self._repeat_at = now
        self._repeat_s = REPEAT_S
        self._tries = 0
        self.due = False
        """`outgoing` has a frame to give."""
        self.counts: Counter[str] = Counter(rehandshakes=0, rehandshake_repeated=0, rehandshake_stale=0)

    @property
    def epoch(self) -> int:
        """How many re-handshakes the keys come from that this end seals with."""
        return self._sealer.epoch

    @property
    def deadline(self) -> float:
        """When `tick` wants to be called, at the latest."""
        if self._sealer.worn:
            return self._began_at
        return self._began_at + PHASE_S if self.step is Step.RESTING else self._repeat_at

    def tick(self, now: float) -> None:
        """Begin when the keys are old, and say again what has got no answer."""
        if self.step is Step.RESTING:
            if now >= self._began_at + PHASE_S:
                self.begin(now)
        elif now >= self._repeat_at:
            self.counts["rehandshake_repeated"] += 1
            self._tries += 1
            self._repeat_s = min(2 * self._repeat_s, REPEAT_S_MAX)
            self._repeat_at, self.due = now + self._repeat_s, True

    def reason_to_end(self, now: float) -> str:
        """Tell why the session must end; empty while it need not."""
        if self._sealer.worn or now >= self._began_at + EPOCH_S_MAX:
            return "its keys are used up, and the peer has not agreed on new ones"
        if self.step is Step.TURNED and self._tries > FOLLOW_TRIES:
            # Or the key before could never be erased.
            return "the peer does not use the keys that were agreed on"
        return ""

    def begin(self, now: float) -> None:
        """Offer a fresh key, unless that is done already."""
        if self.step is Step.RESTING:
            self._make_ephemeral()
            self._go_to(Step.OFFERED, now)

    def outgoing(self) -> list[bytes]:
        """Give the frame to be sent now, if any is due; it goes over every connection."""
        if not self.due:
            return []
        self.due = False
        if self.step is Step.OFFERED:
            return [key_frame(KeyVerb.OFFER, self.epoch + 1, self._public)]
        if self.step is Step.AGREED and self._agreed is not None:
            return [key_frame(KeyVerb.ANSWER, self.epoch + 1, self._public + self._agreed.proof)]
        if self.step is Step.TURNED:
            return [key_frame(KeyVerb.TURNED, self.epoch)]
        # Whatever is sealed shows the peer that this end has turned.
        return [b""]

    def receive(self, verb: int, epoch: int, piece: memoryview, now: float) -> None:
        """Take one frame of channel KEYS.

        Raises:
            MalformedFrame: The peer breaks the rules, or has other keys; the session must end.
        """
        if verb == KeyVerb.TURNED:
            # Its record has moved the opener, and `opened` this end. It has not heard that.
            self.due = self.due or (self.step is Step.RESTING and epoch == self.epoch)
            return
        if verb not in (KeyVerb.OFFER, KeyVerb.ANSWER):
            self.counts["rehandshake_stale"] += 1
            return
        public, proof = bytes(piece[:KEY_BYTES]), bytes(piece[KEY_BYTES:])
        if len(public) != KEY_BYTES or len(proof) != (PROOF_BYTES if verb == KeyVerb.ANSWER else 0):
            raise MalformedFrame(f"a re-handshake holds {len(piece)} bytes")
        if epoch != self.epoch + 1 or self.step is Step.TURNED:
            if epoch > self.epoch + 1:
                raise MalformedFrame("a re-handshake skips an epoch")
            self.counts["rehandshake_stale"] += 1
            return
        if verb == KeyVerb.OFFER:
            self._take_offer(public, now)
        else:
            self._take_answer(public, proof, now)

    def opened(self, now: float) -> None:
        """Look whether a record that was just opened has shown that the peer seals with the new keys."""
        if self.step is Step.AGREED and self._opener.epoch > self.epoch:
            self._turn(now)
            self.step, self.due = Step.RESTING, True
        elif self.step is Step.TURNED and self._opener.epoch == self.epoch:
            self.step = Step.RESTING

    def erase(self) -> None:
        """Overwrite the root, and forget everything else."""
        self._bond.root[:] = bytes(len(self._bond.root))
        self._forget_agreed()
        self._ephemeral = None
        self.step, self.due = Step.RESTING, False

    def _take_offer(self, public: bytes, now: float) -> None:
        if self.step is Step.RESTING:
            if now < self._began_at + YOUNG_S:
                self.counts["rehandshake_stale"] += 1
                return
            self._make_ephemeral()
        if self.step is Step.AGREED:
            self._same_key(public)
            # It has not heard our answer.
            self.due = True
            return
        self._agree(public)
        self._go_to(Step.AGREED, now)

    def _take_answer(self, public: bytes, proof: bytes, now: float) -> None:
        if self.step is Step.RESTING:
            raise MalformedFrame("a re-handshake is answered that nobody offered")
        if self.step is Step.AGREED:
            self._same_key(public)
        else:
            self._agree(public)
        if self._agreed is None or not hmac.compare_digest(proof, self._agreed.expected):
            raise MalformedFrame("the two ends of a re-handshake have different keys")
        self._turn(now)
        self._go_to(Step.TURNED, now)

    def _same_key(self, public: bytes) -> None:
        if public != self._peer_public:
            raise MalformedFrame("a re-handshake offers two keys for one epoch")

    def _make_ephemeral(self) -> None:
        self._ephemeral = ciphers.X25519PrivateKey.generate()
        self._public = self._ephemeral.public_key().public_bytes_raw()

    def _go_to(self, step: Step, now: float) -> None:
        self.step, self.due = step, True
        self._repeat_s, self._tries = REPEAT_S, 0
        self._repeat_at = now + REPEAT_S

    def _agree(self, peer_public: bytes) -> None:
        """Derive the next keys, forget the ephemeral secret, and let the opener expect them."""
        bond, ephemeral = self._bond, self._ephemeral
        if ephemeral is None:
            raise MalformedFrame("a re-handshake has lost its ephemeral key")
        publics = (self._public, peer_public) if bond.initiator else (peer_public, self._public)
        transcript = self.bind(bond.transcript, self.epoch + 1, *publics)
        ours, theirs = _exchange(ephemeral, bond.peer_static), _exchange(bond.static, peer_public)
        es, se = (ours, theirs) if bond.initiator else (theirs, ours)
        there, back, root, proof = self.derive(bond.root, (_exchange(ephemeral, peer_public), es, se), transcript)
        sending, receiving = (there, back) if bond.initiator else (back, there)
        proofs = [_extract(proof, role)[:PROOF_BYTES] for role in (b"initiator", b"responder")]
        own, expected = proofs if bond.initiator else reversed(proofs)
        self._peer_public, self._ephemeral = peer_public, None
        self._agreed = Agreed(bytearray(root), transcript, bytearray(sending), own, expected)
        self._opener.expect(receiving)

    def _turn(self, now: float) -> None:
        """Seal with the new keys from now on; the old root and the old key are overwritten."""
        agreed, bond = self._agreed, self._bond
        if agreed is None:
            return
        self._sealer.renew(agreed.sending, now)
        bond.root[:] = agreed.root
        bond.transcript = agreed.transcript
        self._forget_agreed()
        self._began_at = now
        self.counts["rehandshakes"] += 1

    def _forget_agreed(self) -> None:
        if self._agreed is not None:
            for each in (self._agreed.root, self._agreed.sending):
                each[:] = bytes(len(each))
        self._agreed, self._public, self._peer_public = None, b"", b""

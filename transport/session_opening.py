"""How a session opens: its handshake messages, sent again until they are answered. Without I/O.

    handshake   session id 8 | 0xFF | number 1 | Noise message

A forged message costs no more than the look at it, and the genuine one still finds its session. A repeated one fetches
the very same answer, or none.
"""

import copy
import enum
import os

from atoll.transport.errors import MalformedFrame, PeerError, UsageError
from atoll.transport.identity import NODE_ID_BYTES, NodeId
from atoll.transport.keys import RESET_TOKEN_BYTES, NodeKey
from atoll.transport.noise import KEY_BYTES, PAYLOAD_BYTES_MAX, TAG_BYTES, Handshake

VERSION = 1
SESSION_ID_BYTES = 8
HANDSHAKE = 0xFF
"""What stands in place of a key phase."""
_PADDING = bytes(RESET_TOKEN_BYTES)
"""In message 1: whoever sends it with another's address must not fetch more than it sends."""
_PROOF_OVERHEAD_BYTES = SESSION_ID_BYTES + 2 + KEY_BYTES + TAG_BYTES + NODE_ID_BYTES + TAG_BYTES
"""What handshake message 3 holds beside the grant."""


class Unheard(enum.Enum):
    """Why a handshake message is no news; the value is the name of its counter."""

    REPEATED = "handshake_repeated"
    UNEXPECTED = "handshake_unexpected"
    FORGED = "handshake_forged"


def session_id_of(record: bytes) -> bytes:
    """Tell which session a record belongs to.

    Raises:
        MalformedFrame: Too short to belong to any.
    """
    if len(record) <= SESSION_ID_BYTES:
        raise MalformedFrame(f"a record of {len(record)} bytes belongs to no session")
    return record[:SESSION_ID_BYTES]


def opens_session(record: bytes) -> bool:
    """Tell whether this is a first handshake message, which a responder may answer with a new session."""
    return len(record) > SESSION_ID_BYTES + 2 and record[SESSION_ID_BYTES : SESSION_ID_BYTES + 2] == b"\xff\x00"


class Opening:
    """One end of a session's handshake."""

    def __init__(self, handshake: Handshake, session_id: bytes, proof: bytes = b"") -> None:
        self.handshake = handshake
        self.session_id = session_id
        self.proof = proof
        """What this end says behind its key: the responder its reset token, the initiator its id and its grant."""
        self.written = b""
        """The last record that this end has written."""
        self.early: list[bytes] = []
        """Sealed records that went out with message 3, and go out again with it."""
        self._read = b""

    @classmethod
    def dial(cls, key: NodeKey, peer: NodeId, grant: bytes, record_bytes_max: int) -> "Opening":
        """Begin one to `peer`.

        Raises:
            UsageError: The grant does not fit into one record.
        """
        if len(grant) > min(record_bytes_max - _PROOF_OVERHEAD_BYTES, PAYLOAD_BYTES_MAX - NODE_ID_BYTES):
            raise UsageError(f"a grant of {len(grant)} bytes does not fit into a record of {record_bytes_max}")
        session_id = os.urandom(SESSION_ID_BYTES)
        prologue = _prologue(session_id, peer)
        handshake = Handshake(initiator=True, static=key.curve_secret, prologue=prologue, peer=peer.curve_key)
        return cls(handshake, session_id, key.node_id + grant)

    @classmethod
    def answer(cls, key: NodeKey, session_id: bytes, *, resets: bool = True) -> "Opening":
        """Be ready for the one that `session_id` opens; `resets`: say the token of its reset."""
        prologue = _prologue(session_id, key.node_id)
        handshake = Handshake(initiator=False, static=key.curve_secret, prologue=prologue)
        return cls(handshake, session_id, key.reset_token(session_id) if resets else b"")

    def write(self) -> bytes:
        """Give this end's next message as a record."""
        number = self.handshake.turn
        message = self.handshake.write(self.proof if number else _PADDING)
        self.written = self.session_id + bytes([HANDSHAKE, number]) + message
        return self.written

    def read(self, record: bytes) -> bytes | Unheard:
        """Give the payload of the other end's next message, or why it is none."""
        if record == self._read:
            return Unheard.REPEATED
        handshake = self.handshake
        expected = None if handshake.my_turn or handshake.complete else handshake.turn
        if len(record) < SESSION_ID_BYTES + 2 or record[SESSION_ID_BYTES + 1] != expected:
            return Unheard.UNEXPECTED
        # On a copy: a forged message must not spoil the state that the genuine one needs.
        trial = copy.copy(handshake)
        try:
            payload = trial.read(record[SESSION_ID_BYTES + 2 :])
        except PeerError:
            return Unheard.FORGED
        self.handshake, self._read = trial, record
        return payload


def _prologue(session_id: bytes, responder: NodeId) -> bytes:
    """Give what both ends must agree on; the id, so that nobody on the path can give the two ends different ones."""
    return b"atoll session" + bytes([VERSION]) + session_id + responder

"""Tells a peer that its session is known here no more; by silence alone it would find out after many seconds.

    a record of a session that this node does not know --> reset: session id 8 | FF | 3 | token 16 --> over at once

It is the stateless reset of RFC 9000, section 10.3. The token follows from the node's key and the session's id, so a
node that was started again can make it; the peer had it in handshake message 2; nobody else knows it while the session
lives. A reset is never longer than what it answers, and answers no other one.
"""

from atoll.transport.keys import RESET_TOKEN_BYTES, NodeKey
from atoll.transport.session_opening import HANDSHAKE, SESSION_ID_BYTES

RESETS_PER_S = 64
"""Anybody can send records of no session."""
_MARK = bytes([HANDSHAKE, 3])
_MARK_ENDS = SESSION_ID_BYTES + len(_MARK)
RESET_BYTES = _MARK_ENDS + RESET_TOKEN_BYTES


def is_reset(record: bytes) -> bool:
    """Tell whether a record is a reset, genuine or not."""
    return record[SESSION_ID_BYTES:_MARK_ENDS] == _MARK


def token_of(reset: bytes) -> bytes:
    """Give the token that a reset shows."""
    return reset[_MARK_ENDS:]


class Resets:
    """The resets of one node; the time comes in."""

    def __init__(self, key: NodeKey) -> None:
        self._key = key
        self._second = 0
        self._sent = 0
        """In that second."""

    def answer(self, record: bytes, now: float) -> bytes | None:
        """Give the answer to a record of a session that this node does not know; None: there is none."""
        if is_reset(record) or len(record) < RESET_BYTES:
            return None
        if int(now) != self._second:
            self._second, self._sent = int(now), 0
        if self._sent >= RESETS_PER_S:
            return None
        self._sent += 1
        session_id = record[:SESSION_ID_BYTES]
        return session_id + _MARK + self._key.reset_token(session_id)

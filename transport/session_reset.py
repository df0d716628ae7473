"""Tells a peer that its session is known here no more; by silence alone it would find out after many seconds.

    a record of a session that this node does not know --> reset: session id 8 | FF | 3 | token 16 --> over at once

It is the stateless reset of RFC 9000, section 10.3. The token follows from the node's key and the session's id, so a
node that was started again can make it; the peer had it in handshake message 2; nobody else knows it while the session
lives. A reset is never longer than what it answers, and answers no other one.

Whoever carries message 1 reads the session's id, and could fetch the token before that message comes: with a record
that belongs to no session yet, or with a handshake of his own. So a token that was told lately is told in no further
session: that one has none, and nobody can reset it.
"""

import math
from collections import OrderedDict

from atoll.transport.keys import RESET_TOKEN_BYTES, NodeKey
from atoll.transport.session_opening import HANDSHAKE, SESSION_ID_BYTES

RESETS_PER_S = 64
"""Anybody can send records of no session."""
TOLD_S = 30.0
"""For which a node knows what it has told; the id of a session is known to others for 5 s before it must stand."""
TOLD_MAX = 4096
"""Tokens told in that time; while there are more, none is told."""
GOODBYE_S = 3.0
"""No reset for a session that ended in good order so lately: over another path it could overtake the reason."""
ENDED_MAX = 1024
"""Such sessions that are kept in mind; as many as a node has."""
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
        self._told: OrderedDict[bytes, float] = OrderedDict()
        """Sessions whose token was told lately, and when; the oldest first."""
        self._ended: OrderedDict[bytes, float] = OrderedDict()
        """Sessions that ended in good order, and when; the oldest first."""

    def begins(self, session_id: bytes, now: float) -> bool:
        """Note that a session is answered; tells whether its token may be told: nobody else has been told it."""
        return not self._was_told(session_id, now) and self._tell(session_id, now)

    def ends(self, session_id: bytes, now: float) -> None:
        """Note that a session is over, and that its peer has been told why, or knows."""
        self._ended[session_id] = now
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)

    def answer(self, record: bytes, now: float) -> bytes | None:
        """Give the answer to a record of a session that this node does not know; None: there is none."""
        if is_reset(record) or len(record) < RESET_BYTES:
            return None
        if int(now) != self._second:
            self._second, self._sent = int(now), 0
        session_id = record[:SESSION_ID_BYTES]
        if now < self._ended.get(session_id, -math.inf) + GOODBYE_S:
            return None
        if self._sent >= RESETS_PER_S or not self._tell(session_id, now):
            return None
        self._sent += 1
        return session_id + _MARK + self._key.reset_token(session_id)

    def _was_told(self, session_id: bytes, now: float) -> bool:
        while self._told and next(iter(self._told.values())) <= now - TOLD_S:
            self._told.popitem(last=False)
        return session_id in self._told

    def _tell(self, session_id: bytes, now: float) -> bool:
        """Note that a token is told; False: it cannot be kept in mind, and must not be told."""
        if not self._was_told(session_id, now) and len(self._told) >= TOLD_MAX:
            return False
        self._told[session_id] = now
        self._told.move_to_end(session_id)
        return True

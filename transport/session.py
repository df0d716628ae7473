"""End-to-end sessions: sealed messages between two nodes, whatever lies between. Bytes in, bytes out, no I/O.

    dialling  --message 2-->  proving  --a sealed record of the peer-->  open
    answering --message 3, the judge agrees-->  open
    any       --close(), refusal, silence, time-out-->  closed

Records, at most `record_bytes_max` long (big-endian):

    handshake   session id 8 | 0xFF | number 1 | Noise message
    sealed      session id 8 | key phase 1 | path 1 | counter 8 | ciphertext and tag

The header is the associated data; the nonce is path and counter, strictly rising per path, so a replayed, reordered or
altered record is counted and never delivered. Inside are frames `kind 1 | flags 1 | message 4 | offset 4 | length 4`:
small messages that wait together share a record, large ones are cut, and one that lost a piece on the way is dropped
whole. Nothing of the initiator takes effect before message 3 has proved its key and its grant.

Key phases go on by a one-way ratchet: old keys are erased, so they cannot be derived from newer ones. The reverse, a
fresh agreement that heals a stolen key, is a new session.
"""

import copy
import enum
import hmac
import os
import struct
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.transport.base import MESSAGE_BYTES_MAX, QUEUE_BYTES_MAX
from atoll.transport.errors import Congested, Expired, MalformedFrame, PeerError, Refused, UsageError
from atoll.transport.identity import NODE_ID_BYTES, NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.noise import TAG_BYTES, Handshake

VERSION = 1
SESSION_ID_BYTES = 8
HANDSHAKE_S = 5.0
"""A handshake that takes longer has no partner; three losses in a row still fit."""
RESEND_S = 1.0
"""How long an unanswered handshake message waits before it is sent again."""
IDLE_S = 300.0
"""A session nothing was received on for this long is closed; another costs 1.5 round trips."""
PHASE_S = 900.0
PHASE_RECORDS = 2**20
OLD_KEY_S = 5.0
"""How long a record of the phase before is still opened: what was in flight at the change."""
PHASES = 128
REASON_CHARACTERS_MAX = 200

_HANDSHAKE = 0xFF
_SEALED = struct.Struct(">8sBBQ")
_FRAME = struct.Struct(">BBIII")
_FIRST, _LAST = 1, 2
RECORD_BYTES_MIN = 512
RECORD_OVERHEAD_BYTES = _SEALED.size + TAG_BYTES + _FRAME.size

Judge: TypeAlias = Callable[[NodeId, bytes], Any]


class Channel(enum.IntEnum):
    """What a frame belongs to; later versions add streams."""

    CLOSE = 0
    CALLS = 1


class State(enum.Enum):
    """Where a session stands; see the diagram above."""

    DIALLING = "dialling"
    PROVING = "proving"
    ANSWERING = "answering"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Established:
    """The peer has proved its key; `verdict` is what the judge returned (None at the initiator)."""

    peer: NodeId
    verdict: Any


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """One whole message of the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The session is over; the last event."""

    reason: str
    by_peer: bool


SessionEvent: TypeAlias = Established | MessageArrived | Closed


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


class _Direction:
    """One direction's keys: the present phase, and for a while the one before."""

    def __init__(self, key: bytes, now: float) -> None:
        self._key = key
        self.cipher = AESGCM(key)
        self.phase = 0
        self.since = now
        self.records = 0
        self.old: AESGCM | None = None

    def advance(self, now: float) -> None:
        self.old = self.cipher
        self._key = self.next_key()
        self.cipher = AESGCM(self._key)
        self.phase = (self.phase + 1) % PHASES
        self.since, self.records = now, 0

    def next_key(self) -> bytes:
        return hmac.digest(self._key, b"atoll next key phase", "sha256")

    def forget_old(self, now: float) -> None:
        if self.old is not None and now >= self.since + OLD_KEY_S:
            self.old = None


class Session:
    """One end of a session; made by `dial` or `answer`. All times are monotonic seconds and come in."""

    def __init__(self, *, handshake: Handshake, session_id: bytes, record_bytes_max: int, now: float) -> None:
        if record_bytes_max < RECORD_BYTES_MIN:
            raise UsageError(f"a record needs at least {RECORD_BYTES_MIN} bytes, not {record_bytes_max}")
        self.session_id = session_id
        self.state = State.DIALLING if handshake.initiator else State.ANSWERING
        self.peer: NodeId | None = None
        self.path = 0
        self._handshake = handshake
        self._record_bytes_max = record_bytes_max
        self._opening = b""
        self._judge: Judge | None = None
        self._read_before = b""
        self._written = b""
        self._sending: _Direction | None = None
        self._receiving: _Direction | None = None
        self._counter = 0
        self._seen: dict[int, int] = {}
        self._records: deque[bytes] = deque()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._queued_bytes = 0
        self._message_number = 0
        self._offset = 0
        self._partial = bytearray()
        self._partial_number: int | None = None
        self._now = now
        self._dialled_at = now
        self._resend_at = now + RESEND_S
        self._heard_at = now
        self._confirm = False
        self._counts: Counter[str] = Counter()

    @classmethod
    def dial(cls, *, key: NodeKey, peer: NodeId, grant: bytes, record_bytes_max: int, now: float) -> "Session":
        """Begin a session to `peer`, whose id is all one needs; `grant` is shown in message 3, forward secret."""
        handshake = Handshake(initiator=True, static=key.curve_secret, prologue=_prologue(peer), peer=peer.curve_key)
        session = cls(
            handshake=handshake, session_id=os.urandom(SESSION_ID_BYTES), record_bytes_max=record_bytes_max, now=now
        )
        session.peer = peer
        session._opening = key.node_id + grant
        session._write_handshake()
        return session

    @classmethod
    def answer(cls, *, key: NodeKey, judge: Judge, session_id: bytes, record_bytes_max: int, now: float) -> "Session":
        """Be ready for the session that `session_id` opens; `judge(peer, grant)` raises `Refused` or `Expired`."""
        handshake = Handshake(initiator=False, static=key.curve_secret, prologue=_prologue(key.node_id))
        session = cls(handshake=handshake, session_id=session_id, record_bytes_max=record_bytes_max, now=now)
        session._judge = judge
        return session

    def send(self, message: bytes) -> None:
        """Queue one message; `outgoing` gives its records once the keys are there.

        Raises:
            UsageError: Longer than `MESSAGE_BYTES_MAX`.
            Congested: The queue is full; the message was not taken.
            Expired: The session is closed.
        """
        if len(message) > MESSAGE_BYTES_MAX:
            raise UsageError(f"a message has at most {MESSAGE_BYTES_MAX} bytes, this one {len(message)}")
        if self.state is State.CLOSED:
            raise Expired("this session is closed")
        if self._queued_bytes + len(message) > QUEUE_BYTES_MAX:
            self._counts["congested"] += 1
            raise Congested("the session's queue is full: the path is slower than its sender")
        self._queue.append((self._message_number, message))
        self._message_number = (self._message_number + 1) % 2**32
        self._queued_bytes += len(message)

    def outgoing(self) -> list[bytes]:
        """Give the records to put on the path now, in order; each is given once."""
        if self._sending is not None and self.state is not State.CLOSED:
            while self._queue:
                self._records.append(self._seal(self._next_frames()))
            if self._confirm:
                self._records.append(self._seal(b""))
            self._confirm = False
        records = list(self._records)
        self._records.clear()
        return records

    def receive(self, record: bytes, now: float) -> list[SessionEvent]:
        """Take one record from the path. What is malformed or forged is counted and changes nothing."""
        self._now = now
        if self.state is State.CLOSED:
            self._counts["after_close"] += 1
            return []
        if len(record) > self._record_bytes_max or record[:SESSION_ID_BYTES] != self.session_id:
            self._counts["malformed"] += 1
            return []
        if record[SESSION_ID_BYTES : SESSION_ID_BYTES + 1] == bytes([_HANDSHAKE]):
            return self._receive_handshake(record)
        return self._receive_sealed(record)

    def close(self, reason: str) -> None:
        """Say goodbye; the peer learns the reason if the keys are there. `outgoing` gives the last record."""
        if self.state is State.CLOSED:
            return
        if self._sending is not None:
            text = reason[:REASON_CHARACTERS_MAX].encode()
            frame = _FRAME.pack(Channel.CLOSE, _FIRST | _LAST, 0, 0, len(text)) + text
            self._records.append(self._seal(frame))
        self._end()

    def tick(self, now: float) -> list[SessionEvent]:
        """Do what time asks for: send again, give up, forget old keys. Call it at `deadline`."""
        self._now = now
        if self.state is State.CLOSED:
            return []
        if self.state is not State.OPEN and now >= self._dialled_at + HANDSHAKE_S:
            return self._closed(f"no handshake within {HANDSHAKE_S:g} s", by_peer=False)
        if now >= self._heard_at + IDLE_S:
            return self._closed(f"nothing was heard for {IDLE_S:g} s", by_peer=False)
        if self._receiving is not None:
            self._receiving.forget_old(now)
        if self.state in (State.DIALLING, State.PROVING) and now >= self._resend_at:
            self._records.append(self._written)
            self._counts["handshake_resent"] += 1
            self._resend_at = now + RESEND_S
        return []

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, at the latest."""
        if self.state is State.CLOSED:
            return None
        if self.state is State.OPEN:
            old = self._receiving is not None and self._receiving.old is not None
            return self._receiving.since + OLD_KEY_S if old and self._receiving else self._heard_at + IDLE_S
        if self.state is State.ANSWERING:
            return self._dialled_at + HANDSHAKE_S
        return min(self._resend_at, self._dialled_at + HANDSHAKE_S)

    def statistics(self) -> dict[str, int]:
        """Counters: records sealed and opened, replayed, forged, malformed, lost messages."""
        return dict(self._counts)

    # The handshake

    def _write_handshake(self, payload: bytes = b"") -> None:
        number = {State.DIALLING: 0, State.ANSWERING: 1, State.PROVING: 2}[self.state]
        message = self._handshake.write(payload)
        self._written = self.session_id + bytes([_HANDSHAKE, number]) + message
        self._records.append(self._written)

    def _receive_handshake(self, record: bytes) -> list[SessionEvent]:
        if record == self._read_before:
            # Our answer was lost; the same bytes again give away nothing new.
            if self.state is State.OPEN:
                self._confirm = True
            else:
                self._records.append(self._written)
            return []
        expected = {State.DIALLING: 1, State.ANSWERING: 2 if self._written else 0}.get(self.state)
        if len(record) < SESSION_ID_BYTES + 2 or record[SESSION_ID_BYTES + 1] != expected:
            self._counts["handshake_unexpected"] += 1
            return []
        # On a copy: a forged message must not spoil the state that the genuine one needs.
        trial = copy.copy(self._handshake)
        try:
            payload = trial.read(record[SESSION_ID_BYTES + 2 :])
        except PeerError:
            self._counts["handshake_forged"] += 1
            return []
        self._handshake, self._read_before, self._heard_at = trial, record, self._now
        if self.state is State.DIALLING:
            self.state = State.PROVING
            self._write_handshake(self._opening)
            self._resend_at = self._now + RESEND_S
            self._take_keys()
            return []
        if not self._handshake.complete:
            self._write_handshake()
            return []
        return self._admit(payload)

    def _admit(self, payload: bytes) -> list[SessionEvent]:
        """Decide about the initiator: its id must give the very key that the handshake proved."""
        self._take_keys()
        try:
            peer = NodeId(payload[:NODE_ID_BYTES])
            if peer.curve_key != self._handshake.peer:
                raise Refused("the node id does not belong to the key of this handshake")
            verdict = self._judge(peer, payload[NODE_ID_BYTES:]) if self._judge is not None else None
        except (PeerError, Expired) as error:
            self._counts["refused"] += 1
            self.close(str(error))
            return [Closed(str(error), by_peer=False)]
        self.peer, self.state, self._confirm = peer, State.OPEN, True
        return [Established(peer, verdict)]

    def _take_keys(self) -> None:
        sending, receiving = self._handshake.split()
        self._sending, self._receiving = _Direction(sending, self._now), _Direction(receiving, self._now)

    # Sealed records

    def _next_frames(self) -> bytes:
        room = self._record_bytes_max - _SEALED.size - TAG_BYTES
        parts: list[bytes] = []
        while self._queue and room > _FRAME.size:
            number, message = self._queue[0]
            piece = message[self._offset : self._offset + room - _FRAME.size]
            end = self._offset + len(piece)
            flags = (_FIRST if self._offset == 0 else 0) | (_LAST if end == len(message) else 0)
            parts += [_FRAME.pack(Channel.CALLS, flags, number, self._offset, len(piece)), piece]
            room -= _FRAME.size + len(piece)
            if end < len(message):
                self._offset = end
                break
            self._queue.popleft()
            self._queued_bytes -= len(message)
            self._offset = 0
        return b"".join(parts)

    def _seal(self, plain: bytes) -> bytes:
        direction = self._sending
        if direction is None:
            raise UsageError("nothing can be sealed before the handshake")
        if direction.records >= PHASE_RECORDS or self._now >= direction.since + PHASE_S:
            direction.advance(self._now)
            direction.old = None
        header = _SEALED.pack(self.session_id, direction.phase, self.path, self._counter)
        sealed = direction.cipher.encrypt(_nonce(self.path, self._counter), plain, header)
        self._counter += 1
        direction.records += 1
        self._counts["records_sealed"] += 1
        return header + sealed

    def _receive_sealed(self, record: bytes) -> list[SessionEvent]:
        if self._receiving is None or len(record) < _SEALED.size + TAG_BYTES:
            self._counts["early" if self._receiving is None else "malformed"] += 1
            return []
        _, phase, path, counter = _SEALED.unpack_from(record)
        if counter <= self._seen.get(path, -1):
            self._counts["replayed"] += 1
            return []
        plain = self._open(phase, path, counter, record)
        if plain is None:
            self._counts["forged"] += 1
            return []
        self._seen[path] = counter
        self._heard_at = self._now
        self._counts["records_opened"] += 1
        events: list[SessionEvent] = []
        goodbye = len(plain) >= _FRAME.size and plain[0] == Channel.CLOSE
        if self.state is State.PROVING and not goodbye and self.peer is not None:
            self.state = State.OPEN
            events.append(Established(self.peer, None))
        try:
            self._take_frames(plain, events)
        except MalformedFrame:
            # The peer's keys made it, so the peer itself is broken: better no session than a strange one.
            self._counts["malformed"] += 1
            self.close("a record held frames that make no sense")
            events.append(Closed("the peer sent frames that make no sense", by_peer=False))
        return events

    def _open(self, phase: int, path: int, counter: int, record: bytes) -> bytes | None:
        direction = self._receiving
        if direction is None or (path != 0 and path not in self._seen and len(self._seen) >= PHASES):
            return None
        advanced = phase == (direction.phase + 1) % PHASES
        if phase == direction.phase:
            cipher: AESGCM | None = direction.cipher
        elif advanced:
            cipher = AESGCM(direction.next_key())
        else:
            cipher = direction.old if phase == (direction.phase - 1) % PHASES else None
        if cipher is None:
            return None
        try:
            plain = cipher.decrypt(_nonce(path, counter), record[_SEALED.size :], record[: _SEALED.size])
        except InvalidTag:
            return None
        if advanced:
            direction.advance(self._now)
        return plain

    def _take_frames(self, plain: bytes, events: list[SessionEvent]) -> None:
        position = 0
        while position < len(plain):
            if position + _FRAME.size > len(plain):
                raise MalformedFrame("a frame header is cut off")
            kind, flags, number, offset, length = _FRAME.unpack_from(plain, position)
            position += _FRAME.size
            piece = plain[position : position + length]
            position += length
            if len(piece) != length:
                raise MalformedFrame("a frame is cut off")
            if kind == Channel.CLOSE:
                events += self._closed(piece.decode(errors="replace")[:REASON_CHARACTERS_MAX], by_peer=True)
                return
            if kind != Channel.CALLS:
                self._counts["unknown_channel"] += 1
                continue
            self._take_piece(flags, number, offset, piece, events)

    def _take_piece(self, flags: int, number: int, offset: int, piece: bytes, events: list[SessionEvent]) -> None:
        if flags & _FIRST:
            if self._partial_number is not None:
                self._counts["messages_lost"] += 1
            self._partial, self._partial_number = bytearray(), number
        if number != self._partial_number or offset != len(self._partial):
            if self._partial_number is not None:
                self._counts["messages_lost"] += 1
            self._partial, self._partial_number = bytearray(), None
            return
        if offset + len(piece) > MESSAGE_BYTES_MAX:
            raise MalformedFrame(f"a message is longer than {MESSAGE_BYTES_MAX} bytes")
        self._partial += piece
        if flags & _LAST:
            events.append(MessageArrived(bytes(self._partial)))
            self._counts["messages"] += 1
            self._partial, self._partial_number = bytearray(), None

    def _closed(self, reason: str, *, by_peer: bool) -> list[SessionEvent]:
        self._end()
        return [Closed(reason, by_peer)]

    def _end(self) -> None:
        self.state = State.CLOSED
        self._sending = self._receiving = None
        self._queue.clear()
        self._queued_bytes = 0
        self._partial = bytearray()


def _prologue(responder: NodeId) -> bytes:
    return b"atoll session" + bytes([VERSION]) + responder


def _nonce(path: int, counter: int) -> bytes:
    return path.to_bytes(4, "big") + counter.to_bytes(8, "big")

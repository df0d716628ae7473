"""End-to-end sessions: sealed messages between two nodes, whatever lies between. Bytes in, bytes out, no I/O.

    dialling  --message 2-->  proving  --a sealed record of the peer-->  open
    answering --message 3, the judge agrees-->  open
    any       --close(), refusal, silence, time-out-->  closed

Records begin with the session's id, so that whoever reads a path can tell whose they are; this end sends none longer
than `record_bytes_max`:

    handshake   session id 8 | 0xFF | number 1 | Noise message                                    (`session_opening.py`)
    sealed      session id 8 | epoch and key phase 1 | path 1 | counter 8 | ciphertext and tag    (`records.py`)

Inside the sealed ones are frames: of calls (`fragments.py`), of streams and paths (`multipath.py`), and of fresh keys
(`rehandshake.py`). What is forged, altered, replayed or late is counted and changes nothing. Nothing of the initiator
takes effect before message 3 has proved its key and its grant. The initiator's first messages travel with its message
3, and are sent again with it.

Which path a record goes over is decided by the `PathSet`. Before a path is in use, and when the last one was lost,
records go over every connection there is.
"""

import hmac
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from atoll.transport.base import MESSAGE_BYTES_MAX
from atoll.transport.errors import Congested, Expired, MalformedFrame, PeerError, Refused, UsageError
from atoll.transport.fragments import Assembly, Channel, Outbox, frame, frames_of
from atoll.transport.identity import NODE_ID_BYTES, NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.multipath import RECORDS_MAX, Multipath, Via
from atoll.transport.path_set import PathSet, Rank
from atoll.transport.printable import printable
from atoll.transport.records import EVERYWHERE, HEADER, OVERHEAD_BYTES, PATHS_MAX, Fault
from atoll.transport.session_events import Closed, Established, MessageArrived, SessionEvent, State
from atoll.transport.session_keys import SessionKeys
from atoll.transport.session_opening import HANDSHAKE, SESSION_ID_BYTES, Opening, Unheard
from atoll.transport.session_reset import is_reset, token_of
from atoll.transport.streams import StreamSet

HANDSHAKE_S = 5.0
"""A handshake that takes longer has no partner; three losses in a row still fit."""
RESEND_S = 0.5
"""How long an unanswered handshake message waits before it is sent again."""
IDLE_S = 300.0
"""A session that nobody calls over for this long, and that has no stream, is closed; another costs 1.5 round trips."""
CONFIRM_S = 1.0
"""Who only listens says so this often while no path is in use; paths have probes for that."""
EARLY_BYTES_MAX = 65_536
"""What may be under way before the responder has shown that it accepts us; kept, to be sent again with message 3."""
REASON_BYTES_MAX = 200

RECORD_BYTES_MIN = 512
RECORD_BYTES_MAX = 65_536
"""What is taken from any path; the two ends may cut what they send differently."""

_COUNTERS = (
    "records_sealed",
    "records_opened",
    "messages",
    "congested",
    "early",
    "replayed",
    "forged",
    "worn",
    "malformed",
    "unknown_channel",
    "after_close",
    "handshake_repeated",
    "handshake_resent",
    "handshake_unexpected",
    "handshake_forged",
    "reset_forged",
    "refused",
)

Judge: TypeAlias = Callable[[NodeId, bytes], Any]


_NOWHERE = Via(Rank.SIGNALING, "one path")
"""For ends with one connection, which need not tell paths apart."""


class Session:
    """One end of a session; made by `dial` or `answer`. All times are monotonic seconds and come in."""

    multipath_kind: ClassVar[type[Multipath]] = Multipath
    keys_kind: ClassVar[type[SessionKeys]] = SessionKeys

    def __init__(self, *, opening: Opening, record_bytes_max: int, now: float) -> None:
        if not RECORD_BYTES_MIN <= record_bytes_max <= RECORD_BYTES_MAX:
            raise UsageError(f"records have {RECORD_BYTES_MIN} to {RECORD_BYTES_MAX} bytes, not {record_bytes_max}")
        initiator = opening.handshake.initiator
        self.session_id = opening.session_id
        self.state = State.DIALLING if initiator else State.ANSWERING
        self.peer: NodeId | None = None
        self._opening = opening
        self._multipath = self.multipath_kind(initiator)
        self._record_bytes_max = record_bytes_max
        self._judge: Judge | None = None
        self._keys: SessionKeys | None = None
        """From the handshake to the end."""
        self._reset_token = b""
        """The responder's: who shows it knows this session no more."""
        self._records: deque[tuple[int | None, bytes]] = deque()
        self._outbox = Outbox()
        self._assemblies = [Assembly() for _ in range(PATHS_MAX)]
        """One a path: each keeps its own order, and what a slow one brings late is not lost."""
        self._now = now
        self._dialled_at = now
        self._resend_at = now + RESEND_S
        self._heard_at = now
        self._used_at = now
        """When something but signs of life was sent or came in."""
        self._sealed_at = now
        self._confirm = False
        self._counts = Counter(dict.fromkeys(_COUNTERS, 0))

    @classmethod
    def dial(cls, *, key: NodeKey, peer: NodeId, grant: bytes, record_bytes_max: int, now: float) -> "Session":
        """Begin a session to `peer`, whose id is all one needs; `grant` is shown in message 3, forward secret.

        Raises:
            UsageError: The grant does not fit into one record.
        """
        opening = Opening.dial(key, peer, grant, record_bytes_max)
        session = cls(opening=opening, record_bytes_max=record_bytes_max, now=now)
        session.peer = peer
        session._write_handshake()
        return session

    @classmethod
    def answer(
        cls, *, key: NodeKey, judge: Judge, session_id: bytes, record_bytes_max: int, now: float, resets: bool = True
    ) -> "Session":
        """Be ready for the session that `session_id` opens; `judge(peer, grant)` raises `Refused` or `Expired`.

        `resets`: the peer is told how to know one (`Resets.begins`).
        """
        opening = Opening.answer(key, session_id, resets=resets)
        session = cls(opening=opening, record_bytes_max=record_bytes_max, now=now)
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
        try:
            self._outbox.put(message)
        except Congested:
            self._counts["congested"] += 1
            raise

    def outgoing(
        self, now: float, records_max: int = RECORDS_MAX, *, full: bool = False
    ) -> list[tuple[int | None, bytes]]:
        """Give the records to send now, in order, each with the number of its path; None: over every connection.

        Each is given once. At most `records_max` hold bytes of streams: call it again while it gives something and the
        path in use takes it. When that is `full`, only signs of life and answers are given; calls wait.
        """
        self._now = now
        if self._keys is not None and not self._keys.worn:
            try:
                self._seal_all(self._keys, 0 if full else records_max, full=full)
            except Expired:
                # `tick` ends the session, and says why.
                self._counts["worn"] += 1
        records = list(self._records)
        self._records.clear()
        return records

    def _seal_all(self, keys: SessionKeys, records_max: int, *, full: bool) -> None:
        room, now, streams = self._record_bytes_max - OVERHEAD_BYTES, self._now, self._multipath.streams
        if self.state is State.OPEN:
            for told in keys.key_frames(now):
                # Everywhere: they are few, and must not wait until a path is found to be dead.
                self._seal(keys, told, None)
            for each, parts in self._multipath.outgoing(room, now, 0):
                self._seal(keys, b"".join(parts), each)
        path = self._multipath.paths.current
        if self._outbox and not full:
            self._seal_calls(keys, room, path)
        if records_max and path is not None and streams.sending:
            self._used_at = now
            for each, parts in self._multipath.outgoing(room, now, records_max):
                self._seal(keys, b"".join(parts), each)
        if self._confirm:
            self._seal(keys, b"", None)
        self._confirm = False

    def _seal_calls(self, keys: SessionKeys, room: int, path: int | None) -> None:
        self._used_at = self._now
        if path is not None:
            self._multipath.called(self._now)
        while self._outbox and not (self.state is State.PROVING and self._early_full()):
            record = self._seal(keys, self._outbox.take(room, EVERYWHERE if path is None else path), path)
            if self.state is State.PROVING:
                self._opening.early.append(record)

    def receive(self, record: bytes, now: float, via: Via = _NOWHERE) -> list[SessionEvent]:
        """Take one record, and what it came over. What is malformed or forged is counted and changes nothing."""
        self._now = now
        if self.state is State.CLOSED:
            self._counts["after_close"] += 1
            return []
        if len(record) > RECORD_BYTES_MAX or record[:SESSION_ID_BYTES] != self.session_id:
            self._counts["malformed"] += 1
            return []
        if is_reset(record):
            return self._receive_reset(record)
        if record[SESSION_ID_BYTES : SESSION_ID_BYTES + 1] == bytes([HANDSHAKE]):
            return self._receive_handshake(record)
        return self._receive_sealed(record, via)

    def narrow(self, record_bytes_max: int) -> None:
        """Send no longer records than that from now on: a path is there that takes no longer ones."""
        self._record_bytes_max = max(RECORD_BYTES_MIN, min(self._record_bytes_max, record_bytes_max))

    def add_path(self, rank: Rank, name: str, now: float) -> int:
        """Open a path over another connection to the peer, and give its number.

        Raises:
            Congested: This end has opened as many as it may.
        """
        self._now = now
        return self._multipath.paths.add(rank, name, now)

    def retire_path(self, path: int, reason: str, now: float) -> None:
        """Leave a path in good order, at both ends, as soon as another has answered; then let `path_lost` follow."""
        self._now = now
        self._multipath.paths.retire(path, reason, now)

    def path_lost(self, path: int, reason: str, now: float) -> list[SessionEvent]:
        """Forget a path whose connection is over."""
        self._now = now
        self._assemblies[path].clear()
        return [*self._multipath.path_lost(path, reason, now)]

    @property
    def streams(self) -> StreamSet:
        """The streams: open, write, read and finish there; then ask `outgoing`."""
        return self._multipath.streams

    @property
    def paths(self) -> PathSet:
        """The paths, to be looked at."""
        return self._multipath.paths

    @property
    def waits_to_send(self) -> bool:
        """Tell whether calls or bytes of streams wait for room on the path in use."""
        return bool(self._outbox) or self._multipath.streams.sending

    def begin_rehandshake(self, now: float) -> None:
        """Agree on fresh keys now, and not only when the ones in use are old; `outgoing` gives the first frame."""
        if self._keys is not None and self.state is State.OPEN:
            self._keys.begin_rehandshake(now)

    def close(self, reason: str) -> None:
        """Say goodbye; the peer learns the reason if the keys are there. `outgoing` gives the last record.

        What was sent and not yet given out is dropped; wait for it before, if it matters.
        """
        if self.state is State.CLOSED:
            return
        if self._keys is not None:
            text = reason.encode(errors="replace")[:REASON_BYTES_MAX]
            goodbye = self._keys.seal(frame(Channel.CLOSE, text), EVERYWHERE, self._now, goodbye=True)
            self._records.append((None, goodbye))
            self._counts["records_sealed"] += 1
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
        if self._keys is not None:
            self._keys.forget_old(now)
        if self.state in (State.DIALLING, State.PROVING) and now >= self._resend_at:
            # The very same bytes: the peer that has them already takes the second ones for replayed.
            self._records += [(None, each) for each in (self._opening.written, *self._opening.early)]
            self._counts["handshake_resent"] += 1
            self._resend_at = now + RESEND_S
        return self._tick_open(now) if self.state is State.OPEN else []

    def _tick_open(self, now: float) -> list[SessionEvent]:
        reason = ""
        if self._multipath.streams.numbers():
            self._used_at = now
        elif now >= self._used_at + IDLE_S:
            reason = f"nobody has used it for {IDLE_S:g} s"
        if self._keys is not None:
            worn = self._keys.tick(now)
            reason = reason or worn
        if reason:
            self.close(reason)
            return [Closed(reason, by_peer=False)]
        return [*self._multipath.tick(now)]

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, at the latest."""
        if self.state is State.CLOSED:
            return None
        if self.state is State.OPEN:
            keys_at = None if self._keys is None else self._keys.deadline
            times = (min(self._heard_at, self._used_at) + IDLE_S, keys_at, self._multipath.deadline)
            return min(each for each in times if each is not None)
        if self.state is State.ANSWERING:
            return self._dialled_at + HANDSHAKE_S
        return min(self._resend_at, self._dialled_at + HANDSHAKE_S)

    @property
    def heard_at(self) -> float:
        """When the last genuine record of the peer came."""
        return self._heard_at

    @property
    def records_opened(self) -> int:
        """How many genuine sealed records of the peer have come; a path that brings one leads to it."""
        return self._counts["records_opened"]

    def statistics(self) -> dict[str, int]:
        """Counters since the start: records, messages delivered and lost, handshake messages."""
        lost = sum(each.lost for each in self._assemblies)
        keys = {} if self._keys is None else self._keys.counts
        return {**self._counts, **keys, **self.streams.counts, **self.paths.counts, "messages_lost": lost}

    # The handshake

    def _write_handshake(self) -> None:
        self._records.append((None, self._opening.write()))

    def _receive_handshake(self, record: bytes) -> list[SessionEvent]:
        payload = self._opening.read(record)
        if isinstance(payload, Unheard):
            self._counts[payload.value] += 1
            if payload is Unheard.REPEATED:
                self._hear_again()
            return []
        self._heard_at = self._now
        if self.state is State.DIALLING:
            self.state, self._reset_token = State.PROVING, payload
            self._write_handshake()
            self._resend_at = self._now + RESEND_S
            self._take_keys()
            return []
        if not self._opening.handshake.complete:
            self._write_handshake()
            return []
        return self._admit(payload)

    def _hear_again(self) -> None:
        """Answer what was answered before: that was lost, and the same bytes again give away nothing new.

        Not at the initiator, which has a clock for that: its answer is the long one, and a repeated short message must
        not fetch it again and again.
        """
        if self.state is State.OPEN:
            self._confirm = True
        elif self.state is State.ANSWERING:
            self._records.append((None, self._opening.written))

    def _receive_reset(self, record: bytes) -> list[SessionEvent]:
        if not self._reset_token or not hmac.compare_digest(token_of(record), self._reset_token):
            self._counts["reset_forged"] += 1
            return []
        self._end()
        return [Closed("the peer was started again, and knows the session no more", by_peer=True, forgotten=True)]

    def _admit(self, payload: bytes) -> list[SessionEvent]:
        """Decide about the initiator: its id must give the very key that the handshake proved."""
        self._take_keys()
        try:
            peer = NodeId(payload[:NODE_ID_BYTES])
            if peer.curve_key != self._opening.handshake.peer:
                raise Refused("the node id does not belong to the key of this handshake")
            verdict = self._judge(peer, payload[NODE_ID_BYTES:]) if self._judge is not None else None
        except (PeerError, Expired) as error:
            self._counts["refused"] += 1
            self.close(str(error))
            return [Closed(str(error), by_peer=False)]
        self.peer, self.state, self._confirm, self._used_at = peer, State.OPEN, True, self._now
        return [Established(peer, verdict)]

    def _take_keys(self) -> None:
        self._keys = self.keys_kind(self.session_id, self._opening.handshake, self._now)

    # Sealed records

    def _early_full(self) -> bool:
        return sum(map(len, self._opening.early)) + self._record_bytes_max > EARLY_BYTES_MAX

    def _seal(self, keys: SessionKeys, plain: bytes, path: int | None) -> bytes:
        record = keys.seal(plain, EVERYWHERE if path is None else path, self._now)
        self._records.append((path, record))
        self._sealed_at = self._now
        self._counts["records_sealed"] += 1
        return record

    def _receive_sealed(self, record: bytes, via: Via) -> list[SessionEvent]:
        if self._keys is None:
            self._counts["early"] += 1
            return []
        plain = self._keys.open(record, self._now)
        if isinstance(plain, Fault):
            self._counts[plain.value] += 1
            return []
        self._heard_at = self._now
        self._counts["records_opened"] += 1
        events: list[SessionEvent] = []
        goodbye = plain[:1] == bytes([Channel.CLOSE])
        if self.state is State.PROVING and not goodbye and self.peer is not None:
            self.state, self._used_at = State.OPEN, self._now
            self._opening.early.clear()
            events.append(Established(self.peer, None))
        if plain and self._now >= self._sealed_at + CONFIRM_S and self._multipath.paths.current is None:
            # Not for empty records: two idle ends must not keep each other awake.
            self._confirm = True
        try:
            self._take_frames(plain, HEADER.unpack_from(record)[2], via, events)
        except MalformedFrame as error:
            # The peer's keys made it, so the peer itself is broken: better no session than a strange one.
            self._counts["malformed"] += 1
            self.close(f"a record held frames that make no sense: {error}")
            events.append(Closed(f"the peer sent frames that make no sense: {error}", by_peer=False, broken=True))
        return events

    def _take_frames(self, plain: bytes, path: int, via: Via, events: list[SessionEvent]) -> None:
        whole = self._assemblies[path].take_whole(plain)
        if whole:
            self._counts["messages"] += len(whole)
            events += map(MessageArrived, whole)
        called = bool(whole)
        for each in frames_of(plain) if whole is None else ():
            kind, flags, number, offset, piece = each
            if kind in (Channel.STREAMS, Channel.PATHS):
                if kind == Channel.STREAMS:
                    self._used_at = self._now
                events += self._multipath.receive(each, path, via, self._now)
                continue
            if kind != Channel.CALLS:
                self._take_rare_frame(kind, flags, number, piece, events)
                if self.state is State.CLOSED:
                    return
                continue
            called = True
            message = self._assemblies[path].take(flags, number, offset, piece)
            if message is not None:
                self._counts["messages"] += 1
                events.append(MessageArrived(message))
        if called:
            self._used_at = self._now
            if path != EVERYWHERE:
                events += self._multipath.calls_came(path, self._now)

    def _take_rare_frame(
        self, kind: int, flags: int, number: int, piece: memoryview, events: list[SessionEvent]
    ) -> None:
        if kind == Channel.CLOSE:
            self._end()
            # A stranger's reason ends up in logs and terminals.
            reason = printable(bytes(piece[:REASON_BYTES_MAX]).decode(errors="replace"))
            events.append(Closed(reason, by_peer=True))
        elif kind == Channel.KEYS and self._keys is not None:
            self._keys.receive(flags, number, piece, self._now)
        else:
            self._counts["unknown_channel"] += 1

    def _closed(self, reason: str, *, by_peer: bool) -> list[SessionEvent]:
        self._end()
        return [Closed(reason, by_peer)]

    def _end(self) -> None:
        self.state = State.CLOSED
        if self._keys is not None:
            self._keys.erase()
            self._keys = None
        self._opening.early.clear()
        self._outbox.clear()
        for each in self._assemblies:
            each.clear()

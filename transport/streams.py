"""The byte streams of one session, from the view of one end: opened, filled, read, ended, resent. Without I/O.

    open --OPEN--> the other end's StreamOpened;   write, DATA, Readable, read, ACK;   finish, LAST, read to the end
    both directions done, or reset on one side and GONE from the other --> StreamClosed, and its number never comes back

A record may be lost, and records of several paths may overtake each other. A receiver takes only what comes next, and
answers how far it has come (`stream_answers.py`). A sender keeps all until it is
acknowledged, and `resend` begins anew behind that: when the session goes to another path, and when the echo of a probe
shows that what was sent before it is lost (`mark`, `echoed`).

Streams are opened in the order of their numbers: an OPEN that comes too early, or for which there is no room, is taken
for lost, and comes again. So a number below the next one that is not here has been here, and is told to be GONE.

What breaks these rules raises `MalformedFrame`, and the session ends: more than its credit, numbers that are not the
peer's, acknowledgements of what was never sent, credit beyond what anybody can mean.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from atoll.transport.errors import Congested, Expired, MalformedFrame, UsageError
from atoll.transport.stream_answers import StreamAnswers
from atoll.transport.stream_credit import (
    BUFFER_BYTES,
    FIRST_WINDOW_BYTES,
    STREAMS_MAX,
    WINDOW_BYTES,
    is_low,
    lend,
    unread_or_lent,
)
from atoll.transport.stream_events import Readable, StreamClosed, StreamEvent, StreamOpened, Writable
from atoll.transport.stream_frames import (
    TEXT_BYTES_MAX,
    Buffer,
    StreamVerb,
    read_answer,
    read_data,
    read_text,
)
from atoll.transport.stream_halves import ReceiveHalf, SendHalf
from atoll.transport.stream_turns import StreamTurns

UNACKNOWLEDGED_BYTES = 4 * 1024 * 1024
"""What a stream keeps until it is acknowledged; a writer waits beyond."""
NUMBERS = 2**32


@dataclass(slots=True)
class _Stream:
    service: str
    send: SendHalf
    receive: ReceiveHalf
    opening: bool
    """The other end has not answered our OPEN yet."""
    blocked: bool = False
    """A writer waits."""
    marked: int = 0
    """What was sent when the last probe went out."""
    gone_back_to: int = -1
    """Where a GAP has sent it back to already."""


@dataclass(slots=True)
class StreamSet:
    """All streams of one end of a session. `initiator`: this end opened the session, and its streams are even."""

    answers_kind: ClassVar[type[StreamAnswers]] = StreamAnswers

    initiator: bool
    counts: Counter[str] = field(default_factory=Counter)
    _streams: dict[int, _Stream] = field(default_factory=dict)
    _resets: dict[int, str] = field(default_factory=dict)
    """Streams reset here whose other end has not said that it knows."""
    _next_own: int = field(init=False)
    _next_peer: int = field(init=False)
    _turns: StreamTurns = field(default_factory=StreamTurns)
    _answers: StreamAnswers = field(init=False)
    _marked: bool = False
    progress: int = 0
    """How often something of ours was acknowledged; it proves the path that brought it."""

    def __post_init__(self) -> None:
        self._next_own, self._next_peer = (0, 1) if self.initiator else (1, 0)
        self._answers = self.answers_kind()

    # The user's side

    def open(self, service: str) -> int:
        """Open a stream to a service of the other end.

        Raises:
            UsageError: The name is empty or too long.
            Congested: Too many are open; close some, or wait.
            Expired: The session has used up its numbers; open another session.
        """
        if not 0 < len(service.encode()) <= TEXT_BYTES_MAX:
            raise UsageError(f"the name of a service has 1 to {TEXT_BYTES_MAX} bytes, not {len(service.encode())}")
        if self._count(own=True) >= STREAMS_MAX:
            raise Congested(f"this session has {STREAMS_MAX} streams open already")
        if self._next_own >= NUMBERS:
            raise Expired("this session has used up the numbers of its streams")
        number, self._next_own = self._next_own, self._next_own + 2
        self._streams[number] = self._opened_stream(service, opening=True)
        self._turns.order(StreamVerb.OPEN, number)
        return number

    def write(self, stream: int, data: bytes) -> int:
        """Take as many of the bytes as there is room for and say how many; `Writable` follows where it was not all.

        Raises:
            UsageError: The stream is finished, or not open.
        """
        each = self._open_stream(stream)
        if each.send.finished:
            raise UsageError(f"stream {stream} is finished: nothing can be written behind its end")
        room = 0 if each.send.crowded else UNACKNOWLEDGED_BYTES - each.send.held
        taken = min(len(data), room)
        if taken:
            each.send.write(data if taken == len(data) else data[:taken])
            self._turns.may_send(stream, each.send)
        each.blocked = taken < len(data)
        return taken

    def finish(self, stream: int) -> None:
        """End our direction; the other goes on.

        Raises:
            UsageError: The stream is not open.
        """
        each = self._open_stream(stream)
        each.send.finished = True
        self._turns.may_send(stream, each.send)

    def reset(self, stream: int, reason: str) -> None:
        """End both directions at once; what was not read or not acknowledged is dropped, and the peer is told why.

        Raises:
            UsageError: The stream is not open.
        """
        self._open_stream(stream)
        self._drop(stream)
        self._resets[stream] = reason
        self._turns.order(StreamVerb.RESET, stream)

    def read(self, stream: int, bytes_max: int) -> memoryview:
        """Give what has come, at most so much; empty when nothing is there now. It stays valid as long as it is held.

        Raises:
            UsageError: The stream is not open.
        """
        each = self._open_stream(stream)
        piece = each.receive.read(bytes_max)
        if piece and is_low(each.receive):
            self._lend(stream, each)
        return piece

    def at_end(self, stream: int) -> bool:
        """Tell whether the other end has finished and all of it was read."""
        return self._open_stream(stream).receive.at_end

    def settle(self, stream: int) -> list[StreamEvent]:
        """Forget a stream that is over in both directions; to be called when its end was read."""
        each = self._streams.get(stream)
        if each is None or not (each.send.done and each.receive.at_end):
            return []
        # Its last acknowledgement must still go out; whoever asks again is told that it is gone.
        if each.receive.answered < each.receive.position:
            self._answers.gone(stream)
        self._drop(stream)
        return [StreamClosed(stream)]

    def is_open(self, stream: int) -> bool:
        """Tell whether a stream is open."""
        return stream in self._streams

    @property
    def used(self) -> bool:
        """A stream is open, or was."""
        return self._next_own + self._next_peer > 1

    def numbers(self) -> list[int]:
        """Give the streams that are open."""
        return list(self._streams)

    def held(self, stream: int) -> tuple[int, int]:
        """Give how many bytes wait for an acknowledgement, and how many to be read."""
        each = self._open_stream(stream)
        return each.send.held, each.receive.held

    # Out

    @property
    def in_flight(self) -> int:
        """How many bytes were sent that the other end has not answered."""
        return sum(each.send.next - each.send.acked for each in self._streams.values())

    @property
    def unacknowledged(self) -> bool:
        """Something was sent, or wants to be, that the other end has not answered."""
        # Also what waits for credit: the answer that brought it may be lost.
        return bool(self._resets) or any(
            each.opening or each.send.acked < each.send.end + each.send.finished for each in self._streams.values()
        )

    @property
    def answering(self) -> bool:
        """There are answers to be sent."""
        return bool(self._answers)

    @property
    def sending(self) -> bool:
        """There is something else to be sent."""
        return bool(self._turns)

    def answers(self, room: int) -> list[Buffer]:
        """Give the answers that fit into `room` bytes; they belong on the path that brought the bytes."""
        return self._answers.take(room, lambda stream: self._streams[stream].receive)

    def outgoing(self, room: int) -> list[Buffer]:
        """Give frames for at most `room` bytes of a record; streams take turns, record by record."""
        return self._turns.take(room, self._text, lambda stream: self._streams[stream].send)

    def resend(self) -> None:
        """Send everything anew that is not acknowledged: the path it went over is left."""
        for stream, each in self._streams.items():
            if each.send.acked < each.send.next:
                each.send.go_back()
            self._turns.may_send(stream, each.send)
        self._turns.order(StreamVerb.OPEN, *(stream for stream, each in self._streams.items() if each.opening))
        self._turns.order(StreamVerb.RESET, *self._resets)
        self._marked = False

    def mark(self) -> None:
        """Remember what was sent: a probe goes out behind it. Its echo is told by `echoed`, unless `resend` comes."""
        if self._marked:
            return
        self._marked = True
        for stream, each in self._streams.items():
            # Behind the next position, or an OPEN that was sent without bytes could not be told from one that waits.
            each.marked = each.send.next + 1 if not self._turns.is_ordered(stream) else 0

    def echoed(self) -> int:
        """Send again what was sent before the mark and not acknowledged: it is lost. Gives how many streams lost any.

        Who echoes a probe has acknowledged before what came before it, and a path keeps its order.
        """
        if not self._marked:
            return 0
        self._marked = False
        lost = [stream for stream in self._resets if not self._turns.is_ordered(stream)]
        self._turns.order(StreamVerb.RESET, *lost)
        for stream, each in self._streams.items():
            if each.opening and each.marked:
                self._turns.order(StreamVerb.OPEN, stream)
                lost.append(stream)
            if each.send.acked + 1 < each.marked and each.send.acked < each.send.next:
                each.send.go_back()
                self._turns.may_send(stream, each.send)
                lost.append(stream)
            each.marked = 0
        self.counts["lost"] += len(lost)
        return len(lost)

    def positions(self) -> list[tuple[int, int]]:
        """Give how far each stream has come here, for the first record of a path."""
        return [
            (stream, each.receive.position) for stream, each in self._streams.items() if self._peer_knows(stream, each)
        ]

    # In

    def receive(self, verb: int, stream: int, piece: memoryview, now: float) -> list[StreamEvent]:
        """Take one frame of the peer.

        Raises:
            MalformedFrame: It breaks the rules; the session must end.
        """
        if verb in (StreamVerb.DATA, StreamVerb.LAST):
            return self._take_data(stream, piece, last=verb == StreamVerb.LAST, now=now)
        if verb in (StreamVerb.ACK, StreamVerb.GAP):
            received, limit = read_answer(piece)
            return self._take_answer(stream, received, limit, gap=verb == StreamVerb.GAP)
        if verb == StreamVerb.OPEN:
            return self._take_open(stream, read_text(piece))
        if verb == StreamVerb.RESET:
            return self._take_reset(stream, read_text(piece))
        if verb == StreamVerb.GONE:
            return self._take_gone(stream)
        self.counts["unknown_verb"] += 1
        return []

    def acknowledged(self, positions: list[tuple[int, int]]) -> list[StreamEvent]:
        """Take how far our bytes have come, as the first record of a path says.

        Raises:
            MalformedFrame: Further than they were sent.
        """
        return [
            event
            for stream, received in positions
            for event in self._take_answer(stream, received, received, gap=False)
        ]

    def answer_all(self) -> None:
        """Answer for every stream: a probe asks what has come before it."""
        for stream, each in self._streams.items():
            if self._peer_knows(stream, each):
                self._answers.ack(stream)

    def tick(self, now: float) -> None:
        """Give the answers that were put off; call it at `deadline`."""
        self._answers.tick(now)

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, at the latest."""
        return self._answers.deadline

    def check(self) -> None:
        """Assert what must hold between any two calls; for simulations and property tests."""
        lent = sum(unread_or_lent(each.receive) for each in self._streams.values())
        assert lent <= BUFFER_BYTES, f"{lent} bytes are lent"  # noqa: S101
        assert len(self._streams) + len(self._resets) <= 2 * STREAMS_MAX  # noqa: S101
        assert self._answers.within_limits  # noqa: S101
        for each in self._streams.values():
            assert each.receive.held <= WINDOW_BYTES  # noqa: S101
            assert each.send.held <= UNACKNOWLEDGED_BYTES  # noqa: S101

    def _take_open(self, stream: int, service: str) -> list[StreamEvent]:
        if self._is_own(stream):
            raise MalformedFrame(f"the peer opened stream {stream}, a number of ours")
        if stream < self._next_peer:
            if stream in self._streams:
                self._answers.ack(stream)
            elif stream not in self._resets:
                self._answers.gone(stream)
            return []
        if stream > self._next_peer or self._count(own=False) >= STREAMS_MAX:
            self.counts["opened_too_early"] += 1
            return []
        if not service:
            raise MalformedFrame("a stream was opened to no service")
        self._next_peer += 2
        self._streams[stream] = self._opened_stream(service, opening=False)
        self._answers.ack(stream)
        return [StreamOpened(stream, service)]

    def _take_data(self, stream: int, piece: memoryview, *, last: bool, now: float) -> list[StreamEvent]:
        offset, data = read_data(piece)
        each = self._streams.get(stream)
        if each is None:
            self._take_stray(stream)
            return []
        half = each.receive
        news = half.take(offset, data, last=last)
        if not news:
            self.counts["repeated" if offset + len(data) <= half.received else "beyond_gap"] += 1
            if offset <= half.received:
                self._answers.ack(stream)
            elif not half.gap:
                half.gap = True
                self._answers.gap(stream)
            return []
        self._answers.news(stream, half, now)
        return [Readable(stream)]

    def _take_stray(self, stream: int) -> None:
        """Answer bytes of a stream that is not here."""
        if stream in self._resets:
            # The other end has not heard of it.
            self._turns.order(StreamVerb.RESET, stream)
        elif stream >= (self._next_own if self._is_own(stream) else self._next_peer):
            if self._is_own(stream):
                raise MalformedFrame(f"stream {stream} was never opened")
            self.counts["opened_too_early"] += 1
        else:
            self._answers.gone(stream)

    def _take_answer(self, stream: int, received: int, limit: int, *, gap: bool) -> list[StreamEvent]:
        each = self._streams.get(stream)
        if each is None:
            self._known(stream)
            return []
        if limit > received + WINDOW_BYTES:
            raise MalformedFrame(f"a stream was given credit for {limit - received} bytes")
        half = each.send
        news = half.ack(received)
        self.progress += news
        if each.opening:
            each.opening = False
            self._turns.take_back(stream)
        half.limit = max(half.limit, limit)
        if gap and half.acked == received and each.gone_back_to != received and half.next > received:
            each.gone_back_to = received
            half.go_back()
            self.counts["gaps"] += 1
        self._turns.may_send(stream, each.send)
        if not news:
            return []
        if each.blocked and not half.crowded:
            each.blocked = False
            return [Writable(stream), *self.settle(stream)]
        return self.settle(stream)

    def _take_reset(self, stream: int, reason: str) -> list[StreamEvent]:
        if stream == self._next_peer and not self._is_own(stream):
            # It was reset before its OPEN came: that one will not come any more.
            self._next_peer += 2
        elif stream > self._next_peer and not self._is_own(stream):
            self.counts["opened_too_early"] += 1
            return []
        self._known(stream)
        self._answers.gone(stream)
        if self._resets.pop(stream, None) is not None:
            self._turns.take_back(stream)
        if stream not in self._streams:
            return []
        self._drop(stream)
        return [StreamClosed(stream, reason or "the other end reset it")]

    def _take_gone(self, stream: int) -> list[StreamEvent]:
        self._known(stream)
        if self._resets.pop(stream, None) is not None:
            self._turns.take_back(stream)
        each = self._streams.get(stream)
        if each is None:
            return []
        # Only who has everything, and was told that its own has come, forgets a stream.
        if not each.send.finished or each.send.high <= each.send.end or each.receive.size is None:
            raise MalformedFrame(f"the peer has forgotten stream {stream} before its end")
        each.send.ack(each.send.end + 1)
        self._turns.may_send(stream, each.send)
        return self.settle(stream)

    def _known(self, stream: int) -> None:
        """Refuse to hear of a stream that cannot be."""
        if stream >= (self._next_own if self._is_own(stream) else self._next_peer):
            raise MalformedFrame(f"stream {stream} was never opened")

    # Tables

    def _opened_stream(self, service: str, *, opening: bool) -> _Stream:
        return _Stream(service, SendHalf(FIRST_WINDOW_BYTES), ReceiveHalf(FIRST_WINDOW_BYTES), opening)

    def _peer_knows(self, stream: int, each: _Stream) -> bool:
        """Tell whether the peer is sure to know the stream; the OPEN of ours may be lost."""
        return not self._is_own(stream) or each.receive.position > 0

    def _is_own(self, stream: int) -> bool:
        return stream % 2 == self._next_own % 2

    def _count(self, *, own: bool) -> int:
        return sum(self._is_own(each) == own for each in (*self._streams, *self._resets))

    def _open_stream(self, stream: int) -> _Stream:
        each = self._streams.get(stream)
        if each is None:
            raise UsageError(f"stream {stream} is not open")
        return each

    def _text(self, verb: StreamVerb, stream: int) -> str:
        return self._streams[stream].service if verb is StreamVerb.OPEN else self._resets[stream]

    def _lend(self, stream: int, each: _Stream) -> None:
        """Give credit for what was read."""
        if lend(each.receive, (other.receive for other in self._streams.values())):
            self._answers.ack(stream)

    def _drop(self, stream: int) -> None:
        self._streams.pop(stream, None)
        self._answers.forget(stream)
        self._turns.forget(stream)

"""What goes over a link: frames, the greeting, and the messages waiting to be sent. Without I/O.

    kind 1 | body
    HELLO     who we are and what we show (msgpack), the first frame of each end
    READY     the dialling end has taken the other's HELLO: its window (u32); messages may follow at once
    MESSAGES  whole messages, a msgpack array of binaries
    PIECE     a part of one long message; more follows
    LAST      its last part
    BYE       why the link ends (UTF-8); nothing follows
    CREDIT    so many bytes more may be sent (u32)
    ALIVE     empty: nothing to say, and here all the same

A link loses and reorders nothing, so pieces need no numbers. Small messages that wait together share a frame: handing
one to ZeroMQ costs more than encoding it. Memory is bounded by the limits below, whatever the other end sends.
"""

import enum
import struct
from collections import deque
from typing import Any

import msgspec

from atoll.transport.base import MESSAGE_BYTES_MAX, QUEUE_BYTES_MAX
from atoll.transport.codec import decode_special, encode_special
from atoll.transport.credit import MESSAGE_COST_BYTES, NEIGHBOUR_WINDOW_BYTES, WINDOW_BYTES_MAX
from atoll.transport.envelope import Envelope, encode_envelope
from atoll.transport.errors import Congested, MalformedFrame
from atoll.transport.identity import NodeId
from atoll.transport.printable import printable
from atoll.transport.runs import Run, weight_of

VERSION = 2
LABEL_CHARACTERS_MAX = 64
CREDENTIAL_BYTES_MAX = 4096
BOOT_ID_BYTES = 16
REASON_BYTES_MAX = 512
SILENCE_MS_MIN, SILENCE_MS_MAX = 300, 60_000
"""How soon, and how late, an end may count the other as lost."""
PIECE_BYTES_MAX = 256 * 1024
"""What a frame carries at most. Longer frames gain nothing; shorter ones cost more calls into ZeroMQ."""
FRAME_BYTES_MAX = PIECE_BYTES_MAX + 8 * 1024
"""With kind, array header and lengths (at most 5 bytes for each of `BATCH_MESSAGES_MAX`)."""
BATCH_MESSAGES_MAX = 1024
BACKLOG_BYTES_MAX = QUEUE_BYTES_MAX // 2
"""What waits here for a slow peer; the other half of its budget is ZeroMQ's own queue."""
BACKLOG_MESSAGES_MAX = 65_536
"""Also empty messages cost memory."""


class FrameKind(enum.IntEnum):
    """First byte of every frame."""

    HELLO = 0
    READY = 1
    MESSAGES = 2
    PIECE = 3
    LAST = 4
    BYE = 5
    CREDIT = 6
    ALIVE = 7


_KINDS = {kind.value: kind for kind in FrameKind}
_MESSAGES = bytes([FrameKind.MESSAGES])
_PIECE, _LAST = bytes([FrameKind.PIECE]), bytes([FrameKind.LAST])
_ALIVE = bytes([FrameKind.ALIVE])
_AMOUNT = struct.Struct(">BI")


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """How each end introduces itself; later versions append fields."""

    version: int
    node: NodeId
    boot: bytes
    label: str
    credential: bytes
    window: int
    """What the other end may have on its way here; 0 when it is told in READY."""
    silence_ms: int
    """After so much silence the other end is counted as lost here."""
    runs: bool = False
    """Whether this end reads runs; nodes from before them do not say so."""

    def __repr__(self) -> str:
        # A credential may be a secret.
        return f"Hello({self.node.short}, {self.label!r})"


_encoder = msgspec.msgpack.Encoder(enc_hook=encode_special)
_hello_decoder = msgspec.msgpack.Decoder(Hello, dec_hook=decode_special)
_batch_decoder = msgspec.msgpack.Decoder(list[bytes])


def hello_frame(hello: Hello) -> bytes:
    """Make the first frame."""
    return bytes([FrameKind.HELLO]) + _encoder.encode(hello)


def ready_frame(window: int) -> bytes:
    """Make the frame that completes the greeting."""
    return _AMOUNT.pack(FrameKind.READY, window)


def credit_frame(amount: int) -> bytes:
    """Make a frame that lends `amount` bytes more."""
    return _AMOUNT.pack(FrameKind.CREDIT, amount)


def alive_frame() -> bytes:
    """Make a sign of life."""
    return _ALIVE


def bye_frame(reason: str) -> bytes:
    """Make the last frame; a reason that is too long is cut."""
    return bytes([FrameKind.BYE]) + reason.encode(errors="replace")[:REASON_BYTES_MAX]


def _decode(decoder: Any, body: memoryview) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, MalformedFrame, ValueError, RecursionError):
        # Not the cause's text either: it may quote a credential.
        raise MalformedFrame("a frame's body does not have the form its kind says") from None


def kind_of(frame: bytes) -> FrameKind:
    """Read a frame's kind.

    Raises:
        MalformedFrame: It is empty, or of a kind that does not exist.
    """
    if not frame:
        # What came in several parts is handed over as empty: its parts were not worth keeping.
        raise MalformedFrame("a frame is empty, or came in several parts; links use one")
    kind = _KINDS.get(frame[0])
    if kind is None:
        raise MalformedFrame(f"a frame is of the unknown kind {frame[0]}")
    return kind


def read_hello(frame: bytes) -> Hello:
    """Read a HELLO.

    Raises:
        MalformedFrame: It is none, of another version, or holds more than it may.
    """
    if frame[0] != FrameKind.HELLO:
        raise MalformedFrame("the first frame on a link must be HELLO")
    hello: Hello = _decode(_hello_decoder, memoryview(frame)[1:])
    if hello.version != VERSION:
        raise MalformedFrame(f"the other end speaks version {hello.version} of links, this one {VERSION}: update one")
    if len(hello.label) > LABEL_CHARACTERS_MAX or not hello.label.isprintable():
        raise MalformedFrame(f"a label has at most {LABEL_CHARACTERS_MAX} printable characters")
    if len(hello.credential) > CREDENTIAL_BYTES_MAX or len(hello.boot) != BOOT_ID_BYTES:
        raise MalformedFrame("a credential or boot id in HELLO has a wrong length")
    if not SILENCE_MS_MIN <= hello.silence_ms <= SILENCE_MS_MAX:
        raise MalformedFrame(f"the silence in HELLO is {SILENCE_MS_MIN} to {SILENCE_MS_MAX} ms")
    return hello


def checked_window(window: int) -> int:
    """Give a window of the other end's back.

    Raises:
        MalformedFrame: It carries less than a full frame, or is none.
    """
    if not NEIGHBOUR_WINDOW_BYTES <= window <= WINDOW_BYTES_MAX:
        raise MalformedFrame(f"a window has {NEIGHBOUR_WINDOW_BYTES} to {WINDOW_BYTES_MAX} bytes, not {window}")
    return window


def read_ready(frame: bytes) -> int:
    """Read a READY and give its window.

    Raises:
        MalformedFrame: It is none.
    """
    if len(frame) != _AMOUNT.size or frame[0] != FrameKind.READY:
        raise MalformedFrame("the second frame of a dialling end must be READY with its window, and nothing else")
    return checked_window(_AMOUNT.unpack(frame)[1])


def read_credit(frame: bytes) -> int:
    """Read a CREDIT and give its amount.

    Raises:
        MalformedFrame: It is none.
    """
    if len(frame) != _AMOUNT.size:
        raise MalformedFrame("CREDIT has four bytes behind its kind")
    return int(_AMOUNT.unpack(frame)[1])


def read_alive(frame: bytes) -> None:
    """Check an ALIVE.

    Raises:
        MalformedFrame: It has a body.
    """
    if frame != _ALIVE:
        raise MalformedFrame("ALIVE has nothing behind its kind")


def read_bye(frame: bytes) -> str:
    """Give the reason of a BYE, fit to be shown."""
    text = frame[1 : 1 + REASON_BYTES_MAX].decode(errors="replace")
    return printable(text, " ")


class Backlog:
    """Messages that wait for one peer; `frame` gives the next frame again and again until `sent` says it is gone."""

    __slots__ = ("_frame", "_last", "_messages", "_offset", "bytes", "count", "frame_bytes", "frame_messages")

    def __init__(self) -> None:
        self._messages: deque[bytes | Envelope | Run] = deque()
        self._last: Envelope | Run | None = None
        """The last of them, while others may join it."""
        self._offset = 0
        """How much of the first message, a long one, is already gone."""
        self._frame: bytes | None = None
        self.frame_bytes = self.frame_messages = 0
        """What the frame that `frame` gave carries; a run is one message."""
        self.bytes = self.count = 0

    def put(self, message: bytes) -> None:
        """Queue one message.

        Raises:
            Congested: The backlog is full; the message was not taken.
        """
        if self.bytes + len(message) > BACKLOG_BYTES_MAX or self.count >= BACKLOG_MESSAGES_MAX:
            raise self._congested()
        self._messages.append(message)
        self._last = None
        self.bytes += len(message)
        self.count += 1

    def put_envelope(self, envelope: Envelope) -> None:
        """Queue an envelope that may be part of a run.

        Raises:
            Congested: The backlog is full; the envelope was not taken.
        """
        if self.bytes + len(envelope.body) > BACKLOG_BYTES_MAX or self.count >= BACKLOG_MESSAGES_MAX:
            raise self._congested()
        last, weight = self._last, 0
        if last is not None and last.shared is envelope.shared:
            if isinstance(last, Envelope):
                # Only now: most that go by themselves are asks that somebody waits for.
                last = self._last = self._messages[-1] = Run(last)
            weight = last.take(envelope)
        if not weight:
            self._last = envelope
            self._messages.append(envelope)
            weight = weight_of(envelope)
        self.bytes += weight
        self.count += 1

    def _congested(self) -> Congested:
        return Congested(f"the peer takes too little: {self.bytes} bytes wait for it; the message was not taken")

    def frame(self) -> bytes | None:
        """Give the next frame, or None when nothing waits."""
        if self._frame is None and self._messages:
            message = self._first()
            self._frame = self._cut(message) if len(message) > PIECE_BYTES_MAX else self._pack()
        return self._frame

    @property
    def frame_cost(self) -> int:
        """What the frame that `frame` gave costs in credit."""
        return self.frame_bytes + MESSAGE_COST_BYTES * self.frame_messages

    def sent(self) -> None:
        """Forget the frame that `frame` gave."""
        self._frame = None
        self.bytes -= self.frame_bytes
        self.count -= self.frame_messages

    def _first(self) -> bytes:
        """Give the first message, as bytes: nothing joins it any more."""
        message = self._messages[0]
        if isinstance(message, bytes):
            return message
        if message is self._last:
            self._last = None
        if isinstance(message, Run):
            self.bytes -= message.bytes
            self.count -= len(message) - 1
            data = message.encode()
        else:
            self.bytes -= weight_of(message)
            data = encode_envelope(message)
        self._messages[0] = data
        self.bytes += len(data)
        return data

    def _cut(self, message: bytes) -> bytes:
        start = self._offset
        end = min(start + PIECE_BYTES_MAX, len(message))
        self.frame_bytes, self._offset, self.frame_messages = end - start, end, 0
        if end < len(message):
            return _PIECE + memoryview(message)[start:end]
        self._messages.popleft()
        self._offset, self.frame_messages = 0, 1
        return _LAST + memoryview(message)[start:end]

    def _pack(self) -> bytes:
        first = self._first()
        messages, size = [first], len(first)
        self._messages.popleft()
        # In credit, so that a frame of many small ones costs no more than one of a long one.
        room = PIECE_BYTES_MAX - size - MESSAGE_COST_BYTES
        while self._messages and len(messages) < BATCH_MESSAGES_MAX:
            message = self._first()
            length = len(message)
            room -= length + MESSAGE_COST_BYTES
            if room < 0:
                break
            size += length
            messages.append(message)
            self._messages.popleft()
        self.frame_bytes, self.frame_messages = size, len(messages)
        return _MESSAGES + _encoder.encode(messages)


class Assembly:
    """Gives back the messages that the other end's `Backlog` took; holds at most one unfinished message."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces = bytearray()

    def take(self, kind: FrameKind, frame: bytes) -> list[bytes]:
        """Take one frame and give the messages it completes.

        Raises:
            MalformedFrame: It breaks a limit, comes out of turn, or carries no messages; the link is not worth keeping.
        """
        if kind is FrameKind.MESSAGES and not self._pieces:
            messages: list[bytes] = _decode(_batch_decoder, memoryview(frame)[1:])
            if len(messages) > BATCH_MESSAGES_MAX:
                raise MalformedFrame(f"a frame holds {len(messages)} messages; at most {BATCH_MESSAGES_MAX} may share")
            return messages
        if kind is not FrameKind.PIECE and kind is not FrameKind.LAST:
            raise MalformedFrame(f"{kind.name} came where it may not")
        if len(self._pieces) + len(frame) - 1 > MESSAGE_BYTES_MAX:
            raise MalformedFrame(f"a message is longer than {MESSAGE_BYTES_MAX} bytes")
        if len(frame) == 1:
            raise MalformedFrame("a piece of a message is empty")
        self._pieces += memoryview(frame)[1:]
        if kind is FrameKind.PIECE:
            return []
        message = bytes(self._pieces)
        self._pieces = bytearray()
        return [message]

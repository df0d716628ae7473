"""The frames between a relay's SEP port and those who dial it: one frame is one ZeroMQ message of one part.

    client -> relay                                       relay -> client
    01 TICKET       version(1) ticket(1..255)             81 OK           kind(1)
    02 LABELS       label(16) * n, replaces the list      82 REFUSED      reason(1) sentence(utf-8)
    03 CALL         label(16) record                      83 INBOUND      circuit(8) label(16) record
    04 ANSWER       circuit(8) record                     84 RETURN       label(16) record
    05 PING                                               85 UNDELIVERED  reason(1) label(16) or circuit(8)
                                                          86 PONG
                                                          87 GOING        seconds(2), big-endian

OK names the kind it answers (01 or 02). A record is opaque and never empty. UNDELIVERED is about one record and nothing
else; REFUSED takes a role away and usually the connection with it. An INBOUND circuit is a way back to whoever called,
good for ANSWER only on the connection that it came in on. Unknown kinds and wrong lengths are malformed.
"""

import struct
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from atoll.actors.tunnel_relay.reasons import Reason
from atoll.transport.errors import MalformedFrame, UsageError

VERSION = 1
TICKET, LABELS, CALL, ANSWER, PING = 0x01, 0x02, 0x03, 0x04, 0x05
OK, REFUSED, INBOUND, RETURN, UNDELIVERED, PONG, GOING = 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87
LABEL_BYTES = 16
CIRCUIT_BYTES = 8
RECORD_BYTES_MAX = 48 * 1024
FRAME_BYTES_MAX = 1 + CIRCUIT_BYTES + LABEL_BYTES + RECORD_BYTES_MAX
"""The longest of all, an INBOUND; below the 64 KiB that a control socket lets in."""
LABELS_PER_REGISTRATION_MAX = 1024
"""Nodes of one site behind one registration; a frame of 16 KiB."""
TICKET_BYTES_MAX = 255
SENTENCE_BYTES_MAX = 255

_GOING = struct.Struct(">BH")


class Accepted(msgspec.Struct, frozen=True):
    """OK: the ticket admits us (`TICKET`), or the labels lead here now (`LABELS`)."""

    kind: int


class Denied(msgspec.Struct, frozen=True):
    """REFUSED: a ticket was not accepted, or what it gave is over; `reason` is a `Reason` where it is known."""

    reason: int
    sentence: str


class Inbound(msgspec.Struct, frozen=True):
    """Somebody called one of our labels; answer on the circuit."""

    circuit: bytes
    label: bytes
    record: bytes


class Returned(msgspec.Struct, frozen=True):
    """An answer from behind a label that we called."""

    label: bytes
    record: bytes


class Undelivered(msgspec.Struct, frozen=True):
    """A record towards `address`, a label (16 bytes) or a circuit (8), was not passed on.

    It also comes without a record when the last registration of a label that we called goes away.
    """

    reason: int
    address: bytes


class Pong(msgspec.Struct, frozen=True):
    """The relay lives."""


class Going(msgspec.Struct, frozen=True):
    """The relay will close in `seconds`; register with another one."""

    seconds: int


RelayEvent: TypeAlias = Accepted | Denied | Inbound | Returned | Undelivered | Pong | Going


def _sized(name: str, value: bytes, least: int, most: int) -> bytes:
    if not least <= len(value) <= most:
        raise UsageError(f"a {name} has {least} to {most} bytes, this one has {len(value)}")
    return value


def ticket_frame(ticket: bytes) -> bytes:
    """Show a ticket; the first thing said."""
    return bytes((TICKET, VERSION)) + _sized("ticket", ticket, 1, TICKET_BYTES_MAX)


def labels_frame(labels: Sequence[bytes]) -> bytes:
    """Say under which labels we are reached from now on."""
    if len(labels) > LABELS_PER_REGISTRATION_MAX:
        raise UsageError(f"a registration has at most {LABELS_PER_REGISTRATION_MAX} labels, not {len(labels)}")
    return bytes((LABELS,)) + b"".join(_sized("label", label, LABEL_BYTES, LABEL_BYTES) for label in labels)


def call_frame(label: bytes, record: bytes) -> bytes:
    """Call a label."""
    return b"\x03" + _sized("label", label, LABEL_BYTES, LABEL_BYTES) + _sized("record", record, 1, RECORD_BYTES_MAX)


def answer_frame(circuit: bytes, record: bytes) -> bytes:
    """Answer on a circuit."""
    _sized("circuit", circuit, CIRCUIT_BYTES, CIRCUIT_BYTES)
    return b"\x04" + circuit + _sized("record", record, 1, RECORD_BYTES_MAX)


def ping_frame() -> bytes:
    """Ask for a sign of life."""
    return bytes((PING,))


def event_frame(event: RelayEvent) -> bytes:  # noqa: PLR0911 - one line a kind
    """Write what a relay says."""
    match event:
        case Accepted(kind):
            return bytes((OK, kind))
        case Denied(reason, sentence):
            return bytes((REFUSED, reason)) + sentence.encode()[:SENTENCE_BYTES_MAX]
        case Inbound(circuit, label, record):
            return b"\x83" + circuit + label + record
        case Returned(label, record):
            return b"\x84" + label + record
        case Undelivered(reason, address):
            return bytes((UNDELIVERED, reason)) + address
        case Pong():
            return bytes((PONG,))
        case Going(seconds):
            return _GOING.pack(GOING, seconds)


def read_event(frame: bytes) -> RelayEvent:  # noqa: PLR0911 - one line a kind
    """Read what a relay says.

    Raises:
        MalformedFrame: It is none of its frames (the relay's fault).
    """
    size = len(frame)
    kind = frame[0] if frame else 0
    if kind == INBOUND and 25 < size <= FRAME_BYTES_MAX:
        return Inbound(frame[1:9], frame[9:25], frame[25:])
    if kind == RETURN and 17 < size <= FRAME_BYTES_MAX:
        return Returned(frame[1:17], frame[17:])
    if kind == OK and size == 2:
        return Accepted(frame[1])
    if kind == UNDELIVERED and size in (2 + CIRCUIT_BYTES, 2 + LABEL_BYTES):
        return Undelivered(frame[1], frame[2:])
    if kind == PONG and size == 1:
        return Pong()
    if kind == GOING and size == _GOING.size:
        return Going(_GOING.unpack(frame)[1])
    if kind == REFUSED and 2 <= size <= 2 + SENTENCE_BYTES_MAX:
        return Denied(frame[1], frame[2:].decode(errors="replace"))
    raise MalformedFrame(f"no frame of a relay: kind {kind:#04x}, {size} bytes")


def denial(reason: Reason) -> bytes:
    """Write a REFUSED with the reason's own sentence."""
    return event_frame(Denied(reason, reason.sentence))

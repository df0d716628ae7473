"""The frames of streams and of paths, as they stand in sealed records behind the header of `fragments.py`.

    channel STREAMS   flags: the verb   message: the stream   piece: as the verb says
    channel PATHS     flags: the verb   message: the path     piece: as the verb says

Offsets of streams have 64 bits: a frozen path may let go of its records gigabytes later, and an offset that had gone
round would then put old bytes into the middle of new ones.
"""

import enum
import struct
from collections.abc import Iterable
from typing import TypeAlias

from atoll.transport.errors import MalformedFrame
from atoll.transport.fragments import FRAME, Channel
from atoll.transport.printable import printable

Buffer: TypeAlias = bytes | bytearray | memoryview

TEXT_BYTES_MAX = 200
"""The name of a service, and the reason of a reset."""
HEAD_BYTES = FRAME.size
DATA_HEAD_BYTES = FRAME.size + 8
ANSWER_BYTES = FRAME.size + 16
POSITION_BYTES = 12
_DATA_HEAD = struct.Struct(">BBIIIQ")
_ANSWER = struct.Struct(">BBIIIQQ")
_OFFSET = struct.Struct(">Q")
_TWO_OFFSETS = struct.Struct(">QQ")
_POSITION = struct.Struct(">IQ")
_PROBE = struct.Struct(">I")


class StreamVerb(enum.IntEnum):
    """What a frame of channel STREAMS says."""

    OPEN = 0
    DATA = 1
    LAST = 2
    ACK = 3
    GAP = 4
    RESET = 5
    GONE = 6


class PathVerb(enum.IntEnum):
    """What a frame of channel PATHS says."""

    OPEN = 0
    OPENED = 1
    PROBE = 2
    ECHO = 3
    GONE = 4
    LEFT = 5
    LEAVING = 6


def data_head(stream: int, offset: int, length: int, *, last: bool) -> bytes:
    """Write what stands before `length` bytes of a stream; `last`: its end is behind them."""
    return _DATA_HEAD.pack(
        Channel.STREAMS, StreamVerb.LAST if last else StreamVerb.DATA, stream, 0, _OFFSET.size + length, offset
    )


def answer_frame(verb: StreamVerb, stream: int, received: int, limit: int) -> bytes:
    """Write an ACK or a GAP: all before `received` is here, and all before `limit` may be sent."""
    return _ANSWER.pack(Channel.STREAMS, verb, stream, 0, _TWO_OFFSETS.size, received, limit)


def text_frame(verb: StreamVerb, stream: int, text: str = "") -> bytes:
    """Write an OPEN with its service, a RESET with its reason (cut if it is long), or a GONE."""
    data = text.encode(errors="replace")[:TEXT_BYTES_MAX]
    return FRAME.pack(Channel.STREAMS, verb, stream, 0, len(data)) + data


def probe_frame(verb: PathVerb, path: int, probe: int) -> bytes:
    """Write a PROBE or an ECHO with its number, or a GONE or LEFT with the path that it is about."""
    return FRAME.pack(Channel.PATHS, verb, path, 0, _PROBE.size) + _PROBE.pack(probe)


def path_frame(verb: PathVerb, path: int, positions: Iterable[tuple[int, int]]) -> bytes:
    """Write an OPEN or OPENED: of each stream, how far its bytes are here."""
    piece = b"".join(_POSITION.pack(stream, received) for stream, received in positions)
    return FRAME.pack(Channel.PATHS, verb, path, 0, len(piece)) + piece


def read_data(piece: memoryview) -> tuple[int, memoryview]:
    """Give offset and bytes of a DATA or LAST.

    Raises:
        MalformedFrame: Too short.
    """
    if len(piece) < _OFFSET.size:
        raise MalformedFrame("a piece of a stream has no offset")
    return _OFFSET.unpack_from(piece)[0], piece[_OFFSET.size :]


def read_answer(piece: memoryview) -> tuple[int, int]:
    """Give `received` and `limit` of an ACK or GAP.

    Raises:
        MalformedFrame: Of another length.
    """
    if len(piece) != _TWO_OFFSETS.size:
        raise MalformedFrame("an acknowledgement of a stream has two offsets")
    received, limit = _TWO_OFFSETS.unpack(piece)
    return received, limit


def read_text(piece: memoryview) -> str:
    """Give the text of an OPEN or RESET.

    Raises:
        MalformedFrame: Too long, or not fit to be shown.
    """
    if len(piece) > TEXT_BYTES_MAX:
        raise MalformedFrame(f"a text of {len(piece)} bytes stands where at most {TEXT_BYTES_MAX} may")
    # A cut may have parted a character.
    text = bytes(piece).decode(errors="replace")
    return printable(text)


def read_probe(piece: memoryview) -> int:
    """Give the number in a PROBE, ECHO, GONE or LEFT.

    Raises:
        MalformedFrame: Of another length.
    """
    if len(piece) != _PROBE.size:
        raise MalformedFrame("a probe has a number of four bytes")
    number: int = _PROBE.unpack(piece)[0]
    return number


def read_positions(piece: memoryview) -> list[tuple[int, int]]:
    """Give the streams and positions of an OPEN or OPENED of a path.

    Raises:
        MalformedFrame: A position is cut off.
    """
    if len(piece) % POSITION_BYTES:
        raise MalformedFrame("the last position that a path was opened with is cut off")
    return [(stream, received) for stream, received in _POSITION.iter_unpack(piece)]

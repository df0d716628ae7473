"""What is written on the outside of a message: version, source, target, correlation, deadline, fence.

An envelope travels as `header || message`, the header length-prefixed (2 bytes, big-endian), so that a router can read
the outside without understanding the inside.

    +---------+--------------------+----------------------+
    | u16 len | header (msgpack)   | message (msgpack)    |
    +---------+--------------------+----------------------+
"""

import enum
import struct

import msgspec

from atoll.transport.codec import decode_special
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

VERSION = 1
HEADER_BYTES_MAX = 1024
CORRELATION_BYTES = 16
PATH_CHARACTERS_MAX = 200


class Kind(enum.IntEnum):
    """What the sender expects of the message."""

    TELL = 0
    ASK = 1
    REPLY = 2
    FAULT = 3


class Fence(msgspec.Struct, frozen=True, array_like=True):
    """The generation of an exclusive actor; a resource refuses one lower than the highest it has seen."""

    actor: str
    generation: int


class Header(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The outside of a message. Later versions append fields; unknown ones are ignored, unknown versions refused."""

    version: int
    kind: Kind
    source_node: NodeId
    source_path: str
    target_node: NodeId
    target_path: str
    correlation: bytes = b""
    """16 bytes chosen by the asker; the reply carries them back. The trace id of the call, too."""
    deadline_ms: int = 0
    """Milliseconds that were left when this was sent; 0 for none."""
    traceparent: str = ""
    """W3C Trace Context, as in the HTTP header."""
    fence: Fence | None = None
    offers_bearer: bool = False
    """In a reply over signaling: who serves has so much to do there that the caller should ask for a bearer."""
    run: bool = False
    """The body holds several messages (`runs.py`). Only to peers who said that they read runs."""


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A header and the message's bytes."""

    header: Header
    body: bytes
    shared: Header | None = None
    """The header without correlation; envelopes that have the very same one here may become a run. Never sent."""


# The one type of a header that msgspec does not know is NodeId; a hook in C halves what a header costs.
_encoder = msgspec.msgpack.Encoder(enc_hook=bytes)
_decoder = msgspec.msgpack.Decoder(Header, dec_hook=decode_special)
_version_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_LENGTH = struct.Struct(">H")


def encode_header(header: Header) -> bytes:
    """Write a header behind its length."""
    raw = _encoder.encode(header)
    return _LENGTH.pack(len(raw)) + raw


def encode_envelope(envelope: Envelope) -> bytes:
    """Write header and body one behind the other."""
    raw = _encoder.encode(envelope.header)
    return _LENGTH.pack(len(raw)) + raw + envelope.body


def decode_envelope(data: bytes) -> Envelope:
    """Read what `encode_envelope` wrote; the body stays bytes.

    Raises:
        MalformedFrame: Truncated, over-long, or of an unknown version (the sender's fault).
    """
    if len(data) < _LENGTH.size:
        raise MalformedFrame("an envelope is shorter than its length field")
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    if length > HEADER_BYTES_MAX or end > len(data):
        raise MalformedFrame(f"an envelope announces a header of {length} bytes and has {len(data) - _LENGTH.size}")
    raw = data[_LENGTH.size : end]
    try:
        header = _decoder.decode(raw)
    except (msgspec.MsgspecError, MalformedFrame, RecursionError, ValueError) as error:
        raise MalformedFrame(f"not an envelope header: {_unknown_version(raw) or error}") from error
    if header.version != VERSION:
        raise MalformedFrame(_unknown_version(raw))
    if len(header.target_path) > PATH_CHARACTERS_MAX or len(header.source_path) > PATH_CHARACTERS_MAX:
        raise MalformedFrame(f"an actor path is longer than {PATH_CHARACTERS_MAX} characters")
    return Envelope(header, data[end:])


def _unknown_version(raw: bytes) -> str:
    try:
        version = msgspec.msgpack.decode(_version_decoder.decode(raw)[0])
    except (msgspec.MsgspecError, IndexError, RecursionError, ValueError):
        return ""
    if version == VERSION:
        return ""
    return f"envelope version {version!r:.40} is not spoken here, only {VERSION}: upgrade one side"

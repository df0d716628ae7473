"""What a node and its worker processes say to each other, over stdin and stdout.

    u32 length (little-endian) | msgpack of one frame

A worker runs what strangers wrote, so its node believes nothing: frames are decoded by type, and a longer one, an
unknown one or a wrong one ends the worker.
"""

import struct
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec

from atoll.actors.container_manager.messages import Body, Headers, Pairs
from atoll.transport.errors import MalformedFrame

ASKS_PER_CALL_MAX = 32
"""HTTP requests that one call may wait for."""
FRAME_BYTES_MAX = 9 * 1024 * 1024
"""A `Load` with the longest program fits (8 MiB)."""
LOG_LINES_MAX = 200
"""Of one frame."""
LOG_LINE_CHARACTERS_MAX = 4096
REASON_CHARACTERS_MAX = 4096
METHOD_CHARACTERS_MAX = 40
URL_CHARACTERS_MAX = 32 * 1024
HEAD = struct.Struct("<I")

_Reason: TypeAlias = Annotated[str, msgspec.Meta(max_length=REASON_CHARACTERS_MAX)]


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """Base of all frames."""


class Load(Frame, frozen=True, array_like=True, tag="load"):
    """Become the worker of one service: load its program and answer `Loaded` or `Failed`."""

    code: str
    env: Pairs
    info: Pairs
    storage: str
    """The path of its storage file."""
    memory_bytes_max: int
    load_s: float


class Call(Frame, frozen=True, array_like=True, tag="call"):
    """Handle one request within `budget_s` from now; answer `Replied` or `Faulted`."""

    call: int
    method: str
    url: str
    headers: Headers
    body: bytes
    budget_s: float


class Cancel(Frame, frozen=True, array_like=True, tag="cancel"):
    """Nobody waits for this call any more."""

    call: int


class HttpAnswer(Frame, frozen=True, array_like=True, tag="http_answer"):
    """What came of an `HttpAsk`; with `error` set, nothing did."""

    call: int
    token: int
    status: int = 0
    headers: Pairs = ()
    body: bytes = b""
    error: str = ""


class Ready(Frame, frozen=True, array_like=True, tag="ready"):
    """The engine is compiled; a `Load` will be quick."""


class Loaded(Frame, frozen=True, array_like=True, tag="loaded"):
    """The program is loaded; calls will be quick."""


class Failed(Frame, frozen=True, array_like=True, tag="failed"):
    """The program cannot be loaded, or the engine cannot."""

    reason: _Reason
    missing: bool = False
    """The engine is not installed."""


class Replied(Frame, frozen=True, array_like=True, tag="replied"):
    """The service ended its response."""

    call: int
    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    headers: Headers
    body: Body


class Faulted(Frame, frozen=True, array_like=True, tag="faulted"):
    """The call came to nothing; `fault` is one of `errors.FAULTS`."""

    call: int
    fault: Annotated[str, msgspec.Meta(max_length=20)]
    reason: _Reason


Stream: TypeAlias = Literal["stdout", "stderr", "system"]
"""`system` is for what the node or the worker says about the service."""
_Line: TypeAlias = tuple[Stream, Annotated[str, msgspec.Meta(max_length=LOG_LINE_CHARACTERS_MAX)]]


class Logged(Frame, frozen=True, array_like=True, tag="logged"):
    """Lines for the service's log: stream and text."""

    lines: Annotated[tuple[_Line, ...], msgspec.Meta(max_length=LOG_LINES_MAX)]


class HttpAsk(Frame, frozen=True, array_like=True, tag="http_ask"):
    """The service makes an HTTP request of its own; answer with `HttpAnswer`."""

    call: int
    token: int
    method: Annotated[str, msgspec.Meta(max_length=METHOD_CHARACTERS_MAX)]
    url: Annotated[str, msgspec.Meta(max_length=URL_CHARACTERS_MAX)]
    headers: Headers
    body: Body


ToWorker: TypeAlias = Load | Call | Cancel | HttpAnswer
FromWorker: TypeAlias = Ready | Loaded | Failed | Replied | Faulted | Logged | HttpAsk

_encoder = msgspec.msgpack.Encoder()


def pack(frame: Frame) -> bytes:
    """Give the bytes of one frame, length first."""
    body = _encoder.encode(frame)
    return HEAD.pack(len(body)) + body


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self, kind: object, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._bytes_max = frame_bytes_max
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes; give the frames that are complete.

        Raises:
            MalformedFrame: The other end does not speak this language; nothing more can be read from it.
        """
        self._held += data
        while len(self._held) >= HEAD.size:
            (length,) = HEAD.unpack_from(self._held)
            if length > self._bytes_max:
                raise MalformedFrame(f"a frame of {length} bytes; {self._bytes_max} is the limit")
            end = HEAD.size + length
            if len(self._held) < end:
                return
            body = bytes(memoryview(self._held)[HEAD.size : end])
            del self._held[:end]
            try:
                yield self._decoder.decode(body)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise MalformedFrame(f"not a frame: {error}") from error

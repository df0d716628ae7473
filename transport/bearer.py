"""Bearers: plain byte pipes between two ends that both dialled out to a relay.

    dialling --connected--> preamble sent --"OK"--> a byte pipe to the other end
                                          --"NO"--> refused, with the relay's reason
                                          --silence--> given up

What an end says first, and what the relay answers (big-endian):

    end -> relay    "ATB1" | u16 length | ticket (1..255 bytes)
    relay -> end    "OK"                                       both ends are there; everything after is the other end's
                    "NO" | u8 reason | u8 length | sentence    and the connection closes

Nothing may be sent between the preamble and the answer, and not one byte past the answer is read here: it belongs to
the session. This module knows no ticket: to it they are bytes.
"""

import errno
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.abc

from atoll.transport.errors import Expired, MalformedFrame, Refused, Unreachable, UsageError

MAGIC = b"ATB1"
OK = b"OK"
NO = b"NO"
TICKET_BYTES_MAX = 255
PREAMBLE_HEAD = struct.Struct(">4sH")
_REFUSAL_HEAD = struct.Struct(">2sBB")
SENTENCE_BYTES_MAX = 255
DIAL_TIMEOUT_S = 40.0
"""Longer than a relay lets one end wait for the other (30 s), so that the relay's reason arrives first."""
KEEPALIVE_IDLE_S = 20
"""Under the 30 s after which the most impatient common NATs forget a connection."""
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3

S = TypeVar("S", bound=anyio.abc.ByteStream)


class BearerRefused(Refused):
    """The relay said no; `reason` is its number (the relay's list), the text its sentence."""

    def __init__(self, reason: int, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def encode_preamble(ticket: bytes) -> bytes:
    """Write what an end says first.

    Raises:
        UsageError: The ticket is empty or longer than 255 bytes.
    """
    if not 0 < len(ticket) <= TICKET_BYTES_MAX:
        raise UsageError(f"a ticket has 1 to {TICKET_BYTES_MAX} bytes, this one has {len(ticket)}")
    return PREAMBLE_HEAD.pack(MAGIC, len(ticket)) + ticket


def preamble_bytes_missing(data: bytes) -> int:
    """Tell how many more bytes complete the preamble begun by `data`; 0 when it is whole.

    Ask for no more than that from the connection: what follows belongs to the other end.

    Raises:
        MalformedFrame: It can never become one, which shows with its first wrong byte.
    """
    if not MAGIC.startswith(data[: len(MAGIC)]):
        raise MalformedFrame("not a bearer's preamble: it does not begin with ATB1")
    if len(data) < PREAMBLE_HEAD.size:
        return PREAMBLE_HEAD.size - len(data)
    _, length = PREAMBLE_HEAD.unpack_from(data)
    if not 0 < length <= TICKET_BYTES_MAX:
        raise MalformedFrame(f"a bearer's preamble announces a ticket of {length} bytes")
    missing: int = PREAMBLE_HEAD.size + length - len(data)
    if missing < 0:
        raise MalformedFrame("a bearer's preamble has bytes behind it")
    return missing


def decode_preamble(data: bytes) -> bytes:
    """Give the ticket in a whole preamble.

    Raises:
        MalformedFrame: It is not whole or not one.
    """
    if missing := preamble_bytes_missing(data):
        raise MalformedFrame(f"a bearer's preamble lacks {missing} bytes")
    return data[PREAMBLE_HEAD.size :]


def encode_refusal(reason: int, sentence: str) -> bytes:
    """Write the relay's no; a sentence past 255 bytes is cut."""
    text = sentence.encode()[:SENTENCE_BYTES_MAX]
    return _REFUSAL_HEAD.pack(NO, reason, len(text)) + text


def raw_socket_of(stream: anyio.abc.ByteStream) -> socket.socket:
    """Give the socket below a stream.

    Raises:
        BrokenResourceError: The connection has gone already; each loop says that in words of its own.
    """
    try:
        return stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
    except (AttributeError, LookupError, OSError, ValueError) as error:
        # uvloop: "'NoneType' object has no attribute 'getpeername'", when the other end reset it at once.
        raise anyio.BrokenResourceError from error


def make_bearer_ready(sock: socket.socket) -> None:
    """Set what every bearer needs: no delay for small records, and probes that keep NAT awake and notice the dead.

    Raises:
        OSError: The connection has gone already.
    """
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            # Not every system has all three; the default of two hours is then all there is.
            if (number := getattr(socket, option, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, number, value)
    except ValueError as error:
        # What uvloop says of a socket that is closed.
        raise OSError(errno.EBADF, "the connection has gone") from error


async def _read_exactly(stream: anyio.abc.ByteReceiveStream, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += await stream.receive(length - len(data))
    return data


async def read_answer(stream: anyio.abc.ByteReceiveStream) -> None:
    """Read the relay's answer: return on OK, raise on everything else, and leave what follows OK unread.

    Raises:
        BearerRefused: It is NO; with the reason.
        MalformedFrame: It is neither.
    """
    word = await _read_exactly(stream, len(OK))
    if word == OK:
        return
    if word != NO:
        raise MalformedFrame(f"the relay answered {word!r} instead of OK or NO; is this its bearer port?")
    reason, length = await _read_exactly(stream, 2)
    sentence = (await _read_exactly(stream, length)).decode(errors="replace")
    raise BearerRefused(reason, sentence)


async def connect_bearer(host: str, port: int) -> anyio.abc.SocketStream:
    """Make the connection of a bearer, and say nothing yet.

    Raises:
        OSError, BrokenResourceError: It did not come to be.
    """
    stream = await anyio.connect_tcp(host, port)
    try:
        make_bearer_ready(raw_socket_of(stream))
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise
    return stream


async def dial_bearer(
    host: str, port: int, ticket: bytes, *, timeout_s: float = DIAL_TIMEOUT_S, whose: str = "the relay's bearer port"
) -> anyio.abc.SocketStream:
    """Dial our half of a tunnel at a relay and wait until the other half is there too.

    The stream that comes back begins with the first byte of the other end; the caller closes it. `timeout_s` bounds
    everything, the wait for the other end included.

    Raises:
        BearerRefused: The relay said no, with its reason.
        Unreachable: Nobody answers there, or the connection broke before the answer.
        Expired: No answer within `timeout_s`.
        MalformedFrame: What answers is no relay.
    """
    return await show_ticket(ticket, lambda: connect_bearer(host, port), f"{whose} {host}:{port}", timeout_s=timeout_s)


async def show_ticket(
    ticket: bytes, connect: Callable[[], Awaitable[S]], where: str, *, timeout_s: float = DIAL_TIMEOUT_S
) -> S:
    """Connect, show the ticket, and wait until the other half of the tunnel is there too.

    `where` is for the errors: whose door that is. `timeout_s` bounds everything.

    Raises:
        BearerRefused, Unreachable, Expired, MalformedFrame: As `dial_bearer` says.
        UsageError: The ticket has a wrong length.
    """
    preamble = encode_preamble(ticket)
    stream: S | None = None
    try:
        with anyio.fail_after(timeout_s):
            stream = await connect()
            await stream.send(preamble)
            await read_answer(stream)
    except TimeoutError as error:
        await _drop(stream)
        raise Expired(f"{where} gave no answer within {timeout_s:g} s; the other end may not have dialled") from error
    except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        await _drop(stream)
        raise Unreachable(f"{where} cannot be reached: {error or 'it closed the connection'}") from error
    except BaseException:
        await _drop(stream)
        raise
    return stream


async def _drop(stream: anyio.abc.ByteStream | None) -> None:
    if stream is not None:
        await anyio.aclose_forcefully(stream)

"""A byte stream inside a WebSocket over TLS, at either end: what bearers are where only HTTPS gets through.

    open --send_eof / an empty binary message--> this direction is over; the other one goes on
         --aclose-----------------------------> end of this direction, then WebSocket's own close
         --anything else ends it--------------> broken: whoever reads hears that it was cut short, never an end

Bytes travel in binary messages whose borders mean nothing; an empty one is the end of its direction, which WebSocket
itself has no word for (RFC 6455 closes both at once). No compression: what passes is sealed. A PING is answered when
that does not have to wait, and only the newest one (section 5.5.3 allows it): waiting to answer before reading on could
stop both ends for good.
"""

import contextlib
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from atoll.transport.bearer import raw_socket_of

MESSAGE_BYTES = 64 * 1024
"""What is sent in one message, and read at once."""
MESSAGE_BYTES_MAX = 1024 * 1024
"""What one message of others may have; no more than this is ever held."""
CLOSE_S = 1.0
"""For the last words."""
_RESET = struct.pack("ii", 1, 0)


class WebSocketBytes(anyio.abc.ByteStream):
    """Bytes over an open WebSocket; make it when the handshake is done. One reader and one writer at a time."""

    def __init__(
        self, tls: TLSStream, protocol: ClientProtocol | ServerProtocol, events: Sequence[object] = ()
    ) -> None:
        """Take over behind the handshake; `events` came together with its last word."""
        self._tls, self._protocol = tls, protocol
        self._sock = raw_socket_of(tls)
        self._frames: deque[Frame] = deque(each for each in events if isinstance(each, Frame))
        self._left = memoryview(b"")
        """Of a message that was longer than what was asked for."""
        self._owed = b""
        """The answer to the newest PING, or to a CLOSE."""
        self._writing = anyio.Lock()
        self._over = self._said_eof = False

    async def receive(self, max_bytes: int = MESSAGE_BYTES) -> bytes:
        """Give what has come, at most `max_bytes`.

        Raises:
            EndOfStream: The other end has said that this is all.
            BrokenResourceError: The stream was cut short.
        """
        while not self._left:
            if self._over:
                raise anyio.EndOfStream
            if self._frames:
                self._take(self._frames.popleft())
            else:
                await self._read()
        piece, self._left = bytes(self._left[:max_bytes]), self._left[max_bytes:]
        return piece

    def _take(self, frame: Frame) -> None:
        if frame.opcode in {Opcode.BINARY, Opcode.CONT}:
            self._left = memoryview(frame.data)
            self._over = frame.opcode is Opcode.BINARY and frame.fin and not frame.data
        elif frame.opcode in {Opcode.TEXT, Opcode.CLOSE}:
            raise anyio.BrokenResourceError

    async def _read(self) -> None:
        if self._protocol.state is not State.OPEN:
            raise anyio.BrokenResourceError
        try:
            data = await self._tls.receive(MESSAGE_BYTES)
        except (anyio.EndOfStream, anyio.BusyResourceError, OSError) as error:
            raise anyio.BrokenResourceError from error
        self._protocol.receive_data(data)
        self._frames.extend(each for each in self._protocol.events_received() if isinstance(each, Frame))
        self._owed = next((each for each in reversed(self._protocol.data_to_send()) if each), self._owed)
        if self._owed and not self._writing.locked() and self._writable():
            async with self._writing:
                await self._flush()

    def _writable(self) -> bool:
        # A closed socket has no descriptor, which uvloop says as ValueError.
        with contextlib.suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT)
            return bool(poll.poll(0))
        return False

    async def send(self, item: bytes) -> None:
        """Send; waits while the other end takes nothing.

        Raises:
            BrokenResourceError: The stream is broken, or its end was said already.
        """
        if self._said_eof:
            raise anyio.BrokenResourceError
        async with self._writing:
            for start in range(0, len(item), MESSAGE_BYTES):
                self._write(item[start : start + MESSAGE_BYTES])
                await self._flush()

    async def send_eof(self) -> None:
        """Say that nothing more comes; what the other end says can still be read."""
        if not self._said_eof:
            self._said_eof = True
            async with self._writing:
                self._write(b"")
                await self._flush()

    async def ping(self) -> None:
        """Show whoever is on the way that this connection is used, when nothing else does."""
        if not self._writing.locked() and self._protocol.state is State.OPEN and self._writable():
            async with self._writing:
                self._protocol.send_ping(b"")
                await self._flush()

    def _write(self, message: bytes) -> None:
        try:
            self._protocol.send_binary(message)
        except (InvalidState, ProtocolError) as error:
            raise anyio.BrokenResourceError from error

    async def _flush(self) -> None:
        data, self._owed = self._owed + b"".join(self._protocol.data_to_send()), b""
        try:
            await self._tls.send(data)
        except (anyio.BusyResourceError, OSError) as error:
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Say the end of this direction and close; when there is no time for that, cut it short."""
        try:
            with anyio.fail_after(CLOSE_S):
                await self.send_eof()
                async with self._writing:
                    with contextlib.suppress(InvalidState):
                        self._protocol.send_close(1000)
                    await self._flush()
        except (TimeoutError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self._reset()
        except BaseException:
            self._reset()
            raise
        finally:
            await anyio.aclose_forcefully(self._tls)

    async def cut(self) -> None:
        """Close without a word, so that the other end sees that this was no end."""
        self._reset()
        await anyio.aclose_forcefully(self._tls)

    def _reset(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

"""Messages on one byte stream, each behind its 32-bit length."""

from collections import Counter, deque
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import ByteStream

from atoll.transport.codec import Codec, Message
from atoll.transport.errors import MalformedFrame, Unreachable
from atoll.transport.record_stream import RecordStream, frame_record

PIECE_BYTES = 256 * 1024


class StreamLost(Unreachable):
    """The stream ended before the talk did."""


class StreamEnded(StreamLost):
    """The other end has said all that it wanted to."""


class Talk:
    """One end of a talk; a context manager that closes the stream."""

    def __init__(self, stream: ByteStream, counts: Counter[str], *, codec: Codec, bytes_max: int) -> None:
        """Take what reads and writes messages, and how long one of the other end may be."""
        self._stream = stream
        self._counts = counts
        self._codec = codec
        self._records = RecordStream(bytes_max, 1)
        self._arrived: deque[bytes] = deque()
        self._saying = False
        """In the middle of a message; also when that was cut short, and then nothing more can be said."""

    def expect(self, bytes_max: int) -> None:
        """Take messages of so many bytes from now on: they were asked for."""
        self._records.record_bytes_max = bytes_max

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream, without waiting for what the other end does with it."""
        await anyio.aclose_forcefully(self._stream)

    async def say(self, message: Message) -> None:
        """Send a message, one at a time; waits while the other end takes nothing.

        Raises:
            StreamLost: Nobody gets it.
        """
        if self._saying:
            raise StreamLost("a message was cut short")
        self._saying = True
        try:
            await self._stream.send(frame_record(self._codec.encode(message)))
            self._saying = False
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise StreamLost(f"the stream broke: {error or 'its connection is gone'}") from error

    async def finish(self, within_s: float) -> None:
        """Say that nothing follows, and wait until the other end has heard it, or for so long."""
        with anyio.move_on_after(within_s):
            try:
                await self._stream.send_eof()
                while await self._stream.receive(PIECE_BYTES):
                    self._counts["after_the_end"] += 1
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    async def hear(self, within_s: float) -> Message:
        """Give the next message.

        Raises:
            StreamLost: None comes, or none within that time.
            MalformedFrame: What comes is none.
        """
        try:
            with anyio.fail_after(within_s):
                while not self._arrived:
                    self._arrived.extend(self._records.feed(await self._stream.receive(PIECE_BYTES)))
        except anyio.EndOfStream as error:
            raise StreamEnded("the other end closed the stream") from error
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise StreamLost(f"the stream broke: {error or 'its connection is gone'}") from error
        except TimeoutError:
            raise StreamLost(f"the other end said nothing for {within_s:g} s") from None
        except MalformedFrame:
            self._counts["malformed"] += 1
            raise
        try:
            return self._codec.decode(self._arrived.popleft())
        except MalformedFrame:
            self._counts["malformed"] += 1
            raise

"""A byte stream to a service of a peer, as users hold it: AnyIO's `ByteStream` over a stream of a session.

    open --aclose(), both directions done--> over      --aclose() before, reset, session lost--> broken, with the reason

It may be used from any task of the loop that the node runs in. What `send` has taken is acknowledged end to end in the
end; a relay that dies on the way loses nothing of it. Whoever is cancelled in `send` finds in `sent_bytes` how far it
came; who is cancelled in `receive` has lost nothing.
"""

from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.abc
import anyio.lowlevel

from atoll.transport.base import Standing
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId
from atoll.transport.streams import StreamSet

WRITE_BYTES = 256 * 1024
"""What is handed over at once; a longer piece lets others have their turn in between."""
READ_BYTES = 65_536


class Door(Protocol):
    """The session of a stream, as the stream sees it."""

    @property
    def streams(self) -> StreamSet:
        """Where its bytes are."""
        ...

    def flush(self) -> None:
        """Send what is to be sent."""
        ...


class SessionStream(anyio.abc.ByteStream):
    """One stream; made by the Router."""

    def __init__(
        self,
        door: Door,
        number: int,
        *,
        peer: NodeId,
        service: str,
        standing: Standing | None,
        arrived: bool,
        on_over: Callable[["SessionStream"], None],
    ) -> None:
        self.peer = peer
        self.service = service
        self.standing = standing
        """What the peer has proved; None: it is this node itself."""
        self.arrived = arrived
        """The peer has opened it."""
        self.number = number
        self.taken = False
        """Somebody uses it."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self._door = door
        self._on_over = on_over
        self._changed = anyio.Event()
        self._awaited = False
        self._broken: str | None = None
        """Why it is over before its end."""
        self._ended = self._finished = self._closed = False
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("reading from")

    def __repr__(self) -> str:
        return f"SessionStream({self.number}, {self.service!r} of {self.peer.short})"

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """Wait for bytes, at most so many.

        Raises:
            EndOfStream: The peer has finished, and all was read.
            BrokenResourceError: It was reset, or its session was lost; the text says why.
            ClosedResourceError: It is closed here.
        """
        if max_bytes <= 0:
            raise UsageError(f"a stream gives at least one byte at a time, not {max_bytes}")
        self.taken = True
        with self._receiving:
            await anyio.lowlevel.checkpoint()
            while True:
                self._check_open()
                if piece := self._read(max_bytes):
                    self.received_bytes += len(piece)
                    return piece
                if self._ended:
                    raise anyio.EndOfStream
                self._check_whole()
                await self._change()

    async def send(self, item: bytes) -> None:
        """Send all of it, waiting for room; `sent_bytes` counts what was taken.

        Raises:
            BrokenResourceError: It was reset, or its session was lost; the text says why.
            ClosedResourceError: It is closed here, or `send_eof` was called.
        """
        self.taken = True
        with self._sending:
            await anyio.lowlevel.checkpoint()
            view = memoryview(item)
            while True:
                self._check_open()
                if self._finished:
                    raise anyio.ClosedResourceError("this direction is finished: nothing can be sent behind its end")
                self._check_whole()
                if not view:
                    return
                piece = view[:WRITE_BYTES]
                whole = len(piece) == len(item) and isinstance(item, bytes)
                taken = self._door.streams.write(self.number, item if whole else bytes(piece))
                self.sent_bytes += taken
                view = view[taken:]
                if taken:
                    self._door.flush()
                if taken < len(piece):
                    await self._change()
                elif view:
                    await anyio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """End our direction; the other goes on."""
        self.taken = True
        await anyio.lowlevel.checkpoint()
        self._check_open()
        self._check_whole()
        self._finish()

    async def aclose(self) -> None:
        """Let go of it: at its end if both directions are done, else it is reset, and the peer hears that."""
        self.taken = True
        if not self._closed:
            self._closed = True
            if self._broken is None and not self._over():
                if self._door.streams.at_end(self.number):
                    # What was sent still has to arrive; the session sees to it.
                    self._finish()
                    self._ended = True
                    self._settle()
                else:
                    self.reset("the other end closed it")
            self._wake()
        await anyio.lowlevel.checkpoint()

    def reset(self, reason: str) -> None:
        """End both directions at once; the peer is told why. Harmless when it is over."""
        if self._broken is None and not self._over():
            self._door.streams.reset(self.number, reason)
            self._door.flush()
            self.broke(reason)

    # What the Router tells

    def changed(self) -> None:
        """Hear that there is something to read, or room to write."""
        self._wake()

    def over(self, reason: str) -> None:
        """Hear that the stream is no more: all was sent and read, or `reason` says why not."""
        if reason:
            self.broke(reason)
        else:
            self._wake()
            self._on_over(self)

    def broke(self, reason: str) -> None:
        """Hear that it is over before its end; what has come can still be read."""
        if self._broken is None:
            self._broken = reason
            self._wake()
            self._on_over(self)

    # Inside

    def _read(self, max_bytes: int) -> bytes:
        """Take what is there, and note the end."""
        streams = self._door.streams
        if self._over():
            self._ended = self._broken is None
            return b""
        parts: list[memoryview] = []
        room = max_bytes
        while room and (piece := streams.read(self.number, room)):
            parts.append(piece)
            room -= len(piece)
        if parts:
            if streams.answering:
                self._door.flush()
            return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        if streams.at_end(self.number):
            self._ended = True
            self._settle()
        return b""

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            if not self._over():
                self._door.streams.finish(self.number)
                self._door.flush()

    def _settle(self) -> None:
        """Forget it if both directions are done."""
        if self._door.streams.settle(self.number):
            self._door.flush()
            self._on_over(self)

    def _over(self) -> bool:
        return not self._door.streams.is_open(self.number)

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError(f"the stream to {self.service} of {self.peer.short} is closed")

    def _check_whole(self) -> None:
        if self._broken is not None:
            raise anyio.BrokenResourceError(f"the stream to {self.service} of {self.peer.short} broke: {self._broken}")

    async def _change(self) -> None:
        self._awaited = True
        await self._changed.wait()

    def _wake(self) -> None:
        if self._awaited:
            self._awaited = False
            self._changed.set()
            self._changed = anyio.Event()

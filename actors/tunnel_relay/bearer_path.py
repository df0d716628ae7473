"""A bearer as a path: records framed onto a byte stream, read in one task and written in another.

    open --the stream ends, a frame makes no sense, close()--> over

`send` only queues, at most `QUEUE_BYTES_MAX`; what waits together is written together. From `FULL_BYTES` on it says
that it is full, and `on_drained` is called when half of that has left. `run` gives up the stream however it ends.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import anyio.abc

from atoll.actors.router.routes import Way
from atoll.transport.base import QUEUE_BYTES_MAX
from atoll.transport.errors import Congested, MalformedFrame, Unreachable
from atoll.transport.identity import NodeId
from atoll.transport.record_stream import RecordStream, frame_record

RECORD_BYTES_MAX = 65_536
READ_BYTES = 262_144
WRITE_BYTES = 262_144
"""What is written at once; bench/relay shows no gain above."""
FULL_BYTES = 256 * 1024
"""What may wait here before streams and calls wait in their session instead: a call waits behind so much."""
PARTING_S = 0.25
"""The same when the whole node ends."""
LAST_WORDS_S = 2.0
"""How long what is queued may take to leave after `close`: a frozen relay takes nothing any more."""


@dataclass(slots=True, eq=False)
class BearerPath:
    """One bearer that ends here."""

    relay: str
    stream: anyio.abc.ByteStream = field(repr=False)
    opened_at: float
    peer: NodeId | None = None
    way: Way = Way.BEP
    record_bytes_max: int = RECORD_BYTES_MAX
    through: str = ""
    """Why it goes by the relay's other door; empty where it does not."""
    on_drained: Callable[["BearerPath"], None] | None = field(default=None, repr=False)
    sent_bytes: int = 0
    received_bytes: int = 0
    _queue: deque[bytes] = field(default_factory=deque, repr=False)
    _queued_bytes: int = 0
    _full: bool = False
    """It has said so, and not taken it back."""
    _wanted: anyio.Event = field(default_factory=anyio.Event, repr=False)
    closed: bool = False
    """This end has closed it; else its end is a loss."""
    _over: bool = False
    _closing: anyio.Event = field(default_factory=anyio.Event, repr=False)
    _scope: anyio.CancelScope = field(default_factory=anyio.CancelScope, repr=False)

    @property
    def takes_more(self) -> bool:
        """Whether records should be put on it now."""
        self._full = self._full or self._queued_bytes >= FULL_BYTES
        return not self._full

    def send(self, record: bytes) -> None:
        """Queue a record; raises as `Path.send` says."""
        if self._over:
            raise Unreachable(f"the bearer through {self.relay} is over")
        if self._queued_bytes + len(record) > QUEUE_BYTES_MAX:
            raise Congested(f"the bearer through {self.relay} takes less than is sent; the record was not queued")
        self._queue.append(frame_record(record))
        self._queued_bytes += len(record)
        self._wanted.set()

    def close(self) -> None:
        """End it, after what is queued: the last record is usually the session's goodbye."""
        self.closed = self._over = True
        self._wanted.set()
        self._closing.set()

    def abandon(self) -> None:
        """End it at once as a loss, with all that is queued."""
        self._over = True
        self._scope.cancel()

    async def run(self, take: Callable[[tuple[bytes, ...]], Awaitable[None]]) -> str:
        """Read and write until it is over; hand records to `take` as they come, and give the reason of the end."""
        reason = "this end closed it"
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    tasks.start_soon(self._end_in_time)
                    reason = await self._read(take)
                    tasks.cancel_scope.cancel()
        finally:
            self._over = True
            with anyio.move_on_after(PARTING_S, shield=True):
                await self._part()
            await anyio.aclose_forcefully(self.stream)
        return reason

    async def _part(self) -> None:
        """Write the goodbye of a session that is still queued: this node ends, and with it the writer."""
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.BusyResourceError):
            if self.closed and self._queue:
                await self.stream.send(b"".join(self._queue))

    async def _read(self, take: Callable[[tuple[bytes, ...]], Awaitable[None]]) -> str:
        records = RecordStream(self.record_bytes_max)
        try:
            while True:
                data = await self.stream.receive(READ_BYTES)
                self.received_bytes += len(data)
                if whole := records.feed(data):
                    await take(tuple(whole))
        except anyio.EndOfStream:
            return "the other end or the relay closed it"
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            return f"the connection to {self.relay} broke: {error or 'reset'}"
        except MalformedFrame as error:
            return str(error)

    async def _end_in_time(self) -> None:
        await self._closing.wait()
        await anyio.sleep(LAST_WORDS_S)
        self._scope.cancel()

    async def _write(self) -> None:
        while True:
            if not self._queue:
                if self._over:
                    self._scope.cancel()
                    return
                self._wanted = anyio.Event()
                await self._wanted.wait()
                continue
            parts: list[bytes] = []
            size = 0
            while self._queue and size < WRITE_BYTES:
                parts.append(self._queue.popleft())
                size += len(parts[-1])
            try:
                await self.stream.send(b"".join(parts))
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                # The reader tells why; it sees the same end.
                self._over = True
                return
            self.sent_bytes += size
            self._queued_bytes -= size - 4 * len(parts)
            if self._full and self._queued_bytes <= FULL_BYTES // 2:
                self._full = False
                if self.on_drained is not None:
                    self.on_drained(self)

"""Events that wait for a transport's one reader, and what they weigh.

It decides nothing but when it is full: `full` asks its owner to take nothing more from peers, `make_room` is called
once when half of it has been read. It never drops an event and never makes `put` wait.
"""

from collections import deque
from collections.abc import Callable

import anyio
import anyio.lowlevel

from atoll.transport.base import Delivered, LinkEvent
from atoll.transport.errors import Unreachable, UsageError

INBOX_BYTES_MAX = 8 * 1024 * 1024
"""What was received and not yet asked for; beyond it the owner takes nothing, and peers feel it."""
EVENT_BYTES = 128
"""What an event costs beside its data."""
EVENTS_PER_TURN_MAX = 256
"""After as many events the reader gives the event loop its turn, though more are there."""


def weight(event: LinkEvent) -> int:
    """Tell how many bytes an event keeps."""
    return EVENT_BYTES + (len(event.data) if isinstance(event, Delivered) else 0)


class Inbox:
    """A queue of events in the order they happened; `make_room` is called when a full one is half empty again."""

    def __init__(self, make_room: Callable[[], None] = lambda: None) -> None:
        self.bytes = 0
        self._events: deque[LinkEvent] = deque()
        self._make_room = make_room
        self._was_full = self._closed = self._reading = False
        self._arrived: anyio.Event | None = None
        self._turn = 0

    @property
    def full(self) -> bool:
        """Whether its owner should take nothing more until `make_room`; who asks is told."""
        if self.bytes >= INBOX_BYTES_MAX:
            self._was_full = True
        return self._was_full

    def put(self, event: LinkEvent) -> None:
        """Append an event; also when full, because what has happened cannot be refused."""
        self._events.append(event)
        self.bytes += weight(event)
        if self._arrived is not None:
            self._arrived.set()

    def close(self) -> None:
        """Let the reader know, after the last event, that nothing more comes."""
        self._closed = True
        if self._arrived is not None:
            self._arrived.set()

    async def take(self) -> LinkEvent:
        """Wait for the next event; a cancelled wait takes none.

        Raises:
            Unreachable: It is closed and everything was read.
            UsageError: Somebody else is waiting already.
        """
        if self._reading:
            raise UsageError("somebody else is receiving from this transport; it has one reader at a time")
        self._reading = True
        try:
            self._turn += 1
            if self._turn % EVENTS_PER_TURN_MAX == 0:
                await anyio.lowlevel.checkpoint()
            while not self._events:
                if self._closed:
                    raise Unreachable("this transport is closed")
                self._arrived = anyio.Event()
                await self._arrived.wait()
        finally:
            self._reading = False
        # Nothing waits from here on, so that a cancellation loses no event.
        event = self._events.popleft()
        self.bytes -= weight(event)
        if self._was_full and self.bytes < INBOX_BYTES_MAX // 2:
            self._was_full = False
            self._make_room()
        return event

"""Events that wait for a transport's one reader, and what they weigh.

    arrived --the reader takes it--> read, and its peer's grant hears of it

It never drops an event and never makes `put` wait. What one peer may have here is bounded by its `Grant`; what all of
them may have together by `crowded`, which its owner asks before it takes more of somebody.
"""

from collections import deque

import anyio.lowlevel

from atoll.transport.base import Delivered, LinkEvent
from atoll.transport.credit import MESSAGE_COST_BYTES, Grant
from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.parking import Promise, PromiseFactory, promise_factory

INBOX_BYTES_MAX = 256 * 1024 * 1024
"""What all peers together may have here before those who have more than their share are ended."""
EVENTS_PER_TURN_MAX = 256
BYTES_PER_TURN_MAX = 16 * 1024
"""After as many events, or as many bytes, the reader gives the event loop its turn, though more are there. A run is one
event, and hundreds of messages."""
_EVENT_BYTES = BYTES_PER_TURN_MAX // EVENTS_PER_TURN_MAX


class Inbox:
    """A queue of events in the order they happened."""

    def __init__(self) -> None:
        self.bytes = 0
        self._events: deque[tuple[LinkEvent, Grant | None, int]] = deque()
        self._closed = self._reading = False
        self._new_promise: PromiseFactory | None = None
        self._parked: Promise | None = None
        """The reader, while it waits."""
        self._turn = 0
        """What was read in this turn, in bytes; an event counts as `_EVENT_BYTES` at least."""

    def crowded(self, grant: Grant, peers: int) -> bool:
        """Tell whether too much waits here, and this one of `peers` has more than its share of it."""
        return self.bytes > INBOX_BYTES_MAX and grant.held * max(1, peers) > INBOX_BYTES_MAX

    def put(self, event: LinkEvent) -> None:
        """Append an event that is no message."""
        self._events.append((event, None, MESSAGE_COST_BYTES))
        self.bytes += MESSAGE_COST_BYTES
        self._wake()

    def put_messages(self, peer: NodeId, messages: list[bytes], grant: Grant) -> None:
        """Append what a peer sent in one frame, and came in on its grant: each weighs what it costs in credit."""
        events = [(Delivered(peer, each), grant, MESSAGE_COST_BYTES + len(each)) for each in messages]
        self._events += events
        self.bytes += sum(cost for _, _, cost in events)
        self._wake()

    def _wake(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None and not parked.done():
            parked.set_result(None)

    def close(self) -> None:
        """Let the reader know, after the last event, that nothing more comes."""
        self._closed = True
        self._wake()

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
            if self._turn >= BYTES_PER_TURN_MAX:
                self._turn = 0
                await anyio.lowlevel.checkpoint()
            while not self._events:
                if self._closed:
                    raise Unreachable("this transport is closed")
                if self._new_promise is None:
                    self._new_promise = promise_factory()
                self._parked = self._new_promise()
                await self._parked
        finally:
            self._reading = False
        # Nothing waits from here on, so that a cancellation loses no event.
        event, grant, cost = self._events.popleft()
        self.bytes -= cost
        self._turn += max(cost - MESSAGE_COST_BYTES, _EVENT_BYTES)
        if grant is not None:
            grant.read(cost)
        return event

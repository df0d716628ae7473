"""What an actor has still to do: a bounded queue with one reader.

    empty, reader parked --put--> reader woken --> drained in batches --> empty, reader parked
    full --put--> refused with MailboxFull
    closed --put--> False: the actor is gone

A put never waits. Facts and timers of this node pass the bound of messages, up to a second bound of their own: a full
mailbox must not make an actor miss that a peer is gone.
"""

from collections import deque
from typing import Any

from atoll.actors.runtime.errors import MailboxFull
from atoll.transport.parking import Promise, PromiseFactory

MAILBOX_MAX = 1024
"""Messages that wait for one actor before more are refused; at 64 KiB each that is the budget of one slow peer."""
FACTS_FACTOR = 4
"""Facts may fill a mailbox to so many times its bound."""


class Mailbox:
    """The queue of one actor; it outlives the actor's restarts."""

    __slots__ = ("_new_promise", "closed", "handled", "items", "parked", "path", "room", "size_max")

    def __init__(self, path: str, size_max: int, new_promise: PromiseFactory) -> None:
        self.path = path
        self.size_max = size_max
        self.items: deque[Any] = deque()
        self.closed = False
        self.handled = 0
        """Messages that left the queue, since the actor was spawned."""
        self.parked: Promise | None = None
        """The reader, while it waits for the first item."""
        self.room: list[Promise] | None = None
        """Those who wait for room."""
        self._new_promise = new_promise

    def put(self, item: Any) -> bool:
        """Append one item; False when nobody will ever read it.

        Raises:
            MailboxFull: `size_max` items wait already.
        """
        items = self.items
        if len(items) >= self.size_max:
            if self.closed:
                return False
            raise MailboxFull(f"the mailbox of {self.path} is full: {self.size_max} messages wait; wait_room() waits")
        items.append(item)
        parked = self.parked
        if parked is not None:
            self.parked = None
            if not parked.done():
                parked.set_result(None)
        return True

    def put_all(self, items: list[Any]) -> bool:
        """Append several items at once, if there is room for all of them; False when there is not, or closed."""
        if self.closed or len(self.items) + len(items) > self.size_max:
            return False
        self.items += items
        self.wake()
        return True

    def put_fact(self, item: Any) -> bool:
        """Append a fact or a timer, past the bound of messages; False when even that is full, or closed."""
        if self.closed or len(self.items) >= self.size_max * FACTS_FACTOR:
            return False
        self.items.append(item)
        self.wake()
        return True

    def wake(self) -> None:
        """Let the reader look, though nothing may be there (it is asked to stop)."""
        parked, self.parked = self.parked, None
        if parked is not None and not parked.done():
            parked.set_result(None)

    async def wait_item(self) -> None:
        """Park the one reader until there may be something."""
        if not self.items:
            self.parked = self._new_promise()
            await self.parked

    async def wait_room(self) -> None:
        """Wait until at most half of the bound is taken, or the mailbox is closed."""
        while len(self.items) > self.size_max // 2 and not self.closed:
            promise = self._new_promise()
            if self.room is None:
                self.room = []
            self.room.append(promise)
            await promise

    def tell_room(self) -> None:
        """Wake those who wait for room, when there is enough; the reader calls it after every batch."""
        if self.room is not None and (self.closed or len(self.items) <= self.size_max // 2):
            waiting, self.room = self.room, None
            for promise in waiting:
                if not promise.done():
                    promise.set_result(None)

    def close(self) -> list[Any]:
        """Take nothing more; give back what was never read. The reader is not woken: it has ended, or never began."""
        self.closed = True
        # So `put` looks at one thing instead of two.
        self.size_max = 0
        self.parked = None
        rest = list(self.items)
        self.items.clear()
        self.tell_room()
        return rest

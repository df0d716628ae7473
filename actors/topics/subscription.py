"""What a subscriber holds: messages in order, and word of every loss.

    open --next, async for--> messages as they come      --aclose--> closed
         --the node's Topics crash--> open: it waits for their next life, and reads that something may be missing
         --the node's Topics end, the gate refuses--> broken, with the reason

It may be used from one task of the loop that the node runs in. Whoever reads too slowly loses the oldest, and is told.
"""

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias

import anyio

from atoll.actors.container_manager.errors import ContainerError
from atoll.actors.topics.messages import Item, Lost, Publication
from atoll.actors.topics.orders import WayFound, WayLost
from atoll.actors.topics.ring import Missed, Ring
from atoll.transport.identity import NodeId

WORDS_MAX = 16
"""Word of ways lost and found that waits for a reader; the oldest goes."""

Event: TypeAlias = Publication | Missed | WayLost | WayFound


class Subscription:
    """Gives what was subscribed to; made by the Topics."""

    def __init__(
        self,
        filters: tuple[str, ...],
        source: NodeId | None,
        ring: Ring[Item],
        on_close: Callable[["Subscription"], None],
    ) -> None:
        self.filters = filters
        self.source = source
        """The node of another site at which was subscribed; None: this site."""
        self.missed = 0
        """Messages that were lost, as far as that is known."""
        self.unsure = False
        """More may be missing: a node began anew that had kept something."""
        self.ring = ring
        self.on_close = on_close
        self._words: deque[WayLost | WayFound] = deque(maxlen=WORDS_MAX)
        self._changed = anyio.Event()
        self._failure: ContainerError | None = None
        self._closed = False

    async def next(self) -> Event:
        """Wait for a message, or for word of what was missed, and of ways lost and found.

        Raises:
            NotLetIn: The other node does not let us subscribe there any more.
            GateLost: The node's Topics have ended.
            ClosedResourceError: It is closed.
        """
        while True:
            if self._closed:
                raise anyio.ClosedResourceError("this subscription is closed")
            if self._words:
                return self._words.popleft()
            found = self.ring.take()
            if isinstance(found, tuple):
                self.ring.acknowledge(found[0])
                if isinstance(found[1], Publication):
                    return found[1]
                found = Missed(found[1].count)
            if found is not None:
                self.missed += found.count or 0
                self.unsure = self.unsure or found.count is None
                return found
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Publication:
        """Give the next message; `missed` and `unsure` say what is lost."""
        while True:
            try:
                event = await self.next()
            except anyio.ClosedResourceError:
                raise StopAsyncIteration from None
            if isinstance(event, Publication):
                return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it; what waits is gone."""
        if not self._closed:
            self._closed = True
            self.on_close(self)
            self.wake()

    # What the Topics tell

    def wake(self) -> None:
        """Hear that there is something to read."""
        self._changed.set()
        self._changed = anyio.Event()

    def say(self, word: WayLost | WayFound) -> None:
        """Hear of a way lost or found."""
        self._words.append(word)
        self.wake()

    def doubt(self) -> None:
        """Hear that something may be missing behind what waits."""
        lost = Lost()
        self.ring.put(lost, lost.size, sure=lost.sure)
        self.wake()

    def fail(self, error: ContainerError) -> None:
        """Hear that nothing more comes."""
        self._failure = self._failure or error
        self.wake()

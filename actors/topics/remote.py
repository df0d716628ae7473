"""Subscriptions at nodes of other sites: a visit each, whose messages go to one reader.

A reader outlives a crash of the Topics; its visit does not. The next one has the same key, so the gate forgets the
first one, and what it had kept for it: the reader is told that something may be missing.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

import anyio
import nacl.utils
from anyio.abc import ByteStream, TaskGroup

from atoll.actors.topics.errors import GateLost, NotLetIn, TooMany
from atoll.actors.topics.exchange import SUBSCRIBERS_MAX, WAITING_BYTES_MAX, WAITING_MAX
from atoll.actors.topics.filters import good_filters
from atoll.actors.topics.messages import KEY_BYTES, Item
from atoll.actors.topics.orders import WayFound, WayLost
from atoll.actors.topics.ring import Ring
from atoll.actors.topics.subscription import Subscription
from atoll.actors.topics.visit import Arrived, Visit, VisitEvent, Welcomed
from atoll.actors.topics.visiting import Visiting
from atoll.transport.identity import NodeId


class RemoteReader:
    """One visit after the other, and whoever reads what comes of them."""

    def __init__(self, filters: tuple[str, ...], source: NodeId, on_close: Callable[["RemoteReader"], None]) -> None:
        self.key = nacl.utils.random(KEY_BYTES)
        self.filters, self.source = filters, source
        self.visiting: Visiting
        self._ring: Ring[Item] = Ring(WAITING_MAX, WAITING_BYTES_MAX)
        self._on_close = on_close
        self._begun = anyio.Event()
        self._reached = False
        self.subscription = Subscription(filters, source, self._ring, self._close)

    def visit(self, make_visiting: Callable[..., Visiting]) -> None:
        """Take a visit, not run yet, in place of the one before."""
        self.visiting = make_visiting(on_event=self._hear, on_lost=self._lost)

    def doubt(self) -> None:
        """Hear that the visit was lost, and what the gate had kept for it."""
        self.subscription.say(WayLost("the topics of this node crashed, and begin again"))
        self.subscription.doubt()

    def _close(self, _: Subscription) -> None:
        self.visiting.stop()
        self._on_close(self)

    def _hear(self, event: VisitEvent) -> None:
        match event:
            case Arrived(item):
                self._ring.put(item, item.size, item.weight, sure=item.sure)
            case Welcomed():
                if self._reached:
                    self.subscription.say(WayFound())
                self._reached = True
                self._begun.set()
        self.subscription.wake()

    def _lost(self, why: str) -> None:
        if self._reached:
            self.subscription.say(WayLost(why))
        self._begun.set()

    async def run(self) -> None:
        """Keep the visit up until it is refused, or the subscription is closed."""
        await self.visiting.run()
        if self.visiting.refused:
            self.subscription.fail(NotLetIn(self.visiting.refused))
        self._begun.set()

    async def wait_begun(self) -> None:
        """Wait until the node has let us in.

        Raises:
            NotLetIn: It has not.
            GateLost: There is no way to it.
        """
        await self._begun.wait()
        if self.visiting.refused:
            raise NotLetIn(self.visiting.refused)
        if not self._reached:
            raise GateLost(self.visiting.why)


class RemoteSubscriptions:
    """Those of one node."""

    def __init__(
        self,
        site: bytes,
        open_stream: Callable[[NodeId], Awaitable[ByteStream]],
        counts: Counter[str],
        rng: Random,
        readers: list[RemoteReader],
    ) -> None:
        """`readers` may have some already, of an earlier life; `resume` begins their visits again."""
        self._readers = readers
        self._site = site
        self._open_stream = open_stream
        self._counts = counts
        self._rng = rng

    async def subscribe(self, filters: tuple[str, ...], source: NodeId, tasks: TaskGroup) -> Subscription:
        """Subscribe at a node, and wait until it has let us in.

        Raises:
            BadTopic: A filter is none.
            TooMany: This node has too many.
            NotLetIn: That node does not let us.
            GateLost: There is no way to it.
        """
        filters = good_filters(filters)
        if len(self._readers) >= SUBSCRIBERS_MAX:
            raise TooMany(f"{SUBSCRIBERS_MAX} subscriptions at other nodes are open already; end one")
        reader = RemoteReader(filters, source, self._readers.remove)
        reader.visit(partial(self._visiting, reader))
        self._readers.append(reader)
        tasks.start_soon(reader.run)
        try:
            await reader.wait_begun()
        except BaseException:
            reader.subscription.close()
            raise
        return reader.subscription

    def resume(self, tasks: TaskGroup) -> None:
        """Visit again for all readers of an earlier life."""
        for reader in self._readers:
            if not reader.visiting.refused:
                reader.visit(partial(self._visiting, reader))
                reader.doubt()
                tasks.start_soon(reader.run)

    def _visiting(self, reader: RemoteReader, **callbacks: Callable[..., None]) -> Visiting:
        return Visiting(
            Visit(key=reader.key, site=self._site, filters=reader.filters),
            lambda: self._open_stream(reader.source),
            counts=self._counts,
            rng=self._rng,
            **callbacks,
        )

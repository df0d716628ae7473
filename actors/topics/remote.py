"""Subscriptions at nodes of other sites: a visit each, whose messages go to one reader."""

from collections import Counter
from collections.abc import Awaitable, Callable
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


class _RemoteReader:
    """One visit, and whoever reads what comes of it."""

    def __init__(
        self,
        filters: tuple[str, ...],
        source: NodeId,
        on_close: Callable[[Subscription], None],
        make_visiting: Callable[..., Visiting],
    ) -> None:
        self._ring: Ring[Item] = Ring(WAITING_MAX, WAITING_BYTES_MAX)
        self._on_close = on_close
        self._begun = anyio.Event()
        self._reached = False
        self.subscription = Subscription(filters, source, self._ring, self._close)
        self.visiting = make_visiting(on_event=self._hear, on_lost=self._lost)

    def _close(self, subscription: Subscription) -> None:
        self.visiting.stop()
        self._on_close(subscription)

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
    ) -> None:
        self.open: list[Subscription] = []
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
        if len(self.open) >= SUBSCRIBERS_MAX:
            raise TooMany(f"{SUBSCRIBERS_MAX} subscriptions at other nodes are open already; end one")

        def make_visiting(**callbacks: Callable[..., None]) -> Visiting:
            return Visiting(
                Visit(key=nacl.utils.random(KEY_BYTES), site=self._site, filters=filters),
                lambda: self._open_stream(source),
                counts=self._counts,
                rng=self._rng,
                **callbacks,
            )

        reader = _RemoteReader(filters, source, self.open.remove, make_visiting)
        self.open.append(reader.subscription)
        tasks.start_soon(reader.run)
        try:
            await reader.wait_begun()
        except BaseException:
            reader.subscription.close()
            raise
        return reader.subscription

"""Publishing at nodes of other sites: a visit for each node and topic, kept for a moment for the next message."""

from collections import Counter, deque
from collections.abc import Awaitable, Callable
from random import Random

import anyio
import nacl.utils
from anyio.abc import ByteStream, TaskGroup

from atoll.actors.topics.errors import GateLost, NotLetIn, TooMany
from atoll.actors.topics.exchange import Exchange
from atoll.actors.topics.messages import KEY_BYTES, Publication
from atoll.actors.topics.orders import Published
from atoll.actors.topics.visit import Delivered, Visit, VisitEvent, Welcomed
from atoll.actors.topics.visiting import Visiting
from atoll.transport.identity import NodeId

OUTLETS_MAX = 32
WAITING_MAX = 64
"""Messages that wait for one gate."""
IDLE_S = 5.0
"""How long an outlet waits for another message."""


class Outlet:
    """Publishes one topic at one node, in order."""

    def __init__(
        self,
        topic: str,
        exchange: Exchange,
        open_stream: Callable[[], Awaitable[ByteStream]],
        counts: Counter[str],
        rng: Random,
    ) -> None:
        visit = Visit(key=nacl.utils.random(KEY_BYTES), site=exchange.site, publishes=(topic,))
        self.reached = False
        self.lost = ""
        """Why it was never reached."""
        self.users = 0
        self._exchange = exchange
        self._waiting: deque[Publication] = deque()
        self._taken = 0
        """How many messages the visit was given, and"""
        self._given = 0
        """how many those are with the ones that wait."""
        self._news = anyio.Event()
        self.visiting = Visiting(visit, open_stream, on_event=self._hear, on_lost=self._on_lost, counts=counts, rng=rng)

    def _hear(self, event: VisitEvent) -> None:
        if isinstance(event, Welcomed):
            self.reached = True
            self._pour()
        if isinstance(event, Welcomed | Delivered):
            self._tell()

    def _on_lost(self, why: str) -> None:
        if not self.reached:
            self.lost = why
            self.visiting.stop()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _pour(self) -> None:
        visit = self.visiting.visit
        while self._waiting and visit.there:
            publication = self._waiting.popleft()
            leaves = self._exchange.leaving(publication, beyond=visit.gate_site, joins=True)
            assert leaves is not None  # noqa: S101 - our own message has been nowhere
            visit.publish(leaves)
        self.visiting.wake()

    async def publish(self, publication: Publication, wait_s: float) -> None:
        """Publish it there, and wait until the gate has it.

        Raises:
            NotLetIn: The gate does not take it.
            GateLost: There is no way to it, or it gave no answer in time.
            TooMany: Too many wait already.
        """
        if self._given - self.visiting.visit.acknowledged >= WAITING_MAX:
            raise TooMany(f"{WAITING_MAX} messages for that node wait already; wait for them")
        self._given += 1
        number = self._given
        self._waiting.append(publication)
        self._pour()
        with anyio.move_on_after(wait_s):
            while self.visiting.visit.acknowledged < number:
                if self.visiting.refused:
                    raise NotLetIn(self.visiting.refused)
                if self.visiting.over.is_set() or self.lost:
                    raise GateLost(self.lost or self.visiting.why)
                await self._news.wait()
            return
        why = f": {self.visiting.why}" if self.visiting.why else ""
        raise GateLost(f"whether it was published is not known, no answer came within {wait_s:g} s{why}")

    async def run(self) -> None:
        """Keep the visit until nobody needs it."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end_when_idle)
            await self.visiting.run()
            tasks.cancel_scope.cancel()
        self._tell()

    async def _end_when_idle(self) -> None:
        given = -1
        while self.users or given != self._given:
            given = self._given
            await anyio.sleep(IDLE_S)
        self.visiting.stop()

    @property
    def usable(self) -> bool:
        """Tell whether it takes another message."""
        return not (self.visiting.over.is_set() or self.visiting.is_stopping or self.lost or self.visiting.refused)


class Outlets:
    """Those of one node."""

    def __init__(
        self,
        exchange: Exchange,
        open_stream: Callable[[NodeId], Awaitable[ByteStream]],
        counts: Counter[str],
        rng: Random,
    ) -> None:
        self._exchange = exchange
        self._open_stream = open_stream
        self._counts = counts
        self._rng = rng
        self._open: dict[tuple[NodeId, str], Outlet] = {}

    async def publish(self, to: NodeId, publication: Publication, wait_s: float, tasks: TaskGroup) -> Published:
        """Publish at a node of another site; see `Outlet.publish`."""
        key = (to, publication.topic)
        outlet = self._open.get(key)
        if outlet is None or not outlet.usable:
            outlet = self._make(key, tasks)
        outlet.users += 1
        try:
            await outlet.publish(publication, wait_s)
        finally:
            outlet.users -= 1
        self._counts["published_at_gates"] += 1
        return Published(publication.node, publication.boot, publication.sequence, 0, 0)

    def _make(self, key: tuple[NodeId, str], tasks: TaskGroup) -> Outlet:
        if len(self._open) >= OUTLETS_MAX:
            raise TooMany(f"{OUTLETS_MAX} topics of other sites are published to already; try again in {IDLE_S:g} s")
        node, topic = key
        outlet = Outlet(topic, self._exchange, lambda: self._open_stream(node), self._counts, self._rng)
        self._open[key] = outlet

        async def run() -> None:
            try:
                await outlet.run()
            finally:
                if self._open.get(key) is outlet:
                    del self._open[key]

        tasks.start_soon(run)
        return outlet

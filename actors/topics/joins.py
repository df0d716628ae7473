"""A lasting join of two sites: a visit at a node of the other one, for as long as this node runs.

    in      what is published there is subscribed to, and comes into this site
    out     what is published here is published there

Whatever would run in a circle is not let through, by `Exchange.leaving` and `may_enter`. What cannot go out yet waits
in this node, bounded and counted as everywhere.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol

import anyio
import msgspec
import nacl.utils
from anyio.abc import ByteStream

from atoll.actors.runtime.system import ActorSystem
from atoll.actors.topics.exchange import Exchange, ExchangeEffect, Subscriber
from atoll.actors.topics.messages import KEY_BYTES, Item, Lost, Publication
from atoll.actors.topics.orders import JoinSeen
from atoll.actors.topics.ring import Missed
from atoll.actors.topics.visit import Arrived, Delivered, Visit, VisitEvent, Welcomed
from atoll.actors.topics.visiting import RETRY_S_MAX, Visiting
from atoll.transport.identity import NodeId


class JoinWanted(msgspec.Struct, frozen=True):
    """What the config says of one join."""

    node: NodeId
    topics: tuple[str, ...]
    comes: bool
    goes: bool

    @property
    def direction(self) -> str:
        """Say it as the config does."""
        return "both" if self.comes and self.goes else "in" if self.comes else "out"


class Host(Protocol):
    """The Topics of the node, as a join sees them."""

    exchange: Exchange
    counts: Counter[str]
    system: ActorSystem

    def carry_out(self, effects: Sequence[ExchangeEffect]) -> None:
        """Do what the exchange wants."""
        ...

    def add_reader(self, number: int, wake: Callable[[], None]) -> None:
        """Have `wake` called when there is something in that subscriber's ring."""
        ...

    def end_reader(self, number: int) -> None:
        """Unsubscribe it."""
        ...


class Join:
    """Keeps one join up."""

    def __init__(
        self,
        wanted: JoinWanted,
        host: Host,
        open_stream: Callable[[NodeId], Awaitable[ByteStream]],
        rng: Random,
    ) -> None:
        self.wanted = wanted
        self._host = host
        self._came = self._went = self._missed = 0
        self._outgoing: Subscriber | None = None
        self._refused = ""
        exchange = host.exchange
        self._visiting = Visiting(
            Visit(
                key=nacl.utils.random(KEY_BYTES),
                site=exchange.site,
                filters=wanted.topics if wanted.comes else (),
                publishes=wanted.topics if wanted.goes else (),
                joins=True,
            ),
            lambda: open_stream(wanted.node),
            on_event=self._hear,
            on_lost=lambda _: None,
            counts=host.counts,
            rng=rng,
        )

    def seen(self) -> JoinSeen:
        """Say how it does."""
        visiting, wanted = self._visiting, self.wanted
        return JoinSeen(
            wanted.node,
            wanted.topics,
            wanted.direction,
            visiting.visit.there,
            visiting.why or self._refused,
            self._came,
            self._went,
            self._missed,
        )

    async def run(self) -> None:
        """Keep it up for ever; whoever is refused asks again, now and then."""
        subscriber = self._subscribe() if self.wanted.goes else None
        try:
            while True:
                await self._visiting.run()
                self._refused = self._visiting.refused
                self._visiting.refused = ""
                await anyio.sleep(RETRY_S_MAX)
        finally:
            if subscriber is not None:
                self._host.end_reader(subscriber.number)

    def _subscribe(self) -> Subscriber:
        subscriber, effects = self._host.exchange.subscribe(self.wanted.topics, self._host.system.clock())
        self._outgoing = subscriber
        self._host.add_reader(subscriber.number, self._pump)
        self._host.carry_out(effects)
        return subscriber

    def _hear(self, event: VisitEvent) -> None:
        exchange = self._host.exchange
        match event:
            case Arrived(item):
                if isinstance(item, Lost):
                    self._missed += item.weight
                if exchange.may_enter(item):
                    self._came += isinstance(item, Publication)
                    self._host.carry_out(exchange.inject(item))
                else:
                    self._host.counts["looped"] += 1
            case Welcomed() | Delivered():
                self._pump()

    def _pump(self) -> None:
        """Hand on what goes out, as far as there is room towards the gate."""
        visit, subscriber = self._visiting.visit, self._outgoing
        if subscriber is None:
            return
        while visit.there and visit.has_room and (found := subscriber.ring.take()) is not None:
            if isinstance(found, Missed):
                item: Item = Lost(found.count)
            else:
                number, item = found
                subscriber.ring.acknowledge(number)
            leaves = self._host.exchange.leaving(item, beyond=visit.gate_site, joins=True)
            if leaves is not None:
                self._went += isinstance(leaves, Publication)
                visit.publish(leaves)
        self._visiting.wake()

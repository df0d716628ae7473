"""Topics as the gateway sees them: by asking the node's Topics."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.actors.container_manager.container_manager import order
from atoll.actors.container_manager.errors import UsageFault
from atoll.actors.gateway.live_containers import port_error
from atoll.actors.gateway.node_views import NodeView
from atoll.actors.gateway.topic_views import JoinView, PublishedReply, PubSubReply, SubscriberView
from atoll.actors.runtime.actor import ActorRef
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.actors.topics.messages import PATH
from atoll.actors.topics.orders import (
    DescribeTopics,
    Published,
    PublishTopic,
    TopicsDescribed,
)
from atoll.actors.topics.subscribing import subscribe
from atoll.actors.topics.subscription import Subscription
from atoll.transport.identity import NodeId

WAIT_S = 20.0
"""For a gate to take a message."""
ANSWER_S = 30.0


@dataclass(slots=True)
class LiveTopics:
    """Implements the gateway's `TopicPort` with the actors of a system."""

    system: ActorSystem
    find: Callable[[str], Awaitable[NodeView]]
    names: Callable[[], Awaitable[Mapping[NodeId, str]]]

    async def publish(self, topic: str, payload: bytes, to: str) -> PublishedReply:
        """Publish in this site, or in that of the node `to`."""
        published: Published = await self._order(PublishTopic(topic, payload, await self._peer(to), WAIT_S))
        return PublishedReply(
            topic=topic,
            node=str(published.node),
            epoch=published.boot.hex(),
            sequence=published.sequence,
            subscribers=published.subscribers,
            nodes=published.members,
        )

    async def subscribe(self, filters: Sequence[str], source: str) -> Subscription:
        """Subscribe in this site, or at the node `source`."""
        peer = await self._peer(source)
        try:
            return await subscribe(self._topics, tuple(filters), peer, timeout_s=ANSWER_S)
        except UsageFault as error:
            raise port_error(error) from error

    async def describe(self) -> PubSubReply:
        """Say who reads topics here, and how the joins do."""
        described: TopicsDescribed = await self._order(DescribeTopics())
        names = await self.names()
        return PubSubReply(
            subscribers=[
                SubscriberView(
                    filters=list(each.filters),
                    source="" if each.source is None else str(each.source),
                    visitor="" if each.visitor is None else str(each.visitor),
                    waiting=each.waiting,
                    lost=each.lost,
                )
                for each in described.subscribers
            ],
            joins=[
                JoinView(
                    node=str(each.node),
                    node_name=names.get(each.node, each.node.short),
                    topics=list(each.topics),
                    direction=each.direction,
                    there=each.there,
                    why=each.why,
                    came=each.came,
                    went=each.went,
                    missed=each.missed,
                )
                for each in described.joins
            ],
            nodes=described.members,
            counters=described.counters,
        )

    async def _peer(self, node: str) -> NodeId | None:
        return NodeId.parse((await self.find(node)).id) if node else None

    @property
    def _topics(self) -> ActorRef:
        return self.system.ref(Address(self.system.node_id, PATH))

    async def _order(self, message: Any) -> Any:
        try:
            return await order(self._topics, message, timeout_s=ANSWER_S)
        except UsageFault as error:
            raise port_error(error) from error

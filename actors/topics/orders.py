"""What a node's own actors ask of its Topics, and what they are told; nothing of it leaves the node."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from atoll.transport.identity import NodeId


class PublishTopic(msgspec.Struct, frozen=True):
    """Publish in this site, or in that of a node; answered with `Published`, or declined."""

    topic: str
    payload: bytes
    to: NodeId | None = None
    """A node of another site that publishes it there."""
    wait_s: float = 20.0
    """For that node to have it."""


class Published(msgspec.Struct, frozen=True):
    """It was published."""

    node: NodeId
    boot: bytes
    sequence: int
    subscribers: int
    """Of this node, that wanted it; none where it was published in another site."""
    members: int
    """Other nodes of this site that wanted it."""


@dataclass(slots=True)
class Claim:
    """Whether anybody still wants what was ordered; what comes when nobody does is closed at once."""

    given_up: bool = False
    _close: Callable[[], None] | None = None

    def give_up(self) -> None:
        """Want it no more, whether it has come or not."""
        self.given_up = True
        if self._close is not None:
            self._close()

    def hold(self, close: Callable[[], None]) -> None:
        """Take what has come: how it is closed."""
        self._close = close
        if self.given_up:
            close()


class OpenSubscription(msgspec.Struct, frozen=True):
    """Subscribe; answered with a `Subscription` when those who publish know of it, or declined."""

    filters: tuple[str, ...]
    source: NodeId | None = None
    """A node of another site: what is published there comes over."""
    claim: Claim = msgspec.field(default_factory=Claim)


class SubscribeActor(msgspec.Struct, frozen=True):
    """Have the actor `path` of this node told each `Publication`, `Missed` and so on; answered when that is so."""

    path: str
    filters: tuple[str, ...]
    source: NodeId | None = None


class UnsubscribeActor(msgspec.Struct, frozen=True):
    """Tell that actor nothing more; harmless when it is told nothing."""

    path: str


class WayLost(msgspec.Struct, frozen=True):
    """The way to the node at which was subscribed is lost; it is looked for, and nothing is missed until it is said."""

    why: str


class WayFound(msgspec.Struct, frozen=True):
    """There is a way again."""


class EndReading(msgspec.Struct, frozen=True):
    """End every subscription with that reason: the node stops."""

    why: str


class DescribeTopics(msgspec.Struct, frozen=True):
    """Ask who subscribes here, and how the joins do; answered with `TopicsDescribed`."""


class JoinSeen(msgspec.Struct, frozen=True):
    """How one `[[join]]` does."""

    node: NodeId
    topics: tuple[str, ...]
    direction: str
    there: bool
    why: str
    """Why it is not, or what happened last."""
    came: int
    went: int
    missed: int


class SubscriberSeen(msgspec.Struct, frozen=True):
    """One subscriber of this node."""

    filters: tuple[str, ...]
    source: NodeId | None
    """Where it subscribed, if not in this site."""
    visitor: NodeId | None
    """The node of another site that it is."""
    waiting: int
    lost: int


class TopicsDescribed(msgspec.Struct, frozen=True):
    """Everything about topics that there is to see."""

    subscribers: tuple[SubscriberSeen, ...]
    joins: tuple[JoinSeen, ...]
    members: int
    """Nodes of this site that want something of this one."""
    counters: dict[str, int]

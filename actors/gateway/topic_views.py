"""What `/atoll/v1/topics` says: part of the schema, as `views.py`; the lines of its stream, too."""

from typing import Literal, TypeAlias

import msgspec

from atoll.actors.gateway.views import Reply, View


class PublishedReply(Reply, frozen=True, kw_only=True):
    """A message that was published."""

    topic: str
    node: str
    epoch: str
    """The publisher's: its sequence begins anew with each start."""
    sequence: int
    subscribers: int
    """Of this node, that wanted it; none where it was published in another site."""
    nodes: int
    """Other nodes of this site that wanted it."""


class SubscriberView(View, frozen=True, kw_only=True):
    """Whoever reads topics on this node."""

    filters: list[str]
    source: str = ""
    """The node of another site at which it subscribed; empty: this site."""
    visitor: str = ""
    """The node that it is; empty: a command or an actor of this one."""
    waiting: int
    """Messages that it has not read, or not acknowledged."""
    lost: int
    """That found no room."""


class JoinView(View, frozen=True, kw_only=True):
    """One `[[join]]` of the node's config."""

    node: str
    node_name: str
    topics: list[str]
    direction: str
    there: bool
    why: str
    """Why it is not there."""
    came: int
    went: int
    missed: int
    """What the other site lost on its way here."""


class PubSubReply(Reply, frozen=True, kw_only=True):
    """Who reads topics here, and how this site is joined with others."""

    subscribers: list[SubscriberView]
    joins: list[JoinView]
    nodes: int
    """Of this site, that want something of this one."""
    counters: dict[str, int]


class MessageEvent(msgspec.Struct, frozen=True, kw_only=True, tag="message", tag_field="event"):
    """A message."""

    topic: str
    payload: str
    encoding: Literal["utf-8", "base64"] = "utf-8"
    node: str
    """Who published it."""
    epoch: str
    sequence: int
    time: str


class ReadyEvent(msgspec.Struct, frozen=True, kw_only=True, tag="ready", tag_field="event"):
    """What is published from now on comes."""

    filters: list[str]
    node: str = ""
    """The node of another site at which was subscribed."""


class MissedEvent(msgspec.Struct, frozen=True, kw_only=True, tag="missed", tag_field="event"):
    """Messages are lost that were to come here."""

    count: int | None
    """None: nobody knows how many, perhaps none."""


class WayLostEvent(msgspec.Struct, frozen=True, kw_only=True, tag="way_lost", tag_field="event"):
    """The way to the other site is lost, and looked for."""

    why: str


class WayFoundEvent(msgspec.Struct, frozen=True, kw_only=True, tag="way_found", tag_field="event"):
    """There is a way again; what was published meanwhile comes now, as far as it was kept."""


class EndEvent(msgspec.Struct, frozen=True, kw_only=True, tag="end", tag_field="event"):
    """Nothing follows."""

    why: str
    again: bool = False
    """Subscribing again has sense as soon as the node is there."""


TopicEvent: TypeAlias = MessageEvent | ReadyEvent | MissedEvent | WayLostEvent | WayFoundEvent | EndEvent

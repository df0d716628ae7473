"""What the Topics of nodes say to each other: tells between members of a site, and messages on a stream to a gate.

    in a site      subscriber's node --TopicsWanted--> publisher's node --TopicsTaken-->, then --TopicMessages--> ...
    to a gate      VisitBegins --------------->
                               <--------------- VisitWelcome, or VisitRefused, which is the last
                               <--------------- VisitMessage: what the visitor subscribed to
                   VisitHeard  --------------->   how far it has them
                   VisitPublish --------------->  what the visitor publishes
                               <--------------- VisitTaken: how far the gate has them

On the stream a message stands behind its 32-bit length.
"""

from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.topics.filters import FILTERS_MAX, TOPIC_BYTES_MAX
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "topics"
SERVICE = "pubsub"
"""What the stream to a gate is opened to."""
PAYLOAD_BYTES_MAX = 256 * 1024
HOPS_MAX = 4
"""Borders of sites that a message crosses at most."""
BOOT_BYTES = 8
SITE_BYTES = 8
"""Of the tag that a site has in its beacons."""
KEY_BYTES = 16
NODE_FILTERS_MAX = 1024
"""Different filters of all subscribers of a node: what it tells each member."""
BATCH_MAX = 64
"""Messages in one `TopicMessages`."""
BATCH_BYTES_MAX = 256 * 1024
"""And their payloads and topics, unless one alone has more."""
NUMBER_MAX = 2**53
GAP_MAX = 10_000_000
"""Messages lost one after the other that are believed: more are no loss, but a lie."""
REASON_CHARACTERS_MAX = 500
FRAME_BYTES_MAX = PAYLOAD_BYTES_MAX + 4096
"""On a stream; with it a message that brings a payload has room for its topic, and for the way it went."""

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=TOPIC_BYTES_MAX)]
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
Boot: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=BOOT_BYTES, max_length=BOOT_BYTES)]
SiteTag: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=SITE_BYTES, max_length=SITE_BYTES)]
Filters: TypeAlias = Annotated[tuple[Name, ...], msgspec.Meta(max_length=FILTERS_MAX)]


class Publication(msgspec.Struct, frozen=True, array_like=True, tag="message"):
    """One message as it was published; the same everywhere but for `via`."""

    topic: Name
    payload: Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX)]
    node: NodeId
    """Who published it, as the nodes say through which it came."""
    boot: Boot
    """Of that node's Topics: its sequence begins anew with each."""
    sequence: Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX)]
    time_ms: Number
    """Since 1970, by the publisher's clock."""
    via: Annotated[tuple[SiteTag, ...], msgspec.Meta(max_length=HOPS_MAX)] = ()
    """The sites that it has left, the publisher's first."""

    @property
    def size(self) -> int:
        """Say about how many bytes it holds."""
        return len(self.payload) + 4 * len(self.topic) + 128

    @property
    def weight(self) -> int:
        """Say how many numbers it takes."""
        return 1

    @property
    def sure(self) -> bool:
        """Tell whether it is what it is; of `Lost` it is another thing."""
        return True


class Lost(msgspec.Struct, frozen=True, array_like=True, tag="lost"):
    """Word of messages that are lost, which anybody may have wanted; it goes the way that they would have gone."""

    count: Annotated[int, msgspec.Meta(ge=1, le=GAP_MAX)] | None = None
    """None: nobody knows how many, perhaps none."""
    via: Annotated[tuple[SiteTag, ...], msgspec.Meta(max_length=HOPS_MAX)] = ()
    """The sites that it has left, the one where they were lost first."""

    @property
    def size(self) -> int:
        """Say about how many bytes it holds."""
        return 128

    @property
    def weight(self) -> int:
        """Say how many numbers it takes."""
        return self.count or 1

    @property
    def sure(self) -> bool:
        """Tell whether it says how many."""
        return self.count is not None


Item: TypeAlias = Publication | Lost


class TopicsWanted(Message, frozen=True, array_like=True, tag="topics.wanted"):
    """All filters of a node's subscribers; a lease, which a node that has some says again and again."""

    boot: Boot
    version: Number
    """Rises with each change."""
    filters: Annotated[tuple[Name, ...], msgspec.Meta(max_length=NODE_FILTERS_MAX)]


class TopicsTaken(Message, frozen=True, array_like=True, tag="topics.taken"):
    """What is published from now on goes by those filters."""

    boot: Boot
    """Of `TopicsWanted`."""
    version: Number


class TopicMessages(Message, frozen=True, array_like=True, tag="topics.messages"):
    """Messages for a node with a filter that matches, numbered for it one after the other; a gap is a loss."""

    boot: Boot
    wanted_boot: Boot
    """Of the `TopicsWanted` that it answers."""
    turn: Number
    """Rises from 1 when a wish is entered whose lease had ended; numbers begin at 1 in each."""
    first: Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX)]
    """The number of the first; a `Lost` takes as many as it counts."""
    items: Annotated[tuple[Item, ...], msgspec.Meta(min_length=1, max_length=BATCH_MAX)]


class VisitBegins(Message, frozen=True, array_like=True, tag="topics.visit_begins"):
    """A node subscribes at another one, publishes there, or both; said again on each stream of the same visit."""

    key: Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
    """Random; the same for a visit on all its streams."""
    site: SiteTag
    joins: bool
    """What comes goes on into the visitor's site: nothing is wanted that was there already."""
    filters: Filters
    publishes: Filters
    """What it will publish is within them."""
    epoch: Annotated[bytes, msgspec.Meta(max_length=BOOT_BYTES)]
    """Of the last `VisitWelcome`; empty at first."""
    heard: Number
    """The number of the newest message that it has of that epoch."""
    published: Number
    """The number of the newest `VisitPublish` that it knows to be taken, in whatever epoch."""


class VisitWelcome(Message, frozen=True, array_like=True, tag="topics.visit_welcome"):
    """The gate knows the visit; with another epoch than the visitor's it begins anew, and what it kept is gone."""

    site: SiteTag
    epoch: Boot
    taken: Number
    """The number of the newest `VisitPublish` that it has of this epoch."""


class VisitRefused(Message, frozen=True, array_like=True, tag="topics.visit_refused"):
    """The gate ends it; `again` when the same may be let in later."""

    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARACTERS_MAX)]
    again: bool = False


class VisitMessage(Message, frozen=True, array_like=True, tag="topics.visit_message"):
    """One message that the visitor subscribed to, or word of losses; a gap in the numbers is a loss at the gate."""

    number: Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX)]
    item: Item


class VisitHeard(Message, frozen=True, array_like=True, tag="topics.visit_heard"):
    """The visitor has everything up to this number, or knows that it is lost."""

    number: Number


class VisitPublish(Message, frozen=True, array_like=True, tag="topics.visit_publish"):
    """The visitor publishes in the gate's site; a gap in the numbers is what it had no room for."""

    number: Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX)]
    item: Item


class VisitTaken(Message, frozen=True, array_like=True, tag="topics.visit_taken"):
    """The gate has published everything up to this number."""

    number: Number


MESSAGES: tuple[type[Message], ...] = (
    TopicsWanted,
    TopicsTaken,
    TopicMessages,
    VisitBegins,
    VisitWelcome,
    VisitRefused,
    VisitMessage,
    VisitHeard,
    VisitPublish,
    VisitTaken,
)

"""What the Discoverer announces, what it is told, what it answers, and what the Suspicions of members say."""

import enum
from typing import Annotated, TypeAlias

import msgspec

from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "discoverer"
SUSPICION = "suspicion"
"""The actor beside it, which decides who is alive."""
SEEN_MAX = 8192
"""Nodes in one list; more than are ever remembered."""
CANDIDATES_MAX = 8
"""Addresses of one node."""
GOSSIP_MAX = 8
"""Rumours in one message: at most 900 bytes, so that gossip never makes two packets of one."""
INCARNATION_MAX = 2**53
SEQUENCE_MAX = 2**32 - 1


class ListSeen(Message, frozen=True, array_like=True, tag="discoverer.list_seen"):
    """Asks for the nodes on this node's networks; answered with `SeenNodes`."""


class SeenNode(msgspec.Struct, frozen=True, array_like=True):
    """One node that was heard, is linked, or is a static seed."""

    node: NodeId
    label: str = ""
    """The name its operator gave it: for people."""
    release: str = ""
    """Its release of Atoll, where a beacon told it."""
    member: bool = False
    """It is a member of our site; while `standing` is empty, only its beacon says so."""
    standing: str = ""
    """What its link has proved; empty without a link."""
    addresses: Annotated[tuple[tuple[str, int], ...], msgspec.Meta(max_length=CANDIDATES_MAX)] = ()
    """(host, port) it can be dialled at, most promising first."""
    heard_s_ago: float = -1.0
    """Seconds since its last beacon; -1 for never."""
    why: str = ""
    """Why there is no link, in words."""


class SeenNodes(Message, frozen=True, array_like=True, tag="discoverer.seen_nodes"):
    """All nodes the Discoverer knows of, sorted by id, and what is wrong with discovery."""

    nodes: Annotated[tuple[SeenNode, ...], msgspec.Meta(max_length=SEEN_MAX)] = ()
    notes: tuple[str, ...] = ()


class Life(enum.IntEnum):
    """What is believed of a member."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2
    LEFT = 3


Incarnation: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=INCARNATION_MAX)]
Sequence: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]


class Rumour(msgspec.Struct, frozen=True, array_like=True):
    """What one member says of another, or of itself."""

    node: NodeId
    life: Life
    incarnation: Incarnation
    """Raised by nobody but the node itself; what is said of an earlier one is old."""
    by: NodeId
    """Who found it; independent accusers shorten a suspicion."""


Gossip: TypeAlias = Annotated[tuple[Rumour, ...], msgspec.Meta(max_length=GOSSIP_MAX)]


class Ping(Message, frozen=True, array_like=True, tag="suspicion.ping"):
    """Asks for a sign of life; answered with `Ack`."""

    sequence: Sequence
    gossip: Gossip = ()


class PingRequest(Message, frozen=True, array_like=True, tag="suspicion.ping_request"):
    """Asks a third member to ping `target`; answered with `Ack`, or `Nack` in time when it hears nothing either."""

    sequence: Sequence
    target: NodeId
    gossip: Gossip = ()


class Ack(Message, frozen=True, array_like=True, tag="suspicion.ack"):
    """The member with this ping's number lives."""

    sequence: Sequence
    gossip: Gossip = ()


class Nack(Message, frozen=True, array_like=True, tag="suspicion.nack"):
    """I live, and have no word of the member you asked me to ping."""

    sequence: Sequence


class Rumours(Message, frozen=True, array_like=True, tag="suspicion.rumours"):
    """Gossip that does not wait for a ping: a greeting on a new link, a farewell."""

    gossip: Gossip


MESSAGES: tuple[type[Message], ...] = (ListSeen, SeenNodes, Ping, PingRequest, Ack, Nack, Rumours)


class MemberSuspected(msgspec.Struct, frozen=True):
    """Fact out: a member gives no sign of life; it has some seconds to refute it."""

    node: NodeId
    by: NodeId
    """Who has no answer from it."""
    why: str


class MemberDied(msgspec.Struct, frozen=True):
    """Fact out: a suspected member did not refute it in time."""

    node: NodeId
    why: str


class MemberAlive(msgspec.Struct, frozen=True):
    """Fact out: a member that was suspected, dead or gone is alive."""

    node: NodeId
    why: str


class MemberLeft(msgspec.Struct, frozen=True):
    """Fact out: a member said goodbye."""

    node: NodeId


class Leaving(msgspec.Struct, frozen=True):
    """Ask the Suspicion to tell the others that this node ends in good order; answered when it has."""


class DescribeMembers(msgspec.Struct, frozen=True):
    """Ask the Suspicion of this node; answered with `MembersDescribed`."""


class MemberState(msgspec.Struct, frozen=True):
    """What is believed of one member, since when, and why."""

    node: NodeId
    life: Life
    since_s: float
    why: str


class MembersDescribed(msgspec.Struct, frozen=True):
    """All members known, by id; and how far this node distrusts itself (0 is well)."""

    members: tuple[MemberState, ...]
    health: int
    counters: dict[str, int]


class Seed(msgspec.Struct, frozen=True):
    """Where a node is without multicast; from the configuration."""

    peer: NodeId
    host: str
    port: int


class Wanted(msgspec.Struct, frozen=True):
    """Fact in: with these members a link is wanted on a large site too: voters and the supernode."""

    peers: frozenset[NodeId]
    everybody: bool = False
    """This node is supernode: every member is wanted."""


class LinkWanted(msgspec.Struct, frozen=True):
    """Fact in: somebody on this node has something to say to that member, and wants a link for it, for a while.

    Asked instead of told, it is answered with `LinkComing`.
    """

    peer: NodeId


class LinkComing(msgspec.Struct, frozen=True):
    """The answer to `LinkWanted`."""

    coming: bool
    """A link is being made that this node would not have by itself: wait for it a moment."""


class DialWanted(msgspec.Struct, frozen=True):
    """Fact out, for the Router: open a link to `peer`, who may be at this address."""

    peer: NodeId
    host: str
    port: int


class NodeSeen(msgspec.Struct, frozen=True):
    """Fact out: a node was heard of for the first time, or again after it was forgotten."""

    node: NodeId
    label: str
    member: bool
    """As it says; only a link proves it."""


class NodeLost(msgspec.Struct, frozen=True):
    """Fact out: a node without a link was not heard for so long that it is forgotten."""

    node: NodeId

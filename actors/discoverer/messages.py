"""What the Discoverer announces, what it is told, and what it answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from atoll.transport.codec import Message
from atoll.transport.identity import NodeId

PATH = "discoverer"
SEEN_MAX = 8192
"""Nodes in one list; more than are ever remembered."""
CANDIDATES_MAX = 8
"""Addresses of one node."""


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


MESSAGES: tuple[type[Message], ...] = (ListSeen, SeenNodes)


@dataclass(frozen=True, slots=True)
class Seed:
    """Where a node is without multicast; from the configuration."""

    peer: NodeId
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Fact in: with these members a link is wanted on a large site too: voters, the supernode, those talked to."""

    peers: frozenset[NodeId]

    @classmethod
    def of(cls, peers: Iterable[NodeId]) -> "Wanted":
        """Collect them from anything."""
        return cls(frozenset(peers))


@dataclass(frozen=True, slots=True)
class DialWanted:
    """Fact out, for the Router: open a link to `peer`, who may be at this address."""

    peer: NodeId
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """Fact out: a node was heard of for the first time, or again after it was forgotten."""

    node: NodeId
    label: str
    member: bool
    """As it says; only a link proves it."""


@dataclass(frozen=True, slots=True)
class NodeLost:
    """Fact out: a node without a link was not heard for so long that it is forgotten."""

    node: NodeId

"""Facts the Router announces on its node, and what Routers say to each other."""

from dataclasses import dataclass

from atoll.transport.base import Standing
from atoll.transport.codec import Message
from atoll.transport.identity import NodeId


@dataclass(frozen=True, slots=True)
class PeerUp:
    """An authenticated link to a peer is up: the only proof of life there is."""

    peer: NodeId
    standing: Standing
    label: str
    host: str


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The link to a peer is gone; `reason` is for people."""

    peer: NodeId
    reason: str


class SepDelivery(Message, frozen=True, tag="router.sep_delivery"):
    """The proxy hands a sealed record that arrived under a node's label to that node."""

    circuit: bytes
    relay: NodeId
    record: bytes


class SepAnswer(Message, frozen=True, tag="router.sep_answer"):
    """The node hands its sealed answer back to the proxy that holds the circuit."""

    circuit: bytes
    relay: NodeId
    record: bytes


MESSAGES = (SepDelivery, SepAnswer)

"""The duty `proxy`: the site's reachability at relays.

It draws a random label for every member and has the TunnelRelay of its node keep the site registered under them. A
label says nothing about the node behind it. Labels move along with the duty: callers hold them, and a relay switches
each to the newest registration that has it. For the same reason who comes back gets the label it had: a member can be
taken for dead for a tenth of a second, and its callers' sessions shall outlive that.
"""

import os
from typing import Any, ClassVar

import anyio

from atoll.actors.duties.duty import Duty
from atoll.actors.duties.messages import PROXY, LabelsChanged, SiteKnown, SiteLabels
from atoll.actors.runtime.actor import LATER, Delivery
from atoll.actors.runtime.machine import Address
from atoll.actors.tunnel_relay.frames import LABEL_BYTES, LABELS_PER_REGISTRATION_MAX
from atoll.actors.tunnel_relay.messages import PATH as TUNNEL_RELAY
from atoll.actors.tunnel_relay.messages import ServeSite, SiteServed, StopServing
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

READY_S = 2.0
"""Without any relay by then it is ready all the same: another node would find none either."""
GONE_MAX = LABELS_PER_REGISTRATION_MAX
"""Labels that are kept for members that are gone; those gone longest give way."""
_states = Codec([SiteLabels])


class Proxy(Duty):
    """Gives every member a label, and tells who needs to know."""

    name = PROXY
    open_to: ClassVar[frozenset[Standing]] = frozenset()

    def __init__(self, own: NodeId, site: str) -> None:
        self._own = own
        self._site = site
        self._labels: dict[NodeId, bytes] = {}
        self._gone: dict[NodeId, bytes] = {}
        """Labels of members that are on the roll no more; nobody is reached under them."""
        self._relays: tuple[NodeId, ...] = ()

    async def started(self) -> None:
        """Begin to serve with this node alone; the roll brings the others."""
        self.system.subscribe(SiteKnown, self.ref)
        self.system.subscribe(SiteServed, self.ref)
        self._label({self._own, *self._labels})
        self.tasks.start_soon(self._be_ready_anyway)

    async def stopped(self) -> None:
        """Hang up at the relays."""
        self.system.tell(Address(self._own, TUNNEL_RELAY), StopServing())

    def snapshot(self) -> bytes:
        """Give the labels."""
        return _states.encode(SiteLabels(tuple(sorted(self._labels.items())), ()))

    def restore(self, state: bytes) -> None:
        """Take over the labels of the holder before."""
        told = _states.decode(state)
        if not isinstance(told, SiteLabels):
            raise MalformedFrame("no labels")
        self._labels = dict(told.labels)

    async def receive(self, delivery: Delivery) -> Any:
        """Follow the roll and the registrations."""
        match delivery.message:
            case SiteKnown(records=records):
                members = {self._own, *(record.node for record in records)}
                if members != set(self._labels):
                    self._label(members)
            case SiteServed(relays=relays):
                self._relays = relays
                if relays:
                    self.ready()
                self._announce()
            case _:
                return await super().receive(delivery)
        return LATER

    def _label(self, members: set[NodeId]) -> None:
        wanted = sorted(members)[:LABELS_PER_REGISTRATION_MAX]
        drawn = self._gone | self._labels
        self._labels = {node: drawn.get(node) or os.urandom(LABEL_BYTES) for node in wanted}
        gone = [(node, label) for node, label in drawn.items() if node not in self._labels]
        self._gone = dict(gone[-GONE_MAX:])
        self.system.tell(Address(self._own, TUNNEL_RELAY), ServeSite(self._site, dict(self._labels)))
        self._announce()

    def _announce(self) -> None:
        self.system.announce(LabelsChanged(tuple(sorted(self._labels.items())), self._relays))

    async def _be_ready_anyway(self) -> None:
        await anyio.sleep(READY_S)
        self.ready()

"""The shell of a machine that asks the placement, and speaks to nodes that this one may have no link to.

FindPlace, SwapPlace, RemovePlace --asked, not told--> the answer comes in like a message
any other message to a node without a link --a way is opened first--> sent; what waited no longer is sent again
"""

import contextlib
from typing import Any

from atoll.actors.placement.messages import PATH as PLACEMENT
from atoll.actors.placement.messages import (
    FindPlace,
    ListPlaces,
    PlaceFound,
    PlacesListed,
    PlaceSwapped,
    RemovePlace,
    SwapPlace,
)
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, PeerDown, PeerUp, Reach, RoutesDescribed
from atoll.actors.runtime.actor import Delivery
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address, Input, Received, Send, Told
from atoll.actors.runtime.machine_actor import MachineActor
from atoll.transport.codec import Message
from atoll.transport.errors import Congested
from atoll.transport.identity import NodeId

ROUTE_S = 2.0
"""For a way to a node."""
_ANSWERS: dict[type[Message], type[Message]] = {
    FindPlace: PlaceFound,
    ListPlaces: PlacesListed,
    SwapPlace: PlaceSwapped,
    RemovePlace: PlaceSwapped,
}
PLACEMENT_S = 1.0
"""For an answer of the placement; the machines ask again sooner, and one question is not asked twice at once."""


class SiteShell(MachineActor):
    """Drives a machine that asks the placement by sending; see the module."""

    async def started(self) -> None:
        """Begin, and learn which links there are."""
        self._linked: set[NodeId] | None = None
        """None where no Router says which: then everything is sent at once."""
        self._asking: set[tuple[NodeId, Message]] = set()
        self._reaching: set[NodeId] = set()
        for fact in (PeerUp, PeerDown):
            self.system.subscribe(fact, self.ref)
        with contextlib.suppress(AskFailed):
            routes: RoutesDescribed = await self._ask_here(ROUTER, DescribeRoutes())
            self._linked = {each.peer for each in routes.links}
        await super().started()

    async def _ask_here(self, path: str, message: Any) -> Any:
        return await self.system.ask(Address(self.system.node_id, path), message, timeout_s=ROUTE_S)

    def input_of(self, delivery: Delivery) -> Input | None:
        """Keep account of links, and take the placement's answers as they are."""
        if isinstance(delivery.message, Received):
            return delivery.message
        event = super().input_of(delivery)
        if self._linked is not None and isinstance(event, Told):
            if isinstance(event.fact, PeerUp):
                self._linked.add(event.fact.peer)
            elif isinstance(event.fact, PeerDown):
                self._linked.discard(event.fact.peer)
        return event

    def _send(self, effect: Send) -> None:
        target = effect.target
        if type(effect.message) in _ANSWERS:
            question = (target, effect.message)
            if question not in self._asking:
                self._asking.add(question)
                self.tasks.start_soon(self._ask_placement, *question)
        elif self._linked is None or target in self._linked or target == self.system.node_id:
            super()._send(effect)
        elif target not in self._reaching:
            self._reaching.add(target)
            self.tasks.start_soon(self._reach, effect)

    async def _ask_placement(self, node: NodeId, question: Message) -> None:
        try:
            answer = await self.system.ask(
                Address(node, PLACEMENT), question, timeout_s=PLACEMENT_S, reply_type=_ANSWERS[type(question)]
            )
        except AskFailed:
            return
        finally:
            self._asking.discard((node, question))
        try:
            # In its turn, like all that comes: a thread may be writing for the message before.
            self.ref.tell(Received(node, answer, PLACEMENT))
        except Congested:
            self.system.count("congested")

    async def _reach(self, effect: Send) -> None:
        try:
            await self._ask_here(ROUTER, Reach(effect.target))
        except AskFailed:
            self.system.count("unreachable")
            return
        finally:
            self._reaching.discard(effect.target)
        super()._send(effect)

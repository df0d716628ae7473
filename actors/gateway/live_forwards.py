"""Forwarded ports, as the gateway sees them: by asking the Forwarder, with the way that each would go now."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from atoll.actors.forwarder.messages import PATH as FORWARDER
from atoll.actors.forwarder.messages import (
    CloseForward,
    DescribeForwards,
    ForwardsDescribed,
    ForwardSeen,
    OpenForward,
    RenewForward,
)
from atoll.actors.gateway.forward_views import ForwardsReply, ForwardView, OpenForwardBody
from atoll.actors.gateway.node_views import NodeView
from atoll.actors.gateway.ports import Conflict, UnknownName
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, RoutesDescribed
from atoll.actors.runtime.errors import AskDeclined
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.identity import NodeId

ASK_S = 5.0
_LIST = "list what is forwarded with `atoll forward --list`"


@dataclass(slots=True)
class LiveForwards:
    """Implements the gateway's `ForwardPort` with the actors of a system."""

    system: ActorSystem
    find: Callable[[str], Awaitable[NodeView]]
    """Gives the node that a name means."""

    async def list(self) -> ForwardsReply:
        """List this node's forwards, and what others may be connected to here."""
        here = self.system.node_id
        described: ForwardsDescribed = await self.system.ask(
            Address(here, FORWARDER), DescribeForwards(), timeout_s=ASK_S
        )
        return ForwardsReply(
            forwards=[await self._view(each) for each in described.forwards],
            allowed=list(described.allowed),
            taken=described.taken,
            refused=described.refused,
        )

    async def open(self, wanted: OpenForwardBody) -> ForwardView:
        """Find the node, and have the Forwarder listen."""
        view = await self.find(wanted.node)
        order = OpenForward(
            NodeId.parse(view.id), view.name, wanted.port, wanted.host, wanted.listen_port, wanted.for_s
        )
        try:
            seen: ForwardSeen = await self._ask(order)
        except AskDeclined as error:
            raise Conflict(str(error), "name another address or port; 0 takes any port that is free") from error
        return await self._view(seen)

    async def renew(self, number: int, for_s: float) -> ForwardView:
        """Let a forward live on."""
        return await self._known(RenewForward(number, for_s))

    async def close(self, number: int) -> ForwardView:
        """End a forward."""
        return await self._known(CloseForward(number))

    async def _known(self, order: RenewForward | CloseForward) -> ForwardView:
        try:
            return await self._view(await self._ask(order))
        except AskDeclined as error:
            raise UnknownName(str(error), _LIST) from error

    async def _ask(self, order: OpenForward | RenewForward | CloseForward) -> ForwardSeen:
        seen: ForwardSeen = await self.system.ask(Address(self.system.node_id, FORWARDER), order, timeout_s=ASK_S)
        return seen

    async def _view(self, seen: ForwardSeen) -> ForwardView:
        described: RoutesDescribed = await self.system.ask(
            Address(self.system.node_id, ROUTER), DescribeRoutes(), timeout_s=ASK_S
        )
        route = next((each.route for each in described.routes if each.peer == seen.peer), None)
        return ForwardView(
            id=str(seen.number),
            host=seen.host,
            listen_port=seen.listen_port,
            node=str(seen.peer),
            name=seen.peer_name,
            port=seen.port,
            route=route.way.value if route else "none",
            why=route.reason if route else "no connection was made yet",
            connections=seen.connections,
            connections_total=seen.connections_total,
            failed=seen.failed,
            sent_bytes=seen.sent_bytes,
            received_bytes=seen.received_bytes,
            failure=seen.failure,
        )

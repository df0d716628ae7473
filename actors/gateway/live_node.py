"""The node behind a gateway: finds other nodes, near by or through the cloud, and calls them by the best way there is.

a name --near by?--> that node            (members and neighbours, from the picture of the moment)
       --no--> the cloud is asked --> that node, and its record is kept for when the cloud is out of reach
"""

import time
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from msgspec import structs

from atoll.actors.cloud.messages import DIRECTORY, Found, ListNodes, LookUp, NodeList, NodeRecord
from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import Drain, Drained
from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import Leave
from atoll.actors.elector.messages import ReformSite as ElectorReform
from atoll.actors.gateway.authority import Kind, Principal
from atoll.actors.gateway.container_views import PullReply, ServiceView
from atoll.actors.gateway.far_nodes import FarNodes, fits
from atoll.actors.gateway.http_line import Application
from atoll.actors.gateway.in_process import run_app
from atoll.actors.gateway.live_actors import LiveActors
from atoll.actors.gateway.live_blobs import LiveBlobs
from atoll.actors.gateway.live_containers import LiveContainers
from atoll.actors.gateway.live_forwards import LiveForwards
from atoll.actors.gateway.live_topics import LiveTopics
from atoll.actors.gateway.messages import HttpReply, HttpRequest
from atoll.actors.gateway.node_views import (
    DrainReply,
    MovedView,
    NodeView,
    RelayView,
    RouteTaken,
    StatusView,
    StayedView,
)
from atoll.actors.gateway.picture import Picture, far_view, host_view, take_picture
from atoll.actors.gateway.ports import AmbiguousName, Conflict, Unacceptable, UnknownName
from atoll.actors.gateway.site_views import SiteView
from atoll.actors.hand_over.site_actors import SiteActors
from atoll.actors.host.messages import PATH as HOST
from atoll.actors.host.messages import DescribeHost, HostDetails, showable
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import Reach
from atoll.actors.router.routes import Route
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskTimedOut, AskUnreachable
from atoll.actors.runtime.machine import Address
from atoll.actors.uplink.ask import ASK_CLOUD_S, ask_cloud
from atoll.transport.base import Standing
from atoll.transport.codec import Message
from atoll.transport.errors import Expired, Unreachable
from atoll.transport.identity import SHORT_CHARACTERS, NodeId

CLOUD_AGAIN_S = 2.0
"""For the cloud to tell anew of a node that is known already."""
ASK_ELECTOR_S = 2.0
DRAIN_SLACK_S = 2.0
"""For the answer itself, beyond what others may take."""
ATTEMPTS = 3
"""A call is sent again when a way dies under it; the callee handles it once."""
HOST_S = 1.0
"""For a node to say what its host is like; without an answer the rest is shown."""
GATEWAY = "gateway"
NAME_CHARACTERS_SHOWN = 50
"""What is longer is an id, whose beginning is enough for people."""
_LIST_NODES = "list the nodes with `atoll node list`, or with `--scope account` those of other sites"

_Answer = TypeVar("_Answer", bound=Message)


@dataclass(slots=True, kw_only=True)
class LiveNode(LiveContainers):
    """Implements the gateway's `NodePort` with the actors of a system."""

    site_id: str
    has_cloud: bool
    site_actors: SiteActors = field(repr=False)
    app: Application | None = field(default=None, repr=False)
    """The gateway's own application, for calls to this very node; set by whoever makes both."""
    far: FarNodes = field(default_factory=FarNodes, repr=False)

    @property
    def actors(self) -> LiveActors:
        """Give what the gateway asks about migratable actors."""
        return LiveActors(self.site_actors, self._names, self.node)

    @property
    def blobs(self) -> LiveBlobs:
        """Give what the gateway asks about blobs."""
        return LiveBlobs(self.system, self.node, self._names)

    @property
    def forwards(self) -> LiveForwards:
        """Give what the gateway asks about forwarded ports."""
        return LiveForwards(self.system, self.node)

    @property
    def topics(self) -> LiveTopics:
        """Give what the gateway asks about topics."""
        return LiveTopics(self.system, self.node, self._names)

    async def _names(self) -> dict[NodeId, str]:
        return (await self._picture()).names()

    # What there is

    async def _picture(self) -> Picture:
        return await take_picture(self.system, self.own, self.far.names())

    async def status(self) -> StatusView:
        """Put the picture of this node together."""
        numbers = self.system.statistics()
        counters = {f"actors.{name}": value for name, value in numbers.items() if isinstance(value, int)}
        return (await self._picture()).status(site_id=self.site_id, counters=counters)

    async def nodes(self, scope: str) -> list[NodeView]:
        """List the nodes of the local network, or all that the cloud knows."""
        near = (await self._picture()).near()
        if scope == "account":
            listed = await self._ask_cloud(ListNodes(), NodeList)
            views = [near.get(record.node) or far_view(record) for record in listed.nodes]
        else:
            # No node knows places yet: who is near by for certain is who is on this network.
            views = list(near.values())
        return sorted(views, key=lambda view: (not view.self, view.standing != "member", view.site, view.name))

    async def node(self, name: str) -> NodeView:
        """Find one near by, else ask the cloud."""
        found = [view for view in (await self._picture()).near().values() if fits(name, view.id, view.name, view.site)]
        if not found:
            return far_view(await self._far(name))
        if len(found) > 1:
            raise AmbiguousName(
                f"{len(found)} nodes are called {name}", [f"{view.site or '-'}/{view.name} {view.id}" for view in found]
            )
        return await self._with_host(found[0])

    async def _with_host(self, view: NodeView) -> NodeView:
        """Ask the node itself: so it is fresh, and two hundred hosts need not be told to everybody all the time."""
        if not view.self and view.standing != Standing.MEMBER.value:
            return view
        try:
            details = await self.system.ask(
                Address(NodeId.parse(view.id), HOST), DescribeHost(), timeout_s=HOST_S, reply_type=HostDetails
            )
        except AskFailed:
            return view
        return structs.replace(view, host=host_view(details)) if showable(details) else view

    async def _far(self, name: str) -> NodeRecord:
        if not self.has_cloud:
            raise UnknownName(f"no node is called {name} on this network, and this node has no cloud to ask")
        if (fresh := self.far.fresh(name, time.monotonic())) is not None:
            return fresh
        known = self.far.called(name)
        try:
            answer = await self._ask_cloud(LookUp(name, ()), Found, CLOUD_AGAIN_S if known else ASK_CLOUD_S)
        except (AskUnreachable, AskTimedOut):
            # The cloud is away, and the way to that node may stand all the same.
            if len(known) != 1:
                raise
            return known[0]
        self.far.remember(answer.record, time.monotonic())
        return answer.record

    async def site(self) -> SiteView:
        """Say who is a member, who votes, and how the election stands."""
        view = (await self._picture()).site_view(site_id=self.site_id)
        if view is None:
            raise Unreachable("the elector gives no answer")
        return view

    async def leave_site(self, reason: str) -> SiteView:
        """Tell the Elector, which tells the site."""
        self.system.announce(Leave(reason))
        return await self.site()

    async def reform_site(self, reason: str, *, force: bool) -> SiteView:
        """Have the Elector begin a new incarnation."""
        try:
            await self.system.ask(
                Address(self.own.node, ELECTOR), ElectorReform(reason, force), timeout_s=ASK_ELECTOR_S
            )
        except AskDeclined as error:
            raise Conflict(str(error), 'if you are sure that it must be, ask with `"force": true`') from error
        return await self.site()

    async def drain(self, *, draining: bool, within_s: float) -> DrainReply:
        """Have the Duties give everything away."""
        drained: Drained = await self.system.ask(
            Address(self.own.node, DUTIES), Drain(draining, within_s), timeout_s=within_s + DRAIN_SLACK_S
        )
        names = (await self._picture()).names()
        return DrainReply(
            draining=drained.draining,
            moved=[
                MovedView(
                    what=each.what,
                    node=str(each.to),
                    name=names.get(each.to, each.to.short),
                    took_ms=round(1000 * each.took_s, 1),
                    pause_ms=round(1000 * each.pause_s, 1),
                )
                for each in drained.moved
            ],
            stayed=[StayedView(what=each.what, why=each.why) for each in drained.stayed],
        )

    async def pull_image(self, client: str, image: str, source: str, wait_s: float) -> PullReply:
        """Get an image from the node called `source`, or from whoever of the site has it."""
        if not source:
            return await self.pull(client, image, None, wait_s)
        view = await self.node(source)
        if view.self or view.standing != "member":
            why = "it is this node itself" if view.self else "it is no member of this site"
            raise Unacceptable(f"no image can be pulled from {view.name}: {why}", _LIST_NODES)
        return await self.pull(client, image, NodeId.parse(view.id), wait_s)

    async def relays(self) -> list[RelayView]:
        """List the relays that this node uses now."""
        return (await self._picture()).relays()

    async def services(self) -> list[ServiceView]:
        """List this node's services and those that the site's other members announced."""
        members = (await self._picture()).members()
        return [
            *await self.own_services(),
            *(
                ServiceView(name=each.name, path=each.path, node=str(record.node), node_name=record.name)
                for record in members.values()
                if record.node != self.own.node
                for each in record.services
            ),
        ]

    # Calls elsewhere

    async def call_node(self, node: str, request: HttpRequest, timeout_s: float) -> tuple[HttpReply, RouteTaken]:
        """Call another node's gateway, or ours, by the best way there is."""
        with anyio.move_on_after(timeout_s):
            return await self._call(node, request, timeout_s)
        called = node if len(node) <= NAME_CHARACTERS_SHOWN else node[:SHORT_CHARACTERS]
        raise Expired(f"{called} gave no answer within {timeout_s:g} s")

    async def _call(self, node: str, request: HttpRequest, timeout_s: float) -> tuple[HttpReply, RouteTaken]:
        begun = time.perf_counter()
        view = await self.node(node)
        peer = NodeId.parse(view.id)
        if view.self and self.app is not None:
            reply = await run_app(self.app, request, Principal(kind=Kind.MEMBER, node=peer))
            return reply, _taken("here", "it is this node", begun, view)
        try:
            route: Route = await self.system.ask(Address(self.own.node, ROUTER), Reach(peer), timeout_s=timeout_s)
            left_s = max(0.1, timeout_s - (time.perf_counter() - begun))
            reply = await self.system.ask(
                Address(peer, GATEWAY), request, timeout_s=left_s, reply_type=HttpReply, attempts=ATTEMPTS
            )
        except AskDeclined as error:
            raise Unreachable(f"{view.name}: {error}") from error
        except (AskUnreachable, AskTimedOut):
            # It may be elsewhere by now.
            self.far.forget(peer)
            raise
        return reply, _taken(route.way.value, route.reason, begun, view)

    async def _ask_cloud(self, message: Message, answer: type[_Answer], timeout_s: float = ASK_CLOUD_S) -> _Answer:
        try:
            return await ask_cloud(self.system, DIRECTORY, message, answer, timeout_s=timeout_s)
        except AskDeclined as error:
            raise UnknownName(str(error), _LIST_NODES) from error


def _taken(kind: Any, why: str, begun: float, view: NodeView) -> RouteTaken:
    elapsed_ms = round((time.perf_counter() - begun) * 1000, 2)
    return RouteTaken(kind=kind, why=why, elapsed_ms=elapsed_ms, node=view.id, name=view.name)

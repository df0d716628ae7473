"""The node behind a gateway: gathers views from its actors, and finds and calls other nodes.

It keeps nothing: every answer is put together from what the actors say at that moment, and one that does not answer in
time is a sentence among the problems, never a failed status.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.actors.cloud.messages import Found, ListNodes, LookUp, NodeList, NodeRecord, OfferedService
from atoll.actors.container_manager import errors as container_errors
from atoll.actors.container_manager.container_manager import fault_reply, order
from atoll.actors.container_manager.messages import (
    PATH as CONTAINER_MANAGER,
)
from atoll.actors.container_manager.messages import (
    ContainerInfo,
    ImageInfo,
    ListContainers,
    ListImages,
    ListServices,
    LoadImage,
    ReadLogs,
    RemoveContainer,
    RemoveImage,
    RunContainer,
    ServiceCall,
    ServiceInfo,
    StartContainer,
    StopContainer,
)
from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import ListSeen, SeenNodes
from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import DescribeSite, SiteDescribed
from atoll.actors.duties.offer import Offer
from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import DescribeElection, ElectionStatus
from atoll.actors.gateway.authority import Kind, Principal
from atoll.actors.gateway.http_line import Application
from atoll.actors.gateway.in_process import run_app
from atoll.actors.gateway.messages import HttpReply, HttpRequest
from atoll.actors.gateway.ports import AmbiguousName, Conflict, PortError, Unacceptable, UnknownImage, UnknownName
from atoll.actors.gateway.views import (
    BepView,
    ContainerView,
    DutyView,
    ImageView,
    LinkView,
    LogLine,
    NodeRef,
    NodeView,
    OfferView,
    RelayView,
    RosterView,
    RouteTaken,
    RouteView,
    SepView,
    ServiceView,
    SiteRef,
    StatusView,
    SupernodeView,
)
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, Reach, RoutesDescribed
from atoll.actors.router.routes import Route
from atoll.actors.runtime.errors import AskDeclined, AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.actors.tunnel_relay.messages import PATH as TUNNEL_RELAY
from atoll.actors.tunnel_relay.messages import DescribeTunnels, TunnelsDescribed
from atoll.actors.uplink.messages import PATH as UPLINK
from atoll.actors.uplink.messages import AskCloud
from atoll.transport.base import Standing
from atoll.transport.errors import Unreachable
from atoll.transport.identity import SHORT_CHARACTERS, NodeId

LOOK_S = 2.0
"""What an actor of this node may take to describe itself."""
ATTEMPTS = 3
"""A call is sent again when a way dies under it; the callee handles it once."""
GATEWAY = "gateway"
FAR_NAMES_MAX = 1024


@dataclass(slots=True)
class LiveNode:
    """Implements the gateway's `NodePort` with the actors of a system."""

    system: ActorSystem
    own: NodeRecord
    site_tag: str
    offer: Offer
    has_cloud: bool
    app: Application | None = field(default=None, repr=False)
    """The gateway's own application, for calls to this very node; set by whoever makes both."""
    far_names: dict[NodeId, str] = field(default_factory=dict, repr=False)
    """What nodes of other sites are called, as far as this gateway has asked."""

    # What there is

    async def status(self) -> StatusView:
        """Put the picture of this node together."""
        problems: list[str] = []
        election: ElectionStatus | None = await self._look(ELECTOR, DescribeElection(), problems)
        routes: RoutesDescribed | None = await self._look(ROUTER, DescribeRoutes(), problems)
        site: SiteDescribed | None = await self._look(DUTIES, DescribeSite(), problems)
        tunnels: TunnelsDescribed | None = await self._look(TUNNEL_RELAY, DescribeTunnels(), problems)
        seen: SeenNodes | None = await self._look(DISCOVERER, ListSeen(), problems)
        names = dict(self.far_names)
        names |= {record.node: record.name for record in site.records} if site is not None else {}
        names |= {link.peer: link.label for link in routes.links} if routes is not None else {}
        names[self.own.node] = self.own.name
        if seen is not None:
            problems += seen.notes
        if tunnels is not None and tunnels.problem:
            problems.append(tunnels.problem)
        now = self.system.clock()
        return StatusView(
            software=self.own.version,
            node=self._ref(self.own.node, names),
            site=SiteRef(
                id=self.site_tag,
                mode="quorum" if election is not None and election.confirmed else "provisional",
                members=len(site.records) if site is not None else 1,
            ),
            supernode=_supernode_view(election, names),
            roster=None
            if election is None
            else RosterView(
                version=election.roster_version, voters=[self._ref(voter, names) for voter in election.voters]
            ),
            duties=_duty_views(site, names),
            links=[
                LinkView(
                    peer=str(link.peer),
                    name=link.label,
                    standing=link.standing.value,
                    host=link.host,
                    since_s=round(now - link.up_since, 1),
                )
                for link in (routes.links if routes is not None else ())
            ],
            routes=[
                RouteView(
                    peer=str(each.peer),
                    name=names.get(each.peer, each.peer.short),
                    kind=each.route.way.value,
                    why=each.route.reason,
                    latency_ms=None if each.round_trip_s is None else round(each.round_trip_s * 1000, 2),
                )
                for each in (routes.routes if routes is not None else ())
            ],
            seps=[
                SepView(relay=each.relay, state="up" if each.up else "dialling", since_s=now - each.since, why=each.why)
                for each in (tunnels.registrations if tunnels is not None else ())
            ],
            beps=[
                BepView(
                    peer="" if each.peer is None else str(each.peer),
                    name="" if each.peer is None else names.get(each.peer, each.peer.short),
                    relay=each.relay,
                    since_s=round(now - each.since, 1),
                    sent_bytes=each.sent_bytes,
                    received_bytes=each.received_bytes,
                )
                for each in (tunnels.bearers if tunnels is not None else ())
            ],
            problems=problems,
            counters=self._counters(routes, tunnels),
        )

    def _counters(self, routes: RoutesDescribed | None, tunnels: TunnelsDescribed | None) -> dict[str, int]:
        counted = {
            f"actors.{name}": value for name, value in self.system.statistics().items() if isinstance(value, int)
        }
        counted |= {f"router.{name}": value for name, value in (routes.counters if routes is not None else {}).items()}
        counted |= {
            f"tunnel_relay.{name}": value for name, value in (tunnels.counters if tunnels is not None else {}).items()
        }
        return counted

    async def nodes(self, scope: str) -> list[NodeView]:
        """List the nodes of the local network, or all that the cloud knows."""
        near = await self._near()
        if scope == "link-local":
            return sorted(near.values(), key=lambda view: (not view.self, view.site, view.name))
        listed: NodeList = await self._ask_cloud(ListNodes())
        return [near.get(record.node) or self._far(record) for record in listed.nodes]

    async def _near(self) -> dict[NodeId, NodeView]:
        """Everybody on this network: this node, members, neighbours."""
        problems: list[str] = []
        routes: RoutesDescribed | None = await self._look(ROUTER, DescribeRoutes(), problems)
        site: SiteDescribed | None = await self._look(DUTIES, DescribeSite(), problems)
        seen: SeenNodes | None = await self._look(DISCOVERER, ListSeen(), problems)
        election: ElectionStatus | None = await self._look(ELECTOR, DescribeElection(), problems)
        supernode = election.supernode if election is not None else None
        by_peer = {each.peer: each.route for each in (routes.routes if routes is not None else ())}
        links = {link.peer: link for link in (routes.links if routes is not None else ())}
        heard = {each.node: each for each in (seen.nodes if seen is not None else ())}
        members = {record.node: record for record in (site.records if site is not None else ())}
        members[self.own.node] = self.own
        views: dict[NodeId, NodeView] = {}
        for node in sorted({*members, *links, *heard}):
            record, link, beacon = members.get(node), links.get(node), heard.get(node)
            if link is not None and link.standing is Standing.CLOUD:
                continue
            own = node == self.own.node
            route = by_peer.get(node)
            addresses = [f"{host}:{port}" for host, port in beacon.addresses] if beacon is not None else []
            views[node] = NodeView(
                id=str(node),
                short=node.short,
                name=record.name if record is not None else (link.label if link is not None else _label(beacon)),
                site=self.own.site if record is not None else "",
                standing="member" if record is not None else (link.standing.value if link is not None else "neighbour"),
                self=own,
                supernode=node == supernode,
                addresses=addresses or ([link.host] if link is not None else []),
                route="here" if own else (route.way.value if route is not None else "none"),
                why="it is this node" if own else (route.reason if route is not None else _why(beacon)),
                seen_s_ago=0.0 if own or link is not None else _heard(beacon),
                services=_offers(record),
            )
        return views

    def _far(self, record: NodeRecord, route: Route | None = None) -> NodeView:
        return NodeView(
            id=str(record.node),
            short=record.node.short,
            name=record.name,
            site=record.site,
            standing="granted",
            self=False,
            supernode=False,
            route=route.way.value if route is not None else "none",
            why=route.reason if route is not None else "known to the cloud; a call opens a way",
            services=_offers(record),
        )

    async def node(self, name: str) -> NodeView:
        """Find one near by, else ask the cloud."""
        near = (await self._near()).values()
        found = [view for view in near if _fits(view, name)]
        if len(found) > 1:
            raise AmbiguousName(
                f"{len(found)} nodes are called {name}", [f"{view.site or '-'}/{view.name} {view.id}" for view in found]
            )
        if found:
            return found[0]
        if not self.has_cloud:
            raise UnknownName(f"no node is called {name} on this network, and this node has no cloud to ask")
        answer: Found = await self._ask_cloud(LookUp(name, ()))
        if len(self.far_names) >= FAR_NAMES_MAX:
            self.far_names.clear()
        self.far_names[answer.record.node] = f"{answer.record.site}/{answer.record.name}"
        return self._far(answer.record)

    async def relays(self) -> list[RelayView]:
        """List the relays that this node uses now."""
        problems: list[str] = []
        tunnels: TunnelsDescribed | None = await self._look(TUNNEL_RELAY, DescribeTunnels(), problems)
        if tunnels is None:
            return []
        return [
            RelayView(name=each.relay, address=each.address, state="up" if each.up else "dialling", why=each.why)
            for each in tunnels.registrations
        ]

    # Services here

    async def services(self) -> list[ServiceView]:
        """List this node's services and those that the site's other members announced."""
        own: list[ServiceInfo] = list((await self._order(ListServices())).services)
        views = [
            ServiceView(
                name=each.name,
                path=each.path,
                node=str(self.own.node),
                node_name=self.own.name,
                container=each.container,
            )
            for each in own
        ]
        problems: list[str] = []
        site: SiteDescribed | None = await self._look(DUTIES, DescribeSite(), problems)
        for record in site.records if site is not None else ():
            if record.node != self.own.node:
                views += [
                    ServiceView(name=each.name, path=each.path, node=str(record.node), node_name=record.name)
                    for each in record.services
                ]
        return views

    async def containers(self) -> list[ContainerView]:
        """List the containers here."""
        return [_container_view(each) for each in (await self._order(ListContainers())).containers]

    async def images(self) -> list[ImageView]:
        """List the images here."""
        return [_image_view(each) for each in (await self._order(ListImages())).images]

    async def load_image(self, client: str, tar: Path) -> ImageView:
        """Take an image from a file."""
        return _image_view(await self._order(LoadImage(str(tar), client)))

    async def remove_image(self, image: str) -> ImageView:
        """Remove an image."""
        return _image_view(await self._order(RemoveImage(image)))

    async def run_container(self, client: str, name: str, image: str, env: Mapping[str, str]) -> ContainerView:
        """Create a container and start it."""
        return await self._changed(RunContainer(name, image, tuple(env.items()), client))

    async def start_container(self, container: str) -> ContainerView:
        """Start a container."""
        return await self._changed(StartContainer(container))

    async def stop_container(self, container: str) -> ContainerView:
        """Stop a container."""
        return await self._changed(StopContainer(container))

    async def remove_container(self, container: str) -> ContainerView:
        """Remove a container."""
        return await self._changed(RemoveContainer(container))

    async def _changed(self, message: Any) -> ContainerView:
        view = _container_view(await self._order(message))
        await self.tell_offer()
        return view

    async def tell_offer(self) -> None:
        """Let the site know which services this node offers now."""
        services: list[ServiceInfo] = list((await self._order(ListServices())).services)
        self.offer.set_services(OfferedService(each.name, each.path) for each in services)

    async def logs(self, container: str, lines_max: int) -> list[LogLine]:
        """Give the newest lines of a container."""
        logs = await self._order(ReadLogs(container, lines_max))
        return [LogLine(at_ms=each.at_ms, stream=each.stream, text=each.text) for each in logs.entries]

    async def call_local(self, request: HttpRequest, principal: Principal) -> HttpReply:
        """Call a service of this node."""
        del principal
        call = ServiceCall(request.target, request.method, request.headers, request.body)
        try:
            reply = await order(self.system.ref(self._here(CONTAINER_MANAGER)), call)
        except container_errors.ServiceFault as error:
            # The service's own fault is an answer, like any other that it gives.
            reply = fault_reply(error)
        except container_errors.ContainerError as error:
            raise _port_error(error) from error
        return HttpReply(reply.status, reply.headers, reply.body)

    async def _order(self, message: Any) -> Any:
        try:
            return await order(self.system.ref(self._here(CONTAINER_MANAGER)), message)
        except container_errors.ContainerError as error:
            raise _port_error(error) from error

    # Calls elsewhere

    async def call_node(self, node: str, request: HttpRequest, timeout_s: float) -> tuple[HttpReply, RouteTaken]:
        """Call another node's gateway, or ours, by the best way there is."""
        begun = time.perf_counter()
        view = await self.node(node)
        peer = NodeId.parse(view.id)
        if view.self and self.app is not None:
            reply = await run_app(self.app, request, Principal(kind=Kind.MEMBER, node=peer))
            return reply, _taken("here", "it is this node", begun, view)
        try:
            route: Route = await self.system.ask(self._here(ROUTER), Reach(peer), timeout_s=timeout_s)
            left_s = max(0.1, timeout_s - (time.perf_counter() - begun))
            reply = await self.system.ask(
                Address(peer, GATEWAY), request, timeout_s=left_s, reply_type=HttpReply, attempts=ATTEMPTS
            )
        except AskDeclined as error:
            raise Unreachable(f"{view.name}: {error}") from error
        return reply, _taken(route.way.value, route.reason, begun, view)

    # Asking

    def _here(self, path: str) -> Address:
        return Address(self.own.node, path)

    async def _look(self, path: str, message: Any, problems: list[str]) -> Any:
        try:
            return await self.system.ask(self._here(path), message, timeout_s=LOOK_S)
        except AskFailed as error:
            problems.append(f"{path} gives no answer: {error}; look into the node's log")
            return None

    async def _ask_cloud(self, message: Any) -> Any:
        try:
            return await self.system.ask(self._here(UPLINK), AskCloud("directory", message), timeout_s=LOOK_S * 8)
        except AskDeclined as error:
            raise UnknownName(str(error)) from error

    def _ref(self, node: NodeId, names: Mapping[NodeId, str]) -> NodeRef:
        return NodeRef(id=str(node), short=node.short, name=names.get(node, node.short))


def _fits(view: NodeView, name: str) -> bool:
    if len(name) >= SHORT_CHARACTERS and view.id.startswith(name):
        return True
    return name in (view.name, f"{view.site}/{view.name}")


def _offers(record: NodeRecord | None) -> list[OfferView]:
    return [] if record is None else [OfferView(name=each.name, path=each.path) for each in record.services]


def _label(beacon: Any) -> str:
    return "" if beacon is None else (beacon.label or beacon.node.short)


def _why(beacon: Any) -> str:
    return "" if beacon is None else beacon.why


def _heard(beacon: Any) -> float | None:
    return None if beacon is None or beacon.heard_s_ago < 0 else round(beacon.heard_s_ago, 1)


def _taken(kind: Any, why: str, begun: float, view: NodeView) -> RouteTaken:
    elapsed_ms = round((time.perf_counter() - begun) * 1000, 2)
    return RouteTaken(kind=kind, why=why, elapsed_ms=elapsed_ms, node=view.id, name=view.name)


def _supernode_view(election: ElectionStatus | None, names: Mapping[NodeId, str]) -> SupernodeView | None:
    if election is None or election.supernode is None:
        return None
    node = election.supernode
    return SupernodeView(
        node=str(node),
        name=names.get(node, node.short),
        epoch=election.epoch,
        confirmed=election.confirmed,
        why=election.why,
    )


def _duty_views(site: SiteDescribed | None, names: Mapping[NodeId, str]) -> list[DutyView]:
    if site is None or site.holder is None:
        return []
    holder = site.holder
    return [
        DutyView(duty=duty, node=str(holder), name=names.get(holder, holder.short), why="it is the supernode")
        for duty in site.held
    ]


def _image_view(info: ImageInfo) -> ImageView:
    return ImageView(
        id=info.id,
        name=info.name,
        client=info.client,
        digest=info.digest,
        repo_tags=list(info.repo_tags),
        size_bytes=info.size_bytes,
        created_ms=info.created_ms,
    )


def _container_view(info: ContainerInfo) -> ContainerView:
    return ContainerView(
        id=info.id,
        name=info.name,
        client=info.client,
        image=info.image,
        image_id=info.image_id,
        state=info.state,
        status=info.status,
        created_ms=info.created_ms,
        env=dict(info.env),
        path=info.base_path,
    )


def _port_error(error: container_errors.ContainerError) -> Exception:
    """Say a container's error in the gateway's words."""
    text = str(error)
    match error:
        case container_errors.ImageNotThere():
            return UnknownImage(text)
        case container_errors.NotThere():
            return UnknownName(text)
        case container_errors.Taken():
            return Conflict(text)
        case container_errors.UsageFault() | container_errors.ImageRefused():
            return Unacceptable(text)
    return PortError(text)

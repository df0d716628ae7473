"""What this node knows at one moment, as views: its actors describe themselves, and nothing is kept.

    take_picture --asks all at once--> elector, router, duties, tunnel_relay, discoverer, suspicion
                 --> Picture --> views

An actor that does not answer in time is a sentence among the problems, never a failed status.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from msgspec import structs

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import (
    SUSPICION,
    DescribeMembers,
    ListSeen,
    MembersDescribed,
    MemberState,
    SeenNode,
    SeenNodes,
)
from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import DescribeSite, SiteDescribed
from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import DescribeElection, ElectionStatus
from atoll.actors.elector.roster import INCARNATION_STEP
from atoll.actors.gateway.node_views import (
    BepView,
    HostView,
    InterfaceView,
    LinkView,
    NodeView,
    OfferView,
    PathView,
    RelayView,
    RouteView,
    SepView,
    StatusView,
)
from atoll.actors.gateway.site_views import (
    DutyView,
    PlacementView,
    PlaceView,
    RosterView,
    SiteMemberView,
    SiteRef,
    SiteView,
    SupernodeView,
)
from atoll.actors.gateway.views import NodeRef
from atoll.actors.host.messages import HostDetails
from atoll.actors.placement.messages import PATH as PLACEMENT
from atoll.actors.placement.messages import DescribePlacement, PlacementStatus
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, LinkSeen, RoutesDescribed
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.actors.tunnel_relay.messages import PATH as TUNNEL_RELAY
from atoll.actors.tunnel_relay.messages import DescribeTunnels, TunnelsDescribed
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

LOOK_S = 2.0
"""What an actor of this node may take to describe itself."""
_DESCRIBE: Mapping[str, Any] = {
    ELECTOR: DescribeElection(),
    PLACEMENT: DescribePlacement(),
    ROUTER: DescribeRoutes(),
    DUTIES: DescribeSite(),
    TUNNEL_RELAY: DescribeTunnels(),
    DISCOVERER: ListSeen(),
    SUSPICION: DescribeMembers(),
}


@dataclass(slots=True, kw_only=True)
class Picture:
    """The answers of a node's actors; None where one gave none."""

    own: NodeRecord
    now: float
    """Of the system's clock."""
    election: ElectionStatus | None = None
    placement: PlacementStatus | None = None
    routes: RoutesDescribed | None = None
    site: SiteDescribed | None = None
    tunnels: TunnelsDescribed | None = None
    seen: SeenNodes | None = None
    watched: MembersDescribed | None = None
    problems: list[str] = field(default_factory=list)
    far_names: Mapping[NodeId, str] = field(default_factory=dict)
    """What nodes of other sites are called, where somebody has asked."""

    # The site

    def members(self) -> dict[NodeId, NodeRecord]:
        """Give the site's nodes, this one among them."""
        members = {record.node: record for record in (self.site.records if self.site else ())}
        members.setdefault(self.own.node, self.own)
        return members

    def names(self) -> dict[NodeId, str]:
        """Say what nodes are called, as well as it is known."""
        names = dict(self.far_names)
        names |= {each.node: each.label for each in (self.seen.nodes if self.seen else ()) if each.label}
        names |= {link.peer: link.label for link in (self.routes.links if self.routes else ()) if link.label}
        return names | {node: record.name for node, record in self.members().items()}

    # Views

    def status(self, *, site_id: str, counters: Mapping[str, int]) -> StatusView:
        """Put the picture together for `atoll status`."""
        names = self.names()
        election = self.election
        notes = [*(self.seen.notes if self.seen else ()), *filter(None, [self.tunnels.problem if self.tunnels else ""])]
        return StatusView(
            software=self.own.version,
            node=_ref(self.own.node, names),
            site=SiteRef(
                id=site_id,
                name=self.own.site,
                mode="quorum" if election is not None and election.confirmed else "provisional",
                members=len(self.members()),
            ),
            supernode=_supernode(election, names),
            roster=None if election is None else _roster(election, names),
            placement=_placement(self.placement, names),
            duties=_duties(self.site, names),
            links=self._links(),
            routes=[
                RouteView(
                    peer=str(each.peer),
                    name=names.get(each.peer, each.peer.short),
                    kind=each.route.way.value,
                    why=each.route.reason,
                    latency_ms=_millis(each.round_trip_s),
                    paths=[
                        PathView(
                            relay=path.relay,
                            kind=path.way.value,
                            condition=path.condition,
                            latency_ms=_millis(path.round_trip_s),
                            in_use=path.in_use,
                            through=path.through,
                        )
                        for path in each.paths
                    ],
                    streams=each.streams,
                    punching=each.punching,
                )
                for each in (self.routes.routes if self.routes else ())
            ],
            seps=self._seps(),
            beps=self._beps(names),
            problems=[*self.problems, *notes],
            counters={**counters, **self._counters()},
        )

    def site_view(self, *, site_id: str) -> SiteView | None:
        """Put the picture together for `atoll site show`; None where the Elector gave no answer."""
        election, names = self.election, self.names()
        if election is None:
            return None
        near = self.near()
        nodes = {node for node, view in near.items() if view.standing == Standing.MEMBER.value or view.self}
        return SiteView(
            id=site_id,
            name=self.own.site,
            mode="quorum" if election.confirmed else "provisional",
            why=election.why,
            roster=_roster(election, names),
            voters_in_reach=election.voters_in_reach,
            supernode=_supernode(election, names),
            members=[
                SiteMemberView(
                    id=str(node),
                    short=node.short,
                    name=names.get(node, node.short),
                    voter=node in election.voters,
                    supernode=node == election.supernode,
                    self=node == self.own.node,
                    route=near[node].route if node in near else "none",
                )
                for node in sorted(nodes | set(election.voters))
            ],
        )

    def _links(self) -> list[LinkView]:
        return [
            LinkView(
                peer=str(link.peer),
                name=link.label,
                standing=link.standing.value,
                host=link.host,
                since_s=round(self.now - link.up_since, 1),
            )
            for link in (self.routes.links if self.routes else ())
        ]

    def _seps(self) -> list[SepView]:
        return [
            SepView(
                relay=each.relay,
                state="up" if each.up else "dialling",
                since_s=round(self.now - each.since, 1),
                why=each.why,
            )
            for each in (self.tunnels.registrations if self.tunnels else ())
        ]

    def _beps(self, names: Mapping[NodeId, str]) -> list[BepView]:
        return [
            BepView(
                peer="" if each.peer is None else str(each.peer),
                name="" if each.peer is None else names.get(each.peer, each.peer.short),
                relay=each.relay,
                since_s=round(self.now - each.since, 1),
                sent_bytes=each.sent_bytes,
                received_bytes=each.received_bytes,
            )
            for each in (self.tunnels.bearers if self.tunnels else ())
        ]

    def _counters(self) -> dict[str, int]:
        described = (("router", self.routes), ("tunnel_relay", self.tunnels), ("suspicion", self.watched))
        return {
            f"{actor}.{name}": value
            for actor, each in described
            if each is not None
            for name, value in each.counters.items()
        }

    def relays(self) -> list[RelayView]:
        """Say which relays this node uses now."""
        return [
            RelayView(name=each.relay, address=each.address, state="up" if each.up else "dialling", why=each.why)
            for each in (self.tunnels.registrations if self.tunnels else ())
        ]

    def near(self) -> dict[NodeId, NodeView]:
        """Give everybody on this network: this node, members, neighbours; not the cloud."""
        members = self.members()
        links = {link.peer: link for link in (self.routes.links if self.routes else ())}
        heard = {each.node: each for each in (self.seen.nodes if self.seen else ())}
        watched = {each.node: each for each in (self.watched.members if self.watched else ())}
        everybody = sorted({*members, *links, *heard, *watched})
        return {
            node: self._node(node, members.get(node), links.get(node), heard.get(node), watched.get(node))
            for node in everybody
            if node not in links or links[node].standing is not Standing.CLOUD
        }

    def _node(
        self,
        node: NodeId,
        record: NodeRecord | None,
        link: LinkSeen | None,
        heard: SeenNode | None,
        watched: MemberState | None,
    ) -> NodeView:
        own = node == self.own.node
        route = next((each.route for each in (self.routes.routes if self.routes else ()) if each.peer == node), None)
        label = (link.label if link else "") or (heard.label if heard else "") or node.short
        standing = "member" if record or watched else (link.standing.value if link else "neighbour")
        addresses = [f"{host}:{port}" for host, port in heard.addresses] if heard else []
        unheard = heard is None or heard.heard_s_ago < 0
        return NodeView(
            id=str(node),
            short=node.short,
            name=record.name if record else label,
            site=self.own.site if standing == Standing.MEMBER.value else "",
            standing=standing,
            self=own,
            supernode=self.election is not None and node == self.election.supernode,
            addresses=addresses or ([link.host] if link else []),
            route="here" if own else (route.way.value if route else "none"),
            why="it is this node" if own else (route.reason if route else (heard.why if heard else "")),
            seen_s_ago=0.0 if own or link else (None if unheard or heard is None else round(heard.heard_s_ago, 1)),
            state="alive" if own else (watched.life.name.lower() if watched else ""),
            state_why="it is this node" if own else (watched.why if watched else ""),
            services=offers(record),
        )


async def take_picture(system: ActorSystem, own: NodeRecord, far_names: Mapping[NodeId, str]) -> Picture:
    """Ask the actors of this node for what they know, all at once."""
    answers: dict[str, Any] = {}
    problems: list[str] = []

    async def ask(path: str, question: Any) -> None:
        try:
            answers[path] = await system.ask(Address(own.node, path), question, timeout_s=LOOK_S)
        except AskFailed as error:
            problems.append(f"{path} gives no answer: {error}; look into the node's log")

    async with anyio.create_task_group() as tasks:
        for path, message in _DESCRIBE.items():
            tasks.start_soon(ask, path, message)
    return Picture(
        own=own,
        now=system.clock(),
        election=answers.get(ELECTOR),
        placement=answers.get(PLACEMENT),
        routes=answers.get(ROUTER),
        site=answers.get(DUTIES),
        tunnels=answers.get(TUNNEL_RELAY),
        seen=answers.get(DISCOVERER),
        watched=answers.get(SUSPICION),
        problems=sorted(problems),
        far_names=far_names,
    )


def far_view(record: NodeRecord) -> NodeView:
    """Show a node that only the cloud knows of."""
    return NodeView(
        id=str(record.node),
        short=record.node.short,
        name=record.name,
        site=record.site,
        standing="granted",
        self=False,
        supernode=False,
        route="none",
        why="known to the cloud; a call opens a way",
        services=offers(record),
    )


def host_view(details: HostDetails) -> HostView:
    """Show what a node said of its host."""
    plain = structs.asdict(details)
    plain["battery_percent"] = details.battery_percent if details.battery_percent >= 0 else None
    plain["accelerators"] = list(details.accelerators)
    plain["interfaces"] = [
        InterfaceView(name=each.name, wired=each.wired, speed_mbps=each.speed_mbps, addresses=list(each.addresses))
        for each in details.interfaces
    ]
    return HostView(**plain)


def offers(record: NodeRecord | None) -> list[OfferView]:
    """Show the services that a node announced."""
    return [OfferView(name=each.name, path=each.path) for each in record.services] if record else []


def _ref(node: NodeId, names: Mapping[NodeId, str]) -> NodeRef:
    return NodeRef(id=str(node), short=node.short, name=names.get(node, node.short))


def _roster(election: ElectionStatus, names: Mapping[NodeId, str]) -> RosterView:
    return RosterView(
        version=election.roster_version,
        voters=[_ref(each, names) for each in election.voters],
        incarnation=election.incarnation // INCARNATION_STEP,
        reason=election.roster_reason,
        change=election.change,
    )


def _supernode(election: ElectionStatus | None, names: Mapping[NodeId, str]) -> SupernodeView | None:
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


def _placement(status: PlacementStatus | None, names: Mapping[NodeId, str]) -> PlacementView | None:
    if status is None:
        return None
    return PlacementView(
        certain=status.serving,
        why=status.listed.why,
        epoch=status.epoch,
        version=status.version,
        voters=status.listed.voters,
        places=[
            PlaceView(
                actor=each.actor,
                generation=each.placed.generation,
                host=_ref(each.placed.host, names),
                stores=[_ref(store, names) for store in each.placed.stores],
            )
            for each in status.listed.places
        ],
    )


def _duties(site: SiteDescribed | None, names: Mapping[NodeId, str]) -> list[DutyView]:
    if site is None:
        return []
    return [
        DutyView(
            duty=place.duty,
            node=str(place.holder),
            name=names.get(place.holder, place.holder.short),
            why=place.why if place.source is None else f"{place.why}; it takes over from {place.source.short}",
        )
        for place in site.places
    ]


def _millis(round_trip_s: float | None) -> float | None:
    return None if round_trip_s is None else round(round_trip_s * 1000, 2)

"""Which actors make a node part of its site and of the cloud, and what each is given."""

from collections.abc import Callable
from typing import TypeAlias

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.composition.links import NodeLinks
from atoll.actors.discoverer import messages as discoverer_messages
from atoll.actors.discoverer.discoverer import Discoverer
from atoll.actors.discoverer.failure_detector import FailureDetector
from atoll.actors.discoverer.messages import Seed
from atoll.actors.duties import messages as duties_messages
from atoll.actors.duties.cache import Cache
from atoll.actors.duties.duties import HELD as DUTIES_HELD
from atoll.actors.duties.duties import Duties
from atoll.actors.duties.duty import Duty
from atoll.actors.duties.messages import PROXY, REGISTRAR
from atoll.actors.duties.proxy import Proxy
from atoll.actors.duties.registrar import Registrar
from atoll.actors.elector import messages as elector_messages
from atoll.actors.elector.elector import Elector
from atoll.actors.elector.host_facts import HostFacts, StatedFacts
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.image_exchange.blob_store import BlobStore
from atoll.actors.image_exchange.messages import CACHE
from atoll.actors.placement import messages as placement_messages
from atoll.actors.placement.placement_actor import PlacementActor
from atoll.actors.router import messages as router_messages
from atoll.actors.router.cloud_address import CloudAddress
from atoll.actors.router.router import Router
from atoll.actors.router.streams import Services
from atoll.actors.runtime import ChildSpec, Strategy, SupervisorSpec
from atoll.actors.tunnel_relay import messages as tunnel_messages
from atoll.actors.tunnel_relay.puncher import PunchSettings
from atoll.actors.tunnel_relay.tunnel_relay import TunnelRelay
from atoll.actors.uplink import messages as uplink_messages
from atoll.actors.uplink.uplink import Uplink
from atoll.cluster_specs.config import CloudRef, NodeConfig
from atoll.transport.keys import NodeKey, SiteKeys

NETWORK = "network"
RESERVED = frozenset({CACHE, PROXY, REGISTRAR})
"""Duties, which come to a node and leave it while it runs."""
DutyMakers: TypeAlias = dict[str, Callable[[], Duty]]


def network(
    config: NodeConfig,
    key: NodeKey,
    site: SiteKeys,
    own: NodeRecord,
    migration: SupervisorSpec,
    *,
    duties: DutyMakers,
    founded: bool,
) -> SupervisorSpec:
    """Say which actors make a node part of its site and of the cloud, in the order in which they need each other."""
    node = key.node_id
    cloud = _cloud_address(config.cloud)
    links = NodeLinks(config, key, site)
    services = Services()
    beacon = links.beacon if config.beacon.enabled else None
    dnssd = links.dnssd if config.discovery.dnssd else None
    return SupervisorSpec(
        name=NETWORK,
        strategy=Strategy.REST_FOR_ONE,
        children=(
            ChildSpec(
                name=router_messages.PATH,
                factory=lambda: Router(key, links.transport, cloud, services, config.bearers.thresholds),
            ),
            ChildSpec(
                name=uplink_messages.PATH,
                factory=lambda: Uplink(node, None if cloud is None else cloud.node, config.state_dir / "grant.jwt"),
            ),
            ChildSpec(name=tunnel_messages.PATH, factory=lambda: TunnelRelay(node, punching=_punching(config))),
            ChildSpec(name=elector_messages.PATH, factory=lambda: _elector(config, key, site, founded=founded)),
            ChildSpec(
                name=placement_messages.PATH,
                factory=lambda: PlacementActor(node, journal=config.state_dir / "placement.journal"),
            ),
            ChildSpec(name="host_facts", factory=lambda: HostFacts(_stated(config), config.state_dir)),
            # Together, the place for held duties first: a node alone is elected before Duties has looked around.
            SupervisorSpec(
                name="site",
                strategy=Strategy.ONE_FOR_ALL,
                children=(
                    SupervisorSpec(name=DUTIES_HELD),
                    ChildSpec(name=duties_messages.PATH, factory=lambda: Duties(own, duties)),
                ),
            ),
            ChildSpec(name=discoverer_messages.SUSPICION, factory=lambda: FailureDetector(node)),
            ChildSpec(
                name=discoverer_messages.PATH,
                factory=lambda: Discoverer(node, beacon, seeds=_seeds(config), dnssd=dnssd),
            ),
            migration,
        ),
    )


def duties_of(own: NodeRecord, store: BlobStore, *, has_cloud: bool) -> DutyMakers:
    """Give what makes each duty that this node is able to hold."""
    duties: DutyMakers = {CACHE: lambda: Cache(own.node, store)}
    if not has_cloud:
        return duties
    return duties | {
        REGISTRAR: lambda: Registrar(own.site),
        PROXY: lambda: Proxy(own.node, own.site),
    }


def _elector(config: NodeConfig, key: NodeKey, site: SiteKeys, *, founded: bool) -> Elector:
    node, voters = key.node_id, config.site.voters
    roster = Roster()
    if voters:
        roster = Roster.found(site, voters)
    elif founded:
        roster = Roster.found(site, [node])
    settings = ElectionSettings(**config.election.given())
    journal = config.state_dir / "election.journal"
    return Elector(node, site, roster, sign=key.sign, journal=journal, settings=settings, named=voters, gated=True)


def _stated(config: NodeConfig) -> StatedFacts:
    facts = config.facts
    return StatedFacts(
        on_mains=None if facts.power is None else facts.power == "mains",
        wired=facts.wired,
        memory_free_bytes=None if facts.memory_mb is None else facts.memory_mb * 2**20,
    )


def _seeds(config: NodeConfig) -> tuple[Seed, ...]:
    return tuple(Seed(each.node, each.host, each.port) for each in config.discovery.seeds)


def _punching(config: NodeConfig) -> PunchSettings:
    return PunchSettings(enabled=config.punching.enabled, private=config.punching.private)


def _cloud_address(cloud: CloudRef | None) -> CloudAddress | None:
    return None if cloud is None else CloudAddress(cloud.id, cloud.host, cloud.port)

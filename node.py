"""The composition root: what a node and a cloud are made of, from their configs.

    node    network (rest for one): router, uplink, tunnel_relay, elector, placement, host_facts, site (duties),
            suspicion, discoverer, migration (log_store, hosting, callers)
            container_manager, images, blobs, topics, forwarder, gateway, users' actors
    cloud   router, directory, signaling, enrolment (`run_cloud`)

A crash below the Router is healed without touching what does not depend on it; when the Router itself crashes, all who
believe in its links start anew. Nothing here decides anything at run time. Relays are put together without most of
this, in `actors/tunnel_relay/open_relay.py`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio
import ifaddr

from atoll.actors.blobs import messages as blob_messages
from atoll.actors.blobs.blobs import Blobs
from atoll.actors.blobs.folder import BlobFolder
from atoll.actors.cloud import messages as cloud_messages
from atoll.actors.cloud.cloud import Cloud, run_cloud
from atoll.actors.cloud.messages import DIRECTORY, ListNodes, NodeList, NodeRecord
from atoll.actors.cloud.store import CloudStore
from atoll.actors.container_manager import messages as container_messages
from atoll.actors.container_manager.container_manager import ContainerManager, order
from atoll.actors.container_manager.containers import Containers, ContextFacts
from atoll.actors.container_manager.errors import StorageFault
from atoll.actors.discoverer import messages as discoverer_messages
from atoll.actors.discoverer.discoverer import Discoverer
from atoll.actors.discoverer.failure_detector import FailureDetector
from atoll.actors.discoverer.messages import Leaving, Seed
from atoll.actors.duties import messages as duties_messages
from atoll.actors.duties.cache import Cache
from atoll.actors.duties.duties import HELD as DUTIES_HELD
from atoll.actors.duties.duties import Duties
from atoll.actors.duties.duty import Duty
from atoll.actors.duties.messages import PROXY, REGISTRAR, DescribeSite, Drain, SiteDescribed
from atoll.actors.duties.offer import Offer
from atoll.actors.duties.proxy import Proxy
from atoll.actors.duties.registrar import Registrar
from atoll.actors.elector import messages as elector_messages
from atoll.actors.elector.elector import Elector
from atoll.actors.elector.host_facts import HostFacts, StatedFacts
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.forwarder.forwarder import Forwarder
from atoll.actors.forwarder.messages import PATH as FORWARDER
from atoll.actors.gateway import messages as gateway_messages
from atoll.actors.gateway.gateway import Gateway, GatewaySettings
from atoll.actors.gateway.live_node import GATEWAY, LiveNode
from atoll.actors.hand_over import messages as hand_over_messages
from atoll.actors.hand_over import site_messages as hand_over_site_messages
from atoll.actors.hand_over.messages import MoveEnded
from atoll.actors.hand_over.migratable import MigratableActor
from atoll.actors.hand_over.migration import migration
from atoll.actors.hand_over.repertoire import Repertoire
from atoll.actors.hand_over.site_actors import MOVE_S, SiteActors
from atoll.actors.host import messages as host_messages
from atoll.actors.image_exchange import messages as image_messages
from atoll.actors.image_exchange.blob_store import BlobStore
from atoll.actors.image_exchange.exchange import ImageExchange
from atoll.actors.image_exchange.messages import CACHE
from atoll.actors.placement import messages as placement_messages
from atoll.actors.placement.placement_actor import PlacementActor
from atoll.actors.router import messages as router_messages
from atoll.actors.router.messages import EndSessions, Reach
from atoll.actors.router.router import Router
from atoll.actors.router.session_stream import SessionStream
from atoll.actors.router.streams import Services, open_stream
from atoll.actors.router.ways import CloudAddress
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import (
    Actor,
    ActorRef,
    ActorSystem,
    Address,
    AskFailed,
    ChildSpec,
    Strategy,
    SupervisorSpec,
)
from atoll.actors.runtime.own_faults import own_faults
from atoll.actors.runtime.state_dir import held_state_dir
from atoll.actors.topics import messages as topic_messages
from atoll.actors.topics.errors import TooFast
from atoll.actors.topics.joins import JoinWanted
from atoll.actors.topics.orders import OpenSubscription, Published, PublishTopic
from atoll.actors.topics.subscription import Subscription
from atoll.actors.topics.topics import Topics, TopicSettings
from atoll.actors.tunnel_relay import messages as tunnel_messages
from atoll.actors.tunnel_relay.puncher import PunchSettings
from atoll.actors.tunnel_relay.tunnel_relay import TunnelRelay
from atoll.actors.uplink import messages as uplink_messages
from atoll.actors.uplink.ask import ask_cloud
from atoll.actors.uplink.uplink import Uplink
from atoll.cluster_specs.config import CloudConfig, CloudRef, NodeConfig, read_config
from atoll.transport.admission import SiteAdmission
from atoll.transport.base import Standing
from atoll.transport.beacon import Beacon, faces_of
from atoll.transport.codec import Codec
from atoll.transport.dnssd import Announced, DnsSd
from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.zeromq import ZeroMqTransport

NETWORK, USERS = "network", "users"
RESERVED = frozenset({CACHE, PROXY, REGISTRAR})
"""Duties, which come to a node and leave it while it runs."""
_DutyMakers: TypeAlias = dict[str, Callable[[], Duty]]
LEAVE_S = 1.5
"""How long a node that ends waits until others do what it did: a proxy needs two relays, an election a vote."""

PUBLISH_S = 30.0
PUBLISH_PAUSE_S = 0.02
"""Until a message is tried again that came too fast."""
SUBSCRIBE_S = 45.0

try:
    VERSION = version("atoll")
except PackageNotFoundError:
    VERSION = "0"


def codec() -> Codec:
    """Make the codec that every process speaks: the messages of all actors."""
    return Codec(
        [
            *RUNTIME_MESSAGES,
            *elector_messages.MESSAGES,
            *placement_messages.MESSAGES,
            *hand_over_messages.MESSAGES,
            *hand_over_site_messages.MESSAGES,
            *discoverer_messages.MESSAGES,
            *host_messages.MESSAGES,
            *router_messages.MESSAGES,
            *tunnel_messages.MESSAGES,
            *duties_messages.MESSAGES,
            *gateway_messages.MESSAGES,
            *container_messages.MESSAGES,
            *image_messages.MESSAGES,
            *blob_messages.MESSAGES,
            *topic_messages.MESSAGES,
            *cloud_messages.MESSAGES,
        ]
    )


class Node:
    """A running node; open it with `async with Node.open(config) as node`."""

    def __init__(self, config: NodeConfig, key: NodeKey | None = None) -> None:
        self.config = config
        self._key = key
        self._stack = AsyncExitStack()
        self._users: set[str] = set()
        self._open = False
        self.system: ActorSystem
        self.gateway: Gateway

    @classmethod
    def open(cls, config: "NodeConfig | Path | str | None" = None, *, key: NodeKey | None = None) -> "Node":
        """Name the node to be: a config, the path of its file, or nothing for the defaults; `key` instead of a file.

        Raises:
            SpecInvalid: The config is wrong; the text says where.
        """
        if not isinstance(config, NodeConfig):
            config = read_config(NodeConfig, None if config is None else Path(config)).config
        return cls(config, key)

    @property
    def id(self) -> NodeId:
        """Who it is."""
        return self._running().node_id

    def _running(self) -> ActorSystem:
        if not self._open:
            raise UsageError("this node does not run: use it inside `async with Node.open(…) as node`")
        return self.system

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            UsageError: A port is taken, a file is damaged, or another node uses the same directory; says what to do.
        """
        if self._open:
            raise UsageError("this node is open already: make another one with Node.open")
        async with AsyncExitStack() as stack:
            stack.enter_context(held_state_dir(self.config.state_dir))
            await self._start(stack)
            self._stack = stack.pop_all()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Give duties and the supernode's place away in good order, then stop everything, last first."""
        if kind is None:
            with suppress(AskFailed):
                await self._ask_here(duties_messages.PATH, Drain(within_s=LEAVE_S), 2 * LEAVE_S)
            # Last of all: what this node reports after it has left would put it on the roll again.
            with suppress(AskFailed):
                await self._ask_here(discoverer_messages.SUSPICION, Leaving(), 0.2)
            with suppress(AskFailed):
                await self._ask_here(router_messages.PATH, EndSessions("this node stops"), 0.2)
        self._open = False
        return await self._stack.__aexit__(kind, error, trace)

    async def _start(self, stack: AsyncExitStack) -> None:
        config = self.config
        key = self._key or NodeKey.load_or_create(config.key_file)
        site, founded = _site_keys(config)
        own = NodeRecord(key.node_id, config.name, config.site.name, VERSION)
        self.system = await stack.enter_async_context(ActorSystem(key.node_id, codec()))
        self._offer = Offer(self.system)
        repertoire = Repertoire()
        self._site_actors = SiteActors(self.system, repertoire)
        store = stack.enter_context(_blob_store(config))
        duties = _duties(own, store, has_cloud=config.cloud is not None)
        with own_faults():
            moving = migration(key.node_id, repertoire, config.state_dir)
            await self.system.supervise(_network(config, key, site, own, moving, duties=duties, founded=founded))
            await self.system.spawn(lambda: _container_manager(config, key.node_id), container_messages.PATH)
            await self.system.spawn(lambda: ImageExchange(store, config.state_dir / "uploads"), image_messages.PATH)
            await self.system.spawn(lambda: _blobs(config, self.system), blob_messages.PATH)
            await self.system.spawn(lambda: _topics(config, self.system, site), topic_messages.PATH)
            await self.system.spawn(lambda: Forwarder(key.node_id, config.forward.allow), FORWARDER)
            await self._serve_gateway(own, site)
        await self.system.supervise(SupervisorSpec(name=USERS))

    async def _serve_gateway(self, own: NodeRecord, site: SiteKeys) -> None:
        config = self.config
        live = LiveNode(
            system=self.system,
            own=own,
            offer=self._offer,
            site_id=site.tag.hex(),
            has_cloud=config.cloud is not None,
        )
        settings = GatewaySettings(
            state=config.state_dir,
            unix_socket=config.api_socket,
            host=config.gateway.host,
            port=config.gateway.tcp_port,
        )

        def gateway() -> Gateway:
            self.gateway = Gateway(live, settings)
            live.app = self.gateway.app
            return self.gateway

        await self.system.spawn(gateway, GATEWAY)
        await live.tell_offer()

    async def spawn(self, factory: Callable[[], Actor], name: str) -> ActorRef:
        """Start an actor of yours (a class will do); others find it by its name.

        Raises:
            StartFailed: It did not start.
            UsageError: The name is taken, or no name.
        """
        system = self._running()
        if name in RESERVED:
            raise UsageError(f"{name} is a name of the node's own, for a duty that may come here: choose another one")
        if self._site_actors.hosts(name):
            raise UsageError(f"a migratable actor of this site is called {name}: choose another name")
        ref = await system.spawn(factory, name, under=USERS)
        self._users.add(name)
        self._offer.set_actors(self._users)
        return ref

    async def open_stream(self, peer: NodeId, service: str) -> SessionStream:
        """Open a byte stream (AnyIO's) to a service of a node: of this one, one nearby, one behind relays.

        An actor there has asked its Router for the service's streams (`ServeStreams`). Who serves nothing called so,
        or not for us, resets it with the reason.

        Raises:
            Unreachable: There is no way to it; the text is the reason.
            Congested: Too many streams are open to it already.
            UsageError: The service's name is empty or too long.
        """
        return await open_stream(self._running(), peer, service)

    async def publish(self, topic: str, payload: bytes | str, *, to: NodeId | None = None) -> Published:
        """Publish to this site, or through a node of another site `to` that one; waits while this node is too busy.

        Raises:
            UsageError: It is no topic, or the payload is too long; the text says which limit.
            Refused: That node lets us publish nothing there, or not to that topic.
            Unreachable: There is no way to that node, or it gave no answer.
        """
        data = payload.encode() if isinstance(payload, str) else payload
        topics = self._running().ref(Address(self.id, topic_messages.PATH))
        while True:
            try:
                published: Published = await order(topics, PublishTopic(topic, data, to), timeout_s=PUBLISH_S)
            except TooFast:
                await anyio.sleep(PUBLISH_PAUSE_S)
            else:
                return published

    @asynccontextmanager
    async def subscribe(self, *filters: str, source: NodeId | None = None) -> AsyncIterator[Subscription]:
        """Subscribe to topics of this site (MQTT's filters), or to those of a node's site (`source`).

        What is published from the beginning of the block on comes, in order for each publisher. Whoever reads too
        slowly loses the oldest: the subscription counts them in `missed`.

        Raises:
            UsageError: A filter is none.
            Refused: That node does not let us subscribe there.
            Unreachable: There is no way to that node.
        """
        topics = self._running().ref(Address(self.id, topic_messages.PATH))
        opened = await order(topics, OpenSubscription(filters, source), timeout_s=SUBSCRIBE_S)
        async with opened as subscription:
            yield subscription

    def host(self, make: Callable[[], MigratableActor], name: str) -> ActorRef:
        """Host a migratable actor (a class will do) under a name that is its own on the whole site, and give it.

        Say so on every node that may run it: the first one begins it, the others stand by. It is begun as soon as a
        majority of the site's voters can be reached; until then calls wait.

        Raises:
            UsageError: The class cannot move, or the name is taken on this node or by another class.
        """
        if name in RESERVED or self._running().find(name) is not None:
            raise UsageError(f"an actor named {name} lives on this node already, which does not move")
        return self._site_actors.host(make, name)

    async def move(self, name: str, *, to: NodeId | str, timeout_s: float = MOVE_S) -> MoveEnded:
        """Move a migratable actor to another member of the site (its id or its name), and say how long it paused.

        Raises:
            Refused: That node does not take it, or it cannot leave now; it goes on where it is.
            Unreachable: Nobody can say where it is, or it was not moved in time.
            UsageError: There is no such actor or no such member.
        """
        self._running()
        return await self._site_actors.move(name, to, timeout_s)

    async def find(self, name: str, *, scope: str = "site", timeout_s: float = 5.0) -> ActorRef:
        """Find an actor by its name: here, on the `site`, or anywhere in the `account`, and open a way to it.

        A migratable actor is found on the site alone; calls follow it when it moves.

        Raises:
            Unreachable: Nobody offers such an actor, or there is no way to its node.
            UsageError: No such scope.
        """
        if scope not in ("site", "account"):
            raise UsageError(f"{scope!r} is no scope: say site or account")
        system = self._running()
        if name in self._users and (here := system.find(name)) is not None:
            return here
        try:
            with anyio.fail_after(timeout_s):
                records = await self._records(scope)
                holders = [each.node for each in records if name in each.actors and each.node != self.id]
                if holders:
                    await self._ask_here(router_messages.PATH, Reach(holders[0]), timeout_s)
                    return system.ref(Address(holders[0], name))
                return await self._site_actors.find(name)
        except TimeoutError:
            raise Unreachable(f"no way to an actor {name} within {timeout_s:g} s") from None

    async def _records(self, scope: str) -> tuple[NodeRecord, ...]:
        site: SiteDescribed = await self._ask_here(duties_messages.PATH, DescribeSite(), 2.0)
        if scope == "site":
            return site.records
        listed = await ask_cloud(self.system, DIRECTORY, ListNodes(), NodeList)
        return (*site.records, *listed.nodes)

    async def _ask_here(self, path: str, message: Any, timeout_s: float) -> Any:
        return await self.system.ask(Address(self.id, path), message, timeout_s=timeout_s)


def _network(
    config: NodeConfig,
    key: NodeKey,
    site: SiteKeys,
    own: NodeRecord,
    migration: SupervisorSpec,
    *,
    duties: _DutyMakers,
    founded: bool,
) -> SupervisorSpec:
    """Say which actors make a node part of its site and of the cloud, in the order in which they need each other."""
    node = key.node_id
    cloud = _cloud_address(config.cloud)
    links = _Links(config, key, site)
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


def _duties(own: NodeRecord, store: BlobStore, *, has_cloud: bool) -> _DutyMakers:
    """Give what makes each duty that this node is able to hold."""
    duties: _DutyMakers = {CACHE: lambda: Cache(own.node, store)}
    if not has_cloud:
        return duties
    return duties | {
        REGISTRAR: lambda: Registrar(own.site),
        PROXY: lambda: Proxy(own.node, own.site),
    }


class _Links:
    """Makes what carries a node's links, anew for each Router, and the beacons that say where they are."""

    def __init__(self, config: NodeConfig, key: NodeKey, site: SiteKeys) -> None:
        self._config = config
        self._key = key
        self._site = site
        self._newest: ZeroMqTransport | None = None
        cloud = config.cloud
        self._admission = SiteAdmission(
            keys=site,
            own=key.node_id,
            open_site=config.site.open,
            clouds=frozenset() if cloud is None else frozenset({cloud.id}),
            enrolment=b"" if cloud is None else cloud.shown,
        )

    def transport(self) -> ZeroMqTransport:
        """Make a transport; its port is known once the Router has opened it."""
        config = self._config
        self._newest = ZeroMqTransport(
            self._key, self._admission, label=config.name, host=config.links.host, port=config.links.port
        )
        return self._newest

    def beacon(self) -> Beacon:
        """Make a beacon that says the port of the newest transport; the Router, which opens it, is started before."""
        if self._newest is None:
            raise UsageError("a beacon needs the port of the links: start the Router before the Discoverer")
        config = self._config
        return Beacon(
            self._key,
            self._newest.port,
            self._site,
            label=config.name,
            beacon_port=config.beacon.port,
            interfaces=config.beacon.interfaces,
        )

    def dnssd(self) -> DnsSd:
        """Make DNS-SD for the newest transport, at the addresses that this host has now."""
        if self._newest is None:
            raise UsageError("DNS-SD needs the port of the links: start the Router before the Discoverer")
        config = self._config
        faces = faces_of(ifaddr.get_adapters(), config.beacon.interfaces)
        addresses = {face.address for face in faces if face.family == 4}
        outward = {each for each in addresses if not each.startswith("127.")}
        return DnsSd(Announced(self._key.node_id, self._newest.port, config.name, VERSION), outward or addresses)


def _seeds(config: NodeConfig) -> tuple[Seed, ...]:
    return tuple(Seed(each.node, each.host, each.port) for each in config.discovery.seeds)


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


def _blob_store(config: NodeConfig) -> BlobStore:
    try:
        return BlobStore(config.state_dir / "cache")
    except StorageFault as error:
        raise UsageError(str(error)) from error


def _container_manager(config: NodeConfig, node: NodeId) -> ContainerManager:
    facts = ContextFacts(node_id=str(node), http_port=config.gateway.tcp_port or 0)
    return ContainerManager(lambda: Containers(config.state_dir / "containers", facts=facts))


def _blobs(config: NodeConfig, system: ActorSystem) -> Blobs:
    wanted = config.blobs
    return Blobs(
        lambda: BlobFolder(config.state_dir / "blobs", quota_bytes=wanted.quota_mb * 2**20),
        lambda peer: open_stream(system, peer, blob_messages.SERVICE),
        accept=[Standing(each) for each in wanted.accept],
    )


def _punching(config: NodeConfig) -> PunchSettings:
    return PunchSettings(enabled=config.punching.enabled, private=config.punching.private)


def _topics(config: NodeConfig, system: ActorSystem, site: SiteKeys) -> Topics:
    settings = TopicSettings(
        may_subscribe=config.pubsub.subscribe,
        may_publish=config.pubsub.publish,
        joins=tuple(
            JoinWanted(each.node, each.topics, each.direction != "out", each.direction != "in") for each in config.join
        ),
    )
    return Topics(system.node_id, site.tag, settings, lambda peer: open_stream(system, peer, topic_messages.SERVICE))


def _cloud_address(cloud: CloudRef | None) -> CloudAddress | None:
    return None if cloud is None else CloudAddress(cloud.id, cloud.host, cloud.port)


def _site_keys(config: NodeConfig) -> tuple[SiteKeys, bool]:
    """Give the site's keys, and whether this node founded the site itself."""
    if not config.site.secret.generated:
        return SiteKeys(bytes(config.site.secret)), False
    # A key file has the same needs: 32 bytes, made once, for the owner alone.
    return SiteKeys(NodeKey.load_or_create(config.state_dir / "site.secret").seed), True


@asynccontextmanager
async def open_cloud(config: CloudConfig) -> AsyncIterator[Cloud]:
    """Run the cloud's actors in one process, on SQLite.

    Raises:
        UsageError: The port is taken, or the store cannot be used.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(held_state_dir(config.state_dir))
        key = NodeKey.load_or_create(config.key_file)
        store = stack.enter_context(CloudStore(config.store_file))
        for each in config.enrolments:
            store.expect(bytes(each.secret), kind=each.kind, site=each.site, name=each.name)
        running = run_cloud(
            key,
            store,
            codec(),
            label=config.name,
            host=config.listen,
            port=config.port,
            ticket_s=config.ticket_s,
        )
        with own_faults():
            cloud = await stack.enter_async_context(running)
        yield cloud

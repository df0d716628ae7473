"""The composition root: runs nodes and clouds, from their configs.

    node    network (rest for one): router, uplink, tunnel_relay, elector, placement, host_facts, site (duties),
            suspicion, discoverer, migration (log_store, hosting, callers)
            container_manager, images, blobs, topics, forwarder, gateway, users' actors
    cloud   router, directory, signaling, enrolment (`run_cloud`)

A crash below the Router is healed without touching what does not depend on it; when the Router itself crashes, all who
believe in its links start anew. Nothing here decides anything at run time. What the actors of a node are given stands
in `actors/composition/`; relays are put together without most of this, in `actors/tunnel_relay/open_relay.py`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from atoll.actors.blobs import messages as blob_messages
from atoll.actors.cloud import messages as cloud_messages
from atoll.actors.cloud.messages import DIRECTORY, ListNodes, NodeList, NodeRecord
from atoll.actors.composition.network import RESERVED, duties_of, network
from atoll.actors.composition.services import blob_store, blobs, container_manager, topics
from atoll.actors.composition.version import VERSION
from atoll.actors.container_manager import messages as container_messages
from atoll.actors.container_manager.container_manager import order
from atoll.actors.discoverer import messages as discoverer_messages
from atoll.actors.discoverer.messages import Leaving
from atoll.actors.duties import messages as duties_messages
from atoll.actors.duties.messages import DescribeSite, Drain, SiteDescribed
from atoll.actors.duties.offer import Offer
from atoll.actors.elector import messages as elector_messages
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
from atoll.actors.image_exchange.exchange import ImageExchange
from atoll.actors.placement import messages as placement_messages
from atoll.actors.router import messages as router_messages
from atoll.actors.router.messages import EndSessions, Reach
from atoll.actors.router.session_stream import SessionStream
from atoll.actors.router.streams import open_stream
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import (
    Actor,
    ActorRef,
    ActorSystem,
    Address,
    AskFailed,
    SupervisorSpec,
)
from atoll.actors.runtime.own_faults import own_faults
from atoll.actors.runtime.state_dir import held_state_dir
from atoll.actors.topics import messages as topic_messages
from atoll.actors.topics.errors import TooFast
from atoll.actors.topics.lasting import Lasting
from atoll.actors.topics.orders import EndReading, Published, PublishTopic
from atoll.actors.topics.subscribing import subscribe
from atoll.actors.topics.subscription import Subscription
from atoll.actors.tunnel_relay import messages as tunnel_messages
from atoll.actors.uplink.ask import ask_cloud
from atoll.cluster_specs.config import CloudConfig, NodeConfig, read_config
from atoll.transport.codec import Codec
from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey, SiteKeys

if TYPE_CHECKING:
    from atoll.actors.cloud.cloud import Cloud

USERS = "users"
LEAVE_S = 1.5
"""How long a node that ends waits until others do what it did: a proxy needs two relays, an election a vote."""

PUBLISH_S = 30.0
PUBLISH_PAUSE_S = 0.02
"""Until a message is tried again that came too fast."""
SUBSCRIBE_S = 45.0


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
            with suppress(AskFailed):
                await self._ask_here(topic_messages.PATH, EndReading("this node stops"), 0.2)
        self._open = False
        return await self._stack.__aexit__(kind, error, trace)

    async def _start(self, stack: AsyncExitStack) -> None:
        config = self.config
        key = self._key or NodeKey.load_or_create(config.key_file)
        site, founded = _site_keys(config)
        own = NodeRecord(key.node_id, config.name, config.site.name, VERSION)
        lasting = Lasting()
        stack.callback(lasting.end, "this node stopped")
        self.system = await stack.enter_async_context(ActorSystem(key.node_id, codec()))
        self._offer = Offer(self.system)
        repertoire = Repertoire()
        self._site_actors = SiteActors(self.system, repertoire)
        store = stack.enter_context(blob_store(config))
        duties = duties_of(own, store, has_cloud=config.cloud is not None)
        with own_faults():
            moving = migration(key.node_id, repertoire, config.state_dir)
            await self.system.supervise(network(config, key, site, own, moving, duties=duties, founded=founded))
            await self.system.spawn(lambda: container_manager(config, key.node_id), container_messages.PATH)
            await self.system.spawn(lambda: ImageExchange(store, config.state_dir / "uploads"), image_messages.PATH)
            await self.system.spawn(lambda: blobs(config, self.system), blob_messages.PATH)
            await self.system.spawn(lambda: topics(config, self.system, site, lasting), topic_messages.PATH)
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
            site_actors=self._site_actors,
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
        opened = await subscribe(topics, filters, source, timeout_s=SUBSCRIBE_S)
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

    async def remove(self, name: str, *, timeout_s: float = MOVE_S, force: bool = False, founded: int = 0) -> None:
        """End a migratable actor of the site for good: its state and its log are lost, on all nodes.

        Calls that wait are told so. Nothing begins it anew but a program that says `host` from then on; what it begins
        is empty. `founded`: the generation in which it was founded, as `atoll actor show` says. Then only that one is
        ended, however often this is said again: another one of that name, begun since, stays.

        Raises:
            Unreachable: Nobody can say where it is, or it is not known whether it was removed in time: say it again.
                `force` removes one whose host gives no answer; a host that is only cut off goes on until it hears.
            UsageError: There is no such actor.
        """
        self._running()
        await self._site_actors.remove(name, timeout_s, force=force, founded=founded)

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


def _site_keys(config: NodeConfig) -> tuple[SiteKeys, bool]:
    """Give the site's keys, and whether this node founded the site itself."""
    if not config.site.secret.generated:
        return SiteKeys(bytes(config.site.secret)), False
    # A key file has the same needs: 32 bytes, made once, for the owner alone.
    return SiteKeys(NodeKey.load_or_create(config.state_dir / "site.secret").seed), True


@asynccontextmanager
async def open_cloud(config: CloudConfig) -> AsyncIterator["Cloud"]:
    """Run the cloud's actors in one process, on SQLite.

    Raises:
        UsageError: The port is taken, or the store cannot be used.
    """
    # Imported where they are wanted: a node runs no cloud, and what runs one takes 3 MB.
    from atoll.actors.cloud.cloud import run_cloud  # noqa: PLC0415
    from atoll.actors.cloud.store import CloudStore  # noqa: PLC0415

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

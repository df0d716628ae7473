"""The Topics of a node: publish and subscribe in its site and across sites; the shell around `Exchange` and `Gates`.

    a command, an actor --PublishTopic--> the exchange --> subscribers here, members that want it
                        --OpenSubscription--> a `Subscription` of this site, or a visit at a node of another one
    [[join]] of the config --> a visit that goes on as long as the node runs, both ways if that is wanted
    a peer's stream --allowed?--> a guest of `Gates`
    a crash --> whoever reads goes on in the next life, and is told that something may be missing; see `lasting.py`

Members are told things; everybody else comes by a stream, through the Router, which says who it is. Every number of
things that a peer can bring about here has a limit of its own.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any, ClassVar

import anyio
import msgspec
import nacl.utils
from anyio.abc import ByteStream

from atoll.actors.container_manager.container_manager import decline
from atoll.actors.container_manager.errors import ContainerError
from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import LinkWanted
from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import DescribeSite, SiteDescribed
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import (
    DescribeRoutes,
    PeerDown,
    PeerUp,
    RoutesDescribed,
    ServeStreams,
    StreamArrived,
)
from atoll.actors.runtime.actor import LATER, Actor, Delivery, NotUnderstood, ReplyTo, handles
from atoll.actors.runtime.errors import AskFailed, AskUnreachable
from atoll.actors.runtime.machine import Address
from atoll.actors.topics.errors import TooFast, TooMany
from atoll.actors.topics.exchange import Exchange, ExchangeEffect, Flush, Say, Wake
from atoll.actors.topics.filters import good_filters
from atoll.actors.topics.gates import Gates
from atoll.actors.topics.joins import Join, JoinWanted
from atoll.actors.topics.lasting import Lasting
from atoll.actors.topics.messages import (
    BOOT_BYTES,
    PATH,
    SERVICE,
    TopicMessages,
    TopicsTaken,
    TopicsWanted,
)
from atoll.actors.topics.orders import (
    DescribeTopics,
    EndReading,
    OpenSubscription,
    Published,
    PublishTopic,
    SubscribeActor,
    SubscriberSeen,
    TopicsDescribed,
    UnsubscribeActor,
)
from atoll.actors.topics.outlets import Outlets
from atoll.actors.topics.reception import Reception
from atoll.actors.topics.remote import RemoteSubscriptions
from atoll.actors.topics.subscription import Subscription
from atoll.actors.tunnel_relay.bucket import Bucket
from atoll.transport.base import Standing
from atoll.transport.errors import Congested, MalformedFrame
from atoll.transport.identity import NodeId
from atoll.transport.naps import beat

PUBLISH_BYTES_S = 32 * 1024 * 1024
"""What a node publishes in a second; beyond that a publisher is told."""
PUBLISH_COST_BYTES = 1024
"""What a message counts beside its payload: so it is 32,768 small ones a second."""
READY_S = 1.0
"""How long a subscriber waits until all members with a link know of it; one that does not answer is not waited for."""
LOOK_S = 0.5
SEEK_S = 20.0
"""Between two looks for members without a link; a link that nobody asks for any more lives for 30 s."""
LINKS_MAX = 64
"""Members that are asked for one."""
CONGESTED_S = 0.02
"""Until a link that took nothing is tried again."""


class TopicSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the config says."""

    may_subscribe: tuple[str, ...] = ()
    may_publish: tuple[str, ...] = ()
    joins: tuple[JoinWanted, ...] = ()


class Topics(Actor):
    """Publishes and subscribes; see the module."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER, Standing.GRANTED})
    """Whose streams are heard; messages are members' alone."""

    def __init__(
        self,
        own: NodeId,
        site: bytes,
        settings: TopicSettings,
        open_stream: Callable[[NodeId], Awaitable[ByteStream]],
        lasting: Lasting,
    ) -> None:
        """Take who this is, the tag of its site, what the config says, what opens streams to gates, and who reads."""
        self.counts: Counter[str] = Counter()
        self.exchange = Exchange(node=own, boot=nacl.utils.random(BOOT_BYTES), site=site)
        self.gates = Gates(
            exchange=self.exchange,
            may_subscribe=settings.may_subscribe,
            may_publish=settings.may_publish,
            draw_epoch=lambda: nacl.utils.random(BOOT_BYTES),
        )
        self._own = own
        self._settings = settings
        self._lasting = lasting
        self._readers: dict[int, Callable[[], None]] = {}
        """What wakes the reader of a subscriber's ring, by its number."""
        self._unsent: dict[NodeId, TopicMessages] = {}
        """What a member's link did not take."""
        self._congested = anyio.Event()
        self._settling = anyio.Event()
        self._joins: list[Join] = []
        rng = Random(nacl.utils.random(8))
        self._remote = RemoteSubscriptions(site, open_stream, self.counts, rng, lasting.there)
        self._outlets = Outlets(self.exchange, open_stream, self.counts, rng)
        self._open_stream = open_stream
        self._rng = rng

    # Life

    async def started(self) -> None:
        """Hear of links, serve streams, and begin the joins."""
        now = self.system.clock()
        self._bucket = Bucket(rate_bytes_s=PUBLISH_BYTES_S, now=now)
        self._reception = Reception(
            self.gates,
            self.counts,
            clock=self.system.clock,
            carry_out=self.carry_out,
            readers=self._readers,
            settled=self._settled,
        )
        self.system.subscribe(PeerUp, self.ref)
        self.system.subscribe(PeerDown, self.ref)
        router = Address(self._own, ROUTER)
        self.system.tell(router, ServeStreams(SERVICE, PATH))
        if self.system.find(ROUTER) is not None:
            described: RoutesDescribed = await self.system.ask(router, DescribeRoutes())
            for link in described.links:
                if link.standing is Standing.MEMBER:
                    self.carry_out(self.exchange.peer_up(link.peer, now))
        self._resume()
        self.tasks.start_soon(self._look)
        self.tasks.start_soon(self._try_again)
        self.tasks.start_soon(self._seek_links)
        for wanted in self._settings.joins:
            join = Join(wanted, self, self._open_stream, self._rng)
            self._joins.append(join)
            self.tasks.start_soon(join.run)

    def _resume(self) -> None:
        """Go on for whoever read when an earlier life crashed."""
        for each in tuple(self._lasting.here):
            try:
                self._enter(each)
            except ContainerError as error:
                each.fail(error)
            else:
                each.doubt()
        self._remote.resume(self.tasks)
        for path, subscription in self._lasting.actors.items():
            self.tasks.start_soon(self._tell_actor, path, subscription)

    async def stopped(self) -> None:
        """Tell whoever reads that nothing more comes; after a crash they wait for the next life."""
        self._lasting.detach()
        if self.is_ending:
            self._lasting.end("the topics of this node ended; subscribe again")

    async def _look(self) -> None:
        while True:
            await beat(LOOK_S)
            now = self.system.clock()
            self.carry_out([*self.exchange.tick(now), *self.gates.tick(now)])

    async def _seek_links(self) -> None:
        """On a large site most members have no link to each other: ask for some, as long as something is wanted."""
        sought_for = -1
        while True:
            for _ in range(round(SEEK_S / LOOK_S)):
                await beat(LOOK_S)
                if sought_for < 0 and self.exchange.wants:
                    break
            sought_for = self.exchange.version if self.exchange.wants else -1
            if not self.exchange.wants or self.system.find(DUTIES) is None:
                continue
            with suppress(AskFailed):
                site: SiteDescribed = await self.system.ask(Address(self._own, DUTIES), DescribeSite())
                away = [each.node for each in site.records if each.node not in {self._own, *self.exchange.linked}]
                for node in sorted(away)[:LINKS_MAX]:
                    self.system.tell(Address(self._own, DISCOVERER), LinkWanted(node))

    # What comes

    async def receive(self, delivery: Delivery) -> Any:
        """Take an order of this node, or what a member tells."""
        if delivery.standing is not None:
            self._take_told(delivery)
            return None
        match delivery.message:
            case PeerUp(peer, Standing.MEMBER):
                self.carry_out(self.exchange.peer_up(peer, self.system.clock()))
            case PeerUp():
                pass
            case PeerDown(peer):
                self._unsent.pop(peer, None)
                self.exchange.peer_down(peer)
                self._settle()
            case StreamArrived(stream, peer, standing):
                self.tasks.start_soon(self._reception.take, stream, peer, standing)
            case _:
                return await self._take_order(delivery)
        return None

    async def _take_order(self, delivery: Delivery) -> Any:
        reply_to = delivery.reply_to
        try:
            match delivery.message:
                case PublishTopic(topic, payload, to) as wanted:
                    self._afford(len(payload))
                    if to in (None, self._own):
                        return self._publish(topic, payload)
                    self.tasks.start_soon(self._beside, reply_to, self._publish_there, wanted)
                case OpenSubscription() as wanted:
                    self.tasks.start_soon(self._beside, reply_to, self._open, wanted)
                case SubscribeActor() as wanted:
                    self.tasks.start_soon(self._beside, reply_to, self._subscribe_actor, wanted)
                case _:
                    return await super().receive(delivery)
        except ContainerError as error:
            decline(reply_to, error)
        return LATER

    async def _beside(self, reply_to: ReplyTo | None, do: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Do what waits for others without keeping the mailbox waiting."""
        try:
            answer = await do(*arguments)
        except ContainerError as error:
            decline(reply_to, error)
        except BaseException:
            if reply_to is not None:
                reply_to.fail(AskUnreachable("the topics of this node ended meanwhile; try again"))
            raise
        else:
            if reply_to is not None:
                reply_to.answer(answer)

    def _take_told(self, delivery: Delivery) -> None:
        sender = delivery.sender
        if delivery.standing is not Standing.MEMBER or sender is None:
            self.counts["not_understood"] += 1
            raise NotUnderstood("topics of other sites come by streams")
        if not isinstance(delivery.message, TopicsWanted | TopicsTaken | TopicMessages):
            self.counts["not_understood"] += 1
            raise NotUnderstood(f"topics takes no {type(delivery.message).__name__}")
        try:
            effects = self.exchange.hear(sender.address.node, delivery.message, self.system.clock())
        except MalformedFrame as error:
            self.counts["broken_rules"] += 1
            raise NotUnderstood(str(error)) from error
        self.carry_out(effects)
        if isinstance(delivery.message, TopicsTaken):
            self._settle()

    def _settle(self) -> None:
        self._settling.set()
        self._settling = anyio.Event()

    # What goes

    def _afford(self, payload_bytes: int) -> None:
        cost = payload_bytes + PUBLISH_COST_BYTES
        if self._bucket.available(self.system.clock()) < cost:
            self.counts["too_fast"] += 1
            rate = PUBLISH_BYTES_S // 2**20
            raise TooFast(
                f"a node publishes {rate} MiB a second at most, with {PUBLISH_COST_BYTES} bytes more for each message; "
                "wait a moment"
            )
        self._bucket.take(cost)

    def _publish(self, topic: str, payload: bytes) -> Published:
        publication, effects = self.exchange.publish(topic, payload, _now_ms())
        self.carry_out(effects)
        self.counts["published"] += 1
        return Published(self._own, self.exchange.boot, publication.sequence, *self.exchange.reach(topic))

    async def _publish_there(self, wanted: PublishTopic) -> Published:
        assert wanted.to is not None  # noqa: S101 - for mypy
        publication = self.exchange.sign(wanted.topic, wanted.payload, _now_ms())
        return await self._outlets.publish(wanted.to, publication, wanted.wait_s, self.tasks)

    def carry_out(self, effects: Sequence[ExchangeEffect]) -> None:
        """Do what the exchange wants."""
        for effect in effects:
            match effect:
                case Say(peer, message):
                    self._tell(peer, message)
                case Flush(peer):
                    self._flush(peer)
                case Wake(number):
                    if (wake := self._readers.get(number)) is not None:
                        wake()

    def _tell(self, peer: NodeId, message: TopicMessages | Any) -> bool:
        try:
            self.system.tell(Address(peer, PATH), message, sender=self.ref)
        except Congested:
            self.counts["congested"] += 1
            return False
        return True

    def _flush(self, peer: NodeId) -> None:
        while True:
            message = self._unsent.pop(peer, None) or self.exchange.outgoing(peer)
            if message is None:
                return
            if not self._tell(peer, message):
                self._unsent[peer] = message
                self._congested.set()
                return

    async def _try_again(self) -> None:
        while True:
            await self._congested.wait()
            self._congested = anyio.Event()
            await anyio.sleep(CONGESTED_S)
            for peer in tuple(self._unsent):
                self._flush(peer)

    # Subscribers of this node

    def add_reader(self, number: int, wake: Callable[[], None]) -> None:
        """Have `wake` called when there is something in that subscriber's ring."""
        self._readers[number] = wake

    def end_reader(self, number: int) -> None:
        """Unsubscribe it; harmless when that is done."""
        self._readers.pop(number, None)
        self.carry_out(self.exchange.unsubscribe(number, self.system.clock()))

    async def _settled(self) -> None:
        """Wait until the members know what is wanted now, for a while."""
        version = self.exchange.version
        with anyio.move_on_after(READY_S):
            while not self.exchange.settled(version):
                await self._settling.wait()

    async def _open(self, wanted: OpenSubscription) -> Subscription:
        subscription = await self._subscribe(wanted.filters, wanted.source)
        wanted.claim.hold(subscription.close)
        return subscription

    async def _subscribe(self, filters: tuple[str, ...], source: NodeId | None) -> Subscription:
        if source in (None, self._own):
            return await self._subscribe_here(filters)
        assert source is not None  # noqa: S101 - for mypy
        return await self._remote.subscribe(filters, source, self.tasks)

    async def _subscribe_here(self, filters: tuple[str, ...]) -> Subscription:
        subscription = Subscription(good_filters(filters), None, self.exchange.new_ring(), self._lasting.here.remove)
        self._enter(subscription)
        self._lasting.here.append(subscription)
        try:
            await self._settled()
        except BaseException:
            # These Topics crash, and whoever asked has nothing to read from.
            subscription.close()
            raise
        return subscription

    def _enter(self, subscription: Subscription) -> None:
        subscriber, effects = self.exchange.subscribe(subscription.filters, self.system.clock(), ring=subscription.ring)

        def close(_: Subscription) -> None:
            self._lasting.here.remove(subscription)
            self.end_reader(subscriber.number)

        subscription.on_close = close
        self.add_reader(subscriber.number, subscription.wake)
        self.carry_out(effects)

    async def _subscribe_actor(self, wanted: SubscribeActor) -> bool:
        if self.system.find(wanted.path) is None:
            raise TooMany(f"no actor {wanted.path} lives here; spawn it first")
        if wanted.path in self._lasting.actors:
            raise TooMany(f"{wanted.path} is told messages already; unsubscribe it first")
        subscription = await self._subscribe(wanted.filters, wanted.source)
        self._lasting.actors[wanted.path] = subscription
        self.tasks.start_soon(self._tell_actor, wanted.path, subscription)
        return True

    async def _tell_actor(self, path: str, subscription: Subscription) -> None:
        try:
            while (ref := self.system.find(path)) is not None:
                await ref.wait_room()
                ref.tell(await subscription.next())
        except (anyio.ClosedResourceError, ContainerError, Congested):
            self.counts["actors_lost"] += 1
        # Not where these Topics crash: the next ones go on with it.
        subscription.close()
        if self._lasting.actors.get(path) is subscription:
            del self._lasting.actors[path]

    @handles
    async def unsubscribe_actor(self, wanted: UnsubscribeActor) -> bool:
        """Tell an actor nothing more."""
        subscription = self._lasting.actors.pop(wanted.path, None)
        if subscription is not None:
            subscription.close()
        return subscription is not None

    @handles
    async def end_reading(self, wanted: EndReading) -> None:
        """Tell whoever reads that nothing more comes: else a gateway that stops would wait for them."""
        self._lasting.end(wanted.why)

    @handles
    async def describe(self, _: DescribeTopics) -> TopicsDescribed:
        """Say who subscribes here, and how the joins do."""
        guests = {each.subscriber.number: each.peer for each in self.gates.guests.values() if each.subscriber}
        own = [
            SubscriberSeen(each.filters, None, guests.get(number), len(each.ring), each.ring.lost)
            for number, each in sorted(self.exchange.subscribers.items())
        ]
        remote = [
            SubscriberSeen(each.filters, each.source, None, len(each.subscription.ring), each.subscription.ring.lost)
            for each in self._lasting.there
        ]
        return TopicsDescribed(
            (*own, *remote),
            tuple(each.seen() for each in self._joins),
            self.exchange.wanting,
            {
                **self.counts,
                "doubled": self.exchange.doubled,
                "missed": self.exchange.missed,
                "too_old": self.exchange.seen.old,
                "visits": len(self.gates.guests),
            },
        )


def _now_ms() -> int:
    return int(time.time() * 1000)

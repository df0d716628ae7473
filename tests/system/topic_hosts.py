"""Nodes with nothing but their Topics: links in memory, streams of socket pairs that a test can cut."""

import anyio
from blob_hosts import stream_pair
from waiting import until

from atoll.actors.container_manager.container_manager import order
from atoll.actors.router.messages import PeerDown, PeerUp, StreamArrived
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import ActorSystem
from atoll.actors.runtime.machine import Address
from atoll.actors.topics import outlets, visiting
from atoll.actors.topics.lasting import Lasting
from atoll.actors.topics.messages import MESSAGES, PATH, SERVICE
from atoll.actors.topics.orders import DescribeTopics, PublishTopic
from atoll.actors.topics.subscribing import subscribe
from atoll.actors.topics.topics import Topics, TopicSettings
from atoll.testing.topic_world import tag
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Congested, Unreachable
from atoll.transport.keys import NodeKey

CODEC = Codec([*RUNTIME_MESSAGES, *MESSAGES])


def quick(monkeypatch):
    """Make patience short."""
    monkeypatch.setattr(visiting, "RETRY_S", 0.01)
    monkeypatch.setattr(visiting, "RETRY_S_MAX", 0.05)
    monkeypatch.setattr(outlets, "IDLE_S", 0.05)


class Host:
    """One node of a site."""

    def __init__(self, world, name, site, number, **settings):
        self.world, self.name, self.site = world, name, site
        self.id = NodeKey(bytes([number]) * 32).node_id
        self.settings = TopicSettings(**settings)
        self.congested = self.alive = False

    async def start(self):
        await self.world.tasks.start(self._live)
        for other in self.world.hosts.values():
            if other is not self and other.site == self.site and other.alive:
                self.system.announce(PeerUp(other.id, Standing.MEMBER, other.name, ""))
                other.system.announce(PeerUp(self.id, Standing.MEMBER, self.name, ""))
        return self

    async def _live(self, *, task_status):
        self.ending, self.ended = anyio.Event(), anyio.Event()
        lasting = Lasting()
        async with ActorSystem(self.id, CODEC, self._outlet) as self.system:
            await self.system.spawn(lambda: Topics(self.id, tag(self.site), self.settings, self._open, lasting), PATH)
            self.alive = True
            task_status.started()
            await self.ending.wait()
        self.ended.set()

    def _outlet(self, envelope):
        if self.congested:
            raise Congested("the link takes nothing")
        other = self.world.hosts[envelope.header.target_node]
        if not other.alive or other.site != self.site:
            raise Unreachable("no link")
        other.system.deliver(envelope, Standing.MEMBER)

    async def _open(self, peer):
        other = self.world.hosts.get(peer)
        if other is None or not other.alive:
            raise Unreachable("no way there")
        ours, theirs = await stream_pair()
        self.world.streams.append((ours, theirs))
        standing = Standing.MEMBER if other.site == self.site else Standing.GRANTED
        other.system.tell(Address(peer, PATH), StreamArrived(theirs, self.id, standing, SERVICE))
        return ours

    @property
    def topics(self):
        return self.system.cell(PATH).actor

    async def kill(self):
        """End it; what it had in memory is gone."""
        self.alive = False
        self.ending.set()
        await self.ended.wait()
        for other in self.world.hosts.values():
            if other.alive and other.site == self.site:
                other.system.announce(PeerDown(self.id, "gone"))

    async def crash(self):
        """Have its Topics fail, and wait for their next life."""
        earlier = self.topics

        async def fail():
            raise ZeroDivisionError("a defect")

        earlier.tasks.start_soon(fail)
        await until(lambda: self.topics is not earlier)
        # A Router would tell of the links that there are.
        for other in self.world.hosts.values():
            if other is not self and other.site == self.site and other.alive:
                self.system.announce(PeerUp(other.id, Standing.MEMBER, other.name, ""))
        await self.described()
        await until(lambda: self.topics.exchange.settled(self.topics.exchange.version))

    async def ask(self, message):
        return await order(self.system.ref(Address(self.id, PATH)), message, timeout_s=20)

    async def publish(self, topic, payload=b"", to=None, wait_s=5.0):
        return await self.ask(PublishTopic(topic, payload, None if to is None else to.id, wait_s))

    async def subscribe(self, *filters, source=None):
        topics = self.system.ref(Address(self.id, PATH))
        return await subscribe(topics, filters, None if source is None else source.id, timeout_s=20)

    async def described(self):
        return await self.ask(DescribeTopics())


class World:
    """All hosts of a test, and the streams between them."""

    def __init__(self, tasks):
        self.tasks = tasks
        self.hosts = {}
        self.streams = []

    async def host(self, name, site="home", **settings):
        host = Host(self, name, site, len(self.hosts) + 1, **settings)
        self.hosts[host.id] = host
        return await host.start()

    async def cut(self):
        for ours, theirs in self.streams:
            # The gate's end first: an end that it heard would be a visitor that leaves.
            await anyio.aclose_forcefully(theirs)
            await anyio.aclose_forcefully(ours)
        self.streams.clear()

    async def close(self):
        for host in self.hosts.values():
            if host.alive:
                await host.kill()
        await self.cut()


async def read(subscription, count):
    """Give so many messages' payloads."""
    with anyio.fail_after(10):
        return [(await anext(subscription)).payload for _ in range(count)]

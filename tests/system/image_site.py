"""A site in one process whose members give each other images: real archives, stores and caches."""

import contextlib
import hashlib
import random
from functools import partial

import anyio

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.container_manager import messages as container_messages
from atoll.actors.container_manager.container_manager import ContainerManager, order
from atoll.actors.container_manager.containers import Containers
from atoll.actors.container_manager.messages import ListImages, LoadImage
from atoll.actors.duties import cache as cache_module
from atoll.actors.duties.cache import Cache
from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import DescribeSite, DutyPlace, SiteDescribed
from atoll.actors.image_exchange import fetching
from atoll.actors.image_exchange import messages as image_messages
from atoll.actors.image_exchange import pull as pull_module
from atoll.actors.image_exchange.blob_store import BlobStore
from atoll.actors.image_exchange.exchange import ImageExchange
from atoll.actors.image_exchange.messages import (
    CACHE,
    PATH,
    ImageCached,
    ImageWanted,
    PullImage,
)
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem
from atoll.actors.runtime.actor import LATER
from atoll.actors.runtime.machine import Address
from atoll.testing.services import ECHO, service_archive
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey

CODEC = Codec([*RUNTIME_MESSAGES, *container_messages.MESSAGES, *image_messages.MESSAGES])
QUOTA_BYTES = 8 * 1024 * 1024


def archive_of(name="echo-v1", version="1.0.0", size=900_000, seed=1):
    """Make an archive of several chunks."""
    filling = random.Random(seed).randbytes(size // 2).hex()
    return service_archive(name, version, f"{ECHO}\n// {filling}")


def digest_of(archive):
    return hashlib.sha256(archive).digest()


class Site(Actor):
    """Stands where the Duties stand: knows all who are there, and who holds the cache."""

    def __init__(self, world):
        self.world = world

    async def receive(self, delivery):
        assert isinstance(delivery.message, DescribeSite)
        records = tuple(each.record for each in self.world.nodes.values())
        cache = self.world.cache
        places = (DutyPlace(CACHE, cache, 1, 1, None, "a test said so"),) if cache else ()
        return SiteDescribed(records, cache, places, (), draining=False)


class Node:
    """One member, with the words that tests need."""

    def __init__(self, world, system, record, store, folder):
        self.world, self.system, self.record, self.store, self.folder = world, system, record, store, folder
        self.id = record.node

    def counts(self, path=PATH):
        return self.system._cells[path].actor.counts

    async def push(self, archive, client="api"):
        file = self.folder / "pushed.tar"
        file.write_bytes(archive)
        return await order(self.system.find("container_manager"), LoadImage(str(file), client))

    async def images(self):
        listed = await order(self.system.find("container_manager"), ListImages())
        return {(each.client, each.repo_tags[0]): bytes.fromhex(each.digest[7:]) for each in listed.images}

    async def pull(self, image="echo-v1", client="api", source=None, wait_s=15.0):
        return await order(self.system.find(PATH), PullImage(image, client, source, wait_s))

    async def hold_cache(self):
        self.world.cache = self.id
        await self.system.spawn(lambda: Cache(self.id, self.store), CACHE)

    async def want(self, node, digest, *sources):
        return await self.system.ask(
            Address(node.id, CACHE), ImageWanted(digest, tuple(each.id for each in sources)), reply_type=ImageCached
        )


class World:
    """A site in one process; envelopes pass except where the test cuts them."""

    def __init__(self, folder):
        self.folder = folder
        self.nodes = {}
        self.cache = None
        self.standing = Standing.MEMBER
        self.on_envelope = lambda envelope: None

    def outlet(self, envelope):
        if envelope.header.target_node not in self.nodes:
            raise Unreachable("no link to it")
        self.on_envelope(envelope)
        self.nodes[envelope.header.target_node].system.deliver(envelope, self.standing)

    @contextlib.asynccontextmanager
    async def node(self, name, *, quota_bytes=QUOTA_BYTES, exchange=None):
        key = NodeKey.generate()
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        with BlobStore(folder / "cache", quota_bytes=quota_bytes) as store:
            async with ActorSystem(key.node_id, CODEC, self.outlet) as system:
                node = Node(self, system, NodeRecord(key.node_id, name, "home"), store, folder)
                self.nodes[node.id] = node
                await system.spawn(lambda: Site(self), DUTIES)
                manager = partial(ContainerManager, lambda: Containers(folder / "containers"))
                await system.spawn(manager, "container_manager")
                await system.spawn(exchange or (lambda: ImageExchange(store, folder / "uploads")), PATH)
                yield node
                del self.nodes[node.id]


async def until_ready(node, cache, digest, *sources):
    with anyio.fail_after(15):
        while True:
            answer = await node.want(cache, digest, *sources)
            if answer.ready or answer.problem:
                return answer


class Mute(Actor):
    """A member that answers nothing."""

    async def receive(self, delivery):
        return LATER


def quick(monkeypatch):
    """Make patience short."""
    # Nothing is run here, so no worker has to be warm.
    monkeypatch.setattr(Containers, "prepare", lambda _: None)
    monkeypatch.setattr(pull_module, "WANTED_AGAIN_S", 0.005)
    monkeypatch.setattr(fetching, "LINK_S", 0.02)
    monkeypatch.setattr(cache_module, "ANSWER_S", 0.05)

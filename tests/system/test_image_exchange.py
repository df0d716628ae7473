"""Images between the nodes of a site on real loops: real archives, stores and caches, hostile members among them."""

import contextlib
import hashlib
import random
from functools import partial

import anyio
import pytest

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.container_manager import messages as container_messages
from atoll.actors.container_manager.container_manager import ContainerManager, order
from atoll.actors.container_manager.containers import Containers
from atoll.actors.container_manager.errors import ImageRefused, LimitReached, UsageFault
from atoll.actors.container_manager.messages import ListImages, LoadImage
from atoll.actors.duties import cache as cache_module
from atoll.actors.duties.cache import Cache
from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import DescribeSite, DutyPlace, SiteDescribed
from atoll.actors.image_exchange import exchange as exchange_module
from atoll.actors.image_exchange import fetching
from atoll.actors.image_exchange import messages as image_messages
from atoll.actors.image_exchange import pull as pull_module
from atoll.actors.image_exchange.blob_store import BlobStore
from atoll.actors.image_exchange.errors import NobodyHasIt, NotDelivered, SeveralHaveIt
from atoll.actors.image_exchange.exchange import ImageExchange
from atoll.actors.image_exchange.messages import (
    CACHE,
    CHUNK_BYTES,
    PATH,
    FindImages,
    HeldImage,
    ImageCached,
    ImageChunk,
    ImagesHeld,
    ImageWanted,
    PullImage,
    ReadImage,
)
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem
from atoll.actors.runtime.actor import LATER
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskNotUnderstood, AskRefused
from atoll.actors.runtime.machine import Address
from atoll.testing.services import ECHO, service_archive
from atoll.transport.base import Standing
from atoll.transport.codec import Codec, Message, encode_payload
from atoll.transport.errors import MalformedFrame, Unreachable
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio
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


@pytest.fixture
def world(tmp_path, monkeypatch):
    # Nothing is run here, so no worker has to be warm.
    monkeypatch.setattr(Containers, "prepare", lambda _: None)
    monkeypatch.setattr(pull_module, "WANTED_AGAIN_S", 0.005)
    monkeypatch.setattr(fetching, "LINK_S", 0.02)
    monkeypatch.setattr(cache_module, "ANSWER_S", 0.05)
    return World(tmp_path)


# What is right


async def test_an_image_of_another_member_is_pulled_without_a_cache(world):
    archive = archive_of()
    async with world.node("tv") as tv, world.node("phone") as phone:
        await tv.push(archive)
        state = await phone.pull("echo-v1:1.0.0", client="me")
        assert (state.source, state.cached, state.got_bytes) == (tv.id, False, len(archive))
        assert state.image.digest == f"sha256:{digest_of(archive).hex()}"
        assert await phone.images() == {("me", "echo-v1:1.0.0"): digest_of(archive)}
        assert tv.counts()["bytes_given"] == len(archive)
        assert tv.counts()["chunks_given"] == -(-len(archive) // CHUNK_BYTES) > 2
        assert list((phone.folder / "uploads").iterdir()) == []


async def test_the_owner_gives_an_image_once_however_many_pull_it_at_once(world):
    archive = archive_of()
    async with (
        world.node("tv") as tv,
        world.node("phone") as phone,
        world.node("desk") as desk,
        world.node("nas") as nas,
    ):
        await nas.hold_cache()
        await tv.push(archive)
        states = []

        async def pull(node):
            states.append(await node.pull())

        async with anyio.create_task_group() as pulls:
            for node in (phone, desk, nas):
                pulls.start_soon(pull, node)
        assert {(state.source, state.cached) for state in states} == {(nas.id, True)}
        assert [await node.images() for node in (phone, desk, nas)] == [await tv.images()] * 3
        assert tv.counts()["bytes_given"] == len(archive)
        assert nas.counts(CACHE)["fetched"] == nas.counts(CACHE)["kept"] == 1


async def test_what_the_cache_keeps_outlives_its_owner(world):
    archive = archive_of()
    async with world.node("nas") as nas, world.node("phone") as phone:
        await nas.hold_cache()
        async with world.node("tv") as tv:
            await tv.push(archive)
            await phone.pull()
        async with world.node("desk") as desk:
            await order(phone.system.find("container_manager"), container_messages.RemoveImage("echo-v1"))
            state = await desk.pull()
            assert (state.source, state.cached) == (nas.id, True)
            assert await desk.images() == {("api", "echo-v1:1.0.0"): digest_of(archive)}


async def test_what_is_here_already_is_not_fetched_again(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        await tv.push(archive_of())
        await phone.pull()
        given = tv.counts()["bytes_given"]
        assert (await phone.pull()).source == phone.id
        assert tv.counts()["bytes_given"] == given


async def test_a_pull_says_how_far_it_is_and_goes_on_when_nobody_waits(world):
    archive = archive_of()
    gate = anyio.Event()

    class Slow(ImageExchange):
        async def receive(self, delivery):
            if isinstance(delivery.message, ReadImage) and delivery.message.offset:
                await gate.wait()
            return await super().receive(delivery)

    async with world.node("phone") as phone, contextlib.AsyncExitStack() as stack:
        store = stack.enter_context(BlobStore(world.folder / "slow"))
        tv = await stack.enter_async_context(world.node("tv", exchange=lambda: Slow(store, world.folder / "slow-up")))
        await tv.push(archive)
        with anyio.fail_after(10):
            while (state := await phone.pull(wait_s=0.01)).got_bytes == 0:
                pass
        assert (state.got_bytes, state.size_bytes, state.source) == (CHUNK_BYTES, len(archive), tv.id)
        assert state.image is None
        gate.set()
        await phone.system._cells[PATH].actor._pulls["echo-v1", "api", b""].ended.wait()
        assert (await phone.pull()).image is not None
        assert phone.counts()["fetched"] == 1, "the end of the first pull was told, no other one began"


async def test_a_pull_says_how_far_the_cache_is_while_that_gets_the_image(world):
    archive = archive_of()
    gate = anyio.Event()

    class Slow(ImageExchange):
        async def receive(self, delivery):
            if isinstance(delivery.message, ReadImage) and delivery.message.offset:
                await gate.wait()
            return await super().receive(delivery)

    async with world.node("phone") as phone, world.node("nas") as nas, contextlib.AsyncExitStack() as stack:
        store = stack.enter_context(BlobStore(world.folder / "slow"))
        tv = await stack.enter_async_context(world.node("tv", exchange=lambda: Slow(store, world.folder / "slow-up")))
        await nas.hold_cache()
        await tv.push(archive)
        with anyio.fail_after(10):
            while (state := await phone.pull(wait_s=0.01)).cache_bytes == 0:
                pass
        assert (state.source, state.cached, state.got_bytes) == (nas.id, True, 0)
        assert (state.cache_bytes, state.size_bytes) == (CHUNK_BYTES, len(archive))
        gate.set()
        assert (await phone.pull()).got_bytes == len(archive)


async def test_a_load_that_takes_long_keeps_no_member_waiting(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        await tv.push(archive_of())
        containers = tv.system._cells["container_manager"].actor._containers
        async with anyio.create_task_group() as loading, containers._disk:
            loading.start_soon(tv.push, archive_of("other"))
            assert (await phone.pull()).source == tv.id
            assert set(await tv.images()) == {("api", "echo-v1:1.0.0")}
        assert set(await tv.images()) == {("api", "echo-v1:1.0.0"), ("api", "other:1.0.0")}


async def test_more_questions_than_are_answered_at_once_are_answered_in_turn(world, monkeypatch):
    monkeypatch.setattr(exchange_module, "SERVING_MAX", 0)
    async with world.node("tv") as tv, world.node("phone") as phone:
        await tv.push(archive_of())
        assert (await phone.pull()).source == tv.id
        with pytest.raises(AskDeclined):
            await phone.system.ask(Address(tv.id, PATH), ReadImage(b"d" * 32, 0))


# What cannot be


async def test_what_nobody_has_is_said_and_who_did_not_answer(world, monkeypatch):
    monkeypatch.setattr(pull_module, "FIND_S", 1.0)

    async with world.node("tv"), world.node("mute", exchange=Mute), world.node("phone") as phone:
        with pytest.raises(NobodyHasIt, match="nothing; 1 of 2 members did not answer; push the image first"):
            await phone.pull("nothing")
    async with world.node("phone") as phone:
        with pytest.raises(NobodyHasIt, match="cannot find image with name nothing; push"):
            await phone.pull("nothing")
        with pytest.raises(UsageFault, match="cannot name an image"):
            await phone.pull("../nothing")


async def test_different_images_under_one_name_are_told_and_one_of_them_can_be_meant(world):
    one, two = archive_of(seed=1), archive_of(seed=2)
    async with world.node("tv") as tv, world.node("desk") as desk, world.node("phone") as phone:
        await tv.push(one)
        await desk.push(two)
        with pytest.raises(SeveralHaveIt) as caught:
            await phone.pull()
        assert {each.split()[2] for each in caught.value.candidates} == {tv.id.short, desk.id.short}
        await phone.pull(source=desk.id)
        assert await phone.images() == {("api", "echo-v1:1.0.0"): digest_of(two)}


async def test_a_node_without_room_says_so(world, monkeypatch):
    async with world.node("tv") as tv, world.node("phone") as phone:
        await tv.push(archive_of())
        phone.system._cells["container_manager"].actor._containers._images._quota_bytes = 1000
        with pytest.raises(LimitReached, match="1000 bytes here"):
            await phone.pull()
        assert await phone.images() == {}
        assert list((phone.folder / "uploads").iterdir()) == []


async def test_too_many_pulls_at_once_are_refused(world, monkeypatch):
    monkeypatch.setattr(exchange_module, "PULLS_MAX", 1)

    async with world.node("mute", exchange=Mute), world.node("phone") as phone:
        assert (await phone.pull("one", wait_s=0.01)).image is None
        with pytest.raises(LimitReached, match="1 images are being pulled"):
            await phone.pull("two")


# Deaths


async def test_a_cache_that_dies_in_mid_transfer_costs_another_source_and_nothing_else(world, monkeypatch):
    archive = archive_of()
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("nas") as nas:
        await nas.hold_cache()
        await tv.push(archive)
        given = []

        def die_with_the_second_chunk(envelope):
            if envelope.header.source_node == nas.id and len(envelope.body) > CHUNK_BYTES:
                given.append(envelope)
                if len(given) == 2:
                    del world.nodes[nas.id]
                    raise Unreachable("it died")

        world.on_envelope = die_with_the_second_chunk
        monkeypatch.setattr(fetching, "CHUNK_S", 1.0)
        state = await phone.pull()
        assert state.source == tv.id
        assert await phone.images() == {("api", "echo-v1:1.0.0"): digest_of(archive)}
        assert tv.counts()["bytes_given"] == 2 * len(archive) - CHUNK_BYTES, "it went on where the cache had ended"
        world.nodes[nas.id] = nas


async def test_a_cache_that_is_stopped_while_it_fetches_leaves_nothing_and_the_owner_is_asked(world):
    archive = archive_of()
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("nas") as nas:
        await nas.hold_cache()
        await tv.push(archive)
        asked = anyio.Event()

        def on_envelope(envelope):
            if envelope.header.target_node == tv.id and envelope.header.source_node == nas.id:
                asked.set()
                raise Unreachable("lost on the way")

        world.on_envelope = on_envelope

        async def stop():
            await asked.wait()
            await nas.system.stop(nas.system.find(CACHE))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            state = await phone.pull()
        assert state.source == tv.id
        assert nas.store.shelf.images() == ()
        assert nas.store.shelf.total_bytes == 0
        assert await phone.images() == {("api", "echo-v1:1.0.0"): digest_of(archive)}


async def test_the_duty_moves_with_its_index_and_the_new_holder_fetches_from_the_old_one(world):
    archive = archive_of()
    async with world.node("nas") as nas, world.node("desk") as desk, world.node("phone") as phone:
        await nas.hold_cache()
        async with world.node("tv") as tv:
            await tv.push(archive)
            assert (await until_ready(phone, nas, digest_of(archive), tv)).ready
        state = nas.system._cells[CACHE].actor.snapshot()
        await nas.system.stop(nas.system.find(CACHE))
        await desk.hold_cache()
        desk.system._cells[CACHE].actor.restore(state)
        # Nobody names a source: it knows by itself where the image was.
        assert (await until_ready(phone, desk, digest_of(archive))).ready
        assert nas.counts()["bytes_given"] == len(archive)
        assert desk.store.holds(digest_of(archive))
        assert len(state) < 100


@pytest.mark.parametrize(
    "state", [b"", b"\xc1", b"\x92\x01", encode_payload([2, []]), encode_payload([1, [[b"x", b"y"]]])]
)
async def test_a_state_that_cannot_be_read_is_said_to_be_none(world, state):
    async with world.node("nas") as nas:
        with pytest.raises(MalformedFrame):
            Cache(nas.id, nas.store).restore(state)


async def until_ready(node, cache, digest, *sources):
    with anyio.fail_after(15):
        while True:
            answer = await node.want(cache, digest, *sources)
            if answer.ready or answer.problem:
                return answer


# Quota


async def test_the_cache_keeps_its_quota_and_lets_the_oldest_go(world):
    archives = [archive_of(f"echo-{number}") for number in range(4)]
    quota = 3 * len(archives[0]) + 1000
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("nas", quota_bytes=quota) as nas:
        await nas.hold_cache()
        for archive in archives[:3]:
            await tv.push(archive)
            assert (await until_ready(phone, nas, digest_of(archive), tv)).ready
        await phone.system.ask(Address(nas.id, PATH), ReadImage(digest_of(archives[0]), 0), reply_type=ImageChunk)
        await tv.push(archives[3])
        assert (await until_ready(phone, nas, digest_of(archives[3]), tv)).ready
        kept = {each.name for each in nas.store.shelf.images()}
        assert kept == {"echo-0", "echo-2", "echo-3"}
        on_disk = sum(file.stat().st_size for file in (nas.folder / "cache").glob("*.tar"))
        assert on_disk == nas.store.shelf.total_bytes <= quota


async def test_an_image_beyond_the_quota_is_not_kept_and_comes_from_its_owner(world):
    archive = archive_of()
    async with world.node("tv") as tv, world.node("phone") as phone, world.node("nas", quota_bytes=300_000) as nas:
        await nas.hold_cache()
        await tv.push(archive)
        state = await phone.pull()
        assert (state.source, state.cached) == (tv.id, False)
        # Twice when the answer came so late that it asked again.
        assert nas.counts(CACHE)["not_kept"] >= 1
        assert list((nas.folder / "cache").glob("*.tar")) == []
        assert nas.store.shelf.total_bytes == 0


# Hostile members


class Liar(Actor):
    """A member that offers an image and gives something else."""

    def __init__(self, give, held):
        self.give, self.held = give, held
        self.asked = []

    async def receive(self, delivery):
        if isinstance(delivery.message, FindImages):
            return ImagesHeld(self.held)
        self.asked.append(delivery.message.offset)
        return self.give(delivery.message.offset)


class Mute(Actor):
    """A member that answers nothing."""

    async def receive(self, delivery):
        return LATER


GIFTS = {
    "another image": lambda offset: ImageChunk(b"x" * 1000, last=True),
    "endless": lambda offset: ImageChunk(b"x" * CHUNK_BYTES, last=False),
    "dripping": lambda offset: ImageChunk(b"x", last=False),
    "no chunk at all": lambda offset: ImagesHeld(()),
    "a chunk too long": lambda offset: Raw(bytes(CHUNK_BYTES + 1)),
    "an empty chunk": lambda offset: Raw(b""),
}


class Raw(Message, frozen=True, array_like=True, tag="images.chunk"):
    """A chunk without its limits."""

    data: bytes
    last: bool = False


class Loose(Message, frozen=True, array_like=True, tag="images.read"):
    """A question without its limits."""

    digest: bytes
    offset: int


@pytest.mark.parametrize("gift", GIFTS)
@pytest.mark.parametrize("with_cache", [False, True], ids=["without a cache", "with a cache"])
async def test_a_liar_is_found_out_and_an_honest_member_asked(world, gift, with_cache, monkeypatch):
    archive = archive_of()
    held = (HeldImage("api", "echo-v1", "1.0.0", digest_of(archive), len(archive)),)
    async with world.node("nas") as nas, world.node("phone") as phone:
        liars = [Liar(GIFTS[gift], held) for _ in range(3)]
        async with contextlib.AsyncExitStack() as stack:
            for number, liar in enumerate(liars):
                await stack.enter_async_context(world.node(f"liar{number}", exchange=lambda liar=liar: liar))
            tv = await stack.enter_async_context(world.node("tv"))
            await tv.push(archive)
            # What the codec would not write, a hostile node writes all the same.
            for each in world.nodes.values():
                monkeypatch.setattr(each.system._wire, "_known", frozenset((*CODEC.messages, Raw, Loose)))
            if with_cache:
                await nas.hold_cache()
            await phone.pull()
            assert await phone.images() == {("api", "echo-v1:1.0.0"): digest_of(archive)}
            assert all(len(liar.asked) <= 256 for liar in liars)
            kept = [each.digest for each in nas.store.shelf.images()]
            assert kept == ([digest_of(archive)] if with_cache else [])


async def test_where_only_liars_have_it_the_reason_is_told_and_nothing_is_kept(world):
    digest = digest_of(b"what was promised")
    liar = Liar(GIFTS["another image"], (HeldImage("api", "echo-v1", "1", digest, 10),))
    async with (
        world.node("liar", exchange=lambda: liar) as tv,
        world.node("nas") as nas,
        world.node("phone") as phone,
    ):
        await nas.hold_cache()
        with pytest.raises(NotDelivered, match=f"{tv.id.short}: its bytes have another digest"):
            await phone.pull()
        answer = await until_ready(phone, nas, digest, tv)
        assert "another digest" in answer.problem
        assert nas.counts(CACHE)["refused"] == 2
        assert phone.counts()["refused"] == 1
        assert nas.store.shelf.total_bytes == 0
        assert list((nas.folder / "cache").glob("*.tar")) == []
        assert await phone.images() == {}


async def test_an_archive_of_another_name_replaces_nothing(world):
    payroll, trap = archive_of("payroll", size=1000), archive_of("payroll", size=1000, seed=9)
    digest = digest_of(trap)
    liar = Liar(
        lambda offset: ImageChunk(trap[offset:], last=True), (HeldImage("api", "echo-v1", "1", digest, len(trap)),)
    )
    async with world.node("liar", exchange=lambda: liar), world.node("phone") as phone:
        await phone.push(payroll)
        with pytest.raises(ImageRefused, match=r"is of payroll:1\.0\.0, not of echo-v1:1"):
            await phone.pull()
        assert await phone.images() == {("api", "payroll:1.0.0"): digest_of(payroll)}


async def test_the_cache_keeps_no_archive_that_no_node_would_take(world):
    bomb = b"no tar at all" * 100
    liar = Liar(lambda offset: ImageChunk(bomb[offset:], last=True), ())
    async with world.node("liar", exchange=lambda: liar) as tv, world.node("nas") as nas, world.node("phone") as phone:
        await nas.hold_cache()
        answer = await until_ready(phone, nas, digest_of(bomb), tv)
        assert answer.problem
        # Twice when the answer came so late that it asked again.
        assert nas.counts(CACHE)["not_kept"] >= 1
        assert nas.store.shelf.total_bytes == 0


@pytest.mark.parametrize("offset", [-1, 2**40, 2**63])
@pytest.mark.parametrize("size", [0, 31, 32, 33, 100_000])
async def test_questions_beyond_the_limits_are_refused_and_counted(world, offset, size, monkeypatch):
    async with world.node("tv") as tv, world.node("phone") as phone:
        monkeypatch.setattr(phone.system._wire, "_known", frozenset((*CODEC.messages, Loose)))
        with pytest.raises(AskNotUnderstood):
            await phone.system.ask(Address(tv.id, PATH), Loose(b"d" * size, offset))
        assert tv.system.statistics()["malformed"] == 1


async def test_bytes_that_are_not_there_are_declined(world):
    archive = archive_of()
    async with world.node("tv") as tv, world.node("phone") as phone:
        await tv.push(archive)
        for digest, offset in ((b"d" * 32, 0), (digest_of(archive), len(archive)), (digest_of(archive), 60_000_000)):
            with pytest.raises(AskDeclined):
                await phone.system.ask(Address(tv.id, PATH), ReadImage(digest, offset))
        assert tv.counts()["not_there"] == 3


async def test_strangers_read_nothing_and_members_order_no_pulls(world):
    async with world.node("tv") as tv, world.node("phone") as phone:
        await tv.hold_cache()
        for standing in (Standing.NEIGHBOUR, Standing.GRANTED, Standing.CLOUD):
            world.standing = standing
            for path, message in (
                (PATH, FindImages("x")),
                (PATH, ReadImage(b"d" * 32, 0)),
                (CACHE, ImageWanted(b"d" * 32, ())),
            ):
                with pytest.raises(AskRefused, match=f"not open to a {standing.value}"):
                    await phone.system.ask(Address(tv.id, path), message)
        world.standing = Standing.MEMBER
        with pytest.raises(AskFailed):
            await phone.system.ask(Address(tv.id, PATH), PullImage("x", "api"))
        assert tv.counts()["fetched"] == 0


async def test_more_askers_than_the_cache_lets_wait_are_told_to_ask_again(world, monkeypatch):
    monkeypatch.setattr(cache_module, "ASKERS_MAX", 0)
    async with world.node("nas") as nas, world.node("phone") as phone:
        await nas.hold_cache()
        assert await phone.want(nas, b"d" * 32) == ImageCached(ready=False)
        assert nas.counts(CACHE)["askers_put_off"] == 1


async def test_the_cache_asks_members_only(world):
    async with world.node("nas") as nas, world.node("phone") as phone:
        await nas.hold_cache()
        stranger = NodeKey.generate().node_id
        wanted = ImageWanted(b"d" * 32, (stranger, nas.id))
        with anyio.fail_after(10):
            while not (answer := await phone.system.ask(Address(nas.id, CACHE), wanted)).problem:
                pass
        assert "nobody is left" in answer.problem
        assert nas.counts(CACHE)["strangers_named"] >= 2


async def test_one_member_that_wants_much_does_not_take_the_cache_from_others_for_good(world, monkeypatch):
    monkeypatch.setattr(cache_module, "FETCHES_MAX", 1)
    monkeypatch.setattr(fetching, "CHUNK_S", 0.5)
    archive = archive_of()

    async with (
        world.node("nas") as nas,
        world.node("mute", exchange=Mute) as mute,
        world.node("tv") as tv,
        world.node("phone") as phone,
    ):
        await nas.hold_cache()
        await tv.push(archive)
        assert not (await mute.want(nas, b"d" * 32, mute)).ready
        assert (await until_ready(phone, nas, digest_of(archive), tv)).ready
        assert nas.counts(CACHE)["put_off"] >= 1

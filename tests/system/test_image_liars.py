"""Members that give something else than they promised, ask for what is not there, or have no right to ask."""

import contextlib

import anyio
import pytest
from image_site import CODEC, archive_of, digest_of, until_ready

from atoll.actors.container_manager.errors import ImageRefused
from atoll.actors.image_exchange.errors import NotDelivered
from atoll.actors.image_exchange.messages import (
    CACHE,
    CHUNK_BYTES,
    PATH,
    FindImages,
    HeldImage,
    ImageChunk,
    ImagesHeld,
    ImageWanted,
    PullImage,
    ReadImage,
)
from atoll.actors.runtime import Actor
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskNotUnderstood, AskRefused
from atoll.actors.runtime.machine import Address
from atoll.transport.base import Standing
from atoll.transport.codec import Message
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(image_world):
    return image_world


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

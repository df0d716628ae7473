"""Images between the nodes of a site on real loops: found, pulled, counted, and what cannot be."""

import contextlib

import anyio
import pytest
from image_site import Mute, archive_of, digest_of

from atoll.actors.container_manager.errors import LimitReached, UsageFault
from atoll.actors.image_exchange import exchange as exchange_module
from atoll.actors.image_exchange import pull as pull_module
from atoll.actors.image_exchange.blob_store import BlobStore
from atoll.actors.image_exchange.errors import NobodyHasIt, SeveralHaveIt
from atoll.actors.image_exchange.exchange import ImageExchange
from atoll.actors.image_exchange.messages import (
    CACHE,
    CHUNK_BYTES,
    PATH,
    ReadImage,
)
from atoll.actors.runtime.errors import AskDeclined
from atoll.actors.runtime.machine import Address

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(image_world):
    return image_world


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

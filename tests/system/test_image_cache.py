"""The site's cache of images: what it keeps, whom it serves, and what happens when it dies, moves or is stopped."""

import anyio
import pytest
from image_site import Mute, archive_of, digest_of, until_ready

from atoll.actors.container_manager import messages as container_messages
from atoll.actors.container_manager.container_manager import order
from atoll.actors.duties import cache as cache_module
from atoll.actors.duties.cache import Cache
from atoll.actors.image_exchange import fetching
from atoll.actors.image_exchange.messages import (
    CACHE,
    CHUNK_BYTES,
    PATH,
    ImageCached,
    ImageChunk,
    ReadImage,
)
from atoll.actors.runtime.machine import Address
from atoll.transport.codec import encode_payload
from atoll.transport.errors import MalformedFrame, Unreachable

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(image_world):
    return image_world


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


async def test_more_askers_than_the_cache_lets_wait_are_told_to_ask_again(world, monkeypatch):
    monkeypatch.setattr(cache_module, "ASKERS_MAX", 0)
    async with world.node("nas") as nas, world.node("phone") as phone:
        await nas.hold_cache()
        assert await phone.want(nas, b"d" * 32) == ImageCached(ready=False)
        assert nas.counts(CACHE)["askers_put_off"] == 1


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

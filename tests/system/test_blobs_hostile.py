"""What blobs refuse: names that lead elsewhere, senders and receivers that lie, bytes that are no message."""

import os

import anyio
import pytest
from blob_hosts import CHUNK, stream_pair
from blob_talks import heard_to_the_end, opened
from waiting import until

from atoll.actors.blobs import blobs as blobs_module
from atoll.actors.blobs.blob_talk import BlobTalk
from atoll.actors.blobs.errors import BadFile
from atoll.actors.blobs.messages import (
    BlobAccepted,
    BlobChunk,
    BlobOffered,
    BlobRefused,
    BlobTaken,
    BlobWaits,
    ChunksWanted,
    ListPart,
)
from atoll.actors.blobs.orders import DecideBlob, ReadBlob
from atoll.testing.blob_world import manifest_of
from atoll.transport.base import Standing

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(blob_world):
    return blob_world


NAMES = ["../up", "/etc/passwd", "", "a\0b", "é" * 200, ".profile", "NUL", "a/b", "..", "x\n"]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_that_leads_elsewhere_is_refused_by_the_receiver(world, name):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    before = sorted(world.tmp_path.rglob("*"))
    async with await opened(world, one, two) as talk:
        await talk.say(BlobOffered(b"o" * 16, b"d" * 32, 5, name))
        assert isinstance(answer := await talk.hear(5), BlobRefused)
        assert not answer.again
    assert two.counts["names_refused"] == 1
    assert sorted(world.tmp_path.rglob("*")) == before


async def test_a_sender_is_told_of_a_bad_name_or_file_before_anything_goes(world):
    one, two = await world.host(1), await world.host(2)
    path = world.file()
    with pytest.raises(BadFile, match="begins with a dot"):
        await one.send(path, two, name=".profile")
    for missing in (world.tmp_path / "missing", world.tmp_path, world.tmp_path / "fifo"):
        if missing.name == "fifo":
            os.mkfifo(missing)
        state = await one.sent(missing, two, name="x")
        assert state.step == "failed"
        assert str(missing) in state.why


LIES = {
    "a wrong chunk": lambda listed: [ListPart(0, listed.digests), BlobChunk(0, b"y" * CHUNK)],
    "a long chunk": lambda listed: [ListPart(0, listed.digests), BlobChunk(0, b"x" * (CHUNK + 1))],
    "a chunk that was not asked for": lambda listed: [ListPart(0, listed.digests), BlobChunk(60_000, b"x")],
    "a wrong list": lambda listed: [ListPart(0, b"?" * 96)],
    "an endless list": lambda listed: [ListPart(0, listed.digests * 2)],
    "chunks before the list": lambda listed: [BlobChunk(0, b"x" * CHUNK)],
    "answers of a receiver": lambda listed: [BlobTaken()],
    "another offer": lambda listed: [BlobOffered(b"p" * 16, b"d" * 32, 5, "x")],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_hostile_sender_leaves_nothing_that_is_not_verified(world, lie):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    data = b"x" * CHUNK * 3
    listed = manifest_of(data)
    async with await opened(world, one, two) as talk:
        await talk.say(BlobOffered(b"o" * 16, listed.digest, listed.size_bytes, "x"))
        assert await talk.hear(5) == BlobAccepted(0, list_wanted=True)
        for message in LIES[lie](listed):
            await talk.say(message)
        await heard_to_the_end(talk)
    await until(lambda: two.counts["broken_off"] + two.counts["broken_rules"] == 1)
    assert two.counts["chunks_taken"] == two.counts["blobs_taken"] == 0
    assert not any(b"y" in path.read_bytes() for path in two.folder.glob("*.part"))
    path = world.tmp_path / "right"
    path.write_bytes(data)
    assert (await one.sent(path, two, name="x")).step == "taken", "who is honest later gets through"


async def test_a_size_that_was_not_accepted_is_asked_about_anew_and_a_wrong_one_refused(world):
    one, two = await world.host(1), await world.host(2, quota_bytes=100 * CHUNK)
    data = bytes(9 * CHUNK)
    listed = manifest_of(data)
    small = BlobOffered(b"o" * 16, listed.digest, 5, "x")
    async with await opened(world, one, two) as talk:
        await talk.say(small)
        assert await talk.hear(5) == BlobWaits()
        await two.ask(DecideBlob(listed.digest, accept=True))
        assert await talk.hear(5) == BlobAccepted(0, list_wanted=True)
    async with await opened(world, one, two) as talk:
        await talk.say(BlobOffered(b"o" * 16, listed.digest, len(data), "x"))
        assert await talk.hear(5) == BlobWaits(), "5 bytes were accepted, and not these"
        assert two.made[-1]._folder.used_bytes == 0
        await two.ask(DecideBlob(listed.digest, accept=True))
        assert await talk.hear(5) == BlobAccepted(0, list_wanted=True)
        await talk.say(ListPart(0, listed.digests))
        assert isinstance(await talk.hear(5), ChunksWanted)
    async with await opened(world, one, two) as talk:
        await talk.say(small)
        assert "not that of its address" in (await talk.hear(5)).reason
    assert two.made[-1]._folder.used_bytes == len(data)


@pytest.mark.parametrize(
    "garbage", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\4abcd", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1\xc1"]
)
async def test_bytes_that_are_no_message_end_the_stream_and_are_counted(world, garbage):
    one, two = await world.host(1), await world.host(2)
    stream = await world.open(one, two.id)
    await stream.send(garbage)
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await stream.receive()
    await until(lambda: two.counts["malformed"] == two.counts["broken_rules"] == 1)
    await stream.aclose()


async def test_who_sends_chunks_before_a_yes_is_not_heard_to_the_end(world):
    one, two = await world.host(1), await world.host(2)
    stream = await world.open(one, two.id)
    await stream.send((1_000_000).to_bytes(4, "big"))
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await stream.receive()
    await until(lambda: two.counts["malformed"] == 1)
    await stream.aclose()


async def test_who_says_nothing_is_not_waited_for(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "OFFER_S", 0.05)
    one, two = await world.host(1), await world.host(2)
    stream = await world.open(one, two.id)
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await stream.receive()
    await until(lambda: two.counts["streams_lost"] == 1)
    await stream.aclose()


ASKS = {
    "the same again and again": [BlobAccepted(0, list_wanted=False), ChunksWanted(0, 1), ChunksWanted(0, 1)],
    "behind the end": [BlobAccepted(0, list_wanted=False), ChunksWanted(0, 64)],
    "before a yes": [ChunksWanted(0, 1)],
    "more than there are": [BlobAccepted(60_000, list_wanted=False)],
    "an offer": [BlobOffered(b"o" * 16, b"d" * 32, 1, "x")],
}


@pytest.mark.parametrize("ask", ASKS)
async def test_a_hostile_receiver_ends_the_order_and_not_the_node(world, ask):
    one, two = await world.host(1), await world.host(2)
    offered = []

    class Hostile(type(two)):
        async def take(self, stream):
            async with BlobTalk(stream, self.counts) as talk:
                talk.expect_chunks()
                offered.append(await talk.hear(5))
                for message in ASKS[ask]:
                    await talk.say(message)
                await heard_to_the_end(talk)

    async with anyio.create_task_group() as tasks:

        async def open_stream(source, peer):
            ours, theirs = await stream_pair()
            tasks.start_soon(Hostile.take, two, theirs)
            return ours

        world.open = open_stream
        state = await one.sent(world.file(), two)
    assert (state.step, len(offered)) == ("failed", 1)
    assert "breaks the rules" in state.why
    assert one.counts["broken_rules"] == 1


async def test_messages_of_other_nodes_are_not_orders(world):
    one = await world.host(1)
    actor = one.made[-1]
    from atoll.actors.runtime.actor import Delivery, NotUnderstood  # noqa: PLC0415 - here alone

    with pytest.raises(NotUnderstood):
        await actor.receive(Delivery(ReadBlob(b"d" * 32, 0), standing=Standing.MEMBER))
    assert one.counts["not_understood"] == 1


async def test_a_receiver_that_asks_for_the_same_for_ever_is_not_believed(world, monkeypatch):
    one, two = await world.host(1), await world.host(2)

    class Forgetful:
        """Asks for everything, and closes the stream before the end."""

        async def take(self, stream):
            async with BlobTalk(stream, two.counts) as talk:
                talk.expect_chunks()
                await talk.hear(5)
                await talk.say(BlobAccepted(0, list_wanted=False))
                await talk.say(ChunksWanted(0, 20))
                for _ in range(20):
                    await talk.hear(5)

    async with anyio.create_task_group() as tasks:

        async def open_stream(source, peer):
            ours, theirs = await stream_pair()
            tasks.start_soon(Forgetful().take, theirs)
            return ours

        world.open = open_stream
        state = await one.sent(world.file(), two)
    assert state.step == "failed"
    assert "again and again" in state.why
    assert one.counts["chunks_given"] <= 5 * 21 + 32

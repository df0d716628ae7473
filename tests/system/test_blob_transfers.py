"""Blobs from node to node on real loops and a real disk: cut, killed, lied to, refused."""

import contextlib
import errno
import os

import anyio
import pytest
from blob_hosts import CHUNK, World, small_and_quick, stream_pair
from waiting import until

from atoll.actors.blobs import blobs as blobs_module
from atoll.actors.blobs import outgoing as outgoing_module
from atoll.actors.blobs.errors import BadFile, BlobDamaged, SeveralOffer, TooMany, UnknownBlob
from atoll.actors.blobs.messages import (
    BlobAccepted,
    BlobChunk,
    BlobOffered,
    BlobRefused,
    BlobTaken,
    BlobWaits,
    BlobWithdrawn,
    ChunksWanted,
    ListPart,
)
from atoll.actors.blobs.orders import AwaitBlobs, DecideBlob, ReadBlob, RemoveBlob, WithdrawBlob
from atoll.actors.blobs.talk import StreamLost, Talk
from atoll.testing.blob_world import manifest_of
from atoll.transport.base import Standing

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    small_and_quick(monkeypatch)


@pytest.fixture
async def world(tmp_path, anyio_backend):
    del anyio_backend
    async with anyio.create_task_group() as tasks:
        world = World(tmp_path, tasks)
        yield world
        await world.close()


async def fetched(host, digest):
    """Read a whole blob as a command does."""
    data, index = b"", 0
    while True:
        try:
            data += await host.ask(ReadBlob(digest, index))
        except UnknownBlob:
            return data
        index += 1


def states(described):
    return {each.name: each.step for each in described.incoming}


@pytest.mark.parametrize("size", [0, 1, CHUNK, 20 * CHUNK + 7])
async def test_a_file_arrives_where_somebody_waits_for_it(world, size):
    one, two = await world.host(1), await world.host(2)
    path = world.file(size=size)
    await two.wait()
    state = await one.sent(path, two)
    assert (state.step, state.there_bytes, state.why) == ("taken", size, "")
    assert await fetched(two, state.digest) == path.read_bytes()
    assert states(await two.described()) == {"file.bin": "whole"}
    removed = await two.ask(RemoveBlob(state.digest))
    assert (removed.step, removed.peer) == ("whole", one.id)
    assert (await two.described()).incoming == ()
    assert [each.suffix for each in two.folder.iterdir()] == [".entry"]


async def test_a_blob_that_nobody_asked_for_waits_and_is_not_taken(world):
    one, two = await world.host(1), await world.host(2)
    path = world.file()
    await one.send(path, two)
    await until(lambda: two.counts["offers"])
    assert await one.send(path, two) is not None
    await until_state(one, path, two, "waiting")
    assert states(await two.described()) == {"file.bin": "waiting"}
    assert list(two.folder.iterdir()) == []
    (offer,) = (await two.described()).incoming
    assert (await two.ask(DecideBlob(offer.digest, accept=True))).step != "waiting", "nobody is asked twice"
    with pytest.raises(UnknownBlob, match="waits for an answer"):
        await two.ask(DecideBlob(offer.digest, accept=False))
    assert (await one.sent(path, two)).step == "taken"


async def until_state(host, path, peer, step):
    with anyio.fail_after(20):
        while (await host.send(path, peer, wait_s=0.02)).step != step:
            pass


async def until_gone(host):
    with anyio.fail_after(20):
        while (await host.described()).incoming:
            await host.wait(accept=False)


async def test_who_says_no_is_heard(world):
    one, two = await world.host(1), await world.host(2)
    path = world.file()
    await one.send(path, two)
    await until_state(one, path, two, "waiting")
    (offer,) = (await two.described()).incoming
    await two.ask(DecideBlob(offer.digest, accept=False))
    state = await one.sent(path, two)
    assert (state.step, state.why) == ("refused", "the receiver said no")
    await until_gone(two)


async def test_only_what_the_named_node_offers_is_taken_by_who_waits_for_it(world):
    one, two, three = await world.host(1), await world.host(2), await world.host(3)
    await three.wait(source=two.id)
    mine, other = world.file("mine"), world.file("other", seed=2)
    await one.send(other, three)
    await until_state(one, other, three, "waiting")
    assert (await two.sent(mine, three)).step == "taken"
    assert states(await three.described()) == {"mine": "whole", "other": "waiting"}


async def test_the_config_may_accept_members_and_nobody_else(world):
    member, guest = await world.host(1), await world.host(2, standing=Standing.GRANTED)
    stranger = await world.host(4, standing=Standing.NEIGHBOUR)
    home = await world.host(3, accept=(Standing.MEMBER,))
    assert (await member.sent(world.file("a"), home)).step == "taken"
    await guest.send(world.file("b", seed=2), home)
    await until_state(guest, world.tmp_path / "b", home, "waiting")
    await stranger.send(world.file("c", seed=3), home)
    await until(lambda: home.counts["not_heard"])
    assert states(await home.described()) == {"a": "whole", "b": "waiting"}


async def test_a_stream_that_is_cut_costs_no_verified_chunk(world):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    path = world.file(size=60 * CHUNK)
    world.cut_after = 11 * CHUNK
    assert (await one.sent(path, two)).step == "taken"
    assert two.counts["chunks_taken"] == 60
    assert one.counts["streams"] >= 5
    assert one.counts["chunks_given"] <= 60 + 4 * one.counts["streams"], "what was on its way is given again"


async def test_a_receiver_that_is_killed_asks_for_what_its_disk_does_not_have(world):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    path = world.file(size=60 * CHUNK)
    world.cut_after = 25 * CHUNK
    await one.send(path, two)
    await until(lambda: two.counts["chunks_taken"] >= 20)
    taken = two.counts["chunks_taken"]
    await two.kill()
    world.cut_after = None
    await two.start()
    state = await one.sent(path, two)
    assert state.step == "taken"
    assert two.counts["chunks_found"] >= taken
    assert two.counts["chunks_taken"] == 60 - two.counts["chunks_found"]
    assert await fetched(two, state.digest) == path.read_bytes()


async def test_a_sender_that_is_killed_goes_on_when_it_is_called_again(world):
    one, two = await world.host(1), await world.host(2)
    path = world.file(size=60 * CHUNK)
    world.cut_after = 25 * CHUNK
    await two.wait()
    await one.send(path, two)
    await until(lambda: two.counts["chunks_taken"] >= 20)
    await one.kill()
    world.cut_after = None
    await one.start()
    assert (await one.sent(path, two)).step == "taken"
    assert two.counts["chunks_taken"] == 60


async def test_a_file_that_changes_is_found_out_and_its_sender_told(world):
    one, two = await world.host(1), await world.host(2)
    path = world.file(size=40 * CHUNK)
    await one.send(path, two)
    await until_state(one, path, two, "waiting")
    with path.open("r+b") as file:
        file.seek(30 * CHUNK)
        file.write(b"changed")
    await two.wait()
    state = await one.sent(path, two)
    assert state.step == "changed"
    assert "changed while it was sent" in state.why
    await until(lambda: not two.counts["blobs_taken"] and not list(two.folder.iterdir()))


async def test_a_file_that_is_replaced_is_sent_as_it_was(world):
    one, two = await world.host(1), await world.host(2)
    path, before = world.file(), world.file().read_bytes()
    await one.send(path, two)
    await until_state(one, path, two, "waiting")
    path.unlink()
    path.write_bytes(b"another one")
    await two.wait()
    state = await one.sent(path, two)
    assert state.step == "taken"
    assert await fetched(two, state.digest) == before


async def test_an_order_that_is_called_back_is_withdrawn_there_too(world):
    one, two = await world.host(1), await world.host(2)
    path = world.file()
    await one.send(path, two)
    await until_state(one, path, two, "waiting")
    state = (await one.described()).outgoing[0]
    await one.ask(WithdrawBlob(state.order))
    assert (await one.sent(path, two)).step == "withdrawn"
    await until_gone(two)


async def test_an_offer_that_is_repeated_after_the_blob_was_fetched_takes_nothing_twice(world):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    path = world.file()
    state = await one.sent(path, two)
    await two.ask(RemoveBlob(state.digest))
    await two.kill()
    await two.start()
    offer = BlobOffered(state.order, state.digest, state.size_bytes, "file.bin")
    async with await opened(world, one, two) as talk:
        await talk.say(offer)
        assert await talk.hear(5) == BlobTaken()
    again = await one.sent(path, two)
    assert again.order != state.order
    assert two.counts["blobs_taken"] == 1, "another command means another blob"


async def heard_to_the_end(talk):
    """Read on until the other end closes the stream."""
    heard = []
    with contextlib.suppress(StreamLost):
        while True:
            heard.append(await talk.hear(5))
    return heard


async def opened(world, source, target):
    """Open a stream as a peer that says what the test says."""
    return Talk(await world.open(source, target.id), source.counts)


async def test_the_newest_stream_of_a_blob_wins(world):
    one, two = await world.host(1), await world.host(2)
    listed = manifest_of(bytes(3 * CHUNK))
    offer = BlobOffered(b"o" * 16, listed.digest, listed.size_bytes, "x")
    async with await opened(world, one, two) as first, await opened(world, one, two) as second:
        await first.say(offer)
        assert await first.hear(5) == BlobWaits()
        await second.say(offer)
        assert await second.hear(5) == BlobWaits()
        with pytest.raises(StreamLost):
            await first.hear(5)
        await two.wait()
        assert await second.hear(5) == BlobAccepted(0, list_wanted=True)


# Bad input

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
            async with Talk(stream, self.counts) as talk:
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


async def test_what_is_larger_than_the_quota_is_refused_for_good(world):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,), quota_bytes=10 * CHUNK)
    state = await one.sent(world.file(), two)
    assert state.step == "refused"
    assert "40960" in state.why
    assert list(two.folder.iterdir()) == []


async def test_what_has_no_room_now_comes_when_there_is_some(world):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,), quota_bytes=30 * CHUNK)
    first = await one.sent(world.file("first"), two)
    path = world.file("second", seed=2)
    await one.send(path, two)
    await until(lambda: two.counts["no_room"])
    assert two.counts["chunks_taken"] == 21
    await two.ask(RemoveBlob(first.digest))
    assert (await one.sent(path, two)).step == "taken"


async def test_a_full_disk_is_said_and_what_came_before_is_kept(world, monkeypatch):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    real, left = os.pwrite, [10]

    def pwrite(descriptor, data, at):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "no space left")
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    path = world.file()
    await one.send(path, two)
    with anyio.fail_after(20):
        while "the disk is full" not in (await one.send(path, two)).why:
            pass
    left[0] = 1000
    assert (await one.sent(path, two)).step == "taken"
    assert two.counts["chunks_taken"] == 21, "what was written before counts"


async def test_no_more_offers_of_a_peer_wait_than_its_share(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "WAITING_PER_PEER_MAX", 2)
    one, two, three = await world.host(1), await world.host(2), await world.host(3)
    async with anyio.create_task_group() as tasks:
        talks = []
        for number in range(4):
            talk = await opened(world, one, three)
            talks.append(talk)
            await talk.say(BlobOffered(b"o" * 16, bytes([number]) * 32, 1, "x"))
            answer = await talk.hear(5)
            assert answer == BlobWaits() if number < 2 else answer.again
        other = await opened(world, two, three)
        await other.say(BlobOffered(b"o" * 16, b"d" * 32, 1, "x"))
        assert await other.hear(5) == BlobWaits(), "what one peer does is no other's loss"
        tasks.cancel_scope.cancel()
    assert [each.step for each in (await three.described()).incoming].count("waiting") == 3


async def test_no_more_files_are_sent_at_once_than_the_limit_says(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "OUTGOING_MAX", 2)
    one, two = await world.host(1), await world.host(2)
    for number in range(2):
        await one.send(world.file(f"f{number}", seed=number), two)
    with pytest.raises(TooMany):
        await one.send(world.file("f2", seed=2), two)


async def test_a_blob_that_its_disk_has_damaged_is_never_given_away(world):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    state = await one.sent(world.file(), two)
    (path,) = two.folder.glob("*.blob")
    data = bytearray(path.read_bytes())
    data[5 * CHUNK] ^= 1
    path.write_bytes(data)
    assert len(await two.ask(ReadBlob(state.digest, 4))) == CHUNK
    with pytest.raises(BlobDamaged):
        await two.ask(ReadBlob(state.digest, 5))
    assert (await two.described()).incoming == ()


async def test_what_comes_half_and_is_removed_is_refused(world):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    data = bytes(9 * CHUNK)
    listed = manifest_of(data)
    async with await opened(world, one, two) as talk:
        await talk.say(BlobOffered(b"o" * 16, listed.digest, listed.size_bytes, "x"))
        await talk.hear(5)
        await talk.say(ListPart(0, listed.digests))
        await talk.hear(5)
        await talk.say(BlobChunk(0, data[:CHUNK]))
        await until(lambda: two.counts["chunks_taken"] == 1)
        await two.ask(RemoveBlob(listed.digest))
        with anyio.fail_after(5):
            while not isinstance(answer := await talk.hear(5), BlobRefused):
                pass
        assert "called it off" in answer.reason
    assert list(two.folder.iterdir()) == []


async def test_a_node_that_was_started_again_finds_what_it_had(world):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    path = world.file()
    state = await one.sent(path, two)
    (two.folder / "stray").write_bytes(b"x")
    (two.folder / ("0" * 64 + "-" + "1" * 64 + ".entry")).write_bytes(b"no entry")
    await two.kill()
    await two.start()
    assert states(await two.described()) == {"file.bin": "whole"}
    assert await fetched(two, state.digest) == path.read_bytes()
    assert sorted(each.suffix for each in two.folder.iterdir()) == [".blob", ".entry"]


async def test_messages_of_other_nodes_are_not_orders(world):
    one = await world.host(1)
    actor = one.made[-1]
    from atoll.actors.runtime.actor import Delivery, NotUnderstood  # noqa: PLC0415 - here alone

    with pytest.raises(NotUnderstood):
        await actor.receive(Delivery(ReadBlob(b"d" * 32, 0), standing=Standing.MEMBER))
    assert one.counts["not_understood"] == 1


async def test_a_withdrawn_offer_is_gone(world):
    one, two = await world.host(1), await world.host(2)
    async with await opened(world, one, two) as talk:
        await talk.say(BlobOffered(b"o" * 16, b"d" * 32, 1, "x"))
        assert await talk.hear(5) == BlobWaits()
        await talk.say(BlobWithdrawn("no longer"))
    await until_gone(two)


async def test_a_stream_of_a_node_to_itself_is_heard(world):
    one = await world.host(1, standing=None)
    await one.wait()
    assert (await one.sent(world.file(), one)).step == "taken"


# Limits


async def test_no_more_streams_of_a_peer_are_heard_than_its_share(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "STREAMS_PER_PEER_MAX", 2)
    one, two, three = await world.host(1), await world.host(2), await world.host(3)
    held = [await world.open(one, two.id) for _ in range(2)]
    await until(lambda: two.made[-1]._streams[one.id] == 2)
    late = await world.open(one, two.id)
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await late.receive()
    async with await opened(world, three, two) as talk:
        await talk.say(BlobOffered(b"o" * 16, b"d" * 32, 1, "x"))
        assert await talk.hear(5) == BlobWaits(), "what one peer does is no other's loss"
    for stream in (*held, late):
        await stream.aclose()
    await until(lambda: not two.made[-1]._streams)


async def test_no_more_blobs_come_at_once_than_the_limit_says(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "INCOMING_MAX", 1)
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    listed = manifest_of(bytes(3 * CHUNK))
    async with await opened(world, one, two) as talk:
        await talk.say(BlobOffered(b"o" * 16, listed.digest, listed.size_bytes, "slow"))
        assert await talk.hear(5) == BlobAccepted(0, list_wanted=True)
        path = world.file()
        with anyio.fail_after(20):
            while "come here already" not in (await one.send(path, two)).why:
                pass
    assert (await one.sent(path, two)).step == "taken", "it was told to come again, and came"


async def test_a_receiver_that_asks_for_the_same_for_ever_is_not_believed(world, monkeypatch):
    one, two = await world.host(1), await world.host(2)

    class Forgetful:
        """Asks for everything, and closes the stream before the end."""

        async def take(self, stream):
            async with Talk(stream, two.counts) as talk:
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


async def test_an_order_that_comes_no_further_ends_in_the_end(world, monkeypatch):
    monkeypatch.setattr(outgoing_module, "ORDER_S", 0.2)
    one, two = await world.host(1), await world.host(2)
    await two.kill()
    state = await one.sent(world.file(), two)
    assert state.step == "expired"
    assert "no way there" in state.why


async def test_no_more_commands_wait_than_the_limit_says(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "RECEIVERS_MAX", 2)
    one = await world.host(1)
    for word in ("a", "b", "a"):
        await one.ask(AwaitBlobs(word, accept=False, wait_s=0.01))
    with pytest.raises(TooMany):
        await one.ask(AwaitBlobs("c", accept=False, wait_s=0.01))


async def test_many_files_go_to_and_fro_at_once(world):
    hosts = [await world.host(number, accept=(Standing.MEMBER,)) for number in (1, 2, 3)]
    paths, states = {}, []
    async with anyio.create_task_group() as tasks:
        for number, source in enumerate(hosts):
            for target in hosts:
                if target is not source:
                    name = f"{number}-{hosts.index(target)}"
                    paths[name] = world.file(name, size=30 * CHUNK + number, seed=len(paths))

                    async def send(source=source, target=target, name=name):
                        states.append((target, await source.sent(paths[name], target)))

                    tasks.start_soon(send)
    assert [state.step for _, state in states] == ["taken"] * 6
    for target, state in states:
        assert await fetched(target, state.digest) == paths[state.name].read_bytes()


async def test_the_same_bytes_of_two_senders_are_kept_apart(world):
    one, two, three = await world.host(1), await world.host(2), await world.host(3, accept=(Standing.MEMBER,))
    path = world.file()
    digest = (await one.sent(path, three, name="of one")).digest
    async with await opened(world, two, three) as talk:
        await talk.say(BlobOffered(b"o" * 16, digest, path.stat().st_size, "of two"))
        assert await talk.hear(5) == BlobAccepted(0, list_wanted=True), "nobody learns who has what by offering it"
    assert (await two.sent(path, three, name="of two")).step == "taken"
    with pytest.raises(SeveralOffer, match="several nodes"):
        await three.ask(ReadBlob(digest, 0))
    await three.ask(RemoveBlob(digest, two.id))
    assert states(await three.described()) == {"of one": "whole"}

"""What blobs may take: quota, disk, shares of a peer, how much at once, how long."""

import errno
import os
from functools import partial

import anyio
import pytest
from blob_hosts import CHUNK
from blob_talks import opened, states, until_state
from waiting import until

from atoll.actors.blobs import blobs as blobs_module
from atoll.actors.blobs import outgoing as outgoing_module
from atoll.actors.blobs.errors import TooMany
from atoll.actors.blobs.messages import (
    BlobAccepted,
    BlobOffered,
    BlobWaits,
)
from atoll.actors.blobs.orders import AwaitBlobs, RemoveBlob, StopAwaiting, WithdrawBlob
from atoll.testing.blob_world import manifest_of
from atoll.transport.base import Standing

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(blob_world):
    return blob_world


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


async def test_ends_that_nobody_has_heard_keep_nobody_from_sending(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "OUTGOING_MAX", 2)
    one, two = await world.host(1), await world.host(2)
    for number in range(2):
        state = await one.send(world.file(f"f{number}", seed=number), two)
        await one.ask(WithdrawBlob(state.order))
    await until(lambda: all(each.ended for each in one.made[-1]._outgoing.values()))
    await one.send(world.file("f2", seed=2), two)
    assert [each.name for each in (await one.described()).outgoing] == ["f1", "f2"], "the oldest end is let go"


async def test_no_more_streams_of_a_peer_are_heard_than_its_share(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "STREAMS_PER_PEER_MAX", 2)
    one, two, three = await world.host(1), await world.host(2), await world.host(3)
    held = [await world.open(one, two.id) for _ in range(2)]
    await until(lambda: len(two.made[-1]._talks) == 2)
    late = await world.open(one, two.id)
    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
        await late.receive()
    async with await opened(world, three, two) as talk:
        await talk.say(BlobOffered(b"o" * 16, b"d" * 32, 1, "x"))
        assert await talk.hear(5) == BlobWaits(), "what one peer does is no other's loss"
    for stream in (*held, late):
        await stream.aclose()
    await until(lambda: not two.made[-1]._talks)


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


async def test_nothing_is_accepted_for_who_has_stopped_waiting_not_even_by_a_word_that_comes_late(world):
    one, two = await world.host(1), await world.host(2)
    await two.wait()
    await two.ask(StopAwaiting("test"))
    path = world.file()
    await one.send(path, two)
    await until_state(one, path, two, "waiting")
    await two.wait()
    assert states(await two.described()) == {"file.bin": "waiting"}


async def test_who_was_cut_off_may_come_again(world):
    one, two = await world.host(1), await world.host(2)
    await two.wait()
    await two.ask(StopAwaiting("test", for_good=False))
    await two.wait()
    assert (await one.sent(world.file(), two)).step == "taken"


async def test_what_is_offered_after_the_answer_is_accepted_for_a_moment_only(world, monkeypatch):
    monkeypatch.setattr(blobs_module, "RECEIVER_S", 0.0)
    one, two = await world.host(1), await world.host(2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(two.wait, wait_s=20))
        await until(lambda: two.made[-1]._receivers)
        assert (await one.sent(world.file("first"), two)).step == "taken"
    later = world.file("later", seed=2)
    await one.send(later, two)
    await until_state(one, later, two, "waiting")

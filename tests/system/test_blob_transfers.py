"""Blobs from node to node on real loops and a real disk: cut, killed, changed, called back."""

import os

import anyio
import pytest
from blob_hosts import CHUNK
from blob_talks import fetched, opened, states, until_gone, until_state
from waiting import until

from atoll.actors.blobs.errors import BlobDamaged, SeveralOffer, UnknownBlob
from atoll.actors.blobs.messages import (
    BlobAccepted,
    BlobChunk,
    BlobOffered,
    BlobRefused,
    BlobTaken,
    BlobWaits,
    BlobWithdrawn,
    ListPart,
)
from atoll.actors.blobs.orders import DecideBlob, ReadBlob, RemoveBlob, WithdrawBlob
from atoll.testing.blob_world import manifest_of
from atoll.transport.base import Standing
from atoll.transport.talk import StreamLost

pytestmark = pytest.mark.anyio


@pytest.fixture
def world(blob_world):
    return blob_world


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
    state = await one.send(path, two)
    await until_state(one, path, two, "waiting")
    with path.open("r+b") as file:
        file.seek(30 * CHUNK)
        file.write(b"changed")
    await two.wait()
    state = await one.sent(path, two, order=state.order)
    assert state.step == "changed"
    assert "changed while it was sent" in state.why
    await until(lambda: not two.counts["blobs_taken"] and not list(two.folder.iterdir()))


async def test_a_file_that_is_replaced_is_sent_as_it_was(world):
    one, two = await world.host(1), await world.host(2)
    path, before = world.file(), world.file().read_bytes()
    state = await one.send(path, two)
    await until_state(one, path, two, "waiting")
    path.unlink()
    path.write_bytes(b"another one")
    await two.wait()
    state = await one.sent(path, two, order=state.order)
    assert state.step == "taken"
    assert await fetched(two, state.digest) == before


async def test_an_order_that_is_called_back_is_withdrawn_there_too(world):
    one, two = await world.host(1), await world.host(2)
    path = world.file()
    await one.send(path, two)
    await until_state(one, path, two, "waiting")
    state = (await one.described()).outgoing[0]
    await one.ask(WithdrawBlob(state.order))
    assert (await one.sent(path, two, order=state.order)).step == "withdrawn"
    await until_gone(two)


async def test_who_sends_again_what_was_called_back_means_it(world):
    one, two = await world.host(1), await world.host(2)
    path = world.file()
    state = await one.send(path, two)
    await until_state(one, path, two, "waiting")
    await one.ask(WithdrawBlob(state.order))
    await two.wait()
    again = await one.sent(path, two)
    assert (again.step, again.order != state.order) == ("taken", True)


@pytest.mark.parametrize("change", ["written", "replaced, as old as before", "not at all"])
async def test_a_command_that_begins_means_the_file_as_it_is_now(world, change):
    one, two = await world.host(1), await world.host(2, accept=(Standing.MEMBER,))
    path, before = world.file(), world.file().read_bytes()
    with anyio.fail_after(20):
        # Its command is killed, so that nobody hears the end.
        while not (killed := await one.send(path, two)).ended:
            pass
    if change == "written":
        with path.open("r+b") as file:
            file.write(b"other")
    elif change != "not at all":
        found = path.stat()
        (path.parent / "other").write_bytes(before[::-1])
        (path.parent / "other").replace(path)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    state = await one.sent(path, two)
    assert (state.order == killed.order) == (change == "not at all")
    assert await fetched(two, state.digest) == path.read_bytes()


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
        assert states(await two.described()) != {"file.bin": "waiting"}, "nobody is asked for what he has"
        with pytest.raises(UnknownBlob):
            await two.ask(DecideBlob(state.digest, accept=True))
    await until_gone(two)
    again = await one.sent(path, two)
    assert again.order != state.order
    assert two.counts["blobs_taken"] == 1, "another command means another blob"


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

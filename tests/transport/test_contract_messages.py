"""What every link transport keeps, on every loop: order, wholeness, congestion, one reader."""

import contextlib
import random

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from link_worlds import BUFFERS_BYTES_MAX

from atoll.transport.base import (
    MESSAGE_BYTES_MAX,
    QUEUE_BYTES_MAX,
    Delivered,
    LinkDown,
    LinkUp,
)
from atoll.transport.credit import MESSAGE_COST_BYTES, NEIGHBOUR_WINDOW_BYTES, WINDOW_BYTES
from atoll.transport.errors import Congested, UsageError
from atoll.transport.keys import SiteKeys

pytestmark = pytest.mark.anyio


async def test_thousands_of_messages_of_all_sizes_arrive_whole_and_in_order_both_ways(world):
    async with world:
        first, second = await world.pair()
        sizes = random.Random(1)
        sent = [b"%d " % n + bytes(sizes.choice((0, 1, 100, 3000))) for n in range(3000)]
        sent[10:10] = [b"", bytes(MESSAGE_BYTES_MAX), b"after", bytes(256 * 1024), bytes(256 * 1024 + 1), b""]
        for message in sent:
            first.transport.send(second.id, message)
            second.transport.send(first.id, message)
        assert await second.messages(len(sent)) == sent
        assert await first.messages(len(sent)) == sent
        assert second.transport.statistics()["messages_received"] == len(sent)
        assert first.transport.statistics()["bytes_sent"] == sum(map(len, sent))


async def test_a_slow_receiver_is_congested_at_its_sender_only_and_loses_nothing_that_was_taken(world):
    async with world:
        sender, slow = await world.pair()
        quick = await world.open()
        await world.join(sender, quick)
        taken, refused_in_a_row = 0, 0
        while refused_in_a_row < 20:
            try:
                sender.transport.send(slow.id, b"%d " % taken + bytes(100_000))
            except Congested:
                refused_in_a_row += 1
                # Whoever reads notices nothing of those who do not.
                sender.transport.send(quick.id, b"quick")
                assert await quick.messages(1) == [b"quick"]
            else:
                taken, refused_in_a_row = taken + 1, 0
            assert taken * 100_000 < BUFFERS_BYTES_MAX
        assert taken * 100_000 > QUEUE_BYTES_MAX // 4
        assert sender.transport.statistics()["congested"] >= 20
        got = await slow.messages(taken)
        assert [int(data.split()[0]) for data in got] == list(range(taken))
        sender.transport.send(slow.id, b"room again")
        assert await slow.messages(1) == [b"room again"]


async def fill(sender, receiver, size):
    """Send until nothing more is taken; how many messages were."""
    taken = refused = 0
    while refused < 20:
        try:
            sender.transport.send(receiver.id, b"%d " % taken + bytes(size))
        except Congested:
            refused += 1
            await anyio.sleep(0.005)
        else:
            taken, refused = taken + 1, 0
    return taken


async def test_no_more_than_a_window_waits_at_who_does_not_read_and_all_of_it_goes_on_when_it_does(world):
    async with world:
        sender, slow = await world.pair()
        for _ in range(3):
            taken = await fill(sender, slow, 50_000)
            assert WINDOW_BYTES // 2 < slow.transport._inbox.bytes <= WINDOW_BYTES
            assert [int(data.split()[0]) for data in await slow.messages(taken)] == list(range(taken))
            assert slow.transport._inbox.bytes == 0


async def test_a_neighbour_has_a_small_window_and_shorter_messages(world):
    async with world:
        sender, stranger = await world.open(), await world.open(site=SiteKeys.generate())
        await world.join(sender, stranger)
        longest = NEIGHBOUR_WINDOW_BYTES * 3 // 4 - MESSAGE_COST_BYTES
        with pytest.raises(UsageError, match=f"at most {longest} bytes, this one has {longest + 1}"):
            sender.transport.send(stranger.id, bytes(longest + 1))
        for _ in range(5):
            sender.transport.send(stranger.id, bytes(longest))
        assert [len(data) for data in await stranger.messages(5)] == [longest] * 5
        taken = await fill(sender, stranger, 10_000)
        assert stranger.transport._inbox.bytes <= NEIGHBOUR_WINDOW_BYTES
        assert len(await stranger.messages(taken)) == taken


async def test_credit_of_a_link_that_has_ended_is_not_the_next_ones(world):
    async with world:
        first, second = await world.pair()
        taken = await fill(first, second, 50_000)
        second.transport.hang_up(first.id, "again")
        await first.next(LinkDown)
        second.transport.dial(first.id, *await world.way(second, first))
        await first.next(LinkUp)
        waited = second.transport._inbox.bytes
        again = await fill(first, second, 50_000)
        assert second.transport._inbox.bytes <= waited + WINDOW_BYTES
        arrived = 0
        while isinstance(event := await second.transport.receive(), Delivered):
            arrived += 1
        # What was still at the sender when the link ended is lost, as it always was.
        assert 0 < arrived < taken
        assert isinstance(event, LinkDown)
        await second.next(LinkUp)
        assert len(await second.messages(again)) == again
        assert second.transport.statistics().get("overdrawn", 0) == 0


async def test_empty_messages_cost_room_too(world):
    async with world:
        sender, slow = await world.pair()
        sent = 0
        with contextlib.suppress(Congested):
            while sent < 200_000:
                sender.transport.send(slow.id, b"")
                sent += 1
        assert 0 < sent < 200_000


async def test_a_message_too_long_is_refused_to_its_sender_and_harms_nothing(world):
    async with world:
        first, second = await world.pair()
        with pytest.raises(
            UsageError, match=f"at most {MESSAGE_BYTES_MAX} bytes, this one has {MESSAGE_BYTES_MAX + 1}"
        ):
            first.transport.send(second.id, bytes(MESSAGE_BYTES_MAX + 1))
        first.transport.send(second.id, b"fits")
        assert await second.messages(1) == [b"fits"]


async def test_a_cancelled_receive_takes_nothing(world):
    async with world:
        first, second = await world.pair()
        got = []

        async def read_impatiently():
            patience = random.Random(7)
            while len(got) < 1000:
                with anyio.move_on_after(patience.choice((0, 0, 0.0002, 0.002))):
                    while True:
                        got.append((await second.transport.receive()).data)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(read_impatiently)
                for n in range(1000):
                    first.transport.send(second.id, b"%d" % n)
                    if n % 7 == 0:
                        await anyio.lowlevel.checkpoint()
        assert got == [b"%d" % n for n in range(1000)]


async def test_a_second_reader_is_told_that_there_is_one(world):
    async with world:
        node = await world.open()
        async with anyio.create_task_group() as group:
            group.start_soon(node.transport.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(UsageError, match="one reader"):
                await node.transport.receive()
            group.cancel_scope.cancel()


async def test_many_peers_speak_at_once_each_in_its_own_order(world):
    async with world:
        hub, others = await world.open(), [await world.open() for _ in range(6)]
        for node in others:
            await world.join(node, hub)
        for n in range(200):
            for node in others:
                node.transport.send(hub.id, b"%d" % n)
                hub.transport.send(node.id, b"%d" % n)
        heard = {node.id: [] for node in others}
        for _ in range(200 * len(others)):
            event = await hub.next(Delivered)
            heard[event.peer].append(int(event.data))
        assert all(each == list(range(200)) for each in heard.values())
        for node in others:
            assert await node.messages(200) == [b"%d" % n for n in range(200)]

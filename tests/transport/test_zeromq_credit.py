"""Links over ZeroMQ: readers that do not read, credit, and signs of life."""

import time

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pytest
from link_ends import Node, Raw, fill, join, late_join

from atoll.transport import inbox, zeromq
from atoll.transport.base import Delivered, LinkDown, LinkUp
from atoll.transport.credit import (
    MESSAGE_COST_BYTES,
    NEIGHBOUR_WINDOW_BYTES,
    WINDOW_BYTES,
    WINDOW_BYTES_MAX,
)
from atoll.transport.errors import UsageError
from atoll.transport.link_frames import (
    FrameKind,
    alive_frame,
    credit_frame,
    read_credit,
    read_hello,
    ready_frame,
)

pytestmark = pytest.mark.anyio


async def test_a_reader_that_takes_nothing_neither_spins_nor_counts_as_a_flood_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(zeromq, "FLOOD_LOOK_S", 0.02)
    async with Node() as node, Node() as peer, Node() as late:
        await join(peer, node)
        taken = await fill(peer, node)
        assert WINDOW_BYTES // 2 < node._inbox.bytes <= WINDOW_BYTES
        # Somebody new is served all the same.
        await late_join(late, node)
        looks, drain = [], node.drain
        monkeypatch.setattr(node, "drain", lambda source: looks.append(source) or drain(source))
        await anyio.sleep(0.3)
        assert len(looks) < 50
        got = [await node.receive() for _ in range(taken + 1)]
        assert [int(each.data.split()[0]) for each in got if isinstance(each, Delivered)] == list(range(taken))
        assert [each.peer for each in got if isinstance(each, LinkUp)] == [late.id]
        assert node.count("flooding_cut") == 0


async def test_who_does_not_read_can_still_send():
    async with Node() as node, Node() as peer:
        await join(peer, node)
        taken = {peer: await fill(peer, node), node: await fill(node, peer)}
        # The peer reads, this end does not: what waits here goes on all the same.
        for _ in range(taken[node]):
            await peer.next(Delivered)
        assert peer.count("messages_received") == taken[node]


async def test_who_sends_more_than_it_has_credit_for_is_cut_with_the_reason_and_what_it_had_credit_for_is_kept():
    batch = b"\x02" + msgspec.msgpack.encode([bytes(100_000 - MESSAGE_COST_BYTES)])
    async with Node() as node, Node() as friend:
        await join(friend, node)
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            await raw.say(*[batch] * 6)
            assert "than it had credit for" in await raw.bye()
        for _ in range(5):
            assert (await node.next(Delivered)).peer == raw.id
        down = await node.next(LinkDown)
        assert (down.peer, "75712 bytes more than it had credit for" in down.reason) == (raw.id, True)
        assert node.count("overdrawn") == 1
        friend.send(node.id, b"as ever")
        assert (await node.next(Delivered)).data == b"as ever"


async def test_credit_comes_back_in_quarters_as_the_reader_takes_messages():
    quarter = NEIGHBOUR_WINDOW_BYTES // 4
    message = b"\x02" + msgspec.msgpack.encode([bytes(quarter - MESSAGE_COST_BYTES)])
    async with Node() as node:
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            for _ in range(12):
                await raw.say(message)
                await node.next(Delivered)
                while (frame := await raw.hear()) == alive_frame():
                    pass
                assert read_credit(frame) == quarter
            assert node.count("overdrawn") == 0


async def test_no_credit_that_a_peer_can_give_is_more_than_a_window_can_be():
    async with Node() as node:
        with Raw(node, node.port) as raw:
            await raw.greet(node)
            await raw.say(*[credit_frame((1 << 32) - 1)] * 3, b"\x02\x91\xc4\x04done")
            await node.next(Delivered)
            assert node._table.links[raw.id].credit == WINDOW_BYTES_MAX


async def test_when_too_much_waits_in_all_those_go_who_sent_more_than_their_share(monkeypatch):
    monkeypatch.setattr(inbox, "INBOX_BYTES_MAX", 1_000_000)
    async with Node() as node, Node() as greedy, Node() as modest:
        for each in (greedy, modest):
            await join(each, node)
        sent = await fill(greedy, node)
        await node.until(crowded_out=1, links=1)
        modest.send(node.id, b"not much")
        got = [await node.receive() for _ in range(node.count("messages_received") + 1)]
        assert [each.peer for each in got if isinstance(each, LinkDown)] == [greedy.id]
        assert sum(isinstance(each, Delivered) for each in got) < sent
        while isinstance(event := await node.receive(), LinkDown):
            pass
        assert event == Delivered(modest.id, b"not much")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_life_is_shown_as_often_as_the_peer_asks_for_and_asked_for_in_return():
    async with Node(silence_s=0.6) as node:
        with Raw(node, node.port) as raw:
            await raw.say(raw.hello(silence_ms=300))
            assert read_hello(await raw.hear()).silence_ms == 600
            await raw.say(ready_frame(WINDOW_BYTES))
            await node.next(LinkUp)
            began = time.monotonic()
            for _ in range(5):
                assert await raw.hear() == alive_frame()
                # Any frame proves life.
                await raw.say(alive_frame())
            assert time.monotonic() - began >= 0.2
            # Nothing is said from here on.
            assert "silent for too long" in (await node.next(LinkDown)).reason


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_time_that_this_process_is_held_up_is_not_held_against_its_peers():
    async with Node(silence_s=0.6) as node, Node(silence_s=0.6) as peer:
        await join(peer, node)
        for _ in range(2):
            time.sleep(0.7)  # noqa: ASYNC251 - just that is tried
            await anyio.sleep(0.1)
        peer.send(node.id, b"still here")
        assert (await node.next(Delivered)).data == b"still here"
        assert node.count("links_up") == 1


async def test_a_message_that_no_credit_will_ever_be_enough_for_is_refused_to_its_sender():
    async with Node() as node:
        with Raw(node, node.port) as raw:
            await raw.say(raw.hello())
            assert read_hello(await raw.hear()).window == NEIGHBOUR_WINDOW_BYTES
            await raw.say(ready_frame(NEIGHBOUR_WINDOW_BYTES))
            await node.next(LinkUp)
            most = NEIGHBOUR_WINDOW_BYTES * 3 // 4 - MESSAGE_COST_BYTES
            with pytest.raises(UsageError, match=f"at most {most} bytes, this one has {most + 1}"):
                node.send(raw.id, bytes(most + 1))
            node.send(raw.id, bytes(most))
            frames = [await raw.hear(), await raw.hear()]
            assert [frame[0] for frame in frames] == [FrameKind.PIECE, FrameKind.LAST]

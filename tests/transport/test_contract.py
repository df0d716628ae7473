"""What every link transport keeps, on every loop: how links come up and go down (`transport/base.py`)."""

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from atoll.transport.base import (
    Delivered,
    DialFailed,
    LinkDown,
    LinkUp,
    Standing,
)
from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio


async def test_a_link_comes_up_at_both_ends_with_standing_label_and_host(world):
    async with world:
        first, second = await world.open(label="kitchen"), await world.open(label="cellar")
        here, there = await world.join(first, second)
        assert here == LinkUp(second.id, Standing.MEMBER, "cellar", "127.0.0.1")
        assert there == LinkUp(first.id, Standing.MEMBER, "kitchen", "127.0.0.1")
        for node in (first, second):
            counted = node.transport.statistics()
            assert (counted["links"], counted["links_up"]) == (1, 1)


async def test_when_both_dial_at_once_one_link_comes_up_and_nothing_is_lost(world):
    async with world:
        first, second = await world.open(), await world.open()
        for turn in range(4):
            here, there = await world.way(first, second), await world.way(second, first)
            first.transport.dial(second.id, *here)
            second.transport.dial(first.id, *there)
            for node, peer in ((first, second), (second, first)):
                assert (await node.next(LinkUp)).peer == peer.id
                node.transport.send(peer.id, b"at once %d" % turn)
            for node, peer in ((first, second), (second, first)):
                # Nothing but the message: no second link, no link down, no failed dial.
                assert await node.next(Delivered) == Delivered(peer.id, b"at once %d" % turn)
                assert node.transport.statistics()["links"] == 1
            first.transport.hang_up(second.id, "next turn")
            await first.next(LinkDown)
            await second.next(LinkDown)


async def test_to_dial_again_is_harmless_before_and_after_the_link_is_up(world):
    async with world:
        first, second = await world.open(), await world.open()
        way = await world.way(first, second)
        for _ in range(3):
            first.transport.dial(second.id, *way)
        await first.next(LinkUp)
        await second.next(LinkUp)
        first.transport.dial(second.id, *way)
        second.transport.dial(first.id, *await world.way(second, first))
        first.transport.send(second.id, b"only this")
        assert await second.messages(1) == [b"only this"]
        assert first.transport.statistics()["links_up"] == second.transport.statistics()["links_up"] == 1


async def test_to_hang_up_tells_the_other_end_why_after_all_that_was_said_before(world):
    async with world:
        first, second = await world.pair()
        for n in range(100):
            first.transport.send(second.id, b"%d" % n)
        first.transport.hang_up(second.id, "moving to another room")
        assert (await first.next(LinkDown)).reason == "moving to another room"
        assert await second.messages(100) == [b"%d" % n for n in range(100)]
        assert "moving to another room" in (await second.next(LinkDown)).reason
        for node, peer in ((first, second), (second, first)):
            with pytest.raises(Unreachable, match="no link"):
                node.transport.send(peer.id, b"too late")
            assert node.transport.statistics()["links"] == 0
        first.transport.hang_up(second.id, "twice is harmless")
        await world.join(second, first)


async def test_nothing_is_delivered_after_the_link_is_down(world):
    async with world:
        first, second = await world.pair()
        for n in range(500):
            second.transport.send(first.id, b"%d" % n)
        first.transport.hang_up(second.id, "enough")
        while isinstance(event := await second.transport.receive(), Delivered):
            pass
        assert isinstance(event, LinkDown)
        while isinstance(event := await first.transport.receive(), Delivered):
            pass
        assert isinstance(event, LinkDown)
        await world.join(first, second)
        second.transport.send(first.id, b"of the new link")
        assert await first.messages(1) == [b"of the new link"]


async def test_who_closes_tells_all_peers_at_once(world):
    async with world:
        first, second = await world.pair()
        third = await world.open()
        await world.join(third, first)
        await first.close()
        for node in (second, third):
            assert "the node closes its links" in (await node.next(LinkDown)).reason
        for _ in range(2):
            await first.next(LinkDown)
        with pytest.raises(Unreachable, match="closed"):
            await first.transport.receive()
        with pytest.raises(Unreachable):
            first.transport.send(second.id, b"")
        first.transport.dial(second.id, "127.0.0.1", second.transport.port)
        assert first.transport.statistics()["links"] == 0


async def test_a_silent_peer_is_down_at_both_ends_and_can_be_dialled_again(world):
    async with world:
        first, second = await world.pair(breakable=True)
        await world.freeze(first, second)
        first.transport.send(second.id, b"into the void")
        for node, peer in ((first, second), (second, first)):
            down = await node.next(LinkDown)
            assert down.peer == peer.id
            assert "silent" in down.reason
        await world.thaw(first, second)
        await world.join(first, second)


async def test_a_silence_shorter_than_the_limit_costs_nothing(world):
    async with world:
        first, second = await world.pair(breakable=True)
        await world.freeze(first, second)
        for n in range(10):
            first.transport.send(second.id, b"%d" % n)
        await anyio.sleep(world.silence_s / 4)
        await world.thaw(first, second)
        assert await second.messages(10) == [b"%d" % n for n in range(10)]


async def test_a_quiet_link_stays_up(world):
    async with world:
        first, second = await world.pair()
        await anyio.sleep(1.2 * world.silence_s)
        first.transport.send(second.id, b"still here")
        assert await second.messages(1) == [b"still here"]
        assert first.transport.statistics()["links_up"] == 1


async def test_a_killed_peer_is_down_at_once_and_comes_back_with_the_same_key(world):
    async with world:
        first, second = await world.pair(breakable=True)
        await world.kill(second)
        down = await first.next(LinkDown)
        assert (down.peer, "lost" in down.reason) == (second.id, True)
        again = await world.open(key=second.key)
        await world.join(again, first)
        again.transport.send(first.id, b"back")
        assert await first.messages(1) == [b"back"]


async def test_a_peer_that_restarts_closes_its_old_link_before_the_new_one_comes_up(world):
    async with world:
        first, second = await world.pair()
        await second.close()
        await first.next(LinkDown)
        again = await world.open(key=second.key, port=second.transport.port)
        await world.join(again, first)
        assert first.transport.statistics()["links"] == 1


async def test_a_dial_that_finds_nobody_says_so(world):
    async with world:
        first, second = await world.open(), await world.open()
        port = second.transport.port
        await second.close()
        first.transport.dial(second.id, "127.0.0.1", port)
        failed = await first.next(DialFailed)
        assert (failed.peer, failed.reason) == (second.id, f"nobody answers at 127.0.0.1:{port}")
        assert first.transport.statistics()["dials_failed"] == 1
        again = await world.open(key=second.key, port=port)
        await world.join(first, again)


async def test_a_dial_that_finds_another_key_says_so(world):
    async with world:
        first, second = await world.open(), await world.open()
        expected = NodeKey.generate().node_id
        first.transport.dial(expected, "127.0.0.1", second.transport.port)
        failed = await first.next(DialFailed)
        assert failed.peer == expected
        assert "another key than it is dialled with" in failed.reason
        assert second.transport.statistics()["links"] == 0


async def test_no_dial_to_oneself_and_none_to_a_port_that_does_not_exist(world):
    async with world:
        first, second = await world.pair()
        first.transport.dial(first.id, "127.0.0.1", first.transport.port)
        assert (await first.next(DialFailed)).reason == "this is the node itself"
        for port in (0, -1, 65536):
            with pytest.raises(UsageError, match="ports are 1 to 65535"):
                first.transport.dial(second.id, "127.0.0.1", port)


async def test_a_dial_under_way_can_be_given_up(world):
    async with world:
        node, peer = await world.open(), NodeKey.generate()
        node.transport.dial(peer.node_id, "127.0.0.1", await world.black_hole(node, peer))
        await anyio.sleep(0.05)
        node.transport.hang_up(peer.node_id, "changed my mind")
        assert await node.next(DialFailed) == DialFailed(peer.node_id, "changed my mind")
        assert node.transport.statistics()["links"] == 0


async def test_a_dial_into_a_black_hole_ends_by_itself(world):
    async with world:
        node, peer = await world.open(), NodeKey.generate()
        node.transport.dial(peer.node_id, "127.0.0.1", await world.black_hole(node, peer))
        assert (await node.next(DialFailed)).peer == peer.node_id


async def test_a_port_in_use_is_said_with_what_to_do(world):
    async with world:
        first = await world.open()
        with pytest.raises(UsageError) as told:
            await world.open(port=first.transport.port)
        assert str(told.value) == (
            f"port {first.transport.port} on 127.0.0.1 is in use:"
            " stop what uses it, or choose another port (0 takes any free one)"
        )
        await world.join(await world.open(), first)

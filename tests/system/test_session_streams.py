"""Byte streams between the actors of two nodes with a link, and of one node with itself: what they promise."""

import os

import anyio
import pytest
from stream_world import ELSEWHERE, World, arrived, read_all, router, seen, server, streams, write_all
from waiting import until

from atoll.actors.router import streams as module
from atoll.actors.router.messages import EndSessions, ServeStreams
from atoll.actors.router.streams import open_stream
from atoll.actors.runtime.errors import AskDeclined
from atoll.transport.errors import Congested, Unreachable, UsageError
from atoll.transport.stream_credit import STREAMS_MAX, WINDOW_BYTES
from atoll.transport.streams import UNACKNOWLEDGED_BYTES

pytestmark = pytest.mark.anyio
MEGABYTES = 20
DATA = os.urandom(1_000_000) * MEGABYTES


@pytest.fixture
def world():
    return World()


@pytest.fixture(params=["nearby", "here"])
async def ends(request, world):
    """Systems between which streams go: two, or one and the same."""
    if request.param == "here":
        async with world.node() as one:
            yield one, one
        return
    async with world.pair() as both:
        yield both


async def test_what_is_sent_arrives_both_ways_at_once_byte_by_byte_and_the_stream_is_forgotten(ends):
    here, there = await streams(*ends)
    heard = {}

    async def hear(end):
        heard[end] = await read_all(end)

    async with anyio.create_task_group() as group:
        for end, data in ((here, DATA), (there, DATA[::-1])):
            group.start_soon(write_all, end, data)
            group.start_soon(hear, end)
    assert heard[there] == DATA
    assert heard[here] == DATA[::-1]
    assert here.sent_bytes == there.received_bytes == len(DATA)
    await here.aclose()
    await there.aclose()
    await until(lambda: all(len(router(each)._streams) == 0 for each in ends))


async def test_one_direction_ends_and_the_other_goes_on(ends):
    here, there = await streams(*ends)
    await here.send(b"question")
    await here.send_eof()
    assert await read_all(there) == b"question"
    with pytest.raises(anyio.EndOfStream):
        await there.receive()
    with pytest.raises(anyio.ClosedResourceError, match="finished"):
        await here.send(b"more")
    await there.send(b"answer")
    assert await here.receive() == b"answer"
    await there.send_eof()
    assert await read_all(here) == b""


async def test_who_closes_before_the_end_resets_and_the_other_hears_why(ends):
    here, there = await streams(*ends)
    await here.send(b"half a")
    assert await there.receive() == b"half a"
    await here.aclose()
    with pytest.raises(anyio.BrokenResourceError, match=r"echo of .* broke: the other end closed it"):
        await there.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await there.send(b"x")
    for use in (here.receive, here.send_eof, lambda: here.send(b"x")):
        with pytest.raises(anyio.ClosedResourceError, match="is closed"):
            await use()
    await here.aclose()
    await there.aclose()


async def test_a_reset_wakes_who_waits(ends):
    here, there = await streams(*ends)
    async with anyio.create_task_group() as group:

        async def hear():
            with pytest.raises(anyio.BrokenResourceError, match="enough"):
                await here.receive()

        group.start_soon(hear)
        await anyio.wait_all_tasks_blocked()
        there.reset("enough")


async def test_a_reader_that_is_slow_stops_its_writer_and_memory_stays_bounded(ends):
    here, there = await streams(*ends)
    async with anyio.create_task_group() as group:

        async def write():
            while True:
                await here.send(bytes(100_000))

        group.start_soon(write)
        await until(lambda: here.sent_bytes >= UNACKNOWLEDGED_BYTES)
        before = -1
        while before != here.sent_bytes:
            before = here.sent_bytes
            await anyio.sleep(0.1)
        assert here.sent_bytes <= UNACKNOWLEDGED_BYTES + WINDOW_BYTES
        rest = here.sent_bytes
        while rest > 0:
            rest -= len(await there.receive())
        group.cancel_scope.cancel()


async def test_who_is_cancelled_in_receive_has_lost_nothing_and_in_send_knows_how_far_it_came(ends):
    here, there = await streams(*ends)
    with anyio.move_on_after(0.05):
        await there.receive()
    data = os.urandom(UNACKNOWLEDGED_BYTES * 3)
    with anyio.move_on_after(0.2):
        await here.send(data)
    sent = here.sent_bytes
    assert 0 < sent < len(data)
    async with anyio.create_task_group() as group:

        async def rest():
            await here.send(data[sent:])
            await here.send_eof()

        group.start_soon(rest)
        assert await read_all(there) == data


async def test_pieces_are_as_long_as_was_asked_for_at_most(ends):
    here, there = await streams(*ends)
    await here.send(bytearray(b"abcdef"))
    assert [await there.receive(1), await there.receive(2), await there.receive(100)] == [b"a", b"bc", b"def"]
    with pytest.raises(UsageError):
        await there.receive(0)


async def test_two_readers_at_once_are_one_too_many(ends):
    here, _ = await streams(*ends)
    async with anyio.create_task_group() as group:
        group.start_soon(here.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await here.receive()
        group.cancel_scope.cancel()


async def test_a_service_that_nobody_serves_is_refused_in_words(ends):
    one, other = ends
    stream = await open_stream(one, other.node_id, "nonsense")
    with pytest.raises(anyio.BrokenResourceError, match="nobody serves streams called nonsense here"):
        await stream.receive()
    assert router(other)._streams.refused == 1


async def test_a_service_has_what_begins_with_its_name_and_a_slash(ends):
    one, other = ends
    for service, taken in (("echo/a/b", True), ("echoes", False)):
        stream = await open_stream(one, other.node_id, service)
        if taken:
            assert (await arrived(other)).service == "echo/a/b"
            await stream.aclose()
        else:
            with pytest.raises(anyio.BrokenResourceError, match="nobody serves"):
                await stream.receive()


async def test_a_stream_that_nobody_uses_is_reset(ends, monkeypatch):
    monkeypatch.setattr(module, "TAKE_S", 0.1)
    one, other = ends
    stream = await open_stream(one, other.node_id, "echo")
    with pytest.raises(anyio.BrokenResourceError, match=r"nobody has used it within 0\.1 s"):
        await stream.receive()


async def test_names_of_services_have_bounds(ends):
    one, other = ends
    for service in ("", "x" * 201):
        with pytest.raises(UsageError, match="name of a service"):
            await open_stream(one, other.node_id, service)


async def test_streams_with_one_peer_are_limited(ends):
    one, other = ends
    opened = [await open_stream(one, other.node_id, "echo") for _ in range(STREAMS_MAX)]
    with pytest.raises(Congested, match="64 streams open"):
        await open_stream(one, other.node_id, "echo")
    await arrived(other, STREAMS_MAX)
    await opened[0].aclose()
    stream = None
    while stream is None:
        try:
            stream = await open_stream(one, other.node_id, "echo")
        except Congested:
            await anyio.sleep(0.01)


async def test_two_actors_cannot_serve_the_same_and_a_ghost_nothing(world):
    async with world.node() as one:
        for service, path, why in (("echo", "router", "server serves"), ("other", "ghost", "no actor ghost")):
            with pytest.raises(AskDeclined, match=why):
                await one.ask(one.find("router"), ServeStreams(service, path))


async def test_a_stranger_with_a_link_is_refused(world):
    async with world.node() as one, world.node(ELSEWHERE) as other:
        await world.link(one, other)
        with pytest.raises(Unreachable, match="not open to a neighbour"):
            await open_stream(one, other.node_id, "echo")


async def test_without_any_way_the_reason_is_told(world):
    async with world.node() as one, world.node() as other:
        with pytest.raises(Unreachable, match=r"no actor uplink|cannot|no way|not"):
            await open_stream(one, other.node_id, "echo")


async def test_streams_break_with_a_reason_when_the_other_node_ends(world):
    async with world.node() as one:
        async with world.node() as other:
            await world.link(one, other)
            here, there = await streams(one, other)
            await there.send(b"last words")
            await other.ask(other.find("router"), EndSessions("this node stops"))
        assert await here.receive() == b"last words"
        with pytest.raises(anyio.BrokenResourceError, match="this node stops"):
            await here.receive()


async def test_a_peer_nearby_is_shown_with_its_direct_path(world):
    async with world.pair() as (one, other):
        here, there = await streams(one, other)
        await here.send(b"x")
        await there.receive()
        route = await seen(one, other.node_id)
        (path,) = route.paths
        assert (path.relay, path.condition, path.in_use, route.streams) == ("direct", "usable", True, 1)
        assert path.round_trip_s > 0
        assert len(server(one).links) == 1


async def test_streams_to_one_peer_share_one_connection_whoever_opens_them(world):
    async with world.pair() as (one, other):
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(open_stream, one, other.node_id, "echo")
        await arrived(other, 10)
        await open_stream(other, one.node_id, "echo")
        await arrived(one)
        assert (await seen(one, other.node_id)).streams == 11
        assert len((await seen(other, one.node_id)).paths) == 1

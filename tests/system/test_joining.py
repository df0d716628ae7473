"""Two connections joined: every byte both ways, each direction with its own end, and nothing left when one breaks."""

import contextlib
import os
import socket

import anyio
import pytest

from atoll.actors.forwarder.joining import Broke, abort_on_close, join
from atoll.transport.accepted import read_on_demand

pytestmark = pytest.mark.anyio


async def pair():
    """Give two ends of a TCP connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        near = await anyio.connect_tcp("127.0.0.1", port)
        taken, _ = server.accept()
    far = await anyio.abc.SocketStream.from_socket(taken)
    read_on_demand(far)
    return near, far


@contextlib.asynccontextmanager
async def joined():
    """Give the outer ends of two joined connections, what was counted, and how the join ended."""
    (left, near), (far, right) = await pair(), await pair()
    seen = {"out": 0, "in": 0, "end": None}

    async def run():
        async with near, far:
            try:
                await join(
                    near,
                    far,
                    count_out=lambda size: seen.__setitem__("out", seen["out"] + size),
                    count_in=lambda size: seen.__setitem__("in", seen["in"] + size),
                )
                seen["end"] = "done"
            except Broke as error:
                seen["end"] = error
                abort_on_close(near)

    async with anyio.create_task_group() as tasks, left, right:
        tasks.start_soon(run)
        yield left, right, seen


async def read_all(stream):
    data = bytearray()
    with contextlib.suppress(anyio.EndOfStream):
        while True:
            data += await stream.receive()
    return bytes(data)


async def test_both_directions_carry_everything_at_once():
    there, back = os.urandom(5_000_000), os.urandom(3_000_001)
    got = {}
    async with joined() as (left, right, seen):

        async def say(stream, data):
            await stream.send(data)
            await stream.send_eof()

        async def hear(stream, name):
            got[name] = await read_all(stream)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(say, left, there)
            tasks.start_soon(say, right, back)
            tasks.start_soon(hear, right, "there")
            tasks.start_soon(hear, left, "back")
    assert got == {"there": there, "back": back}
    assert seen == {"out": len(there), "in": len(back), "end": "done"}


async def test_a_side_that_has_ended_still_hears_the_other():
    async with joined() as (left, right, _):
        await left.send(b"question")
        await left.send_eof()
        assert await read_all(right) == b"question"
        await right.send(b"answer, which comes later")
        await right.send_eof()
        assert await read_all(left) == b"answer, which comes later"


async def test_a_reset_goes_through_as_a_reset_and_not_as_an_end():
    async with joined() as (left, right, seen):
        await left.send(b"a")
        assert await right.receive() == b"a"
        abort_on_close(right)
        await right.aclose()
        with pytest.raises((anyio.BrokenResourceError, OSError)):
            await read_all(left)
    assert isinstance(seen["end"], Broke)


async def test_whoever_reads_nothing_makes_the_other_wait():
    async with joined() as (left, right, seen):
        for stream in (left, right):
            stream.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sent = 0
        with anyio.move_on_after(1.0):
            while True:
                await left.send(bytes(65536))
                sent += 65536
        assert 0 < sent < 64 * 2**20
        assert seen["out"] <= sent

"""A TCP port of one node at another one: real nodes of a site, real connections, and everything that can be refused."""

import contextlib
import os
import socket

import anyio
import msgspec
import pytest
from migration_site import MigrationSite
from ports import free_port
from waiting import until

from atoll import Node
from atoll.actors.forwarder.joining import abort_on_close
from atoll.actors.forwarder.messages import (
    PATH,
    CloseForward,
    DescribeForwards,
    OpenForward,
    RenewForward,
)
from atoll.actors.runtime import Address, AskDeclined
from atoll.cluster_specs.config import ForwardConfig

pytestmark = pytest.mark.anyio


class Echo:
    """A TCP service on loopback: says everything back, and then its end."""

    def __init__(self):
        self.port = 0
        self.connections = 0

    @contextlib.asynccontextmanager
    async def running(self):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            yield self
            tasks.cancel_scope.cancel()

    async def _serve(self, stream):
        self.connections += 1
        with contextlib.suppress(anyio.BrokenResourceError):
            async with stream:
                async for data in stream:
                    await stream.send(data)
                await stream.send_eof()


@contextlib.asynccontextmanager
async def two_nodes(folder, *allowed):
    """Run a node that listens, and one whose ports are reached."""
    site = MigrationSite(folder, free_port(socket.SOCK_DGRAM), count=2)
    async with contextlib.AsyncExitStack() as stack:
        near = await stack.enter_async_context(Node.open(site.config("n0"), key=site.keys[0]))
        config = msgspec.structs.replace(site.config("n1"), forward=ForwardConfig(allow=allowed))
        far = await stack.enter_async_context(Node.open(config, key=site.keys[1]))
        site.nodes = {"n0": near, "n1": far}
        await site.known()
        yield near, far


async def ask(node, message):
    return await node.system.ask(Address(node.id, PATH), message, timeout_s=5)


async def forwarded(near, far, port, for_s=60.0):
    return await ask(near, OpenForward(far.id, "n1", port, "127.0.0.1", 0, for_s))


async def described(node):
    return await ask(node, DescribeForwards())


async def said_back(port, data):
    """Send everything over one connection, end it, and give what comes back."""
    back = bytearray()
    async with await anyio.connect_tcp("127.0.0.1", port) as stream, anyio.create_task_group() as tasks:

        async def say():
            await stream.send(data)
            await stream.send_eof()

        tasks.start_soon(say)
        async for piece in stream:
            back += piece
    return bytes(back)


async def test_connections_are_carried_whole_side_by_side_and_counted(tmp_path):
    async with Echo().running() as echo, two_nodes(tmp_path, echo.port) as (near, far):
        forward = await forwarded(near, far, echo.port)
        data = [os.urandom(size) for size in (0, 1, 3_000_000, 70_000)]
        back = {}

        async def one(number):
            back[number] = await said_back(forward.listen_port, data[number])

        async with anyio.create_task_group() as tasks:
            for number in range(len(data)):
                tasks.start_soon(one, number)
        assert [back[number] for number in range(len(data))] == data
        assert echo.connections == len(data)
        total = sum(map(len, data))
        await until(lambda: not far.system.cell(PATH).actor._taken)
        (seen,) = (await described(near)).forwards
        assert (seen.connections_total, seen.failed, seen.connections) == (len(data), 0, 0)
        assert (seen.sent_bytes, seen.received_bytes) == (total, total)


async def test_a_port_that_is_not_allowed_is_refused_in_words_and_nobody_is_connected(tmp_path):
    async with Echo().running() as echo, two_nodes(tmp_path) as (near, far):
        forward = await forwarded(near, far, echo.port)
        async with await anyio.connect_tcp("127.0.0.1", forward.listen_port) as stream:
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await stream.receive()
        await until(lambda: near.system.cell(PATH).actor._forwards[forward.number].failure)
        (seen,) = (await described(near)).forwards
        assert f"set forward.allow = [{echo.port}] in its config" in seen.failure
        assert echo.connections == 0
        assert (await described(far)).refused == 1


async def test_a_port_at_which_nobody_listens_is_said_to_be_so(tmp_path):
    async with two_nodes(tmp_path, 1) as (near, far):
        forward = await forwarded(near, far, 1)
        async with await anyio.connect_tcp("127.0.0.1", forward.listen_port) as stream:
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await stream.receive()
        await until(lambda: near.system.cell(PATH).actor._forwards[forward.number].failure)
        (seen,) = (await described(near)).forwards
        assert "nobody takes connections at port 1 there" in seen.failure


async def test_a_port_of_this_very_node_is_forwarded_too_without_being_allowed(tmp_path):
    async with Echo().running() as echo, two_nodes(tmp_path) as (near, _):
        forward = await ask(near, OpenForward(near.id, "n0", echo.port, "127.0.0.1", 0, 60.0))
        assert await said_back(forward.listen_port, b"to myself") == b"to myself"


async def test_a_forward_ends_when_nobody_renews_it_or_when_it_is_ended_and_its_connections_with_it(tmp_path):
    async with Echo().running() as echo, two_nodes(tmp_path, echo.port) as (near, far):
        short, long = await forwarded(near, far, echo.port, 1.0), await forwarded(near, far, echo.port)
        await ask(near, RenewForward(short.number, 1.0))
        async with await anyio.connect_tcp("127.0.0.1", long.listen_port) as stream:
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            await until(lambda: short.number not in near.system.cell(PATH).actor._forwards)
            with pytest.raises(AskDeclined, match="there is no forward"):
                await ask(near, RenewForward(short.number, 1.0))
            await ask(near, CloseForward(long.number))
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await stream.receive()
        with pytest.raises(OSError, match="connect"):
            await anyio.connect_tcp("127.0.0.1", long.listen_port)


async def test_a_connection_that_is_reset_costs_the_others_nothing(tmp_path):
    """Whoever serves closes with bytes unread, as iperf3 does at the end of a test."""
    async with Echo().running() as echo, two_nodes(tmp_path, echo.port) as (near, far):
        forward = await forwarded(near, far, echo.port)
        async with await anyio.connect_tcp("127.0.0.1", forward.listen_port) as other:
            for rude in range(3):
                stream = await anyio.connect_tcp("127.0.0.1", forward.listen_port)
                await stream.send(bytes(200_000))
                abort_on_close(stream)
                await anyio.aclose_forcefully(stream)
                await until(lambda rude=rude: near.system.cell(PATH).actor._forwards[1].failed == rude + 1)
            await other.send(b"still here")
            assert await other.receive() == b"still here"
        await until(lambda: not far.system.cell(PATH).actor._taken)


async def test_a_port_that_is_taken_here_is_refused_in_words(tmp_path):
    async with Echo().running() as echo, two_nodes(tmp_path, echo.port) as (near, far):
        with pytest.raises(AskDeclined, match=f"cannot listen at 127.0.0.1 port {echo.port}: .*in use"):
            await ask(near, OpenForward(far.id, "n1", echo.port, "127.0.0.1", echo.port, 60.0))
        with pytest.raises(AskDeclined, match="cannot listen at nowhere"):
            await ask(near, OpenForward(far.id, "n1", echo.port, "nowhere.invalid", 0, 60.0))

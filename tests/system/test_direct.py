"""Direct connections: who comes in, who does not, and how long a port waits."""

import anyio
import pytest
from waiting import until

from atoll.actors.tunnel_relay import direct
from atoll.actors.tunnel_relay.direct import CALLERS_MAX, TICKET_BYTES, DirectOffer
from atoll.transport.bearer import BearerRefused, dial_bearer
from atoll.transport.errors import Unreachable

pytestmark = pytest.mark.anyio
HOST = "127.0.0.1"


class Waiting:
    """An offer that waits, and what came of it."""

    def __init__(self, offer):
        self.offer, self.stream, self.over = offer, None, anyio.Event()

    async def run(self, within_s):
        self.stream = await self.offer.wait(within_s)
        self.over.set()


async def test_who_shows_the_ticket_gets_a_byte_pipe_and_the_port_is_closed():
    waiting = Waiting(await DirectOffer.open(HOST))
    async with anyio.create_task_group() as group:
        group.start_soon(waiting.run, 20)
        caller = await dial_bearer(HOST, waiting.offer.port, waiting.offer.ticket, timeout_s=20)
        await waiting.over.wait()
        await caller.send(b"question")
        assert await waiting.stream.receive() == b"question"
        with pytest.raises(OSError, match=r"All connection|refused|attempts"):
            await anyio.connect_tcp(HOST, waiting.offer.port)
        await caller.aclose()
        await waiting.stream.aclose()


async def test_a_wrong_ticket_and_garbage_are_refused_and_the_right_one_still_comes_in():
    waiting = Waiting(await DirectOffer.open(HOST))
    async with anyio.create_task_group() as group:
        group.start_soon(waiting.run, 20)
        for ticket in (bytes(TICKET_BYTES), b"x", bytes(255)):
            with pytest.raises(BearerRefused, match="not the ticket"):
                await dial_bearer(HOST, waiting.offer.port, ticket, timeout_s=20)
        async with await anyio.connect_tcp(HOST, waiting.offer.port) as garbage:
            await garbage.send(b"GET / HTTP/1.1\r\n\r\n")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await garbage.receive()
        caller = await dial_bearer(HOST, waiting.offer.port, waiting.offer.ticket, timeout_s=20)
        await waiting.over.wait()
        assert waiting.stream is not None
        await caller.aclose()
        await waiting.stream.aclose()


async def test_nobody_is_waited_for_beyond_the_time(monkeypatch):
    waiting = Waiting(await DirectOffer.open(HOST))
    await waiting.run(0.05)
    assert waiting.stream is None
    with pytest.raises(Unreachable):
        await dial_bearer(HOST, waiting.offer.port, waiting.offer.ticket, timeout_s=5)
    monkeypatch.setattr(direct, "PREAMBLE_S", 0.05)
    waiting = Waiting(await DirectOffer.open(HOST))
    async with anyio.create_task_group() as group:
        group.start_soon(waiting.run, 20)
        async with await anyio.connect_tcp(HOST, waiting.offer.port) as silent:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await silent.receive()
        group.cancel_scope.cancel()


async def test_who_says_nothing_takes_a_bounded_number_of_places():
    waiting = Waiting(await DirectOffer.open(HOST))
    async with anyio.create_task_group() as group:
        group.start_soon(waiting.run, 20)
        silent = [await anyio.connect_tcp(HOST, waiting.offer.port) for _ in range(CALLERS_MAX)]
        await until(lambda: waiting.offer._callers == CALLERS_MAX)
        async with await anyio.connect_tcp(HOST, waiting.offer.port) as another:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await another.receive()
        for each in silent:
            await each.aclose()
        await until(lambda: not waiting.offer._callers)
        group.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "not a host at all"])
async def test_an_address_that_is_not_ours_is_refused_in_words(host):
    with pytest.raises(Unreachable, match="this node cannot listen on"):
        await DirectOffer.open(host)

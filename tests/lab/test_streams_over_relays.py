"""A stream through two real relays, one of which dies or freezes in the midst of it: byte by byte the same."""

import os
import signal

import anyio
import pytest
from stream_shell import Bearer, StreamEnd
from waiting import until

from atoll.actors.tunnel_relay.tickets import Role
from atoll.bench.relay_process import HOST, RelayProcess, ticket
from atoll.transport.bearer import dial_bearer

DATA = os.urandom(1 << 20) * 24
pytestmark = pytest.mark.anyio


@pytest.fixture
def relays():
    both = [RelayProcess(), RelayProcess()]
    yield both
    for each in both:
        each.close()


async def tunnel(relay):
    """Both halves of a tunnel through a relay."""
    subject, halves = os.urandom(16), {}

    async def dial(role):
        halves[role] = await dial_bearer(HOST, relay.port, ticket(role, subject))

    async with anyio.create_task_group() as tasks:
        for role in (Role.OFFER, Role.CALL):
            tasks.start_soon(dial, role)
    return halves[Role.OFFER], halves[Role.CALL]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_stream_outlives_the_relay_in_use(relays, how):
    async with anyio.create_task_group() as tasks:
        caller, callee = StreamEnd(tasks, initiator=True), StreamEnd(tasks, initiator=False)
        for number, relay in enumerate(relays):
            here, there = await tunnel(relay)
            callee.take(Bearer(there, f"relay-{number}"))
            caller.add(here, f"relay-{number}")
        await until(lambda: caller.machine.paths.current is not None and callee.machine.paths.current is not None)
        stream = caller.machine.streams.open("echo")
        tasks.start_soon(caller.write_all, stream, DATA)
        opened = await callee.opened()
        tasks.start_soon(callee.write_all, opened.stream, b"all of it")
        heard = bytearray()
        struck = False
        while piece := await callee.read_some(stream):
            heard += piece
            if len(heard) > len(DATA) // 4 and not struck:
                struck = True
                os.kill(relays[caller.machine.paths.current // 2].pid, how)
        assert heard == DATA
        assert b"".join([piece async for piece in pieces(caller, stream)]) == b"all of it"
        assert struck
        assert caller.moves[-1].reason == caller.machine.paths.reason
        assert "because" in caller.machine.paths.reason
        tasks.cancel_scope.cancel()


async def pieces(end, stream):
    while piece := await end.read_some(stream):
        yield piece

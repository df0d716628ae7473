"""A descriptor that is looked after: no byte is missed, errors arrive, and nothing is called after the end."""

import socket

import anyio
import anyio.lowlevel
import pytest
from waiting import until

from atoll.transport.readiness import keep_looking

pytestmark = pytest.mark.anyio


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def taking(sock, size, into):
    def look():
        try:
            into.append(sock.recv(size))
        except BlockingIOError:
            return False
        return True

    return look


async def test_what_is_there_and_what_comes_later_is_taken_turn_by_turn(pair):
    ours, theirs = pair
    got = []
    theirs.sendall(b"before")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_looking, ours.fileno(), taking(ours, 2, got))
        await until(lambda: b"".join(got) == b"before")
        for number in range(100):
            theirs.sendall(b"%02d" % number)
            await until(lambda number=number: len(got) == 4 + number)
        tasks.cancel_scope.cancel()
    assert got[3:] == [b"%02d" % number for number in range(100)]


async def test_nobody_looks_any_more_after_the_end(pair):
    ours, theirs = pair
    looks = []

    def look():
        looks.append(theirs)
        return False

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_looking, ours.fileno(), look)
        await until(lambda: looks)
        # It stays readable, because this look takes nothing: the end must be found all the same.
        theirs.sendall(b"x")
        await until(lambda: len(looks) > 3)
        tasks.cancel_scope.cancel()
    before = len(looks)
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert len(looks) == before


async def test_what_a_look_raises_ends_it(pair):
    ours, theirs = pair

    looked = []

    def look():
        looked.append(1)
        if len(looked) == 2:
            raise ZeroDivisionError
        return False

    theirs.sendall(b"x")
    with pytest.raises(ZeroDivisionError):
        await keep_looking(ours.fileno(), look)
    assert len(looked) == 2


async def test_others_have_their_turn_while_there_is_always_more(pair):
    ours, _ = pair
    turns = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_looking, ours.fileno(), lambda: turns.append(1) or True)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert len(turns) > 5

"""Carries out one attempt (`punching.py`) over real sockets: dials, listens, reads proofs, and gives what it found."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import socket

import anyio
import anyio.abc

from atoll.actors.tunnel_relay.punching import Dial, Drop, Fail, Punch, PunchEffect, Say, Use
from atoll.transport.errors import Unreachable
from atoll.transport.simultaneous_open import PunchPort, receive
from atoll.transport.tcp_address import TcpAddress


async def knock(port: PunchPort, punch: Punch, clock: Callable[[], float]) -> socket:
    """Do what the attempt says until it is over; gives the connection, whose next byte is the session's.

    Raises:
        Unreachable: It failed; the text is the reason.
    """
    knocking = _Knocking(port, punch, clock)
    try:
        async with anyio.create_task_group() as tasks:
            knocking.begin(tasks)
            await knocking.keep_time()
            tasks.cancel_scope.cancel()
    except BaseException:
        if knocking.found is not None:
            # Given up in the moment in which it was found: nobody gets it.
            knocking.found.close()
        raise
    finally:
        knocking.close()
    if knocking.found is None:
        raise Unreachable(knocking.failure)
    return knocking.found


class _Knocking:
    def __init__(self, port: PunchPort, punch: Punch, clock: Callable[[], float]) -> None:
        self.found: socket | None = None
        self.failure = "the attempt was given up"
        self._port, self._punch, self._clock = port, punch, clock
        self._sockets: dict[int, socket] = {}
        self._numbered = 0
        self._changed = anyio.Event()
        self._tasks: anyio.abc.TaskGroup

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        tasks.start_soon(self._take_who_come)
        self._do(self._punch.start())

    async def keep_time(self) -> None:
        """Return when the attempt is over."""
        while (deadline := self._punch.deadline) is not None:
            self._changed = anyio.Event()
            with anyio.move_on_after(max(0.0, deadline - self._clock())):
                await self._changed.wait()
            self._do(self._punch.tick(self._clock()))

    def close(self) -> None:
        """Close everything but what was found."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def _do(self, effects: Sequence[PunchEffect]) -> None:
        for effect in effects:
            match effect:
                case Dial(address):
                    self._tasks.start_soon(self._dial, address)
                case Say(connection, data):
                    # A few bytes, which an empty buffer takes; where it does not, the reader sees the end.
                    with suppress(OSError):
                        self._sockets[connection].send(data)
                case Drop(connection):
                    self._sockets.pop(connection).close()
                case Use(connection):
                    self.found = self._sockets.pop(connection)
                case Fail(reason):
                    self.failure = reason
        self._changed.set()

    async def _dial(self, address: TcpAddress) -> None:
        try:
            sock = await self._port.connect(address)
        except Unreachable:
            self._do(self._punch.refused(address, self._clock()))
            return
        await self._read(sock, dialled=True)

    async def _take_who_come(self) -> None:
        while True:
            self._tasks.start_soon(self._read_who_came, await self._port.came())

    async def _read_who_came(self, sock: socket) -> None:
        await self._read(sock, dialled=False)

    async def _read(self, sock: socket, *, dialled: bool) -> None:
        """Take a connection, and tell what comes over it as long as that is wanted."""
        self._numbered += 1
        number = self._numbered
        self._sockets[number] = sock
        self._do(self._punch.connected(number, dialled=dialled))
        while wanted := self._punch.bytes_wanted(number):
            try:
                data = await receive(sock, wanted)
            except OSError:
                data = b""
            self._do(self._punch.heard(number, data))

"""How a dial goes: addresses of the host one after another, a connection to each, until one has become a link.

    resolving --addresses--> connecting --greeted--> (the table decides) --> up or ended
    connecting --nobody, another key, no time--> the next address;  none left--> the dial has failed
    joined    --TCP answers--> waits its turn; takes it at once from a first address that has not proved its key

Addresses that join a dial are asked side by side, by a bare TCP connection that is closed again, whether anybody is
there: so dead ones cost no time, and a node gets one greeting, not one on each of its addresses at once.

Names are looked up here, because libzmq would do it in the thread that carries every link. A peer that has proved the
right key and refused is not asked again at another address. Nothing here decides which connection becomes the link.
"""

import ipaddress
import time
from collections import deque
from typing import Protocol

import anyio
import anyio.abc
import anyio.lowlevel
import zmq

from atoll.transport.connection import Connection, Dial, Stage
from atoll.transport.errors import Unreachable
from atoll.transport.keys import NodeKey
from atoll.transport.link_table import CONNECT_TRIES, GREETING_TRIES, LinkTable
from atoll.transport.zmq_dealer import Dealer
from atoll.transport.zmq_socket import LINGER_MS, SocketLimits, endpoint

ADDRESSES_MAX = 4
"""How many addresses of a name are tried."""


class Ends(Protocol):
    """Who carries the frames of the connections made here."""

    def transmit(self, connection: Connection, frame: bytes) -> bool:
        """Send one frame without waiting."""
        ...

    def drain(self, source: Connection | None) -> bool:
        """Take what has come; True when there may be more."""
        ...

    async def tend(self, connection: Connection, descriptor: int) -> None:
        """Carry frames until cancelled."""
        ...


class _Race:
    """The addresses of one dial that joined it: which are being asked, and which have answered."""

    def __init__(self, dial: Dial) -> None:
        self.dial = dial
        self.asked = 1
        """Of the dial's places; the first is dialled without a question."""
        self.asking = 0
        self.first_answer = anyio.Event()
        self._answering: deque[tuple[str, int]] = deque()
        self._changed = anyio.Event()

    def answered(self, place: tuple[str, int] | None) -> None:
        """Note what became of a question; None for no answer."""
        self.asking -= 1
        if place is not None:
            self._answering.append(place)
            self.first_answer.set()
        self._changed.set()

    async def next(self) -> tuple[str, int] | None:
        """Wait for the next address that answers; None when none will."""
        while not self._answering:
            if not self.asking and self.asked == len(self.dial.places):
                return None
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._answering.popleft()


class Dialling:
    """Pursues dials, each in a task of its own."""

    def __init__(
        self,
        key: NodeKey,
        context: "zmq.Context[zmq.Socket[bytes]]",
        limits: SocketLimits,
        table: LinkTable,
        ends: Ends,
        *,
        handshake_s: float,
    ) -> None:
        self.flooding_cut = 0
        self._key, self._context, self._limits = key, context, limits
        self._table, self._ends, self._handshake_s = table, ends, handshake_s

    async def pursue(self, dial: Dial) -> None:
        """Try what there is; the table hears when all of it has come to nothing."""
        reason: str | None = f"no address is known for {dial.host}"
        with dial.scope:
            async with anyio.create_task_group() as group:
                race = _Race(dial)
                group.start_soon(self._ask_joining, race, group)
                reason = await self._try_in_turn(race)
                group.cancel_scope.cancel()
        if reason is not None:
            self._table.dial_ended(dial, reason)

    async def _try_in_turn(self, race: "_Race") -> str | None:
        """Give why nothing came of it; None for a link that was up."""
        dial = race.dial
        place: tuple[str, int] | None = dial.places[0]
        reason = ""
        while place is not None:
            dial.host, dial.port = place
            reason = f"no address is known for {dial.host}"
            try:
                addresses = await self._resolve(*place)
            except (OSError, UnicodeError, TimeoutError) as error:
                addresses, reason = [], f"{dial.host} has no address that can be found: {error}"
            for address in addresses:
                try:
                    connection = await self._attempt(dial, address, race if place == dial.places[0] else None)
                except Unreachable as error:
                    reason = str(error)
                    continue
                if connection.was_up:
                    return None
                reason = connection.reason
                if connection.dealer is not None and connection.dealer.proved:
                    return reason
            place = await race.next()
        return reason

    async def _ask_joining(self, race: "_Race", group: anyio.abc.TaskGroup) -> None:
        dial = race.dial
        while True:
            while race.asked < len(dial.places):
                place = dial.places[race.asked]
                race.asked += 1
                race.asking += 1
                group.start_soon(self._ask, race, place)
            await dial.joined.wait()
            dial.joined = anyio.Event()

    async def _ask(self, race: "_Race", place: tuple[str, int]) -> None:
        """See whether anybody takes connections there."""
        try:
            with anyio.fail_after(CONNECT_TRIES * self._handshake_s):
                stream = await anyio.connect_tcp(*place)
                await stream.aclose()
        except (OSError, ValueError, TimeoutError):
            race.answered(None)
        else:
            race.answered(place)

    async def _resolve(self, host: str, port: int) -> list[str]:
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            with anyio.fail_after(CONNECT_TRIES * self._handshake_s):
                found = await anyio.getaddrinfo(host, port)
            return list(dict.fromkeys(str(each[4][0]) for each in found))[:ADDRESSES_MAX]
        return [host]

    async def _attempt(self, dial: Dial, address: str, race: "_Race | None") -> Connection:
        """Open a connection and carry it until it has ended, as a link or before, or has lost the race."""
        hello = self._table.introduce(dial.peer)
        deadline = time.monotonic() + CONNECT_TRIES * self._handshake_s
        connection = Connection(Stage.DIALLING, host=address, deadline=deadline)
        connection.peer = dial.peer
        dealer = connection.dealer = Dealer(
            self._context, self._key, dial.peer, endpoint(address, dial.port), self._limits
        )
        try:
            dial.connection = connection
            frames, watched = dealer.descriptors
            self._ends.transmit(connection, hello)
            with connection.scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._watch, connection, dealer, watched)
                    if race is not None:
                        group.start_soon(self._give_way, connection, dealer, race)
                    await self._ends.tend(connection, frames)
        finally:
            connection.stage = Stage.ENDED
            # Who has not proved its key cannot be told anything.
            dealer.close(LINGER_MS if dealer.proved else 0)
        return connection

    async def _give_way(self, connection: Connection, dealer: Dealer, race: "_Race") -> None:
        """End a connection that nobody has answered when there is an answer elsewhere."""
        await race.first_answer.wait()
        if connection.stage is Stage.DIALLING and not dealer.proved:
            self._table.end(connection, "another address answered sooner")

    async def _watch(self, connection: Connection, dealer: Dealer, descriptor: int) -> None:
        while not dealer.watch():
            if dealer.proved and connection.stage is Stage.DIALLING:
                connection.deadline = time.monotonic() + GREETING_TRIES * self._handshake_s
            await anyio.wait_readable(descriptor)
        # What the other end said before it went is heard first.
        while self._ends.drain(connection):
            await anyio.lowlevel.checkpoint()
        up = connection.stage is Stage.UP
        self._table.end(connection, "the connection was lost or silent for too long" if up else dealer.verdict())

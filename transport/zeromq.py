"""Links over ZeroMQ: one connection per link, greeted from both ends, dialled by either.

    receive   router or dealer --frames--> LinkTable --events--> Inbox --> the reader, whose progress is lent again
    send      Backlog of the link --frames--> router or dealer, while there is credit and room in libzmq; in the
              next turn of the event loop, or at once to whom the last turn had one message only

Which connection becomes a link is decided in `link_table.py`; this file moves frames between libzmq, the table and
the reader. It reads always: a socket that is left alone until its queue is full is one that peers can abort this
process by (docs/decisions/0013). What peers may have here is bounded by credit (`credit.py`), whether they live is
found out by `pulse.py`, and what libzmq holds is measured.

Nothing here may wait for a peer. The edge-triggered rule of `zmq_socket.py` explains the looking again after sends.
"""

import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import anyio.to_thread

from atoll.transport.arrivals import Gone
from atoll.transport.base import QUEUE_BYTES_MAX, SILENCE_S, Admission, LinkEvent
from atoll.transport.connection import Connection, Dial, Stage
from atoll.transport.dialling import Dialling
from atoll.transport.envelope import Envelope, encode_envelope
from atoll.transport.errors import Congested, Unreachable, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.inbox import Inbox
from atoll.transport.keys import NodeKey
from atoll.transport.link_frames import (
    BACKLOG_BYTES_MAX,
    FRAME_BYTES_MAX,
    LABEL_CHARACTERS_MAX,
    SILENCE_MS_MAX,
    SILENCE_MS_MIN,
    alive_frame,
    credit_frame,
)
from atoll.transport.link_table import LinkTable
from atoll.transport.naps import beat
from atoll.transport.pulse import Pulse
from atoll.transport.readiness import keep_looking
from atoll.transport.runs import may_join
from atoll.transport.tcp_connection import UNREAD_SLACK_BYTES
from atoll.transport.turns import NextTurn
from atoll.transport.zmq_router import KeyedRouter
from atoll.transport.zmq_socket import SocketLimits

FRAME_LENGTH_MAX = 1024 * 1024
"""ZeroMQ's own limit for data; whoever sends more is disconnected before it is read."""
SEND_QUEUE_FRAMES = (QUEUE_BYTES_MAX - BACKLOG_BYTES_MAX) // FRAME_BYTES_MAX
SWEEP_S = 0.1
FLOOD_LOOK_S = 0.25
"""How often connections are measured; in between a peer can grow this node by what the network carries."""
FRAMES_PER_TURN_MAX = 256
HANDSHAKE_S_MAX = 60.0
CONNECTIONS_MAX = 4096
"""Those others may have open to a node; who comes later is cut. Well below the usual limits of descriptors."""
_LOST = "the connection was lost or silent for too long"


class ZeroMqTransport:
    """A node's links; `async with` binds `port` (0: any free one, then the real one) and closes everything at the end.

    `handshake_s` is 1 s on a LAN and 10 s towards relays and the cloud.

    Raises (from `async with`):
        UsageError: The port cannot be opened; says what to do.
    """

    def __init__(
        self,
        key: NodeKey,
        admission: Admission,
        *,
        label: str,
        host: str = "0.0.0.0",
        port: int = 0,
        handshake_s: float = 1.0,
        silence_s: float = SILENCE_S,
    ) -> None:
        if len(label) > LABEL_CHARACTERS_MAX or not label.isprintable():
            raise UsageError(f"a label has at most {LABEL_CHARACTERS_MAX} printable characters")
        if not (0.05 <= handshake_s <= HANDSHAKE_S_MAX and SILENCE_MS_MIN <= silence_s * 1000 <= SILENCE_MS_MAX):
            raise UsageError(
                f"handshake_s is 0.05 to {HANDSHAKE_S_MAX:.0f} and silence_s 0.3 to {SILENCE_MS_MAX // 1000} seconds,"
                f" not {handshake_s} and {silence_s}"
            )
        self.port = port
        self._key, self._host, self._handshake_s = key, host, handshake_s
        self._limits = SocketLimits(
            message_bytes_max=FRAME_LENGTH_MAX,
            send_frames=SEND_QUEUE_FRAMES,
            handshake_ms=int(handshake_s * 1000),
        )
        self._inbox = Inbox()
        self._table = LinkTable(
            key.node_id, admission, self, self._inbox, label=label, handshake_s=handshake_s, silence_s=silence_s
        )
        self._pulse = Pulse(silence_s, say=self._say_alive, lost=lambda link: self._table.end(link, _LOST))
        self._accepted: dict[bytes, Connection] = {}
        self._dialled: set[Connection] = set()
        self._next_turn = NextTurn(self._carry)
        self._due: list[Connection] = []
        self._blocked: set[Connection] = set()
        self._look: set[Connection | None] = set()
        """Sources (None: the router) to look at again: sending may have used up their descriptors' change."""

    async def __aenter__(self) -> Self:
        self._unrest = anyio.Event()
        self._router = KeyedRouter(
            self._key,
            self._host,
            self.port,
            self._limits,
            silent_s=2 * self._handshake_s,
            connections_max=CONNECTIONS_MAX,
        )
        self.port = self._router.port
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._dialling = Dialling(
            self._key, self._router.context, self._limits, self._table, self, handshake_s=self._handshake_s
        )
        frames, handshakes, watched = self._router.descriptors
        self._group.start_soon(keep_looking, frames, partial(self.drain, None))
        self._group.start_soon(self._repeat, self._router.admit, handshakes)
        self._group.start_soon(self._repeat, self._watch_router, watched)
        self._group.start_soon(self._next_turn.run)
        self._group.start_soon(self._sweep)
        self._group.start_soon(self._measure)
        self._group.start_soon(self._pulse.run, self._table.links.values)
        self._table.open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._table.close("the node closes its links")
        finally:
            self._inbox.close()
            self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        finally:
            self._router.close()
            with anyio.CancelScope(shield=True):
                # Waits for what lingers, a fixed moment at most.
                await anyio.to_thread.run_sync(self._router.context.term)

    def dial(self, peer: NodeId, host: str, port: int) -> None:
        """Begin to open a link; `host` may be a name, an IPv4 or an IPv6 address (`fe80::1%eth0` too)."""
        if not 0 < port < 65536:
            raise UsageError(f"{port} is no port; ports are 1 to 65535")
        self._table.dial(peer, host, port)

    def hang_up(self, peer: NodeId, reason: str) -> None:
        """Close the link to `peer`, or give up what would become one; the other end is told `reason`."""
        self._table.hang_up(peer, reason)

    def send(self, peer: NodeId, data: bytes) -> None:
        """Queue one message; raises what `Transport.send` says."""
        link = self._table.links.get(peer)
        if link is None:
            raise Unreachable(f"no link to {peer.short} is up")
        if len(data) > link.message_bytes_max:
            raise UsageError(
                f"a message to {peer.short} has at most {link.message_bytes_max} bytes, this one has {len(data)}"
            )
        try:
            link.backlog.put(data)
        except Congested:
            self._table.counts["congested"] += 1
            raise
        if not link.due:
            self._make_due(link)

    def send_envelope(self, peer: NodeId, envelope: Envelope) -> None:
        """Queue an envelope as one message, or in a run with those before it; raises what `send` does."""
        link = self._table.links.get(peer)
        if link is None or not link.reads_runs or not may_join(envelope):
            self.send(peer, encode_envelope(envelope))
            return
        try:
            link.backlog.put_envelope(envelope)
        except Congested:
            self._table.counts["congested"] += 1
            raise
        if not link.due:
            self._make_due(link)

    def _make_due(self, link: Connection) -> None:
        if link not in self._blocked:
            link.due = True
            self._due.append(link)
            self._next_turn.want()
            if link.alone:
                # Who asks one thing after the other waits for each. What follows in this turn shares a frame.
                self.flush(link)

    def receive(self) -> Coroutine[Any, Any, LinkEvent]:
        """Wait for the next event; one reader at a time.

        Raises:
            Unreachable: The transport is closed and everything was read.
        """
        return self._inbox.take()

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many links and connections there are now."""
        return {
            **self._table.counts,
            "links": len(self._table.links),
            "connections": self._router.connections + len(self._dialled),
            "silent_cut": self._router.silent_cut,
            "names_refused": self._router.refused,
            "handshakes_failed": self._router.handshakes_failed,
            "handshakes_malformed": self._router.handshakes_malformed,
            "flooding_cut": self._router.flooding_cut + self._dialling.flooding_cut,
        }

    def links_over(self, addresses: frozenset[str]) -> list[NodeId]:
        """Give the peers whose links end at one of these addresses of ours."""
        return [
            peer
            for peer, link in self._table.links.items()
            if (link.dealer.own_address if link.dealer else self._router.own_address_of(link.name)) in addresses
        ]

    # What comes from the sockets.

    async def _repeat(self, act: Callable[[], None], descriptor: int) -> None:
        while True:
            act()
            await anyio.wait_readable(descriptor)

    def _watch_router(self) -> None:
        self._router.watch()
        self._unrest.set()

    def drain(self, source: Connection | None) -> bool:
        """Take what has come from the router (None) or a dialled connection; True when there may be more."""
        for _ in range(FRAMES_PER_TURN_MAX):
            if not (self._take_accepted() if source is None else self._take_dialled(source)):
                # Room at a peer is told like a frame, and was told, if at all, before the receiving found nothing.
                if self._blocked and self._flush_blocked(source):
                    return True
                # What was sent meanwhile was sent before this look.
                self._look.discard(source)
                if source is None and self._router.pending:
                    self._unrest.set()
                return False
        return True

    def _flush_blocked(self, source: Connection | None) -> bool:
        """Go on with the peers of this source whose queues were full; True when anything could be sent."""
        sent = False
        for connection in [each for each in self._blocked if (each if each.dealer else None) is source]:
            before = connection.backlog.bytes
            self.flush(connection)
            sent = sent or connection.backlog.bytes != before
        return sent

    def _take_accepted(self) -> bool:
        if self._router.is_idle() or (event := self._router.receive_nowait()) is None:
            return False
        connection = self._accepted.get(event.connection)
        if isinstance(event, Gone):
            if self._accepted.pop(event.connection, None) is not None and connection is not None:
                self._table.end(connection, _LOST)
            return True
        if connection is None:
            deadline = time.monotonic() + self._handshake_s
            connection = Connection(Stage.AWAITED, host=self._router.host_of(event.connection), deadline=deadline)
            connection.name, connection.key = event.connection, event.key
            self._accepted[event.connection] = connection
        self._table.hear(connection, event.frame)
        return True

    def _take_dialled(self, connection: Connection) -> bool:
        if connection.stage is Stage.ENDED or connection.dealer is None:
            return False
        data = connection.dealer.receive_nowait()
        if data is not None:
            self._table.hear(connection, data)
        return data is not None

    # What the table wants done: `link_table.Wire`.

    def pursue(self, dial: Dial) -> None:
        """Begin with a dial."""
        self._group.start_soon(self._dialling.pursue, dial)

    def transmit(self, connection: Connection, frame: bytes) -> bool:
        """Hand one frame to libzmq; False when its queue is full or the connection gone."""
        source = connection if connection.dealer is not None else None
        connection.said = True
        self._look.add(source)
        self._next_turn.want()
        if connection.dealer is not None:
            return connection.dealer.try_send(frame)
        try:
            return self._router.try_send(connection.name, frame)
        except Unreachable:
            # Its end is told by the router.
            self._unrest.set()
            return False

    def flush(self, connection: Connection) -> None:
        """Hand over what waits for the peer, as far as its credit and libzmq take it."""
        self._blocked.discard(connection)
        if connection.stage is not Stage.UP:
            return
        connection.grant.settle()
        backlog, counts = connection.backlog, self._table.counts
        while (frame := backlog.frame()) is not None and backlog.frame_cost <= connection.credit:
            if not self.transmit(connection, frame):
                self._block(connection)
                return
            connection.credit -= backlog.frame_cost
            counts["messages_sent"] += backlog.frame_messages
            counts["bytes_sent"] += backlog.frame_bytes
            backlog.sent()

    def _block(self, connection: Connection) -> None:
        self._blocked.add(connection)
        self._unrest.set()

    def expect(self, connection: Connection) -> None:
        """Let libzmq hold what the peer has credit for."""
        unread_bytes_max = connection.grant.window + UNREAD_SLACK_BYTES
        if connection.dealer is not None:
            connection.dealer.allow(unread_bytes_max)
        else:
            self._router.allow(connection.name, unread_bytes_max)

    def lend(self, connection: Connection, amount: int) -> bool:
        """Tell the peer of more credit; when libzmq has no room for that either, `flush` tries again."""
        if connection.stage is not Stage.UP:
            return False
        told = self.transmit(connection, credit_frame(amount))
        if not told:
            self._block(connection)
        return told

    def _say_alive(self, connection: Connection) -> None:
        # What is in its way proves as much.
        self.transmit(connection, alive_frame())

    def close(self, connection: Connection) -> None:
        """Close it after what was sent."""
        self._blocked.discard(connection)
        if connection.dealer is not None:
            connection.scope.cancel()
        else:
            self._accepted.pop(connection.name, None)
            self._router.cut(connection.name)
            self._unrest.set()

    # What `dialling.py` wants done: `dialling.Ends`.

    async def tend(self, connection: Connection, descriptor: int) -> None:
        """Carry a dialled connection until its scope is cancelled."""
        self._dialled.add(connection)
        self._unrest.set()
        try:
            await keep_looking(descriptor, partial(self.drain, connection))
        finally:
            self._dialled.discard(connection)
            self._look.discard(connection)

    # What goes on by itself.

    def _carry(self) -> bool:
        """Send what is due: one turn of the event loop later, so that messages of one turn share a frame."""
        while self._due or self._look:
            due, self._due = self._due, []
            for connection in due:
                connection.due = False
                waiting = connection.backlog.count
                # If the first went at once, one that waits is the second.
                connection.alone = not waiting if connection.alone else waiting == 1
                self.flush(connection)
            if self._look and self.drain(source := self._look.pop()):
                self._look.add(source)
                return True
        return False

    async def _sweep(self) -> None:
        while True:
            await self._unrest.wait()
            self._unrest = anyio.Event()
            await anyio.sleep(SWEEP_S)
            self._router.sweep()
            # A blocked peer is looked after here too: its room may have been told while nobody was looking.
            self._look |= {None} | {each for each in self._blocked if each.dealer is not None}
            self._next_turn.want()
            now = time.monotonic()
            waiting = [
                each for each in (*self._accepted.values(), *self._dialled) if each.stage not in {Stage.UP, Stage.ENDED}
            ]
            for connection in waiting:
                if connection.deadline <= now:
                    dealer = connection.dealer
                    reason = "the greeting was not completed in time" if dealer is None else dealer.verdict()
                    self._table.end(connection, reason, tell="the greeting took too long")
            if waiting or self._blocked or self._router.pending:
                self._unrest.set()

    async def _measure(self) -> None:
        """Cut those who make libzmq hold more than they have credit for."""
        reason = "the other end sent more than it had credit for, or what is no whole frame"
        while True:
            await beat(FLOOD_LOOK_S)
            for name in self._router.cut_flooding():
                if (connection := self._accepted.get(name)) is not None:
                    self._table.end(connection, reason)
            for connection in list(self._dialled):
                if connection.dealer is not None and connection.dealer.cut_flooding():
                    self._dialling.flooding_cut += 1
                    self._table.end(connection, reason)

"""Links over ZeroMQ: one connection per link, greeted from both ends, dialled by either.

    ours     dialling --their HELLO--> (held) --READY--> up --BYE, silence, loss--> ended
    theirs   awaited  --their HELLO--> (held) --our HELLO--> answered --their READY--> up --...--> ended

When two nodes dial each other at once, the link dialled by the lower NodeId wins, and only that one ever comes up:
while the lower's own dial is under way it holds the other's greeting back; the higher does not complete its own while
it has answered the lower's. So a link never moves between connections, and messages keep their order. A later complete
greeting of the same key replaces a link, because the peer has restarted or has seen it die.

Nothing here may wait for a peer, believe an id that is not its key's, or log a credential.
"""

import enum
import ipaddress
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from atoll.transport.base import (
    MESSAGE_BYTES_MAX,
    QUEUE_BYTES_MAX,
    Admission,
    Delivered,
    DialFailed,
    LinkDown,
    LinkEvent,
    LinkUp,
    Standing,
)
from atoll.transport.errors import Congested, MalformedFrame, Refused, Unreachable, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.link_frames import (
    BACKLOG_BYTES_MAX,
    BOOT_ID_BYTES,
    CREDENTIAL_BYTES_MAX,
    FRAME_BYTES_MAX,
    LABEL_CHARACTERS_MAX,
    VERSION,
    Assembly,
    Backlog,
    FrameKind,
    Hello,
    bye_frame,
    hello_frame,
    kind_of,
    read_bye,
    read_hello,
    read_ready,
    ready_frame,
)
from atoll.transport.zmq_socket import Dealer, Gone, KeyedRouter, SocketLimits, endpoint

FRAME_LENGTH_MAX = 1024 * 1024
"""ZeroMQ's own limit for data; whoever sends more is disconnected before it is read."""
SEND_QUEUE_FRAMES = (QUEUE_BYTES_MAX - BACKLOG_BYTES_MAX) // FRAME_BYTES_MAX
RECEIVE_QUEUE_FRAMES = 16
"""At most 4 MiB of honest frames per peer wait in libzmq; the rest waits at the sender."""
INBOX_BYTES_MAX = 8 * 1024 * 1024
"""What was received and not yet asked for; beyond it nothing is taken from libzmq, and peers feel it."""
EVENT_BYTES = 128
"""What an event costs beside its data."""
CONNECT_TRIES = 2.0
"""A dial's time for TCP and CURVE, in handshake times."""
GREETING_TRIES = 4.0
"""Its time for the greeting: the other end may first wait for its own dial to come to nothing."""
ADDRESSES_MAX = 4
"""How many addresses of a name are tried."""
DIALS_MAX = 256
SWEEP_S = 0.1
FRAMES_PER_TURN_MAX = 256
EVENTS_PER_TURN_MAX = 256
"""After as many events the reader gives the event loop its turn, though more are there."""


class _Stage(enum.Enum):
    AWAITED = "awaited"
    DIALLING = "dialling"
    HELD = "held"
    ANSWERED = "answered"
    UP = "up"
    ENDED = "ended"


class _Connection:
    """One connection and how far its greeting is; `dealer` where we dialled, `name` where they did."""

    __slots__ = (
        "assembly",
        "backlog",
        "deadline",
        "dealer",
        "due",
        "host",
        "key",
        "label",
        "name",
        "peer",
        "reason",
        "scope",
        "stage",
        "standing",
        "was_up",
    )

    def __init__(self, stage: _Stage, *, host: str, deadline: float) -> None:
        self.stage, self.host, self.deadline = stage, host, deadline
        self.peer: NodeId | None = None
        self.dealer: Dealer | None = None
        self.name = self.key = b""
        self.standing, self.label = Standing.NEIGHBOUR, ""
        self.backlog, self.assembly = Backlog(), Assembly()
        self.scope = anyio.CancelScope()
        self.due = self.was_up = False
        self.reason = ""


class _Dial:
    __slots__ = ("connection", "host", "peer", "port", "scope")

    def __init__(self, peer: NodeId, host: str, port: int) -> None:
        self.peer, self.host, self.port = peer, host, port
        self.connection: _Connection | None = None
        self.scope = anyio.CancelScope()


class ZeroMqTransport:
    """A node's links; `async with` binds `port` (0: any free one, then the real one) and closes everything at the end.

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
    ) -> None:
        if len(label) > LABEL_CHARACTERS_MAX or not label.isprintable():
            raise UsageError(f"a label has at most {LABEL_CHARACTERS_MAX} printable characters")
        self.port = port
        self._key, self._own, self._admission, self._label, self._host = key, key.node_id, admission, label, host
        self._handshake_s = handshake_s
        self._limits = SocketLimits(
            message_bytes_max=FRAME_LENGTH_MAX,
            send_frames=SEND_QUEUE_FRAMES,
            receive_frames=RECEIVE_QUEUE_FRAMES,
            handshake_ms=int(handshake_s * 1000),
        )
        self._boot = os.urandom(BOOT_ID_BYTES)
        self._links: dict[NodeId, _Connection] = {}
        self._dials: dict[NodeId, _Dial] = {}
        self._accepted: dict[bytes, _Connection] = {}
        self._theirs: dict[NodeId, _Connection] = {}
        """The newest connection of each peer's that is held or answered."""
        self._wanted: dict[NodeId, tuple[str, int]] = {}
        """Dials that wait for what becomes of the peer's own."""
        self._dialled: set[_Connection] = set()
        self._inbox: deque[LinkEvent] = deque()
        self._inbox_bytes = 0
        self._stalled: set[_Connection | None] = set()
        """Sources (None: the router) that were left alone because the inbox is full."""
        self._due: list[_Connection] = []
        self._blocked: set[_Connection] = set()
        self._look: set[_Connection | None] = set()
        """Sources to look at again: sending may have used up their descriptors' change."""
        self._counts: Counter[str] = Counter()
        self._closed = False

    async def __aenter__(self) -> Self:
        self._arrived, self._work, self._unrest = anyio.Event(), anyio.Event(), anyio.Event()
        self._router = KeyedRouter(self._key, self._host, self.port, self._limits, silent_s=2 * self._handshake_s)
        self.port = self._router.port
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        frames, handshakes, watched = self._router.descriptors
        self._group.start_soon(self._tend_router, frames)
        self._group.start_soon(self._repeat, self._router.admit, handshakes)
        self._group.start_soon(self._repeat, self._watch_router, watched)
        self._group.start_soon(self._carry)
        self._group.start_soon(self._sweep)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in list(self._links):
            self.hang_up(peer, "the node closes its links")
        self._closed = True
        self._arrived.set()
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
        if peer in self._links or peer in self._dials or peer in self._wanted:
            return
        if peer in self._theirs:
            self._wanted[peer] = (host, port)
            return
        if peer == self._own or len(self._dials) >= DIALS_MAX:
            why = "this is the node itself" if peer == self._own else f"{DIALS_MAX} dials are under way already"
            self._put(DialFailed(peer, why))
            return
        self._counts["dials"] += 1
        dial = self._dials[peer] = _Dial(peer, host, port)
        self._group.start_soon(self._pursue, dial)

    def hang_up(self, peer: NodeId, reason: str) -> None:
        """Close the link to `peer`, or give up what would become one; the other end is told `reason`."""
        if (dial := self._dials.pop(peer, None)) is not None:
            self._abandon(dial, reason)
            self._put(DialFailed(peer, reason))
        elif self._wanted.pop(peer, None) is not None:
            self._put(DialFailed(peer, reason))
        for connection in (self._links.get(peer), self._theirs.get(peer)):
            if connection is not None:
                self._flush(connection)
                self._end(connection, reason, tell=reason)

    def send(self, peer: NodeId, data: bytes) -> None:
        """Queue one message; raises what `Transport.send` says."""
        link = self._links.get(peer)
        if link is None:
            raise Unreachable(f"no link to {peer.short} is up")
        if len(data) > MESSAGE_BYTES_MAX:
            raise UsageError(f"a message has at most {MESSAGE_BYTES_MAX} bytes, this one has {len(data)}")
        try:
            link.backlog.put(data)
        except Congested:
            self._counts["congested"] += 1
            raise
        self._counts["messages_sent"] += 1
        self._counts["bytes_sent"] += len(data)
        if not link.due and link not in self._blocked:
            link.due = True
            self._due.append(link)
            self._work.set()

    async def receive(self) -> LinkEvent:
        """Wait for the next event; one reader at a time.

        Raises:
            Unreachable: The transport is closed and everything was read.
        """
        self._turn += 1
        if self._turn % EVENTS_PER_TURN_MAX == 0:
            await anyio.lowlevel.checkpoint()
        while not self._inbox:
            if self._closed:
                raise Unreachable("this transport is closed")
            self._arrived = anyio.Event()
            await self._arrived.wait()
        event = self._inbox.popleft()
        self._inbox_bytes -= EVENT_BYTES + (len(event.data) if isinstance(event, Delivered) else 0)
        if self._stalled and self._inbox_bytes < INBOX_BYTES_MAX // 2:
            self._look |= self._stalled
            self._stalled.clear()
            self._work.set()
        return event

    _turn = 0

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many links and connections there are now."""
        return {
            **self._counts,
            "links": len(self._links),
            "connections": self._router.connections + len(self._dialled),
            "silent_cut": self._router.silent_cut,
            "names_refused": self._router.refused,
        }

    def _put(self, event: LinkEvent) -> None:
        self._inbox.append(event)
        self._inbox_bytes += EVENT_BYTES + (len(event.data) if isinstance(event, Delivered) else 0)
        self._arrived.set()

    # What comes from the sockets.

    async def _repeat(self, act: Callable[[], None], descriptor: int) -> None:
        while True:
            act()
            await anyio.wait_readable(descriptor)

    def _watch_router(self) -> None:
        self._router.watch()
        self._unrest.set()

    async def _tend_router(self, descriptor: int) -> None:
        while True:
            while self._drain(None):
                await anyio.lowlevel.checkpoint()
            await anyio.wait_readable(descriptor)

    def _drain(self, source: _Connection | None) -> bool:
        """Take what has come from the router (None) or a dialled connection; True when there may be more."""
        for _ in range(FRAMES_PER_TURN_MAX):
            if self._inbox_bytes >= INBOX_BYTES_MAX:
                self._stalled.add(source)
                self._look.discard(source)
                return False
            if not (self._take_accepted() if source is None else self._take_dialled(source)):
                # Room at a peer is told like a frame, and was told, if at all, before the receiving found nothing.
                if self._flush_blocked(source):
                    return True
                # What was sent meanwhile was sent before this look.
                self._look.discard(source)
                if source is None and self._router.pending:
                    self._unrest.set()
                return False
        return True

    def _flush_blocked(self, source: _Connection | None) -> bool:
        """Go on with the peers of this source whose queues were full; True when anything could be sent."""
        sent = False
        for connection in [each for each in self._blocked if (each if each.dealer else None) is source]:
            before = connection.backlog.bytes
            self._flush(connection)
            sent = sent or connection.backlog.bytes != before
        return sent

    def _take_accepted(self) -> bool:
        event = self._router.receive_nowait()
        if event is None:
            return False
        connection = self._accepted.get(event.connection)
        if isinstance(event, Gone):
            if self._accepted.pop(event.connection, None) is not None and connection is not None:
                self._end(connection, "the connection was lost or silent for too long")
            return True
        if connection is None:
            deadline = time.monotonic() + self._handshake_s
            host = self._router.host_of(event.connection)
            connection = _Connection(_Stage.AWAITED, host=host, deadline=deadline)
            connection.name, connection.key = event.connection, event.key
            self._accepted[event.connection] = connection
        self._heard(connection, event.data)
        return True

    def _take_dialled(self, connection: _Connection) -> bool:
        if connection.stage is _Stage.ENDED or connection.dealer is None:
            return False
        data = connection.dealer.receive_nowait()
        if data is not None:
            self._heard(connection, data)
        return data is not None

    def _heard(self, connection: _Connection, frame: bytes) -> None:
        stage = connection.stage
        if stage is _Stage.ENDED:
            return
        try:
            kind = kind_of(frame)
            if stage is _Stage.UP and kind is not FrameKind.BYE:
                self._deliver(connection, kind, frame)
            elif kind is FrameKind.BYE:
                said = "refused" if stage is _Stage.DIALLING else "hung up"
                self._end(connection, f"the other end {said}: {read_bye(frame)}")
            elif stage is _Stage.AWAITED:
                self._greeted(connection, read_hello(frame))
            elif stage is _Stage.DIALLING:
                self._greeted_back(connection, read_hello(frame))
            elif stage is _Stage.ANSWERED:
                read_ready(frame)
                self._up(connection)
            else:
                self._end(connection, "the other end spoke out of turn", tell=f"{kind.name} came where it may not")
        except MalformedFrame as error:
            self._counts["malformed_frames"] += 1
            self._end(connection, f"the other end broke the protocol: {error}", tell=str(error))
        except Refused as error:
            self._counts["refused_peers"] += 1
            self._end(connection, f"refused here: {error}", tell=str(error))

    def _deliver(self, connection: _Connection, kind: FrameKind, frame: bytes) -> None:
        peer = connection.peer
        if peer is None:
            raise MalformedFrame("a message before the greeting")
        for message in connection.assembly.take(kind, frame):
            self._counts["messages_received"] += 1
            self._counts["bytes_received"] += len(message)
            self._put(Delivered(peer, message))

    # The greeting.

    def _hello(self, peer: NodeId) -> bytes:
        credential = self._admission.credential_for(peer)
        if len(credential) > CREDENTIAL_BYTES_MAX:
            raise UsageError(f"a credential has at most {CREDENTIAL_BYTES_MAX} bytes")
        return hello_frame(Hello(VERSION, self._own, self._boot, self._label, credential))

    def _greeted(self, connection: _Connection, hello: Hello) -> None:
        """Take the first frame of somebody who dialled us."""
        if hello.node.curve_key != connection.key:
            self._counts["impersonations"] += 1
            raise MalformedFrame("the id in HELLO is not that of the key which was proved")
        if hello.node == self._own:
            raise Refused("this is your own node id: two nodes must not share a key")
        connection.standing = self._admission.judge(hello.node, hello.credential)
        peer = connection.peer = hello.node
        connection.label = hello.label
        self._theirs[peer] = connection
        connection.deadline = time.monotonic() + (CONNECT_TRIES + GREETING_TRIES) * self._handshake_s
        if peer in self._dials and self._own < peer:
            # Our own dial comes first; if it comes to nothing, this one is answered.
            connection.stage = _Stage.HELD
        else:
            self._answer(connection, peer)

    def _answer(self, connection: _Connection, peer: NodeId) -> None:
        connection.stage = _Stage.ANSWERED
        connection.deadline = time.monotonic() + GREETING_TRIES * self._handshake_s
        self._transmit(connection, self._hello(peer))

    def _greeted_back(self, connection: _Connection, hello: Hello) -> None:
        """Take the answer of somebody whom we dialled."""
        peer = connection.peer
        if hello.node != peer:
            raise MalformedFrame("the id in HELLO is not the one that was dialled")
        connection.standing = self._admission.judge(peer, hello.credential)
        connection.label = hello.label
        if self._own > peer and peer in self._theirs:
            # Theirs comes first, and we have answered it; if it comes to nothing, this one is completed.
            connection.stage = _Stage.HELD
        else:
            self._complete(connection)

    def _complete(self, connection: _Connection) -> None:
        self._transmit(connection, ready_frame())
        self._up(connection)

    def _up(self, connection: _Connection) -> None:
        peer = connection.peer
        if peer is None:
            raise UsageError("a connection without a peer cannot come up")
        if (former := self._links.get(peer)) is not None:
            self._end(former, "the peer opened a newer link", tell="a newer link replaces this one")
        connection.stage, connection.was_up = _Stage.UP, True
        self._links[peer] = connection
        self._counts["links_up"] += 1
        self._put(LinkUp(peer, connection.standing, connection.label, connection.host))
        self._wanted.pop(peer, None)
        dial = self._dials.pop(peer, None)
        if dial is not None and dial.connection is not connection:
            self._abandon(dial, "a link is up already")
        theirs = self._theirs.pop(peer, None)
        if theirs is not None and theirs is not connection:
            self._end(theirs, "a link is up already", tell="a link is up already")

    def _abandon(self, dial: _Dial, reason: str) -> None:
        if dial.connection is not None:
            self._end(dial.connection, reason, tell=reason)
        dial.scope.cancel()

    def _end(self, connection: _Connection, reason: str, *, tell: str | None = None) -> None:
        """End a connection, and what hangs on it, once; `tell` is said to the other end."""
        if connection.stage is _Stage.ENDED:
            return
        if tell is not None:
            self._transmit(connection, bye_frame(tell))
        connection.stage, connection.reason = _Stage.ENDED, reason
        self._counts["messages_dropped"] += connection.backlog.count
        connection.backlog = Backlog()
        self._blocked.discard(connection)
        if connection.dealer is not None:
            connection.scope.cancel()
        else:
            self._accepted.pop(connection.name, None)
            self._router.cut(connection.name)
            self._unrest.set()
        peer = connection.peer
        if peer is None:
            return
        if self._links.get(peer) is connection:
            del self._links[peer]
            self._counts["links_down"] += 1
            self._put(LinkDown(peer, reason))
        if self._theirs.get(peer) is connection:
            del self._theirs[peer]
            self._resume(peer)

    def _resume(self, peer: NodeId) -> None:
        """Go on with what waited for a connection of the peer's that has come to nothing."""
        dial = self._dials.get(peer)
        if dial is not None and dial.connection is not None and dial.connection.stage is _Stage.HELD:
            self._complete(dial.connection)
        elif (target := self._wanted.pop(peer, None)) is not None and not self._closed:
            self.dial(peer, *target)

    # Dialling.

    async def _pursue(self, dial: _Dial) -> None:
        reason = f"no address is known for {dial.host}"
        with dial.scope:
            try:
                addresses = await self._resolve(dial.host, dial.port)
            except (OSError, UnicodeError, TimeoutError) as error:
                addresses, reason = [], f"{dial.host} has no address that can be found: {error}"
            for address in addresses:
                try:
                    connection = self._open(dial, address)
                except Unreachable as error:
                    reason = str(error)
                    continue
                await self._tend(connection)
                if connection.was_up:
                    return
                reason = connection.reason
                if connection.dealer is not None and connection.dealer.proved:
                    break
        if self._dials.get(dial.peer) is dial:
            del self._dials[dial.peer]
            self._dial_failed(dial, reason)

    async def _resolve(self, host: str, port: int) -> list[str]:
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            # libzmq would look names up in the thread that carries every link.
            with anyio.fail_after(CONNECT_TRIES * self._handshake_s):
                found = await anyio.getaddrinfo(host, port)
            return list(dict.fromkeys(str(each[4][0]) for each in found))[:ADDRESSES_MAX]
        return [host]

    def _open(self, dial: _Dial, address: str) -> _Connection:
        deadline = time.monotonic() + CONNECT_TRIES * self._handshake_s
        connection = dial.connection = _Connection(_Stage.DIALLING, host=address, deadline=deadline)
        connection.peer = dial.peer
        where = endpoint(address, dial.port)
        connection.dealer = Dealer(self._router.context, self._key, dial.peer, where, self._limits)
        self._dialled.add(connection)
        self._transmit(connection, self._hello(dial.peer))
        self._unrest.set()
        return connection

    async def _tend(self, connection: _Connection) -> None:
        dealer = connection.dealer
        if dealer is None:
            return
        frames, watched = dealer.descriptors
        try:
            with connection.scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._watch_dialled, connection, dealer, watched)
                    while True:
                        while self._drain(connection):
                            await anyio.lowlevel.checkpoint()
                        await anyio.wait_readable(frames)
        finally:
            connection.stage = _Stage.ENDED
            self._dialled.discard(connection)
            for sources in (self._stalled, self._look):
                sources.discard(connection)
            dealer.close()

    async def _watch_dialled(self, connection: _Connection, dealer: Dealer, descriptor: int) -> None:
        while not dealer.watch():
            if dealer.proved and connection.stage is _Stage.DIALLING:
                connection.deadline = time.monotonic() + GREETING_TRIES * self._handshake_s
            await anyio.wait_readable(descriptor)
        # What the other end said before it went is heard first.
        while self._drain(connection):
            await anyio.lowlevel.checkpoint()
        up = connection.stage is _Stage.UP
        self._end(connection, "the connection was lost or silent for too long" if up else dealer.verdict())

    def _dial_failed(self, dial: _Dial, reason: str) -> None:
        theirs = self._theirs.get(dial.peer)
        if theirs is None:
            self._counts["dials_failed"] += 1
            self._put(DialFailed(dial.peer, reason))
            return
        self._wanted[dial.peer] = (dial.host, dial.port)
        if theirs.stage is _Stage.HELD:
            self._answer(theirs, dial.peer)

    # Sending.

    def _transmit(self, connection: _Connection, frame: bytes) -> bool:
        source = connection if connection.dealer is not None else None
        self._look.add(source)
        self._work.set()
        if connection.dealer is not None:
            return connection.dealer.try_send(frame)
        try:
            return self._router.try_send(connection.name, frame)
        except Unreachable:
            # Its end is told by the router.
            self._unrest.set()
            return False

    def _flush(self, connection: _Connection) -> None:
        while connection.stage is _Stage.UP and (frame := connection.backlog.frame()) is not None:
            if not self._transmit(connection, frame):
                self._blocked.add(connection)
                self._unrest.set()
                return
            connection.backlog.sent()
        self._blocked.discard(connection)

    async def _carry(self) -> None:
        """Send what is due; one turn of the event loop later, so that messages of one turn share a frame."""
        while True:
            await self._work.wait()
            while self._due or self._look:
                due, self._due = self._due, []
                for connection in due:
                    connection.due = False
                    self._flush(connection)
                if self._look and self._drain(source := self._look.pop()):
                    self._look.add(source)
                    await anyio.lowlevel.checkpoint()
            self._work = anyio.Event()

    async def _sweep(self) -> None:
        while True:
            await self._unrest.wait()
            self._unrest = anyio.Event()
            await anyio.sleep(SWEEP_S)
            self._router.sweep()
            # A blocked peer is looked after here too: its room may have been told while nobody was looking.
            self._look |= {None} | {each for each in self._blocked if each.dealer is not None}
            self._work.set()
            now = time.monotonic()
            waiting = [
                each
                for each in (*self._accepted.values(), *self._dialled)
                if each.stage not in {_Stage.UP, _Stage.ENDED}
            ]
            for connection in waiting:
                if connection.deadline <= now:
                    dealer = connection.dealer
                    reason = "the greeting was not completed in time" if dealer is None else dealer.verdict()
                    self._end(connection, reason, tell="the greeting took too long")
            if waiting or self._blocked or self._router.pending:
                self._unrest.set()

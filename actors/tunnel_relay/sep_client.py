"""The dialling end of a SEP: one connection to one relay under a fresh key.

    dialling --ticket accepted--> admitted --the relay ends it, or the link dies--> lost (once, from `receive`)
             --refused, silence--> raised from `async with`

It paces itself: a PING after each `PACE_BYTES`, and no more than `WINDOW_BYTES` that no PONG has answered, so that the
relay, which reads always, is never made to hold more. A PING also asks a relay that is silent whether it lives; both
need somebody who reads.

Each connection has a CURVE key of its own, made before its ticket because the ticket is bound to it: so the relay can
never tell that two connections are of one node. A lost client is not mended; make another, with a fresh key and ticket.
"""

import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import anyio
import nacl.bindings
import zmq
from zmq.utils.monitor import parse_monitor_message

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.frames import Accepted, Denied, Pong, RelayEvent
from atoll.actors.tunnel_relay.sep_socket import limits
from atoll.transport.base import QUEUE_BYTES_MAX
from atoll.transport.errors import Congested, Expired, Refused, TransportError, Unreachable, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.tcp_connection import UnreadMeter, bytes_acknowledged, bytes_on_the_wire
from atoll.transport.zmq_socket import HANDSHAKE_FAILED, LINGER_MS, endpoint

DIAL_S = 10.0
"""For the handshake and the answer to the ticket."""
NEWS_S = 0.05
"""How often a client that waits for its connection looks whether it is there: the descriptor tells changes only."""
CHECK_S = 0.5
"""How often a client that hears nothing looks whether its link still lives."""
QUIET_S, PATIENCE_S = 0.9, 1.5
"""After so long without a word the relay is asked whether it lives, and then it has so long: 3 s at most in all."""
PACE_BYTES = 256 * 1024
WINDOW_BYTES = 1024 * 1024
"""How far this end may be ahead of the relay's reading; the relay cuts at twice as much."""
_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED


@dataclass(frozen=True, slots=True)
class FreshKey:
    """A CURVE key pair for one connection; tickets are asked for with `public`."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "FreshKey":
        """Draw a new pair."""
        public, secret = nacl.bindings.crypto_box_keypair()
        return cls(public, secret)


class NoConnection(Unreachable):
    """TCP's handshake with the relay came to nothing: nothing was said to it, and another door may be tried."""


class SepRefused(Refused):
    """The relay refused the ticket, or took its role away; `reason` is its number."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.sentence)
        self.reason = denied.reason


class SepClient:
    """A connection to a relay's SEP port; open it with `async with`, which shows the ticket and waits for the answer.

    Raises (from `async with`):
        SepRefused: The relay does not take the ticket.
        Expired: Neither yes nor no within `dial_s`: nobody there, or not the relay that has this key.
        Unreachable: Nobody listens there; with `connect_s` it is `NoConnection`, also when TCP takes longer than that.
    """

    def __init__(
        self,
        host: str,
        port: int,
        relay: NodeId,
        ticket: bytes,
        key: FreshKey,
        *,
        dial_s: float = DIAL_S,
        connect_s: float | None = None,
    ) -> None:
        self._where = endpoint(host, port)
        self._relay, self._ticket, self._key, self._dial_s = relay, ticket, key, dial_s
        self._connect_s = connect_s
        self._events: deque[RelayEvent] = deque()
        self._sock: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._lost = ""
        self._meter: UnreadMeter | None = None
        self._descriptor = -1
        self._let_in = False
        self._sent_bytes = self._read_bytes = self._marked_bytes = 0
        """What was sent, what of it a PONG has answered, and up to where PONGs are asked for."""
        self._pings: deque[int | None] = deque()
        """PINGs without a PONG: what had been sent before, or None for one that the user asked for."""
        self._heard_at = 0.0
        self._asked_at: float | None = None
        self._acknowledged = 0
        self._nap: anyio.CancelScope | None = None
        """The reader's wait for the socket, while it waits."""

    async def __aenter__(self) -> Self:
        sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._sock = sock
        try:
            limits().harden(sock)
            # Never by itself: a new connection needs a new ticket anyway.
            sock.setsockopt(zmq.RECONNECT_IVL, -1)
            sock.setsockopt(zmq.IPV6, int("[" in self._where))
            sock.setsockopt(zmq.CURVE_SERVERKEY, self._relay.curve_key)
            sock.setsockopt(zmq.CURVE_PUBLICKEY, self._key.public)
            sock.setsockopt(zmq.CURVE_SECRETKEY, self._key.secret)
            self._monitor = sock.get_monitor_socket(_EVENTS | HANDSHAKE_FAILED)
            try:
                sock.connect(f"tcp://{self._where}")
            except zmq.ZMQError as error:
                raise Unreachable(f"{self._where} is no address of a relay: {error}") from error
            if self._connect_s is not None:
                await self._connected(self._monitor, self._connect_s)
            await self._admitted()
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def _connected(self, monitor: "zmq.Socket[bytes]", within_s: float) -> None:
        """Wait for the TCP connection."""
        news = int(monitor.getsockopt(zmq.FD))
        with anyio.move_on_after(within_s):
            while not self._lost and self._descriptor < 0:
                with anyio.move_on_after(NEWS_S):
                    await anyio.wait_readable(news)
                self._watch()
        if self._descriptor < 0:
            raise NoConnection(self._lost or f"no connection to {self._where} within {within_s:g} s")

    async def _admitted(self) -> None:
        try:
            with anyio.fail_after(self._dial_s):
                self.show(self._ticket)
                while (event := await self._next()) != Accepted(frames.TICKET):
                    self._events.append(event)
                self._let_in, self._heard_at = True, time.monotonic()
        except TimeoutError as error:
            raise Expired(
                f"the relay at {self._where} gave no answer within {self._dial_s:g} s; is it up, and is its key right?"
            ) from error

    def show(self, ticket: bytes) -> None:
        """Show a further ticket, to renew a role or to have both; `Accepted(TICKET)` follows. Raises as `call`."""
        self._send(frames.ticket_frame(ticket))

    def set_labels(self, labels: Sequence[bytes]) -> None:
        """Be reached under these labels and no others; `Accepted(LABELS)` says when they count. Raises as `call`."""
        self._send(frames.labels_frame(labels))

    def call(self, label: bytes, record: bytes) -> None:
        """Send a record of at most 48 KiB to whoever holds the label; what becomes of it comes from `receive`.

        Raises:
            Congested: Too much is on its way already; the record was not taken.
            Unreachable: The link is lost.
            UsageError: Wrong sizes.
        """
        self._send(frames.call_frame(label, record))

    def answer(self, circuit: bytes, record: bytes) -> None:
        """Send a record back on the circuit of an `Inbound`; raises what `call` raises."""
        self._send(frames.answer_frame(circuit, record))

    def ping(self) -> None:
        """Ask for a `Pong`; raises what `call` raises."""
        # In this order: sending may ask for a PONG of our own behind it.
        self._pings.append(None)
        try:
            self._send(frames.ping_frame())
        except TransportError:
            self._pings.pop()
            raise

    async def receive(self) -> RelayEvent:
        """Wait for what comes next; one reader at a time.

        Raises:
            SepRefused: The relay has taken a role away (a ticket expired or was used up); see its reason.
            Unreachable: The link is lost.
            MalformedFrame: The relay sent what no relay sends.
        """
        if self._events:
            return self._events.popleft()
        return await self._next()

    async def _next(self) -> RelayEvent:
        sock = self._open_socket()
        descriptor = int(sock.getsockopt(zmq.FD))
        while True:
            # In this order: what the relay said before the link was lost is heard first.
            self._watch()
            try:
                frame = sock.recv(zmq.DONTWAIT)
            except zmq.Again:
                self._raise_if_lost()
                self._look_after_relay(sock)
            else:
                self._heard(frame)
                event = frames.read_event(frame)
                if isinstance(event, Denied):
                    raise SepRefused(event)
                if not isinstance(event, Pong) or self._is_the_users():
                    return event
                continue
            with anyio.move_on_after(CHECK_S) as self._nap:
                await anyio.wait_readable(descriptor)
            self._nap = None

    def _watch(self) -> None:
        """Note what has become of the link."""
        with contextlib.suppress(zmq.Again):
            while self._monitor is not None and not self._lost:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
                if event["event"] == zmq.EVENT_CONNECTED:
                    self._descriptor = int(event["value"])
                    self._meter = UnreadMeter(self._descriptor, QUEUE_BYTES_MAX)
                elif event["event"] & HANDSHAKE_FAILED:
                    self._lost = (
                        f"the relay at {self._where} speaks no CURVE, or has another key than it is dialled with"
                    )
                else:
                    self._lost = f"the link to the relay at {self._where} is lost, or nobody listens there"

    def _heard(self, frame: bytes) -> None:
        self._heard_at, self._asked_at = time.monotonic(), None
        if self._meter is not None:
            self._meter.note_frame(len(frame))

    def _is_the_users(self) -> bool:
        """Take a PONG; True when the user asked for it."""
        # Without a PING it answers nothing, and is as harmless as any word too many.
        mark = self._pings.popleft() if self._pings else None
        if mark is None:
            return True
        self._read_bytes = mark
        return False

    def _look_after_relay(self, sock: "zmq.Socket[bytes]") -> None:
        """Ask a relay that is silent whether it lives, and give it up in the end; nothing of it is left to be read."""
        now = time.monotonic()
        if self._meter is not None and self._meter.overfull():
            self._lost = f"the link to the relay at {self._where} is lost: it sends more than this end can read"
        elif self._let_in and self._asked_at is None and now - self._heard_at > QUIET_S:
            self._ask(sock)
            self._asked_at, self._acknowledged = now, bytes_acknowledged(self._descriptor)
        elif self._asked_at is not None and now - self._asked_at > PATIENCE_S:
            # The PING may still be behind other things on a slow way; then the way goes on.
            if (acknowledged := bytes_acknowledged(self._descriptor)) > self._acknowledged:
                self._asked_at, self._acknowledged = now, acknowledged
            else:
                self._lost = f"the link to the relay at {self._where} is lost: it is silent"
        self._raise_if_lost()

    def _ask(self, sock: "zmq.Socket[bytes]") -> None:
        with contextlib.suppress(zmq.Again):
            sock.send(frames.ping_frame(), zmq.DONTWAIT)
            self._pings.append(self._sent_bytes)
            self._marked_bytes = self._sent_bytes

    def _raise_if_lost(self) -> None:
        if self._lost:
            raise Unreachable(self._lost)

    def _send(self, frame: bytes) -> None:
        sock = self._open_socket()
        self._raise_if_lost()
        if self._sent_bytes - self._read_bytes > WINDOW_BYTES:
            self._watch()
            self._raise_if_lost()
            raise Congested(f"the relay at {self._where} has not read what was sent before; the frame was not queued")
        try:
            sock.send(frame, zmq.DONTWAIT)
        except zmq.Again as error:
            self._watch()
            self._raise_if_lost()
            raise Congested(f"the relay at {self._where} takes too little; the frame was not queued") from error
        self._sent_bytes += bytes_on_the_wire(len(frame))
        if self._let_in and self._sent_bytes - self._marked_bytes > PACE_BYTES:
            self._ask(sock)
        if self._nap is not None and int(sock.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            # The descriptor tells of changes only, and this send has used up the one that the reader waits for.
            self._nap.cancel()

    def _open_socket(self) -> "zmq.Socket[bytes]":
        if self._sock is None:
            if self._lost:
                raise Unreachable(self._lost)
            raise UsageError("a SEP client is used inside its `async with`")
        return self._sock

    def _close(self) -> None:
        if self._monitor is not None and self._sock is not None:
            self._sock.disable_monitor()
            self._monitor.close(0)
            self._monitor = None
        if self._sock is not None:
            self._sock.close(LINGER_MS)
            self._sock = None
            # Those who hold on to it shall hear what they hear of any lost link.
            self._lost = self._lost or f"the connection to the relay at {self._where} is closed"

"""The dialling end of a SEP: one connection to one relay under a fresh key.

    dialling --ticket accepted--> admitted --the relay ends it, or the link dies--> lost (once, from `receive`)
             --refused, silence--> raised from `async with`

Each connection has a CURVE key of its own, made before its ticket because the ticket is bound to it: so the relay can
never tell that two connections are of one node. A lost client is not mended; make another, with a fresh key and ticket.
"""

import contextlib
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
from atoll.actors.tunnel_relay.frames import Accepted, Denied, RelayEvent
from atoll.actors.tunnel_relay.sep_socket import RECEIVE_QUEUE_FRAMES, SEND_QUEUE_FRAMES, harden
from atoll.transport.errors import Congested, Expired, Refused, Unreachable, UsageError
from atoll.transport.identity import NodeId

DIAL_S = 10.0
"""For the handshake and the answer to the ticket."""
CHECK_S = 0.5
"""How often a client that hears nothing looks whether its link still lives; libzmq's heartbeats judge that in 3 s."""
LINGER_MS = 250
"""For records still on their way out when the client is closed."""
_ENDS = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


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
        Unreachable: Nobody listens there.
    """

    def __init__(
        self, host: str, port: int, relay: NodeId, ticket: bytes, key: FreshKey, *, dial_s: float = DIAL_S
    ) -> None:
        self._where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._relay, self._ticket, self._key, self._dial_s = relay, ticket, key, dial_s
        self._events: deque[RelayEvent] = deque()
        self._sock: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._lost = ""
        self._nap: anyio.CancelScope | None = None
        """The reader's wait for the socket, while it waits."""

    async def __aenter__(self) -> Self:
        sock: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._sock = sock
        try:
            harden(sock, send_frames=SEND_QUEUE_FRAMES, receive_frames=RECEIVE_QUEUE_FRAMES)
            # Never by itself: a new connection needs a new ticket anyway.
            sock.setsockopt(zmq.RECONNECT_IVL, -1)
            sock.setsockopt(zmq.IPV6, int("[" in self._where))
            sock.setsockopt(zmq.CURVE_SERVERKEY, self._relay.curve_key)
            sock.setsockopt(zmq.CURVE_PUBLICKEY, self._key.public)
            sock.setsockopt(zmq.CURVE_SECRETKEY, self._key.secret)
            self._monitor = sock.get_monitor_socket(_ENDS | _HANDSHAKE_FAILED)
            try:
                sock.connect(f"tcp://{self._where}")
            except zmq.ZMQError as error:
                raise Unreachable(f"{self._where} is no address of a relay: {error}") from error
            await self._admitted()
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def _admitted(self) -> None:
        try:
            with anyio.fail_after(self._dial_s):
                self.show(self._ticket)
                while (event := await self._next()) != Accepted(frames.TICKET):
                    self._events.append(event)
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
        self._send(frames.ping_frame())

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
                event = frames.read_event(sock.recv(zmq.DONTWAIT))
            except zmq.Again:
                self._raise_if_lost()
            else:
                if isinstance(event, Denied):
                    raise SepRefused(event)
                return event
            with anyio.move_on_after(CHECK_S) as self._nap:
                await anyio.wait_readable(descriptor)
            self._nap = None

    def _watch(self) -> None:
        """Note what has become of the link."""
        with contextlib.suppress(zmq.Again):
            while self._monitor is not None and not self._lost:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
                if event["event"] & _HANDSHAKE_FAILED:
                    self._lost = (
                        f"the relay at {self._where} speaks no CURVE, or has another key than it is dialled with"
                    )
                else:
                    self._lost = f"the link to the relay at {self._where} is lost, or nobody listens there"

    def _raise_if_lost(self) -> None:
        if self._lost:
            raise Unreachable(self._lost)

    def _send(self, frame: bytes) -> None:
        sock = self._open_socket()
        try:
            sock.send(frame, zmq.DONTWAIT)
        except zmq.Again as error:
            self._watch()
            self._raise_if_lost()
            raise Congested(f"the relay at {self._where} takes too little; the frame was not queued") from error
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

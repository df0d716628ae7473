"""The ROUTER of a relay's SEP port: any CURVE key may connect, every connection knows its key, none may stall another.

It differs from the links' sockets in one rule, so it is one of its own: the relay knows nobody, so its ZAP lets every
key in and only writes it down; the ticket decides later. Nothing here waits: `receive_nowait` and `send_nowait` do
what can be done now, the owner waits on `descriptor` by the edge-triggered rule (drain until None after each wake *and*
after each send).

A connection's name is libzmq's routing id. Clients here never choose theirs, and what libzmq draws begins with a zero
byte, which no client may choose: so nobody can come back under another's name.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from atoll.actors.tunnel_relay.circuit_events import Arrived, Gone
from atoll.actors.tunnel_relay.frames import FRAME_BYTES_MAX
from atoll.transport.base import QUEUE_BYTES_MAX
from atoll.transport.errors import Congested, Unreachable, UsageError
from atoll.transport.keys import NodeKey
from atoll.transport.tcp_connection import UnreadMeter, UnreadMeters, peer_of, shut_down

OVERFLOW_BYTES_MAX = QUEUE_BYTES_MAX // 2
"""What a slow peer may hold back here, counted in bytes, when libzmq's own queue is full."""
SEND_QUEUE_FRAMES = (QUEUE_BYTES_MAX - OVERFLOW_BYTES_MAX) // FRAME_BYTES_MAX
"""And there: libzmq counts messages, not bytes, so as many of the longest as make up the rest of the budget."""
OVERFLOW_TOTAL_BYTES_MAX = 256 * 1024 * 1024
"""What all slow peers together may hold back in this way."""
STUCK_S = 3.0
"""How long a peer for which something is held back may take nothing at all, before it is cut."""
UNREAD_BYTES_MAX = 2 * 1024 * 1024
"""What libzmq may hold of one client that the relay has not read; honest ones pace themselves at half of it."""
MESSAGE_BYTES_MAX = 64 * 1024
HANDSHAKE_MS = 10_000
PROBE_S = 1
SILENCE_S = 3
"""TCP probes a silent connection each second, and after 3 s without an answer it is lost."""
SILENT_S = 5.0
"""How long a connection may take to say its first word, handshake and all."""
CUT_DELAY_S = 0.25
"""Between the last frame to a connection and its end, so that the reason arrives; libzmq cannot be asked whether."""
LAST_WORDS_S = 0.25
"""How long the end of a connection waits, at most, for what it said before."""
BACKLOG = 1024
_ZAP = "inproc://zeromq.zap.01"
_MONITOR = "inproc://sep.monitor"
# Not of the handshake's success: libzmq does not say on which descriptor.
_EVENTS = zmq.EVENT_DISCONNECTED | zmq.EVENT_ACCEPTED
# Plain numbers: joining two flags of an enum anew takes half a microsecond, once a record.
_NAME_PART = int(zmq.SNDMORE | zmq.DONTWAIT)
_LAST_PART = int(zmq.DONTWAIT)


def harden(sock: "zmq.Socket[bytes]", *, send_frames: int) -> None:
    """Set what no socket of ours may be without: bounds for what peers can make it keep, and probes for their lives.

    No receive queue and no heartbeats of libzmq's: with either, a peer could abort this process.
    """
    sock.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
    sock.setsockopt(zmq.SNDHWM, send_frames)
    sock.setsockopt(zmq.RCVHWM, 0)
    sock.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    sock.setsockopt(zmq.HEARTBEAT_IVL, 0)
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, PROBE_S)
    sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, PROBE_S)
    sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, SILENCE_S - 1)
    sock.setsockopt(zmq.TCP_MAXRT, SILENCE_S * 1000)
    sock.setsockopt(zmq.LINGER, 0)


@dataclass(slots=True)
class _Overflow:
    frames: deque[bytes] = field(default_factory=deque)
    size: int = 0
    moved: float = field(default_factory=time.monotonic)
    """When something of it last went."""


class SepSocket:
    """The bound ROUTER; `port` is the real one when 0 was asked for.

    Raises:
        UsageError: The port cannot be opened.
    """

    def __init__(self, key: NodeKey, host: str, port: int) -> None:
        # A context of its own: ZAP is one per context, and the links' must not be asked about strangers.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(_ZAP)
        router = self._context.socket(zmq.ROUTER)
        harden(router, send_frames=SEND_QUEUE_FRAMES)
        router.setsockopt(zmq.BACKLOG, BACKLOG)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, key.curve_secret)
        router.setsockopt(zmq.ZAP_DOMAIN, b"sep")
        router.setsockopt(zmq.IPV6, int(":" in host))
        router.monitor(_MONITOR, _EVENTS)
        self._monitor = self._context.socket(zmq.PAIR)
        # Unbounded, and emptied several times a second: an event that is dropped would be a connection that never ends.
        self._monitor.setsockopt(zmq.RCVHWM, 0)
        self._monitor.connect(_MONITOR)
        self._router = router
        where = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        try:
            router.bind(where)
        except zmq.ZMQError as error:
            self.close()
            raise UsageError(f"the SEP port {port} on {host} cannot be opened: {error}; choose another") from error
        self.port = int(router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        self._keys: dict[bytes, bytes] = {}
        self._descriptors: dict[bytes, int] = {}
        self._connections: dict[int, bytes] = {}
        self._peers: dict[int, Any] = {}
        """Descriptors of all connections, and the address at the other end."""
        self._silent: dict[int, tuple[float, Any]] = {}
        """Connections that have said nothing yet: descriptor, until when they may, and the peer's address."""
        self._cuts: deque[tuple[float, bytes, int, Any]] = deque()
        self._overflows: dict[bytes, _Overflow] = {}
        self._overflow_bytes = 0
        self._meters = UnreadMeters()
        self._by_name: dict[bytes, UnreadMeter] = {}
        self._lost: deque[tuple[float, bytes]] = deque()
        self._leaving: dict[bytes, bytes] = {}
        self.silent_cut = 0
        """How many were cut because they said nothing."""
        self.flooding_cut = 0
        """How many were cut because they sent more than the relay could read."""
        self.stuck_cut = 0
        """How many were cut because they took nothing of what waited for them."""

    @property
    def holds_back(self) -> bool:
        """Something waits until its receiver has room."""
        return bool(self._overflows)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What to wait on for frames, and for handshakes (`admit`)."""
        return int(self._router.getsockopt(zmq.FD)), int(self._zap.getsockopt(zmq.FD))

    def admit(self) -> None:
        """Let everybody in whose handshake waits, and write the key down."""
        while True:
            try:
                request = self._zap.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            # RFC 27: version, request id, domain, address, identity, mechanism, credentials.
            genuine = len(request) == 7 and request[5] == b"CURVE" and len(request[6]) == 32
            status = (b"200", b"OK") if genuine else (b"400", b"only CURVE")
            user = request[6].hex().encode() if genuine else b""
            self._zap.send_multipart([b"1.0", request[1], *status, user, b""])

    def receive_nowait(self) -> Arrived | Gone | None:
        """Give what has come, or None when nothing more has."""
        while True:
            if self._lost and self._lost[0][0] <= time.monotonic():
                return self._say_gone()
            try:
                name = self._router.recv(zmq.DONTWAIT)
            except zmq.Again:
                return self._say_gone() if self._lost else None
            key = self._keys.get(name, self._leaving.get(name))
            if key is not None:
                data = self._router.recv()
            else:
                message = self._router.recv(copy=False)
                data, key = message.bytes, self._meet(name, message)
            if (meter := self._by_name.get(name)) is not None:
                meter.note_frame(len(data))
            if self._router.getsockopt(zmq.RCVMORE):
                # Frames have one part; what has more is not worth reading, and never valid.
                while self._router.getsockopt(zmq.RCVMORE):
                    self._router.recv()
                data = b""
            if key:
                return Arrived(name, key, data)

    def _say_gone(self) -> Gone:
        _, name = self._lost.popleft()
        del self._leaving[name]
        return Gone(name)

    def send_nowait(self, connection: bytes, data: bytes) -> None:
        """Queue a frame.

        Raises:
            Congested: The connection holds its whole budget back; the frame was not taken.
            Unreachable: It is gone.
        """
        overflow = self._overflows.get(connection)
        if overflow is None:
            try:
                self._send(connection, data)
            except zmq.Again:
                overflow = self._overflows[connection] = _Overflow()
            else:
                return
        if (
            overflow.size + len(data) > OVERFLOW_BYTES_MAX
            or self._overflow_bytes + len(data) > OVERFLOW_TOTAL_BYTES_MAX
        ):
            raise Congested("the receiver takes too little; the frame was not queued")
        overflow.frames.append(data)
        overflow.size += len(data)
        self._overflow_bytes += len(data)

    def flush(self) -> bool:
        """Send what libzmq had no room for; True when some of it went, or has nobody to go to any more."""
        moved = False
        for connection, overflow in list(self._overflows.items()):
            try:
                while overflow.frames:
                    self._send(connection, overflow.frames[0])
                    self._drop(overflow, len(overflow.frames.popleft()))
                    overflow.moved, moved = time.monotonic(), True
            except zmq.Again:
                continue
            except Unreachable:
                # Its end is told by `receive_nowait`, and what waited for it is dropped already.
                pass
            moved = True
            self._overflows.pop(connection, None)
        return moved

    def _drop(self, overflow: _Overflow, count: int) -> None:
        overflow.size -= count
        self._overflow_bytes -= count

    def _send(self, connection: bytes, data: bytes) -> None:
        try:
            self._router.send(connection, _NAME_PART)
        except zmq.Again:
            raise
        except zmq.ZMQError as error:
            self._forget(connection, self._descriptors.get(connection, -1))
            raise Unreachable(f"the receiver is gone: {error}") from error
        self._router.send(data, _LAST_PART)

    def cut(self, connection: bytes) -> None:
        """Close the connection a moment later, after what was sent; nothing of it is received any more."""
        descriptor = self._descriptors.pop(connection, None)
        if descriptor is not None:
            # An empty key: known, and not listened to.
            self._keys[connection] = b""
            self._cuts.append((time.monotonic() + CUT_DELAY_S, connection, descriptor, peer_of(descriptor)))

    def sweep(self) -> None:
        """Notice who has gone, has said nothing, takes nothing or sends too much, and carry out cuts that are due."""
        self._watch()
        now = time.monotonic()
        for descriptor in self._meters.overfull():
            self.flooding_cut += 1
            self._cut_at_once(descriptor)
        stuck = [name for name, overflow in self._overflows.items() if overflow.moved + STUCK_S <= now]
        for name in stuck:
            if (descriptor := self._descriptors.get(name, -1)) in self._connections:
                self.stuck_cut += 1
                self._cut_at_once(descriptor)
        while self._cuts and self._cuts[0][0] <= now:
            _, connection, descriptor, peer = self._cuts.popleft()
            if self._connections.get(descriptor) == connection:
                shut_down(descriptor, peer)
        while self._silent:
            descriptor, (until, peer) = next(iter(self._silent.items()))
            if until > now:
                break
            del self._silent[descriptor]
            self.silent_cut += 1
            shut_down(descriptor, peer)

    def _cut_at_once(self, descriptor: int) -> None:
        self._meters.forget(descriptor)
        shut_down(descriptor, self._peers.get(descriptor))

    def close(self) -> None:
        """Close everything at once."""
        self._router.disable_monitor()
        self._monitor.close(0)
        self._router.close(0)
        self._zap.close(0)
        self._context.term()

    def _meet(self, name: bytes, message: zmq.Frame) -> bytes:
        """Write down who a new connection is, after whoever used its descriptor before has been noted as gone."""
        self._watch()
        key = bytes.fromhex(str(message.get("User-Id")))
        descriptor = int(message.get(zmq.SRCFD))
        if self._silent.pop(descriptor, None) is None:
            # It has gone again, or was cut, and its descriptor may be another's by now: nobody would tell of its end.
            return b""
        self._keys[name], self._descriptors[name], self._connections[descriptor] = key, descriptor, name
        if (meter := self._meters.allow(descriptor, UNREAD_BYTES_MAX)) is not None:
            self._by_name[name] = meter
        return key

    def _watch(self) -> None:
        while True:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                return
            descriptor = event["value"]
            # A descriptor that is accepted anew was closed before, whether or not that was told.
            self._silent.pop(descriptor, None)
            self._peers.pop(descriptor, None)
            self._meters.forget(descriptor)
            if (name := self._connections.get(descriptor)) is not None:
                self._forget(name, descriptor)
            if event["event"] == zmq.EVENT_ACCEPTED:
                peer = self._peers[descriptor] = peer_of(descriptor)
                self._meters.begin(descriptor)
                self._silent[descriptor] = (time.monotonic() + SILENT_S, peer)

    def _forget(self, name: bytes, descriptor: int) -> None:
        self._connections.pop(descriptor, None)
        self._descriptors.pop(name, None)
        self._by_name.pop(name, None)
        if (overflow := self._overflows.pop(name, None)) is not None:
            self._drop(overflow, overflow.size)
        # Of a connection that was cut the owner has heard enough.
        if key := self._keys.pop(name, None):
            # What it said before it left is still in libzmq's queue and counts: its end is told after that.
            self._leaving[name] = key
            self._lost.append((time.monotonic() + LAST_WORDS_S, name))

"""The dialling end of a link: one ZeroMQ socket for one attempt, every option set.

    connecting --TCP--> connected --CURVE--> proved --loss, silence, refusal--> lost

It never waits and never reconnects. It is drained on its descriptors by the edge-triggered rule of `zmq_socket.py`.
"""

import contextlib

import zmq
from zmq.utils.monitor import parse_monitor_message

from atoll.transport.errors import Unreachable
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.tcp_connection import STRANGER_BYTES_MAX, UnreadMeter, mark_of, own_address_of, shut_down
from atoll.transport.zmq_socket import HANDSHAKE_FAILED, LINGER_MS, SocketLimits, frame_of, is_empty

_DEALER_EVENTS = (
    zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | HANDSHAKE_FAILED
)
# A plain number: pyzmq is slower with members of its enums.
_NOW = int(zmq.DONTWAIT)
NEVER_MS = 3_600_000
"""After so long libzmq would connect again by itself; no dealer outlives its connection by more than a moment."""


class Dealer:
    """A dialling socket: one attempt, one connection. It never reconnects by itself; make another."""

    _count = 0

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        key: NodeKey,
        peer: NodeId,
        where: str,
        limits: SocketLimits,
    ) -> None:
        Dealer._count += 1
        monitor = f"inproc://dealer.monitor.{Dealer._count}"
        sock = self._sock = context.socket(zmq.DEALER)
        limits.harden(sock)
        # Not -1: with it libzmq ends the pipe with the connection, and throws away what was said last (a BYE).
        sock.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
        sock.setsockopt(zmq.IPV6, int(where.startswith("[")))
        sock.setsockopt(zmq.CURVE_SERVERKEY, peer.curve_key)
        sock.setsockopt(zmq.CURVE_PUBLICKEY, key.node_id.curve_key)
        sock.setsockopt(zmq.CURVE_SECRETKEY, key.curve_secret)
        sock.monitor(monitor, _DEALER_EVENTS)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.connect(monitor)
        self.connected = False
        """Somebody accepted the TCP connection."""
        self.proved = False
        """The other end has the key it was dialled with."""
        self.lost = False
        self._where = where
        self._descriptor, self._mark = -1, None
        self._meter: UnreadMeter | None = None
        self._unread_bytes_max = STRANGER_BYTES_MAX
        try:
            sock.connect(f"tcp://{where}")
        except zmq.ZMQError as error:
            self.close(0)
            raise Unreachable(f"{where} cannot be dialled: {error}") from error

    @property
    def descriptors(self) -> tuple[int, int]:
        """What to wait on for frames, and for `watch`."""
        return int(self._sock.getsockopt(zmq.FD)), int(self._monitor.getsockopt(zmq.FD))

    @property
    def own_address(self) -> str:
        """The address at this end of the connection; empty before there is one."""
        return own_address_of(self._descriptor) if self.connected else ""

    def receive_nowait(self) -> bytes | None:
        """Give the next frame, or None when nothing more has come."""
        if is_empty(self._sock):
            return None
        frame = frame_of(self._sock, self._sock.recv(_NOW, copy=False))
        if self._meter is not None:
            self._meter.note_frame(len(frame))
        return frame

    def try_send(self, frame: bytes) -> bool:
        """Hand a frame to libzmq; False when its queue is full."""
        try:
            self._sock.send(frame, _NOW)
        except zmq.Again:
            return False
        return True

    def watch(self) -> bool:
        """Note what has become of the connection; True when it is lost."""
        with contextlib.suppress(zmq.Again):
            while True:
                told = parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))
                event = told["event"]
                if event == zmq.EVENT_CONNECTED:
                    self.connected = True
                    self._descriptor = int(told["value"])
                    self._mark = mark_of(self._descriptor)
                    self._meter = UnreadMeter(self._descriptor, self._unread_bytes_max)
                elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self.proved = True
                else:
                    self.lost = True
        return self.lost

    def allow(self, unread_bytes_max: int) -> None:
        """Let libzmq hold so much of the other end that we have not read."""
        self._unread_bytes_max = unread_bytes_max
        if self._meter is not None:
            self._meter.bytes_max = unread_bytes_max

    def cut_flooding(self) -> bool:
        """Cut the connection at once when the other end makes libzmq hold too much; True when it did."""
        if self._meter is None or not self._meter.overfull():
            return False
        self._meter = None
        shut_down(self._descriptor, self._mark)
        return True

    def verdict(self) -> str:
        """Say how far it came, for whoever wonders why it failed."""
        if self.proved:
            return f"{self._where} proved its key and then fell silent"
        if self.connected:
            who = f"whoever listens at {self._where}"
            return f"{who} has another key than it is dialled with, speaks no CURVE, or took too long to prove its key"
        return f"nobody answers at {self._where}"

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Close it; what was sent has `linger_ms` to leave."""
        self._sock.disable_monitor()
        self._monitor.close(0)
        self._sock.close(linger_ms)

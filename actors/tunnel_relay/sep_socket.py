"""The ROUTER of a relay's SEP port, and what it holds back for receivers that are slow.

    a frame --libzmq has room--> sent;   none --> held back --room again--> sent
                                                  held back --nothing taken for STUCK_S--> the receiver is cut
    a frame for one who holds all of its budget back --> Congested

None may stall another, so nothing here waits. The relay knows nobody: every key may connect, the ticket decides later.
The owner waits on `descriptors` by the edge-triggered rule (drain until None after each wake *and* after each send).
"""

import time
from collections import deque
from dataclasses import dataclass, field

from atoll.actors.tunnel_relay.frames import FRAME_BYTES_MAX
from atoll.transport.arrivals import ConnectionId
from atoll.transport.base import QUEUE_BYTES_MAX
from atoll.transport.descriptors import files_max
from atoll.transport.errors import Congested, Unreachable, UsageError
from atoll.transport.keys import NodeKey
from atoll.transport.zmq_router import KeyedRouter
from atoll.transport.zmq_socket import SocketLimits

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
SILENCE_S = 3
"""TCP probes a silent connection each second, and after 3 s without an answer it is lost."""
SILENT_S = 5.0
"""How long a connection may take to say its first word, handshake and all."""
TCP_CONNECTIONS_MAX = 12_288
"""As many as the switch takes (`circuits.py`), and some that have not said a word yet."""
TCP_SILENT_MAX = 4_096
"""Those that have not: at 5,000 a second an honest one has 0.8 s for its handshake, which a far one needs half of."""
SILENT_PART = 4
"""They may take a quarter of all open files, where that is less: tunnels need the rest."""
METERS_PER_SWEEP_MAX = 128
"""Connections whose unread bytes are looked at in one sweep: 1 ms."""
EVENTS_PER_TURN_MAX = 64
"""Of who has come and gone, noticed between two turns of switching: 1 ms, or 3 ms when all of them have to be cut."""


def limits() -> SocketLimits:
    """Give the limits of both ends of a SEP connection."""
    return SocketLimits(
        message_bytes_max=MESSAGE_BYTES_MAX,
        send_frames=SEND_QUEUE_FRAMES,
        handshake_ms=HANDSHAKE_MS,
        probed_s=SILENCE_S,
    )


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
        try:
            self._router = KeyedRouter(
                key,
                host,
                port,
                limits(),
                silent_s=SILENT_S,
                connections_max=TCP_CONNECTIONS_MAX,
                silent_max=min(TCP_SILENT_MAX, files_max() // SILENT_PART),
                unread_bytes_max=UNREAD_BYTES_MAX,
                events_max=EVENTS_PER_TURN_MAX,
            )
        except UsageError as error:
            raise UsageError(f"the SEP cannot be opened: {error}") from error
        self.port = self._router.port
        self.admit, self.cut = self._router.admit, self._router.cut
        self.receive_nowait = self._router.receive_nowait
        self.keep_house = self._router.keep_house
        self._overflows: dict[ConnectionId, _Overflow] = {}
        self._overflow_bytes = 0
        self.stuck_cut = 0
        """How many were cut because they took nothing of what waited for them."""

    @property
    def holds_back(self) -> bool:
        """Something waits until its receiver has room."""
        return bool(self._overflows)

    @property
    def descriptors(self) -> tuple[int, int]:
        """What to wait on for frames, and for handshakes (`admit`)."""
        frames, handshakes, _ = self._router.descriptors
        return frames, handshakes

    @property
    def connections(self) -> int:
        """How many there are, also those that have not said a word."""
        return self._router.connections

    @property
    def silent_cut(self) -> int:
        """How many were cut because they said nothing."""
        return self._router.silent_cut

    @property
    def flooding_cut(self) -> int:
        """How many were cut because they sent more than the relay could read."""
        return self._router.flooding_cut

    @property
    def scarce(self) -> bool:
        """Whether hardly a descriptor is left, so that one goes for each that comes; `keep_house` often then."""
        return self._router.scarce

    @property
    def times_scarce(self) -> int:
        """How often that has come about."""
        return self._router.times_scarce

    @property
    def handshakes_malformed(self) -> int:
        """How many broke the handshake."""
        return self._router.handshakes_malformed

    def send_nowait(self, connection: ConnectionId, frame: bytes) -> None:
        """Queue a frame.

        Raises:
            Congested: The connection holds its whole budget back; the frame was not taken.
            Unreachable: It is gone.
        """
        overflow = self._overflows.get(connection)
        if overflow is None:
            if self._router.try_send(connection, frame):
                return
            overflow = self._overflows[connection] = _Overflow()
        size = len(frame)
        if overflow.size + size > OVERFLOW_BYTES_MAX or self._overflow_bytes + size > OVERFLOW_TOTAL_BYTES_MAX:
            raise Congested("the receiver takes too little; the frame was not queued")
        overflow.frames.append(frame)
        overflow.size += size
        self._overflow_bytes += size

    def flush(self) -> bool:
        """Send what libzmq had no room for; True when some of it went, or has nobody to go to any more."""
        moved = False
        for connection, overflow in list(self._overflows.items()):
            try:
                while overflow.frames and self._router.try_send(connection, overflow.frames[0]):
                    self._drop(overflow, len(overflow.frames.popleft()))
                    overflow.moved, moved = time.monotonic(), True
            except Unreachable:
                # Its end is told by `receive_nowait`.
                self._drop(overflow, overflow.size)
                overflow.frames.clear()
            if not overflow.frames:
                del self._overflows[connection]
                moved = True
        return moved

    def _drop(self, overflow: _Overflow, count: int) -> None:
        overflow.size -= count
        self._overflow_bytes -= count

    def sweep(self) -> None:
        """Notice who has gone, has said nothing, takes nothing or sends too much, and carry out cuts that are due."""
        self._router.cut_flooding(METERS_PER_SWEEP_MAX)
        until = time.monotonic() - STUCK_S
        for connection, overflow in self._overflows.items():
            if overflow.moved <= until and self._router.break_off(connection):
                self.stuck_cut += 1
        self._router.sweep()

    def close(self) -> None:
        """Close everything at once."""
        self._router.close(0)
        self._router.context.term()

"""What every ZeroMQ socket of ours has, dialling or bound: limits, and frames of one part.

Sockets are drained on their descriptors by the edge-triggered rule: a descriptor tells of changes only, so its owner
may wait on it (`anyio.wait_readable`) only after receiving gave None, and must look again after every send, which may
have used the change up.
"""

import msgspec
import zmq

LINGER_MS = 250
"""What a closed socket has left to send what it holds."""
PROBE_S = 1
"""How often the kernel asks a silent connection whether it lives, where it does."""
HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


# Plain numbers: pyzmq is slower with members of its enums.
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)


class SocketLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What peers can make a socket keep; no socket is without."""

    message_bytes_max: int
    send_frames: int
    """libzmq counts messages, not bytes: as many of the longest as make up the byte budget."""
    handshake_ms: int
    probed_s: int = 0
    """After so long without an answer to its probes the kernel gives a connection up; 0: its owner sees to that."""

    def harden(self, sock: "zmq.Socket[bytes]") -> None:
        """Set the limits, and what keeps peers from aborting this process.

        libzmq 4.3.5 aborts when a connection breaks while its receive queue is full and a heartbeat of either end is
        due. So there is no such queue (the owner reads always, memory is bounded by credit and `UnreadMeters`) and no
        heartbeat of ours; see docs/decisions/0013.
        """
        sock.setsockopt(zmq.MAXMSGSIZE, self.message_bytes_max)
        sock.setsockopt(zmq.SNDHWM, self.send_frames)
        sock.setsockopt(zmq.RCVHWM, 0)
        sock.setsockopt(zmq.HANDSHAKE_IVL, self.handshake_ms)
        sock.setsockopt(zmq.HEARTBEAT_IVL, 0)
        sock.setsockopt(zmq.LINGER, 0)
        if self.probed_s:
            sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
            sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, PROBE_S)
            sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, PROBE_S)
            sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, self.probed_s // PROBE_S - 1)
            sock.setsockopt(zmq.TCP_MAXRT, self.probed_s * 1000)


def endpoint(host: str, port: int) -> str:
    """Write host and port as people and libzmq read them; an IPv6 literal gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_empty(sock: "zmq.Socket[bytes]") -> bool:
    """Tell whether receiving would find nothing; an `Again` takes pyzmq three times as long."""
    return not int(sock.get(_EVENTS)) & _READABLE


def frame_of(sock: "zmq.Socket[bytes]", message: zmq.Frame) -> bytes:
    """Give what was just received; empty, and so never valid, when it has more parts than the one that frames have."""
    frame = message.bytes
    # The message is asked, not the socket (RCVMORE): that takes pyzmq a microsecond.
    while message.more:
        message, frame = sock.recv(copy=False), b""
    return frame

"""TCP connections that libzmq owns, looked at and shut down from outside by their descriptor.

libzmq's own thread may close a descriptor at any moment, and the next connection may get its number. So everything
here works on a duplicate of its own, and who shuts a connection down names the address it believes to be at the other
end. Nothing here may close, read or write what is libzmq's.
"""

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
import termios
import time
from dataclasses import dataclass, field
from typing import Any

UNREAD_BYTES_MAX = 8 * 1024 * 1024
"""What libzmq may hold of one peer that is no whole frame we could read; of honest ones it is at most 4 MiB."""
STRANGER_BYTES_MAX = 64 * 1024
"""The same before the first frame, which has at most 5 KiB."""
QUIET_BYTES_PER_S = 1024
"""What heartbeats take, which are never read; they are 100 bytes a second."""
FRAME_OVERHEAD_BYTES_MAX = 64
"""What ZMTP and CURVE add to a frame: 33 to 42 bytes."""
_TCP_INFO_BYTES = 136
_RECEIVED = struct.Struct("@Q")
_RECEIVED_OFFSET = 128
"""Of `tcpi_bytes_received` in Linux's `struct tcp_info`, since 4.1."""


def plain_host(address: str) -> str:
    """Write an IPv4 address that came over an IPv6 socket as IPv4."""
    with contextlib.suppress(ValueError):
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
        return address if mapped is None else str(mapped)
    return address


def _duplicate(descriptor: int) -> socket.socket:
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        # It has become a file that is no socket.
        os.close(own)
        raise


def peer_of(descriptor: int) -> Any:
    """Give the address at the other end; None when it has none any more."""
    with contextlib.suppress(OSError), _duplicate(descriptor) as sock:
        return sock.getpeername()
    return None


def shut_down(descriptor: int, peer: Any) -> None:
    """Shut a connection down if it still is the one to `peer`; libzmq's thread then closes it."""
    with contextlib.suppress(OSError), _duplicate(descriptor) as sock:
        if sock.getpeername() == peer:
            sock.shutdown(socket.SHUT_RDWR)


def bytes_taken(descriptor: int) -> int:
    """Tell how many bytes libzmq has read from a connection; 0 where the system cannot say (not Linux)."""
    with contextlib.suppress(OSError, AttributeError), _duplicate(descriptor) as sock:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(info) < _TCP_INFO_BYTES:
            return 0
        waiting = int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), "little")
        return max(0, int(_RECEIVED.unpack_from(info, _RECEIVED_OFFSET)[0]) - waiting)
    return 0


@dataclass(slots=True)
class UnreadMeter:
    """Tells when a peer makes libzmq hold more than it may.

    libzmq bounds a part of a message (MAXMSGSIZE) and the number of messages (RCVHWM), not the number of parts: a
    message that never ends grows a node by as much as the network carries, and shows no frame that could be judged.
    """

    descriptor: int
    _read: int = 0
    _bytes_max: int = STRANGER_BYTES_MAX
    _looked: float = field(default_factory=time.monotonic)

    def note_frame(self, length: int) -> None:
        """Note that a whole frame was read."""
        self._read += length + FRAME_OVERHEAD_BYTES_MAX
        self._bytes_max = UNREAD_BYTES_MAX

    def overfull(self) -> bool:
        """Look, and tell whether it holds too much."""
        taken, now = bytes_taken(self.descriptor), time.monotonic()
        # What is estimated too high must not become a credit.
        self._read = min(taken, self._read + int(QUIET_BYTES_PER_S * (now - self._looked)))
        self._looked = now
        return taken - self._read > self._bytes_max

"""TCP connections that libzmq owns, looked at and shut down from outside by their descriptor.

libzmq's own thread may close a descriptor at any moment, and the next connection may get its number. So everything
here works on a duplicate of its own, and who shuts a connection down says which one it believes it to be: by its inode
on Linux, which costs a microsecond, elsewhere by the address at the other end. Nothing here may close, read or write
what is libzmq's.
"""

import contextlib
import errno
import fcntl
import ipaddress
import os
import socket
import struct
import sys
import termios
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

STRANGER_BYTES_MAX = 64 * 1024
"""What libzmq may hold of a peer whose first frame is not judged yet; such a frame has at most 5 KiB."""
UNREAD_SLACK_BYTES = 64 * 1024
"""And beside what a peer has credit for: frames about the link itself, and what ZMTP adds."""
UNREAD_TOTAL_BYTES_MAX = 256 * 1024 * 1024
"""Of all peers of one socket together; beyond it those go who make it hold most."""
METERS_PER_LOOK_MAX = 1024
"""A look takes about 10 us; with more connections than this each is looked at less often."""
QUIET_BYTES_PER_S = 1024
"""What ZMTP's own commands take, which are never read; heartbeats of libzmq's are 100 bytes a second."""
_SEALED_BYTES = 33
"""What CURVE adds to a message: its name, a nonce, a flag and the authenticator."""
_SHORT_FRAME_BYTES_MAX = 255
_HAS_INODES = sys.platform == "linux"
"""Each open socket has one of its own there."""
_TCP_INFO_BYTES = 136
_COUNTS = struct.Struct("@QQ")
_COUNTS_OFFSET = 120
"""Of `tcpi_bytes_acked` and `tcpi_bytes_received` in Linux's `struct tcp_info`, since 4.1."""


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


def _quick_duplicate(descriptor: int) -> socket.socket:
    """Duplicate without asking of what family it is; for what needs no address, at a third of the cost."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=os.dup(descriptor))


def mark_of(descriptor: int) -> Any:
    """Give what tells this connection from the next one of the same number; None when it is gone."""
    if _HAS_INODES:
        with contextlib.suppress(OSError):
            return os.fstat(descriptor).st_ino
        return None
    with contextlib.suppress(OSError), _duplicate(descriptor) as sock:
        return sock.getpeername()
    return None


def own_address_of(descriptor: int) -> str:
    """Give the address at this end, without its scope; empty when it has none any more."""
    with contextlib.suppress(OSError), _duplicate(descriptor) as sock:
        return plain_host(str(sock.getsockname()[0]).partition("%")[0].lower())
    return ""


def shut_down(descriptor: int, mark: Any) -> None:
    """Shut a connection down if it still is the one with this mark; libzmq's thread then closes it."""
    try:
        sock = _quick_duplicate(descriptor)
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE} and mark_of(descriptor) == mark:
            # Without a duplicate there is a moment in which it could become another's; but it must go, to make room.
            lent = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
            with contextlib.suppress(OSError):
                lent.shutdown(socket.SHUT_RDWR)
            lent.detach()
        return
    with contextlib.suppress(OSError), sock:
        if mark_of(sock.fileno()) == mark:
            sock.shutdown(socket.SHUT_RDWR)


def _counts(sock: socket.socket) -> tuple[int, int]:
    """Give how many bytes the other end has acknowledged, and how many it has sent; 0 where nobody can say."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        return 0, 0
    acknowledged, received = _COUNTS.unpack_from(info, _COUNTS_OFFSET)
    return acknowledged, received


def bytes_acknowledged(descriptor: int) -> int:
    """Tell how many bytes the other end's kernel has acknowledged; 0 where the system cannot say (not Linux)."""
    with contextlib.suppress(OSError, AttributeError), _quick_duplicate(descriptor) as sock:
        return _counts(sock)[0]
    return 0


def bytes_taken(descriptor: int) -> int:
    """Tell how many bytes libzmq has read from a connection; 0 where the system cannot say (not Linux)."""
    with contextlib.suppress(OSError, AttributeError), _quick_duplicate(descriptor) as sock:
        waiting = int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), "little")
        return max(0, _counts(sock)[1] - waiting)
    return 0


def bytes_on_the_wire(length: int) -> int:
    """Tell what ZMTP 3.1 and CURVE make of a message part (RFC 37, RFC 26)."""
    sealed = length + _SEALED_BYTES
    return sealed + (2 if sealed <= _SHORT_FRAME_BYTES_MAX else 9)


@dataclass(slots=True)
class UnreadMeter:
    """Tells when a peer makes libzmq hold more than it may.

    libzmq's own bounds are of no use here: it bounds a part of a message (MAXMSGSIZE), not the number of parts, and a
    bounded number of messages (RCVHWM) would let peers abort this process.
    """

    descriptor: int
    bytes_max: int = STRANGER_BYTES_MAX
    unread: int = 0
    """What it held at the last look."""
    _read: int = 0
    _looked: float = field(default_factory=time.monotonic)

    def note_frame(self, length: int) -> None:
        """Note that a whole frame was read."""
        self._read += bytes_on_the_wire(length)

    def overfull(self) -> bool:
        """Look, and tell whether it holds too much."""
        taken, now = bytes_taken(self.descriptor), time.monotonic()
        # What is estimated too high must not become a credit.
        self._read = min(taken, self._read + int(QUIET_BYTES_PER_S * (now - self._looked)))
        self._looked, self.unread = now, taken - self._read
        return self.unread > self.bytes_max


class UnreadMeters:
    """The meters of all connections to one socket, by descriptor."""

    def __init__(self) -> None:
        self._meters: dict[int, UnreadMeter] = {}
        self._turn: deque[int] = deque()

    def begin(self, descriptor: int) -> None:
        """Measure a new connection."""
        self._meters[descriptor] = UnreadMeter(descriptor)

    def forget(self, descriptor: int) -> None:
        """Measure a connection no more; nothing if it is not measured."""
        self._meters.pop(descriptor, None)

    def allow(self, descriptor: int, bytes_max: int) -> UnreadMeter | None:
        """Let libzmq hold so much of a connection, and give its meter; None when it is not measured."""
        if (meter := self._meters.get(descriptor)) is not None:
            meter.bytes_max = bytes_max
        return meter

    def overfull(self, most: int | None = None) -> list[int]:
        """Look at `most` of them, all in turn, and give those that have to be cut."""
        if not self._turn:
            self._turn.extend(self._meters)
        flooding = []
        for _ in range(min(most or METERS_PER_LOOK_MAX, len(self._turn))):
            meter = self._meters.get(self._turn.popleft())
            if meter is not None and meter.overfull():
                flooding.append(meter.descriptor)
        total = sum(meter.unread for meter in self._meters.values())
        if total > UNREAD_TOTAL_BYTES_MAX:
            for meter in sorted(self._meters.values(), key=lambda each: each.unread, reverse=True):
                if meter.descriptor not in flooding:
                    flooding.append(meter.descriptor)
                if (total := total - meter.unread) <= UNREAD_TOTAL_BYTES_MAX:
                    break
        return flooding

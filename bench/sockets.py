"""Sockets of this host, for whoever measures."""

import socket

from atoll.transport.errors import Unreachable

HOST = "127.0.0.1"


def free_port() -> int:
    """Give a port that is free now; whoever wants it should take it at once."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    """Receive so many bytes and not one more, with a time-out, too, for which MSG_WAITALL gives short reads.

    Raises:
        Unreachable: The other end closed before.
    """
    data = b""
    while len(data) < count:
        got = sock.recv(count - len(data))
        if not got:
            raise Unreachable("the connection was closed too early")
        data += got
    return data

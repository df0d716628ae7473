"""Several TCP connections from one local port: what two ends behind NAT need to open one to each other.

    opened --ask--> a server outside tells which address it sees
           --connect, again and again--> connections, by simultaneous open (RFC 9293, section 3.5) or in the usual way
           --came--> connections that somebody else has begun

All sockets are bound to one port with SO_REUSEADDR and SO_REUSEPORT, so that a NAT gives them one address, if it can.
A SYN that meets a socket which has sent one itself opens that; any other one reaches the port that listens.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import anyio

from atoll.transport import stun
from atoll.transport.errors import Expired, MalformedFrame, Unreachable
from atoll.transport.tcp_address import TcpAddress

BACKLOG = 8
ASK_S = 2.0
"""For the answer of a relay that is outside: a round trip and a half, and a lost SYN that is sent again."""

ACCEPT_PAUSE_S = 0.05


class PunchPort:
    """A local port that is dialled from and listened at; `close` lets go of it and of who was asked."""

    def __init__(self, listener: socket.socket) -> None:
        """Take a socket that listens; see `open`."""
        self._listener = listener
        self._asked: list[socket.socket] = []
        self.port: int = listener.getsockname()[1]
        self._local: TcpAddress | None = None

    @classmethod
    def open(cls, version: int, port: int = 0) -> "PunchPort":
        """Take a port for IP of that version; any free one for 0.

        Raises:
            Unreachable: This host has no such port to give.
        """
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        try:
            listener = _bound(family, port)
            try:
                listener.listen(BACKLOG)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise Unreachable(f"this host gives no port to punch from: {error}") from error
        return cls(listener)

    @property
    def version(self) -> int:
        """The version of IP."""
        return 4 if self._listener.family == socket.AF_INET else 6

    @property
    def local(self) -> TcpAddress | None:
        """This host's own address on the way outside; None before a server has answered."""
        return self._local

    def close(self) -> None:
        """Close the port and the connections to those who were asked, not those that `connect` and `came` gave."""
        for each in (self._listener, *self._asked):
            each.close()
        self._asked.clear()

    async def ask(self, server: TcpAddress) -> TcpAddress:
        """Ask a server which address it sees. The connection stays until `close`: with it, a NAT keeps the address.

        Raises:
            Unreachable, Expired, MalformedFrame: It does not say; the text is the reason.
        """
        transaction = os.urandom(stun.TRANSACTION_BYTES)
        try:
            with anyio.fail_after(ASK_S):
                sock = await self.connect(server)
                self._asked.append(sock)
                await send_all(sock, stun.encode_request(transaction))
                data = b""
                while missing := stun.bytes_missing(data, stun.RESPONSE):
                    data += await receive(sock, missing)
        except TimeoutError as error:
            raise Expired(f"{server} did not say within {ASK_S:g} s which address it sees") from error
        except OSError as error:
            raise Unreachable(f"{server} did not say which address it sees: {error}") from error
        self._local = TcpAddress.of(sock.getsockname())
        return stun.decode_response(data, transaction)

    async def connect(self, address: TcpAddress) -> socket.socket:
        """Connect from the port; gives a socket that does not block.

        Raises:
            Unreachable: Nobody is there, or the same connection stands already.
        """
        try:
            sock = _bound(self._listener.family, self.port)
        except OSError as error:
            raise Unreachable(f"port {self.port} cannot be used again: {error}") from error
        try:
            found = sock.connect_ex((address.host, address.port))
            if found == errno.EINPROGRESS:
                await anyio.wait_writable(sock)
                found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as error:
            sock.close()
            raise Unreachable(f"{address}: {error.strerror}") from error
        except BaseException:
            sock.close()
            raise
        if found:
            sock.close()
            raise Unreachable(f"{address}: {os.strerror(found)}")
        return sock

    async def came(self) -> socket.socket:
        """Wait for a connection that somebody else has begun; gives a socket that does not block."""
        while True:
            await anyio.wait_readable(self._listener)
            try:
                sock, _ = self._listener.accept()
            except OSError:
                # It has gone again, or there is no descriptor for it now.
                await anyio.sleep(ACCEPT_PAUSE_S)
                continue
            sock.setblocking(False)
            return sock


async def resolved(host: str, port: int) -> Iterator[TcpAddress]:
    """Give the addresses of a name, those of IPv4 first: where there is NAT, it is there.

    Raises:
        Unreachable: Nobody knows it.
    """
    with suppress(MalformedFrame):
        # An address asks nobody, and no thread.
        return iter([TcpAddress.parse(host, port)])
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = {TcpAddress.of(name) for *_, name in found}
    except (OSError, MalformedFrame) as error:
        raise Unreachable(f"{host} cannot be looked up: {error}") from error
    return iter(sorted(addresses, key=lambda each: (each.ip.version, each)))


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all of it over a socket that does not block; raises `OSError`."""
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            await anyio.wait_writable(sock)


async def receive(sock: socket.socket, bytes_max: int) -> bytes:
    """Receive what has come, at least a byte.

    Raises:
        OSError: The other end has closed, or the connection broke.
    """
    while True:
        try:
            data = sock.recv(bytes_max)
        except BlockingIOError:
            await anyio.wait_readable(sock)
            continue
        if not data:
            raise OSError(errno.ECONNRESET, "the other end has closed it")
        return data


def _bound(family: socket.AddressFamily, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("" if family == socket.AF_INET else "::", port))
    except OSError:
        sock.close()
        raise
    return sock

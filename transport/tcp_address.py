"""An address of TCP in its one canonical form: an IP address and a port, never a name."""

import ipaddress
from dataclasses import dataclass
from typing import Any

from atoll.transport.errors import MalformedFrame


@dataclass(frozen=True, slots=True, order=True)
class TcpAddress:
    """Where TCP ends; make it with `of`, `parse` or `unpacked`, which check it."""

    host: str
    port: int

    @classmethod
    def parse(cls, host: str, port: int) -> "TcpAddress":
        """Take a literal address; an IPv4 address in IPv6's clothes (RFC 4291, section 2.5.5.2) becomes itself.

        Raises:
            MalformedFrame: It is no address, has a zone, or no port is called so.
        """
        try:
            found = ipaddress.ip_address(host)
        except ValueError as error:
            raise MalformedFrame(f"{host[:64]!r} is no IP address") from error
        if isinstance(found, ipaddress.IPv6Address):
            if found.scope_id is not None:
                raise MalformedFrame(f"{host[:64]!r} names a zone, which means something on its own host only")
            found = found.ipv4_mapped or found
        if not 1 <= port <= 65_535:
            raise MalformedFrame(f"{port} is no port")
        return cls(str(found), port)

    @classmethod
    def unpacked(cls, address: bytes, port: int) -> "TcpAddress":
        """Take an address of 4 or 16 bytes.

        Raises:
            MalformedFrame: It has another length, or no port is called so.
        """
        if len(address) not in (4, 16):
            raise MalformedFrame(f"an IP address has 4 or 16 bytes, not {len(address)}")
        return cls.parse(str(ipaddress.ip_address(address)), port)

    @classmethod
    def of(cls, name: tuple[Any, ...]) -> "TcpAddress":
        """Take what a socket calls an end of it (`getsockname`, `getpeername`); raises as `parse`."""
        return cls.parse(str(name[0]).partition("%")[0], int(name[1]))

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The address without the port."""
        return ipaddress.ip_address(self.host)

    @property
    def packed(self) -> bytes:
        """The address without the port, in 4 or 16 bytes."""
        return self.ip.packed

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

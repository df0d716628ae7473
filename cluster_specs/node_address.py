"""Where a node is, as people write it: `NODEID@host:port`, with brackets around an IPv6 address."""

import ipaddress
import re
from typing import Self

from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

_FORM = "write NODEID@host:port, as in `atoll node show` (and an IPv6 address in brackets: NODEID@[fe80::1%eth0]:8085)"
_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)
_TEXT_MAX = 400


class NodeAddress:
    """A node and one address at which it takes links; no dataclass, because msgspec would want a table for one."""

    __slots__ = ("host", "node", "port")

    def __init__(self, node: NodeId, host: str, port: int) -> None:
        self.node, self.host, self.port = node, host, port

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one.

        Raises:
            UsageError: It is none; the text says which part is wrong, and what would be right.
        """
        if len(text) > _TEXT_MAX:
            raise UsageError(f"an address of {len(text)} characters is none: {_FORM}")
        node, at, place = text.partition("@")
        if not at:
            raise UsageError(f"{text!r} names no node: {_FORM}")
        try:
            node_id = NodeId.parse(node)
        except UsageError as error:
            raise UsageError(f"{text!r}: {error}") from error
        host, colon, port = place.rpartition(":")
        if not colon:
            raise UsageError(f"{text!r} has no port: {_FORM}")
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 2**16):
            raise UsageError(f"{text!r}: {port!r} is no port; ports are 1 to 65535")
        return cls(node_id, _host(host, text), int(port))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeAddress) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"NodeAddress({self})"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.node}@{host}:{self.port}"


def _host(host: str, text: str) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        six = ipaddress.ip_address(bare).version == 6
    except ValueError:
        six = False
        if bare != host or not _NAME.fullmatch(host) or re.fullmatch(r"[0-9.]+", host):
            raise UsageError(f"{text!r}: {host!r} is no host: {_FORM}") from None
    if six is (bare == host):
        raise UsageError(f"{text!r}: {host!r} is no host: {_FORM}")
    return bare

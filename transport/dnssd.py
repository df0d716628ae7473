"""Says and hears this node by DNS-SD (RFC 6763) over mDNS (RFC 6762), for other tools and beside beacons.

    off --open--> said and browsed --close--> off          any trouble --> off, with the reason in a sentence

The service is `_atoll._tcp.local.`, with the port of the links and in TXT `id` (the whole node id), `short`, `label`
and `version`. What is heard has no proof of anything: it is a hint where somebody may be dialled, like a beacon of
another site. The package zeroconf does the work in a thread of its own, so nobody gets it who has not asked for it;
it is imported when it is needed. Sizes and numbers of what is heard are limited; what does not fit is counted.
"""

import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Iterable
from threading import Lock
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec

from atoll.transport.beacon_packet import LABEL_BYTES_MAX, RELEASE_BYTES_MAX
from atoll.transport.errors import Unreachable, UsageError
from atoll.transport.identity import NodeId

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

log = logging.getLogger("atoll.transport")

SERVICE = "_atoll._tcp.local."
SERVICES_MAX = 256
"""Others remembered; who comes later is not heard by this way."""
ADDRESSES_MAX = 8
TXT_BYTES_MAX = 512
RESOLVE_MS = 2000
TTL_S = 60
"""How long others believe in our addresses: those of a node that moved must not live long."""


class AddressHinted(msgspec.Struct, frozen=True):
    """Somebody said that `peer` takes links at this address; nobody has proved it."""

    peer: NodeId
    host: str
    port: int
    label: str
    release: str


class Announced(msgspec.Struct, frozen=True):
    """What one node says of itself."""

    node: NodeId
    port: int
    label: str
    release: str

    @property
    def instance(self) -> str:
        """The name that people see; the short id keeps two alike labels apart."""
        # A dot would be taken for the end of a label by some clients.
        label = self.label.replace(".", "-").encode()[:LABEL_BYTES_MAX].decode(errors="ignore")
        return f"{label}-{self.node.short}" if label else self.node.short

    def texts(self) -> dict[str, str]:
        """Give the TXT record."""
        return {"id": str(self.node), "short": self.node.short, "label": self.label, "version": self.release}


def hints_of(
    port: int | None, properties: dict[bytes, bytes | None], addresses: Iterable[str], own: NodeId
) -> list[AddressHinted]:
    """Read what somebody announced; nothing of our own.

    Raises:
        UsageError: It is no announcement of a node: the announcer's fault.
    """
    if sum(len(key) + len(value or b"") for key, value in properties.items()) > TXT_BYTES_MAX:
        raise UsageError(f"a TXT record of a node has at most {TXT_BYTES_MAX} bytes")
    try:
        said = {key.decode(): (value or b"").decode() for key, value in properties.items()}
    except UnicodeDecodeError as error:
        raise UsageError("a TXT record of a node is UTF-8") from error
    node = NodeId.parse(said.get("id", ""))
    label, release = said.get("label", ""), said.get("version", "")
    if not port or not 0 < port < 2**16:
        raise UsageError(f"a node announces a port of 1 to 65535, not {port}")
    if len(label.encode()) > LABEL_BYTES_MAX or len(release.encode()) > RELEASE_BYTES_MAX:
        raise UsageError("a label or version is too long")
    if not (label + release).isprintable():
        raise UsageError("a label or version has characters that cannot be shown")
    if node == own:
        return []
    return [AddressHinted(node, host, port, label, release) for host in list(addresses)[:ADDRESSES_MAX]]


class DnsSd:
    """One node's DNS-SD; `open` and `close` it, and ask for `hints` as often as you like."""

    def __init__(self, said: Announced, addresses: Iterable[str]) -> None:
        """Announce the node at these addresses of this host."""
        self._said = said
        self._addresses = sorted(addresses)
        self._zeroconf: Zeroconf | None = None
        # Written by zeroconf's thread, read by ours.
        self._lock = Lock()
        self._heard: dict[str, list[AddressHinted]] = {}
        self._counts: Counter[str] = Counter()

    async def open(self) -> None:
        """Begin to announce and to browse; takes a second, because mDNS first asks whether the name is taken.

        Raises:
            Unreachable: It cannot be done here; the text says why and what to do.
        """
        try:
            await anyio.to_thread.run_sync(self._open)
        except ImportError as error:
            raise Unreachable("DNS-SD needs the package zeroconf: pip install 'atoll[dnssd]'") from error
        except Exception as error:  # zeroconf raises errors of its own and asyncio's, and none of them may end a node
            await self.close()
            raise Unreachable(f"UDP port 5353 cannot be used for DNS-SD: {error or type(error).__name__}") from error

    async def close(self) -> None:
        """Take the announcement back and end the thread; harmless when it is not open."""
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(_close, zeroconf)

    def hints(self) -> list[AddressHinted]:
        """Give where others say that they are, now."""
        with self._lock:
            return [hint for hints in self._heard.values() for hint in hints]

    def statistics(self) -> dict[str, int]:
        """Count what was heard and refused."""
        with self._lock:
            return {"services": len(self._heard), **dict(sorted(self._counts.items()))}

    # In threads of zeroconf, but for `_open`.

    def _open(self) -> None:
        from zeroconf import ServiceBrowser, ServiceInfo, Zeroconf  # noqa: PLC0415 - an extra, and slow to import

        self._zeroconf = zeroconf = Zeroconf(interfaces=self._addresses or ["127.0.0.1"])
        said = self._said
        packed = [
            socket.inet_pton(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in self._addresses
        ]
        info = ServiceInfo(
            SERVICE,
            f"{said.instance}.{SERVICE}",
            port=said.port,
            addresses=packed,
            properties=said.texts(),
            server=f"atoll-{said.node.short}.local.",
            host_ttl=TTL_S,
            other_ttl=TTL_S,
        )
        zeroconf.register_service(info, allow_name_change=True)
        ServiceBrowser(zeroconf, SERVICE, handlers=[self._changed])

    def _changed(self, zeroconf: "Zeroconf", service_type: str, name: str, state_change: Any) -> None:
        if state_change.name == "Removed":
            with self._lock:
                self._heard.pop(name, None)
            return
        info = None
        with contextlib.suppress(Exception):
            # Whatever a stranger sends must not end the browser's thread.
            info = zeroconf.get_service_info(service_type, name, timeout=RESOLVE_MS)
        self._take(name, info)

    def _take(self, name: str, info: "ServiceInfo | None") -> None:
        hints: list[AddressHinted] = []
        refused = ""
        if info is None:
            refused = "unresolved"
        else:
            try:
                hints = hints_of(info.port, info.properties, info.parsed_scoped_addresses(), self._said.node)
            except (UsageError, ValueError):
                refused = "malformed"
        with self._lock:
            if refused:
                self._counts[refused] += 1
                self._heard.pop(name, None)
            elif hints and name not in self._heard and len(self._heard) >= SERVICES_MAX:
                self._counts["refused"] += 1
            elif hints:
                self._heard[name] = hints


def _close(zeroconf: "Zeroconf") -> None:
    with contextlib.suppress(Exception):
        zeroconf.unregister_all_services()
    zeroconf.close()

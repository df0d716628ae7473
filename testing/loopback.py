"""The ground without namespaces: every process on 127.0.0.1, with ports of its own and one beacon port per site.

There is no NAT, no multicast of a real network and no cable to cut; what is shown here is everything else.
"""

import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from atoll.cluster_specs import ClusterSpec, Seat
from atoll.testing.errors import UnknownName
from atoll.testing.ground import Ground

LOOPBACK = "127.0.0.1"


class Loopback(Ground):
    """Places on this host."""

    def __init__(self, spec: ClusterSpec) -> None:
        super().__init__(spec, "none")

    @property
    def words(self) -> str:
        return "no NAT here: every process is on 127.0.0.1, and sites are kept apart by their beacon ports only"

    def seats(self, directory: Path) -> Mapping[str, Seat]:
        """Ports are free now; whoever takes one before its process starts makes that process say so and end."""
        seats = {}
        with contextlib.ExitStack() as held:
            for cloud in self.spec.cloud:
                ports = {"cloud": _free_port(held, socket.SOCK_STREAM)}
                seats[cloud.name] = Seat(directory / cloud.name, host=LOOPBACK, ports=ports)
            for relay in self.spec.relay:
                ports = {name: _free_port(held, socket.SOCK_STREAM) for name in ("sep", "bearer")}
                seats[relay.name] = Seat(directory / relay.name, host=LOOPBACK, ports=ports)
            for site in self.spec.site:
                beacon = _free_port(held, socket.SOCK_DGRAM)
                for node in site.node:
                    ports = {"links": _free_port(held, socket.SOCK_STREAM), "beacon": beacon, "gateway": -1}
                    name = f"{site.name}/{node.name}"
                    seats[name] = Seat(directory / name, host=LOOPBACK, ports=ports)
        return seats

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        self.address_of(name)
        return list(argv)

    def address_of(self, name: str) -> str:
        if name not in self.spec.process_names():
            raise UnknownName(
                f"the cluster has no process {name!r}; it has {', '.join(self.spec.process_names()[:12])}"
            )
        return LOOPBACK


def _free_port(held: contextlib.ExitStack, kind: int) -> int:
    # All are held until all are known, so that no two are the same.
    sock = held.enter_context(contextlib.closing(socket.socket(socket.AF_INET, kind)))
    sock.bind((LOOPBACK, 0))
    port: int = sock.getsockname()[1]
    return port

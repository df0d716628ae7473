"""The same work through other tools, where they are installed; measured in turns with ours, and stopped for sure."""

from collections.abc import Sequence

from atoll.bench.peers.chisel import Chisel
from atoll.bench.peers.coturn import Coturn
from atoll.bench.peers.frp import Frp
from atoll.bench.peers.haproxy import Haproxy
from atoll.bench.peers.nats import Nats
from atoll.bench.peers.nginx import Nginx
from atoll.bench.peers.openssh import OpenSsh
from atoll.bench.peers.peer import Peer
from atoll.bench.peers.rathole import Rathole
from atoll.bench.peers.socat import Socat
from atoll.transport.errors import UsageError

RELAYS: dict[str, type[Peer]] = {
    each.name: each for each in (Socat, Haproxy, Nginx, OpenSsh, Frp, Chisel, Rathole, Nats, Coturn)
}
ALL = "all"


def chosen(names: Sequence[str]) -> tuple[list[type[Peer]], dict[str, str]]:
    """Give those that are here, and of those that are not why, and how to get them.

    `all` takes what is there; whoever names a peer wants that one.

    Raises:
        UsageError: There is no peer of that name, or one that was named is not installed.
    """
    if unknown := sorted(set(names) - {*RELAYS, ALL}):
        raise UsageError(f"no peer is called {', '.join(unknown)}; there are {', '.join(RELAYS)}, and {ALL}")
    here, absent = [], {}
    for name, peer in RELAYS.items():
        if name not in names and ALL not in names:
            continue
        if (reason := peer.absence()) is None:
            here.append(peer)
        elif name in names:
            raise UsageError(f"the peer {name} cannot be measured: {reason}")
        else:
            absent[name] = reason
    return here, absent

"""What carries a node's links, and what says where they are: made from its config, anew for each Router."""

import ifaddr

from atoll.actors.composition.version import VERSION
from atoll.cluster_specs.config import NodeConfig
from atoll.transport.admission import SiteAdmission
from atoll.transport.beacon import Beacon, faces_of
from atoll.transport.dnssd import Announced, DnsSd
from atoll.transport.errors import UsageError
from atoll.transport.keys import NodeKey, SiteKeys
from atoll.transport.zeromq import ZeroMqTransport


class NodeLinks:
    """Makes what carries a node's links, anew for each Router, and the beacons that say where they are."""

    def __init__(self, config: NodeConfig, key: NodeKey, site: SiteKeys) -> None:
        self._config = config
        self._key = key
        self._site = site
        self._newest: ZeroMqTransport | None = None
        cloud = config.cloud
        self._admission = SiteAdmission(
            keys=site,
            own=key.node_id,
            open_site=config.site.open,
            clouds=frozenset() if cloud is None else frozenset({cloud.id}),
            enrolment=b"" if cloud is None else cloud.shown,
        )

    def transport(self) -> ZeroMqTransport:
        """Make a transport; its port is known once the Router has opened it."""
        config = self._config
        self._newest = ZeroMqTransport(
            self._key, self._admission, label=config.name, host=config.links.host, port=config.links.port
        )
        return self._newest

    def beacon(self) -> Beacon:
        """Make a beacon that says the port of the newest transport; the Router, which opens it, is started before."""
        if self._newest is None:
            raise UsageError("a beacon needs the port of the links: start the Router before the Discoverer")
        config = self._config
        return Beacon(
            self._key,
            self._newest.port,
            self._site,
            label=config.name,
            beacon_port=config.beacon.port,
            interfaces=config.beacon.interfaces,
        )

    def dnssd(self) -> DnsSd:
        """Make DNS-SD for the newest transport, at the addresses that this host has now."""
        if self._newest is None:
            raise UsageError("DNS-SD needs the port of the links: start the Router before the Discoverer")
        config = self._config
        faces = faces_of(ifaddr.get_adapters(), config.beacon.interfaces)
        addresses = {face.address for face in faces if face.family == 4}
        outward = {each for each in addresses if not each.startswith("127.")}
        return DnsSd(Announced(self._key.node_id, self._newest.port, config.name, VERSION), outward or addresses)

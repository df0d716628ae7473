"""Turns a cluster spec into one config per process.

    spec + materials (keys, secrets) + seats (addresses, directories)  -->  planned processes

Keys are made ahead, so that rosters, pins and enrolments can be written down: no process has to trust whom it meets
first. `plan` itself decides nothing by chance and touches nothing.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from atoll.cluster_specs.config import (
    SEEDS_MAX,
    BeaconConfig,
    CloudConfig,
    CloudRef,
    DiscoveryConfig,
    ElectionConfig,
    Enrolment,
    FactsConfig,
    ForwardConfig,
    GatewayConfig,
    JoinConfig,
    LinksConfig,
    NodeConfig,
    RelayConfig,
    SiteConfig,
    WebSocketConfig,
)
from atoll.cluster_specs.node_address import NodeAddress
from atoll.cluster_specs.reading import Secret, as_plain, to_toml
from atoll.cluster_specs.spec import ClusterSpec, NodeSpec, SiteSpec
from atoll.transport.keys import NodeKey

CONFIG_FILE = "atoll.toml"
SECRET_BYTES = 32
LOOPBACK = "127.0.0.1"


class Materials(msgspec.Struct, frozen=True):
    """Everything of a cluster that is secret, by the names of processes and sites."""

    keys: Mapping[str, NodeKey]
    site_secrets: Mapping[str, Secret]
    enrolments: Mapping[str, Secret]

    @classmethod
    def generate(cls, spec: ClusterSpec) -> "Materials":
        """Make fresh ones; a site secret that the spec names is kept."""
        enrolling = [*spec.node_names(), *(relay.name for relay in spec.relay)] if spec.cloud else []
        return cls(
            keys={name: NodeKey.generate() for name in spec.process_names()},
            site_secrets={
                site.name: site.secret if not site.secret.generated else _fresh_secret() for site in spec.site
            },
            enrolments={name: _fresh_secret() for name in enrolling},
        )


def _fresh_secret() -> Secret:
    return Secret(os.urandom(SECRET_BYTES))


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a process will run."""

    directory: Path
    """Its own; state and sockets go below it. Short, because the path of a unix socket has at most 107 bytes."""
    host: str = LOOPBACK
    """The address at which others reach it."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """`gateway`, `links`, `beacon`, `cloud`, `sep`, `bearer`, where they are not the usual ones."""


@dataclass(frozen=True, slots=True)
class PlannedProcess:
    """One process to be: what it is told, and its key."""

    name: str
    kind: str
    """`cloud`, `relay` or `node`: also the command that runs it."""
    config: NodeConfig | RelayConfig | CloudConfig
    key: NodeKey = field(repr=False)

    @property
    def toml(self) -> str:
        """Its config as a file."""
        return to_toml(_without_nothing(as_plain(self.config)))

    def write(self, directory: Path) -> Path:
        """Write config and key where only the owner may read them; gives the config's path."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = self.config.state_dir
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(self.config.key_file, self.key.seed)
        path = directory / CONFIG_FILE
        _write_private(path, self.toml.encode())
        return path


def plan(spec: ClusterSpec, materials: Materials, seats: Mapping[str, Seat]) -> list[PlannedProcess]:
    """Write down what each process is told, in the order in which they are best started."""
    return [*_clouds(spec, materials, seats), *_relays(spec, materials, seats), *_nodes(spec, materials, seats)]


def _clouds(spec: ClusterSpec, materials: Materials, seats: Mapping[str, Seat]) -> Iterator[PlannedProcess]:
    nodes = [
        Enrolment(name=node.name, kind="node", site=site.name, secret=materials.enrolments[f"{site.name}/{node.name}"])
        for site in spec.site
        for node in site.node
        if spec.cloud
    ]
    relays = [
        Enrolment(name=relay.name, kind="relay", secret=materials.enrolments[relay.name])
        for relay in spec.relay
        if spec.cloud
    ]
    for cloud in spec.cloud:
        seat = seats[cloud.name]
        config = CloudConfig(
            name=cloud.name,
            state_dir=seat.directory / "state",
            run_dir=seat.directory / "run",
            listen=_listen(seat),
            port=seat.ports.get("cloud", cloud.port),
            enrolments=(*nodes, *relays),
        )
        yield PlannedProcess(cloud.name, "cloud", config, materials.keys[cloud.name])


def _relays(spec: ClusterSpec, materials: Materials, seats: Mapping[str, Seat]) -> Iterator[PlannedProcess]:
    for relay in spec.relay:
        seat = seats[relay.name]
        cloud = _cloud_ref(spec, materials, seats, relay.name)
        if cloud is None:
            continue
        config = RelayConfig(
            name=relay.name,
            state_dir=seat.directory / "state",
            run_dir=seat.directory / "run",
            cloud=cloud,
            listen=_listen(seat),
            host=seat.host,
            sep_port=seat.ports.get("sep", 8088),
            bearer_port=seat.ports.get("bearer", 8089),
            websocket=WebSocketConfig(port=seat.ports.get("web", 443)) if relay.websocket else WebSocketConfig(),
        )
        yield PlannedProcess(relay.name, "relay", config, materials.keys[relay.name])


def _nodes(spec: ClusterSpec, materials: Materials, seats: Mapping[str, Seat]) -> Iterator[PlannedProcess]:
    for site in spec.site:
        for node in site.node:
            name = f"{site.name}/{node.name}"
            yield PlannedProcess(
                name, "node", _node_config(spec, materials, seats, site=site, node=node), materials.keys[name]
            )


def _node_config(
    spec: ClusterSpec, materials: Materials, seats: Mapping[str, Seat], *, site: SiteSpec, node: NodeSpec
) -> NodeConfig:
    name = f"{site.name}/{node.name}"
    seat = seats[name]
    return NodeConfig(
        name=node.name,
        state_dir=seat.directory / "state",
        run_dir=seat.directory / "run",
        site=SiteConfig(
            name=site.name,
            secret=materials.site_secrets[site.name],
            voters=tuple(materials.keys[f"{site.name}/{voter.name}"].node_id for voter in site.voters),
            open=site.open,
        ),
        gateway=GatewayConfig(port=seat.ports.get("gateway", 8083)),
        links=LinksConfig(host=_listen(seat), port=seat.ports.get("links", 8085)),
        beacon=BeaconConfig(enabled=site.beacons, port=seat.ports.get("beacon", 8086)),
        discovery=DiscoveryConfig(seeds=_seeds(materials, seats, site, node)),
        cloud=_cloud_ref(spec, materials, seats, name),
        forward=ForwardConfig(allow=node.forward),
        facts=FactsConfig(power=node.power, wired=node.wired, memory_mb=node.memory_mb),
        pubsub=node.pubsub,
        join=tuple(
            JoinConfig(node=materials.keys[join.node].node_id, topics=join.topics, direction=join.direction)
            for join in spec.join
            if join.caller == name
        ),
        election=ElectionConfig(),
        services=node.services,
    )


def _seeds(materials: Materials, seats: Mapping[str, Seat], site: SiteSpec, node: NodeSpec) -> tuple[NodeAddress, ...]:
    """Name the other nodes of a site that has no beacons, as many as a config holds."""
    if site.beacons:
        return ()
    others = [f"{site.name}/{each.name}" for each in site.node if each is not node]
    return tuple(
        NodeAddress(materials.keys[name].node_id, seats[name].host, seats[name].ports.get("links", 8085))
        for name in others[:SEEDS_MAX]
    )


def _cloud_ref(spec: ClusterSpec, materials: Materials, seats: Mapping[str, Seat], enrolled: str) -> CloudRef | None:
    if not spec.cloud:
        return None
    name = spec.cloud[0].name
    seat = seats[name]
    return CloudRef(
        id=materials.keys[name].node_id,
        host=seat.host,
        port=seat.ports.get("cloud", spec.cloud[0].port),
        enrolment=materials.enrolments[enrolled],
    )


def _listen(seat: Seat) -> str:
    # On loopback the rest of the network must not see a cluster that is only tried out.
    return LOOPBACK if seat.host == LOOPBACK else "0.0.0.0"


def _without_nothing(plain: dict[str, object]) -> dict[str, object]:
    """Leave out what is None (TOML has no word for it) and tables without anything in them."""
    kept: dict[str, object] = {}
    for key, value in plain.items():
        inner = _without_nothing(value) if isinstance(value, dict) else value
        if inner is not None and inner != {}:
            kept[key] = inner
    return kept


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)

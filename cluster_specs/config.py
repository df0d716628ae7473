"""What one process is told: the config of a node, a relay or a cloud.

    defaults  <  the file  <  ATOLL_* in the environment  <  flags

A setting `gateway.port` is `port` below `[gateway]` in the file, `ATOLL_GATEWAY_PORT` in the environment, and
`--set gateway.port=0` on the command line. Every setting keeps its origin, for `atoll config show --origin`.
"""

import os
import re
import socket
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
import platformdirs
from msgspec import Meta, inspect

from atoll.actors.router.demand import Thresholds
from atoll.actors.topics.errors import BadTopic
from atoll.actors.topics.filters import FILTERS_MAX, check_filter
from atoll.cluster_specs.node_address import NodeAddress
from atoll.cluster_specs.reading import Name, Secret, SpecInvalid, as_plain, as_struct, read_toml
from atoll.transport.identity import NodeId

Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
PortOrNone: TypeAlias = Annotated[int, Meta(ge=-1, le=65535)]
BytesPerSecond: TypeAlias = Annotated[int, Meta(ge=1, lt=2**32)]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

SEEDS_MAX = 64
"""Addresses of seeds; each costs a dial now and then while its node is away."""
FORWARD_PORTS_MAX = 256
JOINS_MAX = 16
CLIENT_VARIABLES = frozenset({"ATOLL_API_KEY", "ATOLL_AT", "ATOLL_CONFIG", "ATOLL_LAB"})
"""Variables of the commands, which are no settings of a process."""
SECRETS = frozenset({"site.secret", "cloud.enrolment"})
"""Settings that are never shown."""


def default_name() -> str:
    """Make a name of the host's."""
    cleaned = re.sub("[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower())[:32].strip("-")
    return cleaned or "node"


def default_state_dir() -> Path:
    """Give where a process of this user keeps its state."""
    return Path("/var/lib/atoll") if os.geteuid() == 0 else platformdirs.user_state_path("atoll")


def default_run_dir() -> Path:
    """Give where a process of this user has its sockets."""
    if os.geteuid() == 0:
        return Path("/run/atoll")
    if sys.platform == "linux" and not os.environ.get("XDG_RUNTIME_DIR"):
        # There is no login session. The usual fallback is below /tmp, where another user could be first to make it.
        return default_state_dir() / "run"
    return platformdirs.user_runtime_path("atoll")


class SiteConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The site of a node."""

    name: Name = "site"
    secret: Secret = Secret()
    """`generated`: made at first start and kept in the state directory."""
    voters: Annotated[tuple[NodeId, ...], Meta(max_length=7)] = ()
    """Who votes, and nobody else; empty: the site chooses, once it has a roster."""
    open: bool = False
    """Anybody on the local network may join."""


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the REST interface is served, besides the unix socket."""

    host: str = "127.0.0.1"
    port: PortOrNone = 8083
    """0 takes any free one, -1 opens none."""

    @property
    def tcp_port(self) -> int | None:
        """The port, None for no port at all."""
        return None if self.port < 0 else self.port


class LinksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where links of other nodes are taken."""

    host: str = "0.0.0.0"
    port: Port = 8085


class BeaconConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How nodes of a local network find each other."""

    enabled: bool = True
    port: Annotated[int, Meta(ge=1, le=65535)] = 8086
    interfaces: tuple[str, ...] = ()
    """Names of interfaces; empty means every one that can do multicast."""


class DiscoveryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How nodes find each other beside beacons."""

    seeds: Annotated[tuple[NodeAddress, ...], Meta(max_length=SEEDS_MAX)] = ()
    """Nodes that are dialled where no multicast reaches them: `NODEID@host:port`, as many addresses each as it has."""
    dnssd: bool = False
    """Also say and hear `_atoll._tcp` by mDNS; it takes a thread, so it is off until asked for."""


class BearersConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When calls to other sites are worth a bearer, and when it is let go."""

    calls_s: Annotated[float, Meta(ge=0)] = 0.2
    """More calls a second to one node than this, over five seconds; 0: the first one."""
    bytes_s: Annotated[float, Meta(ge=0)] = 16_384.0
    """Or more bytes to and fro."""
    served_calls_s: Annotated[float, Meta(ge=0)] = 10.0
    """A node that serves more calls than this over signaling offers its callers bearers."""
    served_bytes_s: Annotated[float, Meta(ge=0)] = 262_144.0
    """Or more bytes."""
    idle_s: Annotated[float, Meta(ge=1)] = 60.0
    """A bearer that nobody has used for so long is let go."""

    @property
    def thresholds(self) -> Thresholds:
        """Give them as the Router takes them."""
        return Thresholds(**{name: getattr(self, name) for name in self.__struct_fields__})


class BlobsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes here from other nodes by `atoll send`."""

    accept: tuple[Literal["member", "granted"], ...] = ()
    """Whose blobs are taken although nobody waits for them; empty: nobody's."""
    quota_mb: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024)] = 16 * 1024
    """What may lie here, whole or on its way."""


class CloudRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cloud of a node or relay, pinned by its id."""

    id: NodeId
    host: str = ""
    """Empty: its tickets are taken, but nothing is reported to it."""
    port: Port = 8087
    enrolment: Secret | None = None
    """The one-time secret that lets this key in."""

    @property
    def shown(self) -> bytes:
        """What is shown to the cloud; empty where there is no secret."""
        return b"" if self.enrolment is None else bytes(self.enrolment)


class ForwardConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What others may reach through this node, by `atoll forward`."""

    allow: Annotated[tuple[Annotated[int, Meta(ge=1, le=65535)], ...], Meta(max_length=FORWARD_PORTS_MAX)] = ()
    """Ports of this host's loopback address, for members and whoever has a grant; nothing else can be reached."""


class PunchingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether connections through NAT are tried with nodes that are reached over relays."""

    enabled: bool = True
    private: bool = False
    """Also show and dial addresses of the node's own network, where the other one is seen under its address outside."""


class PubSubConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What nodes of other sites may do with this site's topics through this node; empty: nothing."""

    subscribe: Annotated[tuple[str, ...], Meta(max_length=FILTERS_MAX)] = ()
    """Filters within which a node with a grant may subscribe."""
    publish: Annotated[tuple[str, ...], Meta(max_length=FILTERS_MAX)] = ()
    """And within which it may publish."""

    def __post_init__(self) -> None:
        """Let filters pass that are some."""
        check_filters((*self.subscribe, *self.publish))


class JoinConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Topics that this node's site shares with that of another node, for as long as this node runs."""

    node: NodeId
    """A node of the other site; its `pubsub` settings have to allow it."""
    topics: Annotated[tuple[str, ...], Meta(min_length=1, max_length=FILTERS_MAX)]
    direction: Literal["in", "out", "both"] = "in"

    def __post_init__(self) -> None:
        """Let filters pass that are some."""
        check_filters(self.topics)


def check_filters(filters: tuple[str, ...]) -> None:
    """Let filters of topics pass that are some.

    Raises:
        ValueError: One is none; the text says why.
    """
    for each in filters:
        try:
            check_filter(each)
        except BadTopic as error:
            raise ValueError(str(error)) from error


class FactsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of the host instead of what is measured; None: measure."""

    power: Literal["mains", "battery"] | None = None
    wired: bool | None = None
    memory_mb: Annotated[int, Meta(ge=1)] | None = None


class ElectionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Numbers of the election, which all nodes of a site must share; None: the default."""

    lease_s: Annotated[float, Meta(gt=0)] | None = None
    heartbeat_s: Annotated[float, Meta(gt=0)] | None = None
    delay_s_min: Annotated[float, Meta(gt=0)] | None = None
    delay_s_max: Annotated[float, Meta(gt=0)] | None = None
    better_for_s: Annotated[float, Meta(gt=0)] | None = None

    def given(self) -> dict[str, float]:
        """Give the numbers that were set."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every process is told."""

    name: Name = msgspec.field(default_factory=default_name)
    state_dir: Path = msgspec.field(default_factory=default_state_dir)
    run_dir: Path = msgspec.field(default_factory=default_run_dir)
    log_level: LogLevel = "info"


class NodeConfig(ProcessConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node is told; a node without any config is a good one too."""

    site: SiteConfig = SiteConfig()
    gateway: GatewayConfig = GatewayConfig()
    links: LinksConfig = LinksConfig()
    beacon: BeaconConfig = BeaconConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    cloud: CloudRef | None = None
    forward: ForwardConfig = ForwardConfig()
    punching: PunchingConfig = PunchingConfig()
    facts: FactsConfig = FactsConfig()
    blobs: BlobsConfig = BlobsConfig()
    bearers: BearersConfig = BearersConfig()
    pubsub: PubSubConfig = PubSubConfig()
    join: Annotated[tuple[JoinConfig, ...], Meta(max_length=JOINS_MAX)] = ()
    election: ElectionConfig = ElectionConfig()
    services: tuple[Name, ...] = ()
    """Services the spec wants here; whoever starts the cluster pushes them."""

    @property
    def key_file(self) -> Path:
        """Where the node's private key is, or will be made."""
        return self.state_dir / "node.key"

    @property
    def api_socket(self) -> Path:
        """Where the node's REST interface is on this host."""
        return self.run_dir / "api.sock"


class RelayLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a relay offers at most, whatever tickets say; None: no limit of its own."""

    tunnels: Annotated[int, Meta(ge=1, le=1_000_000)] = 9_000
    """At once; fewer where the limit of open files allows fewer."""
    tunnel_bytes: Annotated[int, Meta(ge=1, le=2**62)] | None = None
    """For one tunnel, both directions, until its tickets expire."""
    tunnel_bytes_s: BytesPerSecond | None = None
    """For one tunnel, both directions."""
    sep_bytes_s: BytesPerSecond | None = None
    """For what one ticket sends over the SEP."""


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a relay tells its operator how it is doing."""

    host: str = "127.0.0.1"
    port: PortOrNone = -1
    """0 takes any free one, -1 opens none."""


class WebSocketConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a relay takes bearers as WebSockets over TLS, besides TCP."""

    port: PortOrNone = -1
    """443 for networks that let only HTTPS through; 0 takes any free one, -1 opens none."""
    certificate: Path = Path("certificate.pem")
    """Of the name that others dial, with its chain; below the state directory where it is no full path."""
    key: Path = Path("certificate.key")


class RelayConfig(ProcessConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a relay is told."""

    cloud: CloudRef
    listen: str = "0.0.0.0"
    host: str = ""
    """The address that others reach it at, which it tells the cloud; empty where nothing is reported."""
    sep_port: Port = 8088
    bearer_port: Port = 8089
    workers: Annotated[int, Meta(ge=0, le=256)] = 1
    """Processes that carry bearers; 1: this one, 0: one for each core."""
    drain_s: Annotated[float, Meta(ge=0, le=3600)] = 30.0
    """How long those who are here may take to move away after SIGTERM."""
    limits: RelayLimits = RelayLimits()
    metrics: MetricsConfig = MetricsConfig()
    websocket: WebSocketConfig = WebSocketConfig()

    @property
    def key_file(self) -> Path:
        """Where the relay's private key is, or will be made."""
        return self.state_dir / "relay.key"


class Enrolment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whoever first shows `secret` enrols its key under this name."""

    name: Name
    kind: Literal["node", "relay"]
    site: str = ""
    """Empty for relays."""
    secret: Secret


class CloudConfig(ProcessConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cloud process is told."""

    listen: str = "0.0.0.0"
    port: Port = 8087
    store: Path | None = None
    """The SQLite file; None: `cloud.sqlite` in the state directory."""
    ticket_s: Annotated[int, Meta(ge=4, le=600)] = 600
    """The life of tickets for bearers and of callers; nodes have new ones before the end."""
    enrolments: tuple[Enrolment, ...] = ()

    @property
    def key_file(self) -> Path:
        """Where the cloud's private key is, or will be made."""
        return self.state_dir / "cloud.key"

    @property
    def store_file(self) -> Path:
        """Where its records are."""
        return self.store or self.state_dir / "cloud.sqlite"


KINDS: dict[str, type[ProcessConfig]] = {"node": NodeConfig, "relay": RelayConfig, "cloud": CloudConfig}

C = TypeVar("C", bound=ProcessConfig)


@dataclass(frozen=True, slots=True)
class Settled(Generic[C]):
    """A config, and where each of its settings came from."""

    config: C
    origins: Mapping[str, str]

    def lines(self) -> Iterator[tuple[str, Any, str]]:
        """Give every setting with its value and origin; secrets are not shown."""
        for path, value in _leaves(as_plain(self.config)):
            shown = "(set)" if path in SECRETS and value not in (None, "generated") else value
            yield path, shown, self.origins.get(path, "default")


def read_config(
    kind: type[C],
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settled[C]:
    """Read the config of one process: file, environment, flags (`{"gateway.port": 0}`), in rising order.

    Raises:
        SpecInvalid: Something in one of them cannot be; the text says where and what would be right.
    """
    plain: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        try:
            plain = read_toml(path, str(path))
        except OSError as error:
            raise SpecInvalid(f"{path}: {error.strerror}; name a config file, or none at all") from error
        as_struct(_with_required(plain, kind), kind, str(path))
        origins |= {key: str(path) for key, _ in _leaves(plain)}
    settings = dict(_settings(inspect.type_info(kind)))
    for variable, text in _variables(environment if environment is not None else os.environ):
        setting = next((each for each in settings if _variable(each) == variable), None)
        if setting is not None:
            _set(plain, setting, _parsed(text, settings[setting], variable))
            origins[setting] = variable
            as_struct(_with_required(plain, kind), kind, variable)
    for setting, value in (flags or {}).items():
        if setting not in settings:
            raise SpecInvalid(f"--set {setting}: there is no such setting; there are {', '.join(sorted(settings))}")
        typed = _parsed(value, settings[setting], f"--set {setting}") if isinstance(value, str) else value
        _set(plain, setting, typed)
        origins[setting] = "flag"
    return Settled(as_struct(plain, kind, str(path or "settings")), origins)


def _with_required(plain: dict[str, Any], kind: type[ProcessConfig]) -> dict[str, Any]:
    """Fill in what a later source may still say, so that this one can be checked by itself."""
    if kind is RelayConfig or "cloud" in plain:
        cloud = plain.get("cloud", {})
        if isinstance(cloud, dict):
            return {**plain, "cloud": {"id": str(NodeId(bytes(32))), **cloud}} if kind is not CloudConfig else plain
    return plain


def _variable(setting: str) -> str:
    return "ATOLL_" + setting.replace(".", "_").upper()


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    known = {_variable(setting) for kind in KINDS.values() for setting, _ in _settings(inspect.type_info(kind))}
    for variable, text in sorted(environment.items()):
        if not variable.startswith("ATOLL_") or variable in CLIENT_VARIABLES:
            continue
        if variable not in known:
            raise SpecInvalid(f"{variable}: there is no such setting; unset it (a setting is named as ATOLL_LOG_LEVEL)")
        yield variable, text


def _settings(info: inspect.Type, path: str = "") -> Iterator[tuple[str, inspect.Type]]:
    """Give every setting of a kind of config, as `gateway.port`; lists of tables are for files only."""
    if isinstance(info, inspect.UnionType):
        info = next(each for each in info.types if not isinstance(each, inspect.NoneType))
    if isinstance(info, inspect.StructType):
        for field in info.fields:
            yield from _settings(field.type, f"{path}.{field.encode_name}".lstrip("."))
    elif not (isinstance(info, inspect.VarTupleType) and isinstance(info.item_type, inspect.StructType)):
        yield path, info


def _parsed(text: str, info: inspect.Type, name: str) -> Any:
    """Read a text from outside a file: texts as they are, lists with commas between, anything else as TOML."""
    if isinstance(info, inspect.VarTupleType):
        parts = [each.strip() for each in text.strip("[]").split(",") if each.strip()]
        return [_parsed(each, info.item_type, name) for each in parts]
    if isinstance(info, inspect.StrType | inspect.CustomType | inspect.LiteralType):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise SpecInvalid(f"{name}: {text!r} is neither a number nor true or false") from error


def _set(plain: dict[str, Any], setting: str, value: Any) -> None:
    *tables, key = setting.split(".")
    for table in tables:
        plain = plain.setdefault(table, {})
    plain[key] = value


def _leaves(plain: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in plain.items():
        here = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value

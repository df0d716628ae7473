"""Reads cluster specs: which sites, relays and clouds there are, what is checked, what is broken on purpose.

One reader for `atoll up`, `atoll sim` and the benchmarks. A spec is refused whole, with the file, the place in it and
what would be right, or it is good: nobody behind this module checks again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from atoll.cluster_specs.config import FORWARD_PORTS_MAX, JOINS_MAX, PubSubConfig, check_filters
from atoll.cluster_specs.reading import Name, Secret, SpecInvalid, as_struct, parse_toml, read_toml

NODES_PER_SITE_MAX = 1024
SITES_MAX = 64
VOTERS_MAX = 7
"""The first nodes of a site that vote; an odd number of them (see the election's roster)."""

Power = Literal["mains", "battery"]
Nat = Literal["none", "masquerade", "symmetric", "full-cone", "carrier", "firewall", "rejecting"]
"""What is between a site and the rest, in a lab. `masquerade` keeps a port for all destinations, `symmetric` draws one
for each; `full-cone` lets everybody in at its first node, `carrier` is two masquerades one after the other, `firewall`
changes no address. All but `none` and `full-cone` drop what nobody inside has asked for; `rejecting` is a masquerade
that answers it with a reset."""


class NodeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node, or `count` alike ones that are called `name-1`, `name-2` and so on."""

    name: Name
    power: Power = "mains"
    wired: bool = True
    memory_mb: Annotated[int, Meta(ge=1)] = 1024
    services: tuple[Name, ...] = ()
    forward: Annotated[tuple[Annotated[int, Meta(ge=1, le=65535)], ...], Meta(max_length=FORWARD_PORTS_MAX)] = ()
    """Ports that others may reach there, as `forward.allow`."""
    pubsub: PubSubConfig = PubSubConfig()
    """What nodes of other sites may do with its site's topics, as in its config."""
    count: Annotated[int, Meta(ge=1, le=NODES_PER_SITE_MAX)] = 1


class SiteSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One local network with its nodes."""

    name: Name
    node: Annotated[tuple[NodeSpec, ...], Meta(min_length=1)]
    nat: Nat = "none"
    egress: Literal["all", "https"] = "all"
    """What its router lets out: everything, or only what goes to port 443 by TCP."""
    secret: Secret = Secret()
    open: bool = False
    beacons: bool = True
    """Without them its nodes find each other by seeds: each is told where all others are."""

    @property
    def voters(self) -> tuple[NodeSpec, ...]:
        """The nodes of the first roster: at most seven, and an odd number where there are three or more."""
        count = min(len(self.node), VOTERS_MAX)
        return self.node[: count if count % 2 or count < 3 else count - 1]


class RelaySpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One relay."""

    name: Name
    websocket: bool = False
    """It takes WebSockets, too, at port 443 where the ground does not say otherwise."""


class CloudSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One cloud process."""

    name: Name
    port: Annotated[int, Meta(ge=1, le=65535)] = 8087
    """443 where a firewall lets nothing else out."""


class CallCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"caller": "from"}):
    """A call that must be answered with `status`, and where `by` is given, over that kind of route.

    `from` is a node, or a site: then it is one of its nodes that is not its supernode.
    """

    caller: str
    service: str
    path: str = "/"
    status: Annotated[int, Meta(ge=100, le=599)] = 200
    by: Literal["", "direct", "punched", "sep", "bep"] = ""


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something `atoll up --once` checks."""

    call: CallCheck


class FaultSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that is broken on purpose, so many seconds after all is up and while calls go on.

    `kill` names a process, `supernode of SITE`, or `relay in use by SITE`: the one that carries a bearer of the node
    there that calls.
    """

    at_s: Annotated[float, Meta(ge=0)]
    kill: str


class JoinSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"caller": "from"}):
    """Topics that the site of one node shares with that of another; both as `site/name`."""

    caller: str
    """The node that keeps the join; `direction` is as it sees it."""
    node: str
    topics: Annotated[tuple[str, ...], Meta(min_length=1)]
    direction: Literal["in", "out", "both"] = "in"

    def __post_init__(self) -> None:
        """Let filters pass that are some."""
        check_filters(self.topics)


class ClusterSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole cluster."""

    name: Name
    site: Annotated[tuple[SiteSpec, ...], Meta(min_length=1, max_length=SITES_MAX)]
    relay: tuple[RelaySpec, ...] = ()
    cloud: tuple[CloudSpec, ...] = ()
    join: tuple[JoinSpec, ...] = ()
    check: tuple[Check, ...] = ()
    fault: tuple[FaultSpec, ...] = ()

    def node_names(self) -> list[str]:
        """All nodes as `site/name`, in the order of the file."""
        return [f"{site.name}/{node.name}" for site in self.site for node in site.node]

    def process_names(self) -> list[str]:
        """All processes: the cloud, relays, nodes."""
        return [*(each.name for each in self.cloud), *(each.name for each in self.relay), *self.node_names()]


def shipped_specs() -> list[str]:
    """Name the specs that come with Atoll."""
    return sorted(
        each.name.removesuffix(".toml") for each in files(__package__).iterdir() if each.name.endswith(".toml")
    )


def read_spec(path: str | Path) -> ClusterSpec:
    """Read and check a spec: a file, or the bare name of one that ships (`two-sites`).

    Raises:
        SpecInvalid: It cannot be read, or says something that cannot be; the text says what and where.
    """
    name = str(path)
    try:
        shipped = files(__package__).joinpath(f"{name}.toml")
        if "/" not in name and "." not in name and shipped.is_file():
            return parse_spec(shipped.read_text(), f"{name}.toml")
        return _checked(read_toml(Path(path), name), name)
    except OSError as error:
        known = ", ".join(shipped_specs())
        raise SpecInvalid(f"{name}: {error.strerror}; name a file, or one of the specs that ship: {known}") from error


def parse_spec(text: str, name: str) -> ClusterSpec:
    """Check the text of a spec; `name` is what errors call it.

    Raises:
        SpecInvalid: See `read_spec`.
    """
    return _checked(parse_toml(text, name), name)


def _checked(plain: dict[str, object], name: str) -> ClusterSpec:
    spec = _expanded(as_struct(plain, ClusterSpec, name))
    for problem in _problems(spec):
        raise SpecInvalid(f"{name}: {problem}")
    return spec


def _expanded(spec: ClusterSpec) -> ClusterSpec:
    def copies(node: NodeSpec) -> Iterator[NodeSpec]:
        if node.count == 1:
            yield node
            return
        for number in range(1, node.count + 1):
            yield msgspec.structs.replace(node, name=f"{node.name}-{number}", count=1)

    sites = tuple(
        msgspec.structs.replace(site, node=tuple(copy for node in site.node for copy in copies(node)))
        for site in spec.site
    )
    return msgspec.structs.replace(spec, site=sites)


def _problems(spec: ClusterSpec) -> Iterator[str]:
    """What the types cannot say."""
    yield from _name_problems(spec)
    if len(spec.cloud) > 1:
        yield "cloud: one cloud process is supported so far; remove the others"
    if spec.relay and not spec.cloud:
        yield "relay: relays need a cloud that signs their tickets; add [[cloud]]"
    yield from _join_problems(spec)
    yield from _check_problems(spec)
    victims = [*spec.node_names(), *_process_names(spec), *(f"supernode of {site.name}" for site in spec.site)]
    victims += [f"relay in use by {each.call.caller}" for each in spec.check if spec.relay]
    for number, fault in enumerate(spec.fault):
        if fault.kill not in victims:
            yield f"fault[{number}].kill: nothing is called {fault.kill!r}; there are {_some(victims)}"


def _name_problems(spec: ClusterSpec) -> Iterator[str]:
    for site_number, site in enumerate(spec.site):
        if len(site.node) > NODES_PER_SITE_MAX:
            yield f"site[{site_number}].node: {len(site.node)} nodes; a site has at most {NODES_PER_SITE_MAX}"
        for name in _repeated(node.name for node in site.node):
            yield f"site[{site_number}].node: two nodes are called {name!r}; names are unique in a site"
    for name in _repeated([*(site.name for site in spec.site), *_process_names(spec)]):
        yield f"two sites, relays or clouds are called {name!r}; give one of them another name"


def _join_problems(spec: ClusterSpec) -> Iterator[str]:
    nodes = spec.node_names()
    for number, join in enumerate(spec.join):
        for key, name in (("from", join.caller), ("node", join.node)):
            if name not in nodes:
                yield f"join[{number}].{key}: no node {name!r}; there are {_some(nodes)}"
        if join.caller.partition("/")[0] == join.node.partition("/")[0]:
            yield f"join[{number}].node: {join.node} is of the same site, whose topics are shared anyway"
    for name, count in Counter(join.caller for join in spec.join).items():
        if count > JOINS_MAX:
            yield f"join: {name} has {count} joins; a node has at most {JOINS_MAX}"


def _check_problems(spec: ClusterSpec) -> Iterator[str]:
    nodes, sites = spec.node_names(), [site.name for site in spec.site]
    offered = {f"{site.name}/{node.name}": node.services for site in spec.site for node in site.node}
    for number, check in enumerate(spec.check):
        service, _, target = check.call.service.partition("@")
        if check.call.caller not in (*nodes, *sites):
            yield f"check[{number}].call.from: no node or site {check.call.caller!r}; there are {_some(nodes)}"
        if target not in nodes:
            yield f"check[{number}].call.service: no node {target!r}; there are {_some(nodes)}"
        if target in nodes and service and service not in offered[target]:
            some = ", ".join(offered[target]) or "none at all; add services = [...] there"
            yield f"check[{number}].call.service: {target} has no service {service!r}; it has {some}"
        if not service:
            yield f"check[{number}].call.service: say which service, as in echo@{nodes[0]}"
        if not check.call.path.startswith("/"):
            yield f"check[{number}].call.path: a path begins with /, this one is {check.call.path!r}"


def _process_names(spec: ClusterSpec) -> list[str]:
    return [*(relay.name for relay in spec.relay), *(cloud.name for cloud in spec.cloud)]


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

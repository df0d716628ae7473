"""Who may do what at the gateway; pure: no sockets, no files, no Starlette.

Deny by default, twice: a route that is missing from `SCOPES` is refused to everybody, and a caller has only the scopes
that stand in `GRANTS` beside its kind. A caller's kind follows from how its request arrived (`Arrival`), never from
what it claims to be.
"""

import enum
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec

from atoll.actors.gateway.problems import Problem
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId


class Scope(enum.Enum):
    """What a route demands."""

    OPEN = "open"
    """Nothing: whoever reaches the socket."""
    READ = "atoll:read"
    CONTAINERS = "edge:mcm"
    """Images and containers; the name is the published interface's."""
    SERVICES = "atoll:call"
    """Calls to this node's services."""
    FORWARD = "atoll:forward"
    """Calls to other nodes in this node's name."""
    MANAGE = "atoll:manage"
    """What changes the node's place in its site, and what the site runs."""
    REFORM = "atoll:reform"
    """What a person decides for the whole site: on the node's own host, by its unix socket."""
    BLOBS = "atoll:blobs"
    """Blobs that come here, and how far those are that go."""
    TOPICS = "atoll:topics"
    """What is published and read in this node's name."""
    FILES = "atoll:files"
    """What reads a file of the host by its path: on that host, by the unix socket."""


class Kind(enum.Enum):
    """How a caller is known."""

    OWNER = "owner"
    """It opened the unix socket, or holds the API key."""
    MEMBER = "member"
    """A node of this site."""
    GRANTED = "granted"
    """A node with a grant of the cloud."""
    NOBODY = "nobody"


GRANTS: Mapping[Kind, frozenset[Scope]] = MappingProxyType(
    {
        Kind.OWNER: frozenset(Scope),
        Kind.MEMBER: frozenset({Scope.OPEN, Scope.READ, Scope.CONTAINERS, Scope.SERVICES}),
        # FORWARD is the owner's: a node that forwarded for others would be a relay without tickets, and might loop.
        Kind.GRANTED: frozenset({Scope.OPEN, Scope.SERVICES}),
        Kind.NOBODY: frozenset({Scope.OPEN}),
    }
)

AT_SOCKET = frozenset({Scope.REFORM, Scope.FILES})
"""What no key opens, because a key can be copied."""
ANY = "*"
"""Every method."""

SCOPES: Mapping[tuple[str, str], Scope] = MappingProxyType(
    {
        ("GET", "/.well-known/node-configuration"): Scope.OPEN,
        ("GET", "/openapi.json"): Scope.OPEN,
        ("GET", "/metrics"): Scope.READ,
        ("GET", "/atoll/v1/status"): Scope.READ,
        ("GET", "/atoll/v1/nodes"): Scope.READ,
        ("GET", "/atoll/v1/nodes/{node:path}"): Scope.READ,
        ("GET", "/atoll/v1/services"): Scope.READ,
        ("GET", "/atoll/v1/links"): Scope.READ,
        ("GET", "/atoll/v1/relays"): Scope.READ,
        ("GET", "/atoll/v1/duties"): Scope.READ,
        ("POST", "/atoll/v1/drain"): Scope.MANAGE,
        ("GET", "/atoll/v1/actors"): Scope.READ,
        ("GET", "/atoll/v1/actors/{actor:path}"): Scope.READ,
        ("POST", "/atoll/v1/actors/{actor:path}/move"): Scope.MANAGE,
        ("DELETE", "/atoll/v1/actors/{actor:path}"): Scope.MANAGE,
        ("GET", "/atoll/v1/forwards"): Scope.READ,
        ("POST", "/atoll/v1/forwards"): Scope.MANAGE,
        ("POST", "/atoll/v1/forwards/{forward}/renew"): Scope.MANAGE,
        ("DELETE", "/atoll/v1/forwards/{forward}"): Scope.MANAGE,
        ("GET", "/atoll/v1/site"): Scope.READ,
        ("POST", "/atoll/v1/site/leave"): Scope.MANAGE,
        ("POST", "/atoll/v1/site/reform"): Scope.REFORM,
        ("GET", "/atoll/v1/images"): Scope.CONTAINERS,
        ("POST", "/atoll/v1/images"): Scope.CONTAINERS,
        ("POST", "/atoll/v1/images/pull"): Scope.CONTAINERS,
        ("DELETE", "/atoll/v1/images/{image}"): Scope.CONTAINERS,
        ("GET", "/atoll/v1/containers"): Scope.CONTAINERS,
        ("POST", "/atoll/v1/containers"): Scope.CONTAINERS,
        ("DELETE", "/atoll/v1/containers/{container}"): Scope.CONTAINERS,
        ("POST", "/atoll/v1/containers/{container}/start"): Scope.CONTAINERS,
        ("POST", "/atoll/v1/containers/{container}/stop"): Scope.CONTAINERS,
        ("GET", "/atoll/v1/containers/{container}/logs"): Scope.CONTAINERS,
        ("GET", "/atoll/v1/blobs"): Scope.BLOBS,
        ("POST", "/atoll/v1/blobs/send"): Scope.FILES,
        ("POST", "/atoll/v1/blobs/receive"): Scope.BLOBS,
        ("DELETE", "/atoll/v1/blobs/receivers/{receiver}"): Scope.BLOBS,
        ("DELETE", "/atoll/v1/blobs/outgoing/{order}"): Scope.BLOBS,
        ("POST", "/atoll/v1/blobs/{digest}/decide"): Scope.BLOBS,
        ("GET", "/atoll/v1/blobs/{digest}"): Scope.BLOBS,
        ("DELETE", "/atoll/v1/blobs/{digest}"): Scope.BLOBS,
        ("GET", "/atoll/v1/topics"): Scope.TOPICS,
        ("POST", "/atoll/v1/topics/{topic:path}"): Scope.TOPICS,
        ("GET", "/atoll/v1/pubsub"): Scope.READ,
        ("GET", "/mcm/v1/images"): Scope.CONTAINERS,
        ("POST", "/mcm/v1/images"): Scope.CONTAINERS,
        ("DELETE", "/mcm/v1/images/{image}"): Scope.CONTAINERS,
        ("GET", "/mcm/v1/containers"): Scope.CONTAINERS,
        ("POST", "/mcm/v1/containers"): Scope.CONTAINERS,
        ("DELETE", "/mcm/v1/containers/{container}"): Scope.CONTAINERS,
        ("PUT", "/mcm/v1/containers/{container}/start"): Scope.CONTAINERS,
        ("PUT", "/mcm/v1/containers/{container}/stop"): Scope.CONTAINERS,
        (ANY, "/at/{rest:path}"): Scope.FORWARD,
        (ANY, "/{rest:path}"): Scope.SERVICES,
    }
)
"""(method, path) → what it demands. What is not here is refused."""


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """How a request came in, as the server knows it."""

    transport: str
    """`unix` or `tcp`."""
    user_id: int | None = None
    """Of the process that opened the unix socket, where the system tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks, in whose name scopes are weighed."""

    kind: Kind
    node: NodeId | None = None
    """Of callers that are nodes."""
    why: str = ""
    """Why it is nobody."""
    problem: str = "no-credentials"
    """For nobody: the problem's name."""

    at_socket: bool = field(default=False, compare=False)
    """It opened the unix socket: it is on this host, and no key that was copied."""

    def may(self, scope: Scope) -> bool:
        """Tell whether it has this scope."""
        return scope in GRANTS[self.kind] and (scope not in AT_SOCKET or self.at_socket)


OWNER = Principal(kind=Kind.OWNER)
_AT_SOCKET = Principal(kind=Kind.OWNER, at_socket=True)


def principal_of_node(node: NodeId, standing: Standing) -> Principal:
    """Say who a request from another node's gateway is from; its link or session has proved both arguments."""
    if standing is Standing.MEMBER:
        return Principal(kind=Kind.MEMBER, node=node)
    if standing is Standing.GRANTED:
        return Principal(kind=Kind.GRANTED, node=node)
    return Principal(
        kind=Kind.NOBODY, node=node, why=f"a {standing.value} may not call this node", problem="not-allowed"
    )


def principal_of(
    arrival: Arrival, headers: Iterable[tuple[bytes, bytes]], *, api_key: str, user_ids: frozenset[int]
) -> Principal:
    """Say who a request on one of this node's own sockets is from.

    `user_ids` may use the unix socket: this process's user and root. Its file's mode says the same; two locks hold
    where one is forgotten.
    """
    if arrival.transport == "unix":
        if arrival.user_id is None or arrival.user_id in user_ids:
            return _AT_SOCKET
        return Principal(kind=Kind.NOBODY, why="the socket belongs to another user", problem="not-allowed")
    shown = list(shown_keys(headers))
    if not shown:
        return Principal(kind=Kind.NOBODY, why="neither `Authorization: Bearer` nor `x-api-key` is there")
    wanted = api_key.encode()
    if any(hmac.compare_digest(key, wanted) for key in shown):
        return OWNER
    return Principal(kind=Kind.NOBODY, why="it is not this node's API key", problem="wrong-credentials")


def shown_keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[bytes]:
    """Give the keys and bearer tokens that a request shows."""
    for name, value in headers:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            yield value[7:].strip()


def demanded(method: str, path: str) -> Scope | None:
    """Give what a route demands; None for one that nobody has thought about."""
    return SCOPES.get((method, path)) or SCOPES.get((ANY, path))


def authorize(principal: Principal, scope: Scope | None) -> None:
    """Let pass, or raise.

    Raises:
        Problem: 401 for a caller that has not shown who it is, 403 for one that has and may not.
    """
    if scope is None:
        raise Problem("not-allowed", "nobody may use this route: it has no scope", "report this: the route is new")
    if principal.may(scope):
        return
    if principal.kind is Kind.NOBODY:
        challenge = () if principal.problem == "not-allowed" else (("www-authenticate", 'Bearer realm="atoll"'),)
        raise Problem(
            principal.problem,
            principal.why,
            "use the node's unix socket, or send its API key (the file `api.key` in its state directory) "
            "as `Authorization: Bearer KEY` or `x-api-key: KEY`",
            headers=challenge,
        )
    if principal.kind is Kind.OWNER:
        raise Problem(
            "not-allowed", "the API key is not enough for this", "use the node's unix socket, on its own host"
        )
    raise Problem(
        "not-allowed",
        f"a {principal.kind.value} node may not do this: it needs the scope {scope.value}",
        "ask the owner of the node, or call one of its services",
    )


_OWN_SITE = frozenset({b"none", b"same-origin"})
_LOCAL_HOST = re.compile(rb"^(localhost|127(\.\d{1,3}){3}|\[[0-9a-f:]+\])(:\d+)?$")


def refuse_cross_site(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse what a page of another site made a browser send.

    A page whose name was made to point at this host (DNS rebinding) is same-origin in the browser's eyes; that is why
    the origin must also be a local address.

    Raises:
        Problem: The request is not from our own pages.
    """
    fields = list(headers)
    if any(name == b"sec-fetch-site" and value.lower() not in _OWN_SITE for name, value in fields):
        raise _cross_site("the browser says that another site's page sent it (Sec-Fetch-Site)")
    hosts = [value.lower() for name, value in fields if name == b"host"]
    for origin in (value.lower() for name, value in fields if name == b"origin"):
        scheme, _, host = origin.partition(b"://")
        if scheme not in {b"http", b"https"} or [host] != hosts or not _LOCAL_HOST.match(host):
            raise _cross_site("its Origin is not this gateway")


def _cross_site(why: str) -> Problem:
    return Problem("cross-site", why, "call the gateway from a program, or from a page that it serves itself")

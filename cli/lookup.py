"""Where a service lives that a command names: `echo`, `echo@home/tv`, `/base/path@home/tv`.

    a path           -->  that path
    SERVICE          -->  this node's list, which has its site's services too; this node's own come first
    SERVICE@NODE     -->  this node's list  -->  NODE's list, if it is of this site  -->  what the cloud tells of NODE
                          -->  /SERVICE, which is where a service lives unless it asked for another path

A service goes by its name, its container's, its path with or without the client in front, and by all of these without
a version at the end: `echo` is also `echo-v1` and `/api/echo/v1`. The closest of these decides.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from atoll.cli.connection import Connection, segment
from atoll.cli.output import Failed

if TYPE_CHECKING:
    from atoll.actors.gateway.container_views import ServiceView
    from atoll.actors.gateway.node_views import NodeView

_VERSION = re.compile(r"[-/]v\d[\w.]*$")
_NAMES_MAX = 12
"""Of other services in an error."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a service is called."""

    node: str
    """Empty: the node that is connected."""
    path: str
    """Without a slash at its end."""


def find_service(there: Connection, name: str, node: str) -> Spot:
    """Find where the service `name` lives; on `node`, if that is not empty.

    Raises:
        Failed: Nothing or too much goes by that name.
    """
    if name.startswith("/"):
        return Spot(node, quote(name.rstrip("/"), safe="/%"))
    return _on_node(there, name, node) if node else _anywhere(there, name)


def _anywhere(there: Connection, name: str) -> Spot:
    from atoll.actors.gateway.node_views import StatusView

    services = _services(there)
    found = _closest(services, name)
    if not found:
        raise _none(name, "here", services)
    own = there.ask("GET", "/atoll/v1/status").view(StatusView).node.id
    node, path = _only({each for each in found if each[0] == own} or found, name, "here")
    return Spot("" if node == own else node, path)


def _on_node(there: Connection, name: str, node: str) -> Spot:
    from atoll.actors.gateway.node_views import NodeReply

    view = there.ask("GET", f"/atoll/v1/nodes/{segment(node)}").view(NodeReply).node
    services = [each for each in _services(there) if each.node == view.id]
    found = _closest(services, name)
    of_this_site = view.self or view.standing == "member"
    if not found and of_this_site:
        services = [each for each in _services(Connection(place=there.place, node=view.id)) if each.node == view.id]
        found = _closest(services, name)
        if not found:
            raise _none(name, f"at {node}", services)
    if not found:
        # Of another site: what its node announced; nobody but itself knows its containers.
        found = _closest(_announced(view), name) or {(view.id, "/" + segment(name))}
    return Spot("" if view.self else view.id, _only(found, name, f"at {node}")[1])


def _services(there: Connection) -> "list[ServiceView]":
    from atoll.actors.gateway.container_views import ServicesReply

    return there.ask("GET", "/atoll/v1/services").view(ServicesReply).services


def _announced(node: "NodeView") -> "list[ServiceView]":
    from atoll.actors.gateway.container_views import ServiceView

    return [ServiceView(name=x.name, path=x.path, node=node.id, node_name=node.name) for x in node.services]


def _closest(services: "Iterable[ServiceView]", name: str) -> set[tuple[str, str]]:
    """Give (node, path) of those that go by `name` most closely."""
    ranked = [(_rank([each.name, each.container], each.path, name), each) for each in services]
    best = min((rank for rank, _ in ranked), default=_NOT)
    return {(each.node, each.path.rstrip("/")) for rank, each in ranked if rank == best != _NOT}


_NOT = 3


def _rank(names: list[str], path: str, name: str) -> int:
    whole = path.strip("/")
    without_client = whole.partition("/")[2]
    every = {*names, whole, without_client} - {""}
    if name in names:
        return 0
    if name in every:
        return 1
    return 2 if name in {_VERSION.sub("", each) for each in every} else _NOT


def _only(found: set[tuple[str, str]], name: str, where: str) -> tuple[str, str]:
    if len(found) > 1:
        spots = ", ".join(sorted(f"{path}@{node[:10]}" for node, path in found))
        raise Failed(f"{len(found)} services are called {name} {where}: {spots}", "call one of them by that path")
    return next(iter(found))


def _none(name: str, where: str, services: "Iterable[ServiceView]") -> Failed:
    names = sorted({each.name for each in services})
    there_are = ", ".join(names[:_NAMES_MAX]) or "none"
    return Failed(
        f"no service {name} {where}; there are: {there_are}", "see `atoll service list`, or call a path: /the/path@NODE"
    )

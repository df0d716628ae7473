"""Which path belongs to which container.

A service lives at `/<client>/<base>/…` and, shorter, at `/<base>/…`; the base is `MCM.BASE_API_PATH` or the
container's name. The longest address that a path begins with wins. Names of the node itself are nobody's.
"""

import re
from collections.abc import Mapping

from atoll.actors.container_manager.errors import NotThere, Taken, UsageFault

BASE_PATH = "MCM.BASE_API_PATH"
RESERVED = frozenset(
    {"atoll", "mcm", "mds", "jsonrpc", "at", "metrics", "openapi.json", ".well-known", "docs", "events", "static"}
)
"""First segments that are the node's own; no service may have one, and the gateway asks no service for them."""
SEGMENT = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}|\.[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,126}")
SEGMENTS_MAX = 8


def base_path(name: str, env: Mapping[str, str]) -> str:
    """Give the base path that a container asks for, without slashes at its ends.

    Raises:
        UsageFault: It cannot be one, or it is a name of the node.
    """
    asked = env.get(BASE_PATH) or name
    segments = asked.strip("/").split("/")
    if len(segments) > SEGMENTS_MAX or not all(map(SEGMENT.fullmatch, segments)):
        raise UsageFault(f"{asked[:200]!r} cannot be a base path: letters, digits and ._~- between slashes are taken")
    _check_reserved(segments[0])
    return "/".join(segments)


def reserved(path: str) -> bool:
    """Tell whether a path (decoded, with or without its leading slash) is the node's own; the empty one is."""
    first = path.removeprefix("/").partition("/")[0]
    return not first or first.lower() in RESERVED


def _check_reserved(first: str) -> None:
    if reserved(first):
        raise UsageFault(f"{first!r} is a name of the node itself; choose another base path, name or client")


class Addresses:
    """The addresses in use."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def claim(self, container: str, client: str, base: str) -> None:
        """Give both addresses to a container.

        Raises:
            Taken: One of them is another container's; names it.
            UsageFault: The client's id is a name of the node.
        """
        _check_reserved(client)
        wanted = (base, f"{client}/{base}")
        for address in wanted:
            owner = self._owners.get(address, container)
            if owner != container:
                raise Taken(f"the path /{address} belongs to the container {owner}; set {BASE_PATH} to another one")
        self._owners.update(dict.fromkeys(wanted, container))

    def release(self, container: str) -> None:
        """Free what a container had."""
        self._owners = {address: owner for address, owner in self._owners.items() if owner != container}

    def find(self, path: str) -> tuple[str, str]:
        """Give the container that a path belongs to, and the rest of the path with its query, as the service sees it.

        Raises:
            NotThere: No container has it.
        """
        plain, question, query = path.partition("?")
        segments = plain.lstrip("/").split("/")
        for count in range(min(len(segments), SEGMENTS_MAX + 1), 0, -1):
            owner = self._owners.get("/".join(segments[:count]))
            if owner is not None:
                return owner, "/" + "/".join(segments[count:]) + question + query
        raise NotThere(f"no service lives at {plain[:200]}; `atoll service list` shows those that there are")

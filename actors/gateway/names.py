"""First path segments that belong to the node itself: a service that asks for one is refused."""

RESERVED = frozenset({"", ".well-known", "at", "atoll", "docs", "jsonrpc", "mcm", "mds", "metrics", "openapi.json"})


def reserved(path: str) -> bool:
    """Tell whether a path (decoded, with its leading slash) is the node's."""
    return path.removeprefix("/").partition("/")[0].lower() in RESERVED

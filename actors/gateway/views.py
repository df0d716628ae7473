"""What all views have in common; the `*_views.py` say the rest, a subject each.

These structs are the schema of `/atoll/v1` and `/mcm/v1`, and OpenAPI is generated from them.

Fields may be added with a default, never renamed or removed. Ids are the 52 characters of a node id; `short` is its
first ten. Every reply has `version` at the top.
"""

from typing import Literal, TypeAlias

import msgspec

SCHEMA_VERSION = 1

RouteKind: TypeAlias = Literal["here", "direct", "punched", "sep", "bep", "none"]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what stands inside a reply."""


class Reply(View, frozen=True, kw_only=True):
    """Base of what is a reply by itself."""

    version: int = SCHEMA_VERSION


class NodeRef(View, frozen=True, kw_only=True):
    """A node in a few words."""

    id: str
    short: str
    name: str

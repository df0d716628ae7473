"""The JSON of forwarded ports."""

from typing import Annotated

import msgspec

from atoll.actors.gateway.views import Reply, View

PORT = msgspec.Meta(ge=1, le=65535)
FOR_S = msgspec.Meta(ge=1, le=3600)


class OpenForwardBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that forwards a port."""

    node: str
    """Where to: an id, a name or `site/name`."""
    port: Annotated[int, PORT]
    """There, at its loopback address; its config has to allow it."""
    host: str = "127.0.0.1"
    """Where to listen here."""
    listen_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """0 takes any free one."""
    for_s: Annotated[float, FOR_S] = 30.0
    """It ends then, unless it is renewed."""


class RenewForwardBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that lets a forward live on."""

    for_s: Annotated[float, FOR_S] = 30.0


class ForwardView(View, frozen=True, kw_only=True):
    """One forwarded port."""

    id: str
    host: str
    listen_port: int
    node: str
    name: str
    port: int
    route: str
    """By which way its next connection would go now."""
    why: str
    connections: int
    connections_total: int
    failed: int
    sent_bytes: int
    received_bytes: int
    failure: str
    """Why the last connection failed; empty where none did."""


class ForwardReply(Reply, frozen=True, kw_only=True):
    """A forward that was opened, renewed or ended."""

    forward: ForwardView


class ForwardsReply(Reply, frozen=True, kw_only=True):
    """All forwards of this node."""

    forwards: list[ForwardView]
    allowed: list[int]
    """Ports of this node's host that others may be connected to."""
    taken: int
    """Connections of others to them, now."""
    refused: int

"""What a bound socket tells its owner: frames that have come, and connections that have gone."""

from typing import NamedTuple, TypeAlias

ConnectionId: TypeAlias = bytes
"""Names a connection as long as it lasts; nobody comes back under another's."""


class Arrived(NamedTuple):
    """A frame came in; `key` is the X25519 key that its connection has proved."""

    connection: ConnectionId
    key: bytes
    frame: bytes


class Gone(NamedTuple):
    """The connection is no more, and nothing more will arrive from it."""

    connection: ConnectionId

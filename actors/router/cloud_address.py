"""Where the cloud of a node is."""

import msgspec

from atoll.transport.identity import NodeId

LINK_WAIT_S = 6.0
"""For a link to the cloud, its DNS and its handshake."""


class CloudAddress(msgspec.Struct, frozen=True):
    """The cloud that is pinned here, and where it is."""

    node: NodeId
    host: str
    port: int

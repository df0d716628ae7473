"""What `/atoll/v1/blobs` says and takes: part of the schema, as `views.py`."""

from typing import Annotated

import msgspec

from atoll.actors.gateway.views import Reply, View

WAIT_MS_MAX = 20_000
PATH_CHARACTERS_MAX = 4096

WaitMs = Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)]


class BlobView(View, frozen=True, kw_only=True):
    """A blob that another node offers, sends, or has sent here."""

    digest: str
    name: str
    node: str
    node_name: str
    size_bytes: int
    got_bytes: int
    state: str
    """`waiting` for a yes, `checking` what has come before, `receiving`, `broken` off and waited for, `refused`,
    `whole`."""
    why: str = ""
    path: str = ""
    """Where a whole one lies on the node's host; said at its unix socket alone."""


class SendingView(View, frozen=True, kw_only=True):
    """A file that this node sends."""

    order: str
    path: str
    name: str
    node: str
    node_name: str
    digest: str = ""
    """Empty until the file was read through."""
    size_bytes: int
    read_bytes: int
    there_bytes: int
    """What the other node has, or has on its way."""
    state: str
    """`reading`, `reaching` the node, `offering`, `waiting` for a yes there, `sending`; or how it ended: `taken`,
    `refused`, `changed`, `expired`, `withdrawn`, `failed`."""
    why: str = ""
    ended: bool


class BlobsReply(Reply, frozen=True, kw_only=True):
    """Everything that comes, lies here, and goes."""

    incoming: list[BlobView]
    outgoing: list[SendingView]
    used_bytes: int
    quota_bytes: int
    counters: dict[str, int]


class BlobReply(Reply, frozen=True, kw_only=True):
    """One blob."""

    blob: BlobView


class SendingReply(Reply, frozen=True, kw_only=True):
    """One file that is sent."""

    sending: SendingView


class SendFile(msgspec.Struct, frozen=True, kw_only=True):
    """The body that sends a file of this host, or waits on for that."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_CHARACTERS_MAX)]
    """Absolute, as the node sees it."""
    node: Annotated[str, msgspec.Meta(min_length=1)]
    name: str = ""
    """What the other node shall call it; empty: the file's own."""
    order: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """The order that the answer before named; empty to begin."""
    wait_ms: WaitMs = 10_000


class ReceiveBlobs(msgspec.Struct, frozen=True, kw_only=True):
    """The body that waits for offers, and accepts them where `accept`."""

    receiver: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """A word of the caller's own, the same each time."""
    accept: bool = False
    source: str = msgspec.field(default="", name="from")
    """Only what this node offers; empty: any."""
    wait_ms: WaitMs = 10_000


class DecideBlob(msgspec.Struct, frozen=True, kw_only=True):
    """The body that accepts or refuses an offer."""

    accept: bool
    source: str = msgspec.field(default="", name="from")
    """Whose, where several nodes offer it."""

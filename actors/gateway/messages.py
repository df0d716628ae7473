"""What Gateways say to each other: an HTTP request and its reply, as values.

Field names and repeated fields keep their order; a body is whole. Longer things are streams over bearers.
"""

from typing import Annotated, TypeAlias

import msgspec

from atoll.transport.codec import Message

BODY_BYTES_MAX = 3_670_016
"""3.5 MiB: leaves half a megabyte of a message for the header and the envelope."""
TARGET_CHARACTERS_MAX = 32 * 1024
FIELDS_MAX = 200
FIELD_CHARACTERS_MAX = 32 * 1024

_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=FIELD_CHARACTERS_MAX)]
Fields: TypeAlias = Annotated[tuple[tuple[_Text, _Text], ...], msgspec.Meta(max_length=FIELDS_MAX)]
"""Names in lower case."""
Body: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=BODY_BYTES_MAX)]


class HttpRequest(Message, frozen=True, array_like=True, tag="gateway.http_request"):
    """A request as the service shall see it; `target` is path and query, percent-encoded as the client sent it."""

    method: Annotated[str, msgspec.Meta(max_length=40)]
    target: Annotated[str, msgspec.Meta(max_length=TARGET_CHARACTERS_MAX)]
    headers: Fields = ()
    body: Body = b""

    def header(self, name: str, default: str = "") -> str:
        """Give the first field of that (lower-case) name."""
        return next((value for each, value in self.headers if each == name), default)


class HttpReply(Message, frozen=True, array_like=True, tag="gateway.http_reply"):
    """The answer to an `HttpRequest`."""

    status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    headers: Fields = ()
    body: Body = b""


MESSAGES: tuple[type[Message], ...] = (HttpRequest, HttpReply)

"""What Gateways say to each other: an HTTP request and its reply, as values.

Field names and repeated fields keep their order; a body is whole. Longer things are streams over bearers. What a node
is asked here mostly goes on to one of its services, so the limits are those of `ServiceCall` and `ServiceReply`.
"""

from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.container_manager import messages as service_messages
from atoll.transport.codec import Message

BODY_BYTES_MAX = service_messages.BODY_BYTES_MAX
TARGET_CHARACTERS_MAX = service_messages.PATH_CHARACTERS_MAX
FIELDS_MAX = service_messages.HEADERS_MAX
Fields: TypeAlias = service_messages.Headers
Body: TypeAlias = service_messages.Body


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

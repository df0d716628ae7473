"""What a relay's address, ticket and labels look like, as types: whoever tells of a relay may be wrong, or hostile.

Messages with these fields are malformed where a field is not so, which their readers handle; a host that no resolver
takes or a port that no socket has would end whoever dials it.
"""

import re
from typing import Annotated, TypeAlias

import msgspec

from atoll.actors.tunnel_relay.frames import LABEL_BYTES, TICKET_BYTES_MAX

HOST_CHARACTERS_MAX = 253
# A name by the rules of RFC 1123, section 2.1 (others in their `xn--` form), or an IPv6 address with its zone.
_NAME = r"[0-9A-Za-z_-]{1,63}(?:\.[0-9A-Za-z_-]{1,63})*\.?"
_IPV6 = r"[0-9A-Fa-f:.]{2,45}(?:%[0-9A-Za-z._-]{1,32})?"
_HOST = rf"^(?:{_NAME}|{_IPV6})\Z"

Host: TypeAlias = Annotated[str, msgspec.Meta(max_length=HOST_CHARACTERS_MAX, pattern=_HOST)]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
RelayTicket: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=1, max_length=TICKET_BYTES_MAX)]
Label: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=LABEL_BYTES, max_length=LABEL_BYTES)]

FINGERPRINT_BYTES = 32


class WebDoor(msgspec.Struct, frozen=True, array_like=True):
    """Where a relay takes both its ports' connections as WebSockets over TLS, and the SHA-256 of its certificate."""

    port: Port
    fingerprint: Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]


def is_host(text: str) -> bool:
    """Tell whether it can be the host of a relay."""
    return len(text) <= HOST_CHARACTERS_MAX and re.search(_HOST, text) is not None

"""Which header fields go on with a request or a reply, and which end here.

Hop-by-hop fields (RFC 9110, section 7.6.1) belong to one connection; the node's own key belongs to nobody else; and a
field that a service made must not be able to break the header it is put into.
"""

import re
from collections.abc import Iterable

from atoll.actors.gateway.authority import shown_keys
from atoll.actors.gateway.messages import Fields
from atoll.actors.gateway.problems import Problem

HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",  # The body is whole and its length is known; whoever sends it on counts anew.
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
CORRELATION = "x-correlation-id"
OWN = frozenset({"x-atoll-timeout-ms", CORRELATION})
"""Fields of a request that are meant for this gateway; an `x-api-key` may be the service's, unless it is ours."""
TOLD = frozenset({"x-atoll-route", "x-atoll-why", "x-atoll-node", CORRELATION})
"""Fields of a reply that this gateway says by itself; the other side cannot."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


def onward(headers: Iterable[tuple[bytes, bytes]], *, api_key: str) -> list[tuple[str, str]]:
    """Give the fields of a request that go on to a service; the node's own key never does."""
    fields = list(headers)
    dropped = HOP_BY_HOP | OWN | _named_by_connection((n.decode("latin-1"), v.decode("latin-1")) for n, v in fields)
    wanted = api_key.encode()
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in fields
        if name.decode("latin-1") not in dropped and wanted not in shown_keys([(name, value)])
    ]


def backward(headers: Fields, *, keep_length: bool = False) -> list[tuple[bytes, bytes]]:
    """Give the fields of a reply that go back to the client.

    Raises:
        Problem: One of them is no header field (the service's fault).
    """
    dropped = HOP_BY_HOP | TOLD | _named_by_connection(headers)
    if keep_length:
        dropped -= {"content-length"}
    kept = [(name.lower(), value.strip()) for name, value in headers if name.lower() not in dropped]
    for name, value in kept:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise Problem(
                "bad-reply",
                f"the service answered with a header field that cannot be sent: {name[:80]!r}",
                "mend the service: no line breaks or control characters in header fields",
            )
    return [(name.encode(), _bytes(value)) for name, value in kept]


def safe(text: str) -> bytes:
    """Make one header value of any text; what does not fit becomes `?`."""
    return re.sub(rb"[^\x20-\x7e]", b"?", text.encode("ascii", "replace"))[:500].strip()


def _named_by_connection(headers: Iterable[tuple[str, str]]) -> frozenset[str]:
    return frozenset(
        each.strip().lower() for name, value in headers if name.lower() == "connection" for each in value.split(",")
    )


def _bytes(value: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode()

"""What goes wrong at the gateway, as `application/problem+json` (RFC 9457).

Every problem has a name in `CATALOGUE`; its `type` is `urn:atoll:problem:<name>` and never changes. `detail` says what
was wrong with this request, `remedy` what to do about it. Nothing here knows of sockets or of Starlette.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from atoll.transport.errors import UsageError

TYPE_PREFIX = "urn:atoll:problem:"
MEDIA_TYPE = "application/problem+json"

CATALOGUE: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "malformed-request": (400, "The request is not valid HTTP"),
        "bad-input": (400, "The request asks for something that makes no sense here"),
        "no-credentials": (401, "The request shows no credentials"),
        "wrong-credentials": (401, "The request's credentials are not valid here"),
        "not-allowed": (403, "The caller may not do this"),
        "cross-site": (403, "The request comes from a page of another site"),
        "refused": (403, "The other node refused"),
        "no-such-route": (404, "Nothing is served at this path"),
        "unknown-name": (404, "Nothing here has this name"),
        "method-not-allowed": (405, "The path does not take this method"),
        "too-slow": (408, "The request did not arrive in time"),
        "ambiguous-name": (409, "Several things have this name"),
        "conflict": (409, "The request collides with what is there"),
        "body-too-long": (413, "The request's body is too long"),
        "header-too-long": (431, "The request's header is too long"),
        "internal": (500, "The node made a mistake"),
        "not-implemented": (501, "This is not there yet"),
        "bad-reply": (502, "The answer could not be passed on"),
        "unreachable": (502, "The node cannot be reached"),
        "busy": (503, "Too much is waiting already"),
        "no-space": (507, "The node's disk is full"),
        "late": (504, "No answer came in time"),
    }
)
"""Name → (status, title). Add to it; never rename."""


class ProblemView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of every error reply."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str
    candidates: list[str] | None = None
    """Where a name is ambiguous: what it may mean."""
    error: dict[str, Any] | None = None
    """On `/mcm/v1` only: `{"code", "message"}`, as the published interface has it."""


class Problem(Exception):
    """A request that cannot be answered as asked; becomes a problem reply wherever it is caught."""

    def __init__(
        self,
        name: str,
        detail: str,
        remedy: str,
        *,
        status: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        candidates: list[str] | None = None,
    ) -> None:
        """Name a problem of the catalogue; `status` only where a published interface wants another one."""
        if name not in CATALOGUE:
            raise UsageError(f"{name!r} is not in the catalogue of problems; add it there")
        super().__init__(detail)
        self.name = name
        self.detail = detail
        self.remedy = remedy
        self.status = status or CATALOGUE[name][0]
        self.headers = headers
        self.candidates = candidates

    def view(self, *, published: bool = False) -> ProblemView:
        """Give the reply's body; `published` adds the `error` member that clients of `/mcm/v1` read."""
        return ProblemView(
            type=TYPE_PREFIX + self.name,
            title=CATALOGUE[self.name][1],
            status=self.status,
            detail=self.detail,
            remedy=self.remedy,
            candidates=self.candidates,
            error={"code": self.status, "message": self.detail} if published else None,
        )

    def body(self, *, published: bool = False) -> bytes:
        """Give the reply's body as JSON."""
        return msgspec.json.encode(self.view(published=published))

"""What the gateway answers: views as JSON, services' replies as they are, and every error as a problem."""

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from atoll.actors.gateway.headers import backward
from atoll.actors.gateway.http_line import BODILESS
from atoll.actors.gateway.messages import HttpReply
from atoll.actors.gateway.ports import (
    AmbiguousName,
    Conflict,
    PortError,
    Unacceptable,
    UnknownImage,
    UnknownName,
)
from atoll.actors.gateway.problems import MEDIA_TYPE, Problem
from atoll.actors.runtime.errors import AskFailed
from atoll.transport.errors import Congested, Expired, Refused, Unreachable

_encoder = msgspec.json.Encoder()


def json_reply(view: msgspec.Struct, status: int = 200) -> Response:
    """Say a view as JSON."""
    return Response(_encoder.encode(view), status, media_type="application/json")


def passed_on(reply: HttpReply, method: str, told: list[tuple[bytes, bytes]]) -> Response:
    """Hand a service's reply to the client, with what this gateway says beside it.

    Raises:
        Problem: It holds a header field that cannot be sent.
    """
    # A reply to HEAD has no body, and yet the length of one.
    head = method == "HEAD" and not reply.body
    response = Response(reply.body, reply.status)
    response.raw_headers = backward(reply.headers, keep_length=head)
    if not head and reply.status not in BODILESS:
        response.raw_headers.append((b"content-length", str(len(reply.body)).encode()))
    response.raw_headers += told
    return response


_SAID: tuple[tuple[type[Exception], str, str], ...] = (
    (UnknownName, "unknown-name", ""),
    (Conflict, "conflict", ""),
    (Unacceptable, "bad-input", ""),
    (Unreachable, "unreachable", "see `atoll status` for the ways there, and try again"),
    (Expired, "late", "try again, or give it longer with `x-atoll-timeout-ms`"),
    (Congested, "busy", "try again in a second"),
    (Refused, "refused", "ask the owner of that node for a grant"),
    (AskFailed, "bad-reply", "look into that node's log; both nodes may need the same version"),
)
"""Error → problem and remedy (`PortError`s bring their own). What is not here is a mistake of ours: 500, and logged."""


def problem_of(error: Exception) -> Problem:
    """Say any error that a route lets pass as a problem."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, AmbiguousName):
        return Problem("ambiguous-name", str(error), error.remedy, candidates=error.candidates)
    if isinstance(error, HTTPException):
        name = {404: "no-such-route", 405: "method-not-allowed"}.get(error.status_code, "bad-input")
        return Problem(name, error.detail, "see /openapi.json for what is served", status=error.status_code)
    for kind, name, remedy in _SAID:
        if isinstance(error, kind):
            return Problem(name, str(error), error.remedy if isinstance(error, PortError) else remedy)
    return Problem("internal", "the node made a mistake", "look into the node's log; report it if it stays")


async def problem_reply(request: Request, error: Exception) -> Response:
    """Answer an error; on `/mcm/v1` in the published texts."""
    problem = problem_of(error)
    published = request.url.path.startswith("/mcm/")
    if published and problem.name in {"no-credentials", "wrong-credentials"}:
        problem = Problem(problem.name, f"invalid edgeAccessToken: {problem.detail}", problem.remedy, status=403)
    elif published and isinstance(error, UnknownImage):
        problem = Problem("unknown-name", "cannot find image with name", f"{error}; {error.remedy}")
    return Response(
        problem.body(published=published),
        problem.status,
        headers=dict(problem.headers),
        media_type=MEDIA_TYPE,
    )


_ANSWERED = (Problem, AmbiguousName, HTTPException, *(kind for kind, _, _ in _SAID), Exception)
HANDLERS: dict[Any, Any] = dict.fromkeys(_ANSWERED, problem_reply)
"""For Starlette: what it answers with `problem_reply`. `Exception` is answered, too, and raised again to be logged."""

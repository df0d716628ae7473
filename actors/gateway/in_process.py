"""Runs a request that another node's gateway sent, through the same application as a local one.

The sender's principal goes into the scope; the door asks for no key then.
"""

import logging
from typing import Any, NoReturn
from urllib.parse import unquote

import anyio

from atoll.actors.gateway.authority import Principal
from atoll.actors.gateway.door import PRINCIPAL
from atoll.actors.gateway.http_line import Application, ClientGone, Message
from atoll.actors.gateway.messages import BODY_BYTES_MAX, HttpReply, HttpRequest
from atoll.actors.gateway.problems import MEDIA_TYPE, Problem

log = logging.getLogger("atoll.gateway")

HEADER_BYTES_MAX = 256 * 1024
"""Of a reply: with the longest body it still fits into a message, which no reply may be longer than."""


async def run_app(app: Application, request: HttpRequest, principal: Principal) -> HttpReply:
    """Answer one request in the name of `principal`; errors become problem replies, too."""
    if not request.target.startswith("/") or not request.target.isascii():
        return problem_message(Problem("malformed-request", "the target is no path", "send `/path?query`"))
    collected = _Collected(request)
    try:
        await app(_scope(request, principal), collected.receive, collected.send)
    except Problem as problem:
        return problem_message(problem)
    except ClientGone as gone:
        log.debug("%s %s: %s", request.method, request.target, gone)
    except Exception:
        # The application has answered with a 500 where it could; the request is over, this actor is not.
        log.exception("the application failed on %s %s", request.method, request.target)
    return collected.reply()


def problem_message(problem: Problem) -> HttpReply:
    """Say a problem as a message."""
    return HttpReply(problem.status, (("content-type", MEDIA_TYPE), *problem.headers), problem.body())


class _Collected:
    def __init__(self, request: HttpRequest) -> None:
        self._request: HttpRequest | None = request
        self._status = 0
        self._headers: tuple[tuple[str, str], ...] = ()
        self._parts: list[bytes] = []
        self._bytes = 0
        self._done = False
        self._too_long = ""

    async def receive(self) -> Message:
        if self._request is None:
            # The caller is another node: it leaves by a deadline that cancels all of this.
            await anyio.sleep_forever()
        request, self._request = self._request, None
        return {"type": "http.request", "body": request.body if request else b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = tuple(
                (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in message.get("headers", ())
            )
            if sum(len(name) + len(value) for name, value in self._headers) > HEADER_BYTES_MAX:
                self._stop(f"the answer's header is longer than {HEADER_BYTES_MAX} bytes")
            return
        body = message.get("body", b"")
        self._bytes += len(body)
        if self._bytes > BODY_BYTES_MAX:
            self._stop(f"the answer is longer than {BODY_BYTES_MAX} bytes")
        self._parts.append(body)
        self._done = not message.get("more_body", False)

    def _stop(self, too_long: str) -> NoReturn:
        # Whoever streams shall stop; as for a client on a socket that has gone.
        self._too_long = too_long
        self._parts.clear()
        raise ClientGone(too_long)

    def reply(self) -> HttpReply:
        if self._too_long:
            return problem_message(
                Problem(
                    "bad-reply",
                    f"{self._too_long}, the most that a message between nodes carries",
                    "ask for less at once",
                )
            )
        if not self._done:
            return problem_message(
                Problem("internal", "the node failed to answer", "look into that node's log; report it if it stays")
            )
        return HttpReply(self._status, self._headers, b"".join(self._parts))


def _scope(request: HttpRequest, principal: Principal) -> dict[str, Any]:
    path, _, query = request.target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in request.headers
        ],
        "client": None,
        "server": None,
        "state": {},
        "extensions": {},
        PRINCIPAL: principal,
    }

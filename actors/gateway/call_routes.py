"""Calls to services: of this node at their own paths, of other nodes below `/at/{node}/`.

The body, the query and every end-to-end header field pass through unchanged; see `headers.py` for what does not.
"""

import re
import secrets
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from atoll.actors.container_manager.addresses import reserved
from atoll.actors.gateway.authority import ANY
from atoll.actors.gateway.bodies import whole_body
from atoll.actors.gateway.door import Door, principal_in
from atoll.actors.gateway.headers import CORRELATION, onward, safe
from atoll.actors.gateway.messages import FIELDS_MAX, TARGET_CHARACTERS_MAX, HttpRequest
from atoll.actors.gateway.ports import NodePort
from atoll.actors.gateway.problems import Problem
from atoll.actors.gateway.replies import passed_on

CALL_TIMEOUT_S = 30.0
CALL_TIMEOUT_S_MAX = 300.0
_CORRELATION = re.compile(r"[0-9a-f]{32}")


class CallRoutes(msgspec.Struct, frozen=True):
    """The endpoints that hand requests on."""

    node: NodePort
    door: Door
    known: list[BaseRoute]
    """The node's own routes, to tell a wrong method from a wrong path."""

    def routes(self, door: Door) -> list[Route]:
        """Give the routes behind `door`; the last takes whatever is left."""
        return [door.route(ANY, "/at/{rest:path}", self.at), door.route(ANY, "/{rest:path}", self.ingress)]

    async def ingress(self, request: Request) -> Response:
        """Call a service of this node."""
        path: str = request.scope["path"]
        if reserved(path):
            raise self._nothing_here(request, path)
        onward_request = await self._request(request, _target(request.scope["raw_path"], request))
        reply = await self.node.call_local(onward_request, principal_in(request))
        told = [(CORRELATION.encode(), onward_request.header(CORRELATION).encode())]
        return passed_on(reply, request.method, told)

    async def at(self, request: Request) -> Response:
        """Call a service of another node, by any path."""
        # From the raw path: in `home%2Ftv` the slash is part of the node's name.
        raw: bytes = request.scope["raw_path"]
        _, first, name, rest = (*raw.split(b"/", 3), b"", b"", b"")[:4]
        node = unquote_to_bytes(name).decode("utf-8", "replace")
        if not node or first != b"at":
            raise Problem("no-such-route", "no node is named", "call `/at/NODE/path/of/the/service`")
        target = _target(b"/" + rest, request)
        timeout_s = _timeout_s(request)
        onward_request = await self._request(request, target)
        reply, route = await self.node.call_node(node, onward_request, timeout_s)
        told = [
            (b"x-atoll-route", route.kind.encode()),
            (b"x-atoll-why", safe(route.why)),
            (b"x-atoll-node", safe(route.node)),
            (CORRELATION.encode(), onward_request.header(CORRELATION).encode()),
            (b"server-timing", f'atoll;dur={route.elapsed_ms:.1f};desc="{route.kind}"'.encode()),
        ]
        return passed_on(reply, request.method, told)

    async def _request(self, request: Request, target: str) -> HttpRequest:
        if len(target) > TARGET_CHARACTERS_MAX:
            raise Problem("header-too-long", f"the target has {len(target)} characters", "put less into the query")
        fields = onward(request.scope["headers"], api_key=self.door.api_key)
        if len(fields) >= FIELDS_MAX:
            raise Problem("header-too-long", f"the header has {len(fields)} fields", "send fewer header fields")
        given = request.headers.get(CORRELATION, "")
        fields.append((CORRELATION, given if _CORRELATION.fullmatch(given) else secrets.token_hex(16)))
        return HttpRequest(request.method, target, tuple(fields), await whole_body(request))

    def _nothing_here(self, request: Request, path: str) -> Problem:
        allowed = sorted(
            {
                method
                for route in self.known
                if isinstance(route, Route) and route.path_regex.match(path)
                for method in route.methods or ()
            }
        )
        if allowed:
            return Problem(
                "method-not-allowed",
                f"{path[:200]} does not take {request.method}",
                f"use {', '.join(allowed)}",
                headers=(("allow", ", ".join(allowed)),),
            )
        return Problem(
            "no-such-route", f"the node serves nothing at {path[:200]}", "see /openapi.json for what is served"
        )


def _target(raw_path: bytes, request: Request) -> str:
    query: bytes = request.scope["query_string"]
    return (raw_path + b"?" + query if query else raw_path).decode("latin-1")


def _timeout_s(request: Request) -> float:
    given = request.headers.get("x-atoll-timeout-ms")
    if given is None:
        return CALL_TIMEOUT_S
    if not (given.isascii() and given.isdecimal()) or not 1 <= int(given[:9]) <= CALL_TIMEOUT_S_MAX * 1000:
        raise Problem(
            "bad-input",
            f"`x-atoll-timeout-ms: {given[:20]}` is no time-out",
            f"use 1 to {CALL_TIMEOUT_S_MAX * 1000:.0f}",
        )
    return int(given) / 1000

"""Stands before every route: who asks, may it, and only then the route.

The principal is either put into the scope by `run_app` (requests from other nodes' gateways, whose sender the link or
session has proved) or follows from the socket and the key. A client cannot put anything into a scope.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atoll.actors.gateway import authority
from atoll.actors.gateway.authority import ANY, Arrival, Principal
from atoll.actors.gateway.http_line import Peer

PRINCIPAL = "atoll.principal"

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to tell callers apart."""

    api_key: str
    user_ids: frozenset[int]

    @classmethod
    def of_this_process(cls, api_key: str) -> "Door":
        """Let this process's user and root use the unix socket."""
        return cls(api_key=api_key, user_ids=frozenset({0, os.geteuid()}))

    def principal(self, scope: Scope) -> Principal:
        """Say who asks.

        Raises:
            Problem: A page of another site made a browser ask.
        """
        known: Principal | None = scope.get(PRINCIPAL)
        if known is not None:
            return known
        headers = scope["headers"]
        authority.refuse_cross_site(headers)
        extension: dict[str, Any] = scope.get("extensions", {}).get("atoll.peer", {})
        peer: Peer | None = extension.get("peer")
        # On another server nothing is known about the peer: then it is a stranger on a network.
        arrival = Arrival(transport=peer.transport, user_id=peer.user_id) if peer else Arrival(transport="tcp")
        return authority.principal_of(arrival, headers, api_key=self.api_key, user_ids=self.user_ids)

    def route(self, method: str, path: str, endpoint: Endpoint) -> Route:
        """Make a Starlette route behind this door; `ANY` takes every method."""
        return Route(path, _Guarded(self, method, path, endpoint), methods=None if method == ANY else [method])


class _Guarded:
    """The ASGI application of one route."""

    def __init__(self, door: Door, method: str, path: str, endpoint: Endpoint) -> None:
        self._door = door
        self._endpoint = endpoint
        self.key = (method, path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = self._door.principal(scope)
        authority.authorize(principal, authority.demanded(*self.key))
        scope[PRINCIPAL] = principal
        response = await self._endpoint(Request(scope, receive))
        await response(scope, receive, send)


def principal_in(request: Request) -> Principal:
    """Give who asks, inside a route."""
    principal: Principal = request.scope[PRINCIPAL]
    return principal

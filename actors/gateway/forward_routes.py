"""`/atoll/v1/forwards`: ports of other nodes, at an address of this host."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atoll.actors.gateway.bodies import json_body
from atoll.actors.gateway.door import Door
from atoll.actors.gateway.forward_views import ForwardReply, OpenForwardBody, RenewForwardBody
from atoll.actors.gateway.ports import NodePort
from atoll.actors.gateway.problems import Problem
from atoll.actors.gateway.replies import json_reply

_DIGITS_MAX = 15


def _number_in(request: Request) -> int:
    text = request.path_params["forward"]
    if not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS_MAX:
        raise Problem("bad-input", f"{text[:50]!r} is no forward", "take an id from GET /atoll/v1/forwards")
    return int(text)


class ForwardRoutes(msgspec.Struct, frozen=True):
    """The endpoints."""

    node: NodePort

    def routes(self, door: Door) -> list[Route]:
        """Give the routes behind `door`."""
        base = "/atoll/v1/forwards"
        return [
            door.route("GET", base, self.forwards),
            door.route("POST", base, self.open),
            door.route("POST", base + "/{forward}/renew", self.renew),
            door.route("DELETE", base + "/{forward}", self.close),
        ]

    async def forwards(self, _request: Request) -> Response:
        """What is forwarded."""
        return json_reply(await self.node.forwards.list())

    async def open(self, request: Request) -> Response:
        """Listen at a port, and carry its connections to a node."""
        wanted = await json_body(request, OpenForwardBody)
        return json_reply(ForwardReply(forward=await self.node.forwards.open(wanted)), 201)

    async def renew(self, request: Request) -> Response:
        """Let a forward live on."""
        wanted = await json_body(request, RenewForwardBody)
        forward = await self.node.forwards.renew(_number_in(request), wanted.for_s)
        return json_reply(ForwardReply(forward=forward))

    async def close(self, request: Request) -> Response:
        """End a forward and its connections."""
        return json_reply(ForwardReply(forward=await self.node.forwards.close(_number_in(request))))

"""`/atoll/v1/actors`: the migratable actors of the site."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atoll.actors.gateway.actor_views import MoveActorBody
from atoll.actors.gateway.bodies import json_body
from atoll.actors.gateway.door import Door
from atoll.actors.gateway.ports import NodePort
from atoll.actors.gateway.problems import Problem
from atoll.actors.gateway.replies import json_reply
from atoll.actors.placement.messages import GENERATION_MAX


class ActorRoutes(msgspec.Struct, frozen=True):
    """The endpoints."""

    node: NodePort

    def routes(self, door: Door) -> list[Route]:
        """Give the routes behind `door`."""
        base = "/atoll/v1/actors"
        return [
            door.route("GET", base, self.actors),
            door.route("GET", base + "/{actor:path}", self.one_actor),
            door.route("POST", base + "/{actor:path}/move", self.move),
            door.route("DELETE", base + "/{actor:path}", self.remove),
        ]

    async def actors(self, _request: Request) -> Response:
        """All that have a place."""
        return json_reply(await self.node.actors.list())

    async def one_actor(self, request: Request) -> Response:
        """One, by its name."""
        return json_reply(await self.node.actors.show(request.path_params["actor"]))

    async def move(self, request: Request) -> Response:
        """Move one to another member."""
        wanted = await json_body(request, MoveActorBody)
        return json_reply(await self.node.actors.move(request.path_params["actor"], wanted.to, wanted.within_s))

    async def remove(self, request: Request) -> Response:
        """End one for good."""
        force = request.query_params.get("force", "false")
        if force not in {"true", "false"}:
            raise Problem("bad-input", f"`force={force[:20]}` is neither true nor false", "leave it out, or say true")
        founded = request.query_params.get("founded", "0")
        if not (founded.isascii() and founded.isdecimal() and len(founded) <= len(str(GENERATION_MAX))):
            raise Problem("bad-input", f"`founded={founded[:20]}` is no generation", "take that of `GET`")
        name = request.path_params["actor"]
        return json_reply(await self.node.actors.remove(name, force=force == "true", founded=int(founded)))

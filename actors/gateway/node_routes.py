"""`/atoll/v1`: what the node is and sees, and the verbs for its images and containers."""

import re
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atoll.actors.container_manager.messages import CLIENT_DEFAULT
from atoll.actors.gateway.bodies import json_body, uploaded_image
from atoll.actors.gateway.container_views import (
    ContainerReply,
    ContainersReply,
    ImageReply,
    ImagesReply,
    LogsReply,
    PullImage,
    RunContainer,
    ServicesReply,
)
from atoll.actors.gateway.door import Door
from atoll.actors.gateway.node_views import DrainNode, LinksReply, NodeReply, NodesReply, RelaysReply
from atoll.actors.gateway.ports import NodePort
from atoll.actors.gateway.problems import Problem
from atoll.actors.gateway.replies import json_reply
from atoll.actors.gateway.site_views import DutiesReply, LeaveSite, ReformSite

NODE_SCOPES = ("link-local", "account", "proximity")
TAIL_LINES = 100
TAIL_LINES_MAX = 1000
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def client_of(request: Request) -> str:
    """Give the client whose images and containers are meant.

    Raises:
        Problem: `x-client-id` is not a name.
    """
    client = request.headers.get("x-client-id", CLIENT_DEFAULT)
    if not _CLIENT.fullmatch(client):
        raise Problem(
            "bad-input", f"`x-client-id: {client[:100]}` is no client", "use at most 100 of A-Z a-z 0-9 . _ -"
        )
    return client


class NodeRoutes(msgspec.Struct, frozen=True):
    """The endpoints; each asks the node and says its answer as JSON."""

    node: NodePort
    spool: Path
    """Where uploads wait."""

    def routes(self, door: Door) -> list[Route]:
        """Give the routes behind `door`."""
        base = "/atoll/v1"
        return [
            door.route("GET", f"{base}/status", self.status),
            door.route("GET", f"{base}/nodes", self.nodes),
            door.route("GET", base + "/nodes/{node:path}", self.one_node),
            door.route("GET", f"{base}/services", self.services),
            door.route("GET", f"{base}/links", self.links),
            door.route("GET", f"{base}/relays", self.relays),
            door.route("GET", f"{base}/duties", self.duties),
            door.route("POST", f"{base}/drain", self.drain),
            door.route("GET", f"{base}/site", self.site),
            door.route("POST", f"{base}/site/leave", self.leave_site),
            door.route("POST", f"{base}/site/reform", self.reform_site),
            door.route("GET", f"{base}/images", self.images),
            door.route("POST", f"{base}/images", self.load_image),
            door.route("POST", f"{base}/images/pull", self.pull_image),
            door.route("DELETE", base + "/images/{image}", self.remove_image),
            door.route("GET", f"{base}/containers", self.containers),
            door.route("POST", f"{base}/containers", self.run_container),
            door.route("DELETE", base + "/containers/{container}", self.remove_container),
            door.route("POST", base + "/containers/{container}/start", self.start_container),
            door.route("POST", base + "/containers/{container}/stop", self.stop_container),
            door.route("GET", base + "/containers/{container}/logs", self.logs),
        ]

    async def status(self, _request: Request) -> Response:
        """Health, supernode, duties, links, routes, relays."""
        return json_reply(await self.node.status())

    async def nodes(self, request: Request) -> Response:
        """Nodes in one of the three scopes."""
        scope = request.query_params.get("scope", NODE_SCOPES[0])
        if scope not in NODE_SCOPES:
            raise Problem("bad-input", f"there is no scope {scope[:50]!r}", f"use one of {', '.join(NODE_SCOPES)}")
        return json_reply(NodesReply(nodes=await self.node.nodes(scope)))

    async def one_node(self, request: Request) -> Response:
        """One node, by id or name."""
        return json_reply(NodeReply(node=await self.node.node(request.path_params["node"])))

    async def services(self, _request: Request) -> Response:
        """Services that can be called."""
        return json_reply(ServicesReply(services=await self.node.services()))

    async def links(self, _request: Request) -> Response:
        """Links to neighbours."""
        return json_reply(LinksReply(links=(await self.node.status()).links))

    async def relays(self, _request: Request) -> Response:
        """Relays this node knows."""
        return json_reply(RelaysReply(relays=await self.node.relays()))

    async def duties(self, _request: Request) -> Response:
        """Duties of the site and their holders."""
        return json_reply(DutiesReply(duties=(await self.node.status()).duties))

    async def site(self, _request: Request) -> Response:
        """Members, voters, and how the election stands."""
        return json_reply(await self.node.site())

    async def leave_site(self, request: Request) -> Response:
        """Ask to be taken out of the voters."""
        return json_reply(await self.node.leave_site((await json_body(request, LeaveSite)).reason))

    async def reform_site(self, request: Request) -> Response:
        """Begin the site anew with this node as its only voter."""
        wanted = await json_body(request, ReformSite)
        return json_reply(await self.node.reform_site(wanted.reason, force=wanted.force))

    async def drain(self, request: Request) -> Response:
        """Give duties and the supernode's place to others."""
        wanted = await json_body(request, DrainNode)
        return json_reply(await self.node.drain(draining=wanted.draining, within_s=wanted.within_s))

    async def images(self, _request: Request) -> Response:
        """Images on this node."""
        return json_reply(ImagesReply(images=await self.node.images()))

    async def load_image(self, request: Request) -> Response:
        """Take a docker-save tar."""
        client = client_of(request)
        async with uploaded_image(request, self.spool) as tar:
            return json_reply(ImageReply(image=await self.node.load_image(client, tar)), 201)

    async def pull_image(self, request: Request) -> Response:
        """Get an image from another node of the site, or say how far that is."""
        wanted = await json_body(request, PullImage)
        wait_s = wanted.wait_ms / 1000
        return json_reply(await self.node.pull_image(client_of(request), wanted.image, wanted.source, wait_s))

    async def remove_image(self, request: Request) -> Response:
        """Remove an image."""
        return json_reply(ImageReply(image=await self.node.remove_image(request.path_params["image"])))

    async def containers(self, _request: Request) -> Response:
        """Containers on this node."""
        return json_reply(ContainersReply(containers=await self.node.containers()))

    async def run_container(self, request: Request) -> Response:
        """Make a container of an image and start it."""
        wanted = await json_body(request, RunContainer)
        view = await self.node.run_container(client_of(request), wanted.name, wanted.image, wanted.env)
        return json_reply(ContainerReply(container=view), 201)

    async def start_container(self, request: Request) -> Response:
        """Start a container that was stopped."""
        return json_reply(ContainerReply(container=await self.node.start_container(request.path_params["container"])))

    async def stop_container(self, request: Request) -> Response:
        """Stop a container."""
        return json_reply(ContainerReply(container=await self.node.stop_container(request.path_params["container"])))

    async def remove_container(self, request: Request) -> Response:
        """Remove a container."""
        return json_reply(ContainerReply(container=await self.node.remove_container(request.path_params["container"])))

    async def logs(self, request: Request) -> Response:
        """What a container wrote."""
        tail = request.query_params.get("tail", str(TAIL_LINES))
        if not (tail.isascii() and tail.isdecimal()) or not 1 <= int(tail[:9]) <= TAIL_LINES_MAX:
            raise Problem("bad-input", f"`tail={tail[:20]}` is no number of lines", f"use 1 to {TAIL_LINES_MAX}")
        container = request.path_params["container"]
        return json_reply(LogsReply(container=container, lines=await self.node.logs(container, int(tail))))

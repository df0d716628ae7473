"""`/mcm/v1`: images and containers in the words of the published edge-engine interface."""

from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atoll.actors.gateway.bodies import json_body, uploaded_image
from atoll.actors.gateway.container_views import ContainerView, RunContainer
from atoll.actors.gateway.door import Door
from atoll.actors.gateway.mcm_views import McmContainer, McmContainers, McmImage, McmImages
from atoll.actors.gateway.node_routes import client_of
from atoll.actors.gateway.ports import NodePort
from atoll.actors.gateway.replies import json_reply


class McmRoutes(msgspec.Struct, frozen=True):
    """The endpoints; existing clients decide what their names and statuses are."""

    node: NodePort
    spool: Path
    """Where uploads wait."""

    def routes(self, door: Door) -> list[Route]:
        """Give the routes behind `door`."""
        base = "/mcm/v1"
        return [
            door.route("GET", f"{base}/images", self.images),
            door.route("POST", f"{base}/images", self.load_image),
            door.route("DELETE", base + "/images/{image}", self.remove_image),
            door.route("GET", f"{base}/containers", self.containers),
            door.route("POST", f"{base}/containers", self.run_container),
            door.route("DELETE", base + "/containers/{container}", self.remove_container),
            door.route("PUT", base + "/containers/{container}/start", self.start_container),
            door.route("PUT", base + "/containers/{container}/stop", self.stop_container),
        ]

    async def images(self, _request: Request) -> Response:
        """List images."""
        return json_reply(McmImages(data=[McmImage.of(image) for image in await self.node.images()]))

    async def load_image(self, request: Request) -> Response:
        """Take an image."""
        client = client_of(request)
        async with uploaded_image(request, self.spool) as tar:
            return json_reply(McmImage.of(await self.node.load_image(client, tar)))

    async def remove_image(self, request: Request) -> Response:
        """Remove an image, and say what it was."""
        return json_reply(McmImage.of(await self.node.remove_image(request.path_params["image"])))

    async def containers(self, _request: Request) -> Response:
        """List containers."""
        return json_reply(McmContainers(data=[McmContainer.of(each) for each in await self.node.containers()]))

    async def run_container(self, request: Request) -> Response:
        """Make a container and start it."""
        wanted = await json_body(request, RunContainer)
        return _said(await self.node.run_container(client_of(request), wanted.name, wanted.image, wanted.env))

    async def start_container(self, request: Request) -> Response:
        """Start a container that was stopped."""
        return _said(await self.node.start_container(request.path_params["container"]))

    async def stop_container(self, request: Request) -> Response:
        """Stop a container."""
        return _said(await self.node.stop_container(request.path_params["container"]))

    async def remove_container(self, request: Request) -> Response:
        """Remove a container, and say what it was."""
        return _said(await self.node.remove_container(request.path_params["container"]))


def _said(container: ContainerView) -> Response:
    return json_reply(McmContainer.of(container))

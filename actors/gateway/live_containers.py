"""What runs on this node, as the gateway sees it: images, containers and services, by asking the ContainerManager.

Whatever changes here is told to the site at once. An error of the ContainerManager becomes one of the gateway's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from atoll.actors.cloud.messages import NodeRecord, OfferedService
from atoll.actors.container_manager import errors as container_errors
from atoll.actors.container_manager.container_manager import fault_reply, order
from atoll.actors.container_manager.messages import (
    PATH as CONTAINER_MANAGER,
)
from atoll.actors.container_manager.messages import (
    ContainerInfo,
    ImageInfo,
    ListContainers,
    ListImages,
    ListServices,
    LoadImage,
    ReadLogs,
    RemoveContainer,
    RemoveImage,
    RunContainer,
    ServiceCall,
    ServiceInfo,
    StartContainer,
    StopContainer,
)
from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import DescribeSite, SiteDescribed
from atoll.actors.duties.offer import Offer
from atoll.actors.gateway.authority import Principal
from atoll.actors.gateway.container_views import ContainerView, ImageView, LogLine, PullReply, ServiceView
from atoll.actors.gateway.messages import HttpReply, HttpRequest
from atoll.actors.gateway.ports import AmbiguousName, Conflict, PortError, Unacceptable, UnknownImage, UnknownName
from atoll.actors.image_exchange.errors import NotDelivered, SeveralHaveIt
from atoll.actors.image_exchange.messages import PATH as IMAGE_EXCHANGE
from atoll.actors.image_exchange.messages import PullImage, PullState
from atoll.actors.image_exchange.offers import may_name
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.errors import Expired, Unreachable
from atoll.transport.identity import NodeId

PULL_S = 5.0
"""Beyond what the caller waits: for the ImageExchange to answer."""
RUN_PULLS_S = 25.0
"""How long a container's start waits for its image; the image comes all the same."""


@dataclass(slots=True)
class LiveContainers:
    """The half of the gateway's `NodePort` that is about what runs here."""

    system: ActorSystem
    own: NodeRecord
    offer: Offer

    async def own_services(self) -> list[ServiceView]:
        """List this node's services."""
        own: list[ServiceInfo] = list((await self._order(ListServices())).services)
        return [
            ServiceView(
                name=each.name,
                path=each.path,
                node=str(self.own.node),
                node_name=self.own.name,
                container=each.container,
            )
            for each in own
        ]

    async def containers(self) -> list[ContainerView]:
        """List the containers here."""
        return [_container_view(each) for each in (await self._order(ListContainers())).containers]

    async def images(self) -> list[ImageView]:
        """List the images here."""
        return [_image_view(each) for each in (await self._order(ListImages())).images]

    async def load_image(self, client: str, tar: Path) -> ImageView:
        """Take an image from a file."""
        return _image_view(await self._order(LoadImage(str(tar), client)))

    async def remove_image(self, image: str) -> ImageView:
        """Remove an image."""
        return _image_view(await self._order(RemoveImage(image)))

    async def pull(self, client: str, image: str, source: NodeId | None, wait_s: float) -> PullReply:
        """Get an image from `source`, or from whoever of the site has it; after `wait_s` say how far it is."""
        exchange = self.system.ref(Address(self.own.node, IMAGE_EXCHANGE))
        try:
            state: PullState = await order(
                exchange, PullImage(image, client, source, wait_s), timeout_s=wait_s + PULL_S
            )
        except container_errors.ContainerError as error:
            raise port_error(error) from error
        return PullReply(
            name=state.name,
            got_bytes=state.got_bytes,
            size_bytes=state.size_bytes,
            source="" if state.source is None else str(state.source),
            source_name="" if state.source is None else await self._called(state.source),
            cached=state.cached,
            cache_bytes=state.cache_bytes,
            image=None if state.image is None else _image_view(state.image),
        )

    async def _called(self, node: NodeId) -> str:
        site: SiteDescribed = await self.system.ask(Address(self.own.node, DUTIES), DescribeSite())
        return next((each.name for each in site.records if each.node == node), node.short)

    async def run_container(self, client: str, name: str, image: str, env: Mapping[str, str]) -> ContainerView:
        """Create a container and start it; an image that is not here is pulled from the site first."""
        wanted = RunContainer(name, image, tuple(env.items()), client)
        try:
            return await self._changed(wanted)
        except UnknownImage as missing:
            if isinstance(missing.__cause__, container_errors.SeveralImages) or not may_name(image):
                raise
            pulled = await self.pull(client, image, None, RUN_PULLS_S)
        if pulled.image is None:
            share = f"{pulled.got_bytes} of {pulled.size_bytes} bytes came within {RUN_PULLS_S:g} s"
            if pulled.cached and not pulled.got_bytes:
                share = f"the site's cache has {pulled.cache_bytes} of {pulled.size_bytes} bytes"
            raise Expired(f"the image {image} is not here yet: {share}")
        return msgspec.structs.replace(await self._changed(wanted), pulled_from=pulled.source_name)

    async def start_container(self, container: str) -> ContainerView:
        """Start a container."""
        return await self._changed(StartContainer(container))

    async def stop_container(self, container: str) -> ContainerView:
        """Stop a container."""
        return await self._changed(StopContainer(container))

    async def remove_container(self, container: str) -> ContainerView:
        """Remove a container."""
        return await self._changed(RemoveContainer(container))

    async def _changed(self, message: Any) -> ContainerView:
        view = _container_view(await self._order(message))
        await self.tell_offer()
        return view

    async def tell_offer(self) -> None:
        """Let the site know which services this node offers now."""
        services: list[ServiceInfo] = list((await self._order(ListServices())).services)
        self.offer.set_services(OfferedService(each.name, each.path) for each in services)

    async def logs(self, container: str, lines_max: int) -> list[LogLine]:
        """Give the newest lines of a container."""
        logs = await self._order(ReadLogs(container, lines_max))
        return [LogLine(at_ms=each.at_ms, stream=each.stream, text=each.text) for each in logs.entries]

    async def call_local(self, request: HttpRequest, principal: Principal) -> HttpReply:
        """Call a service of this node."""
        del principal
        call = ServiceCall(request.target, request.method, request.headers, request.body)
        try:
            reply = await order(self._manager(), call)
        except container_errors.ServiceFault as error:
            # The service's own fault is an answer, like any other that it gives.
            reply = fault_reply(error)
        except container_errors.ContainerError as error:
            raise port_error(error) from error
        return HttpReply(reply.status, reply.headers, reply.body)

    async def _order(self, message: Any) -> Any:
        try:
            return await order(self._manager(), message)
        except container_errors.ContainerError as error:
            raise port_error(error) from error

    def _manager(self) -> Any:
        return self.system.ref(Address(self.own.node, CONTAINER_MANAGER))


def _image_view(info: ImageInfo) -> ImageView:
    return ImageView(
        id=info.id,
        name=info.name,
        client=info.client,
        digest=info.digest,
        repo_tags=list(info.repo_tags),
        size_bytes=info.size_bytes,
        created_ms=info.created_ms,
    )


def _container_view(info: ContainerInfo) -> ContainerView:
    return ContainerView(
        id=info.id,
        name=info.name,
        client=info.client,
        image=info.image,
        image_id=info.image_id,
        state=info.state,
        status=info.status,
        created_ms=info.created_ms,
        env=dict(info.env),
        path=info.base_path,
    )


def port_error(error: container_errors.ContainerError) -> Exception:
    """Say a container's error in the gateway's words."""
    # Those texts are written as `what was wrong; what to do`.
    what, _, remedy = str(error).rpartition("; ")
    text, remedy = (what, remedy) if what else (remedy, "")
    if isinstance(error, SeveralHaveIt):
        return AmbiguousName(str(error), error.candidates)
    if isinstance(error, NotDelivered):
        return Unreachable(str(error))
    if isinstance(error, container_errors.ImageRefused):
        remedy = remedy or "write the image again, with `docker save -o FILE IMAGE`"
    return next((said for kind, said in _SAID if isinstance(error, kind)), PortError)(text, remedy)


_SAID: tuple[tuple[type[container_errors.ContainerError], type[PortError]], ...] = (
    (container_errors.ImageNotThere, UnknownImage),
    (container_errors.NotThere, UnknownName),
    (container_errors.Taken, Conflict),
    (container_errors.ImageRefused, Unacceptable),
    (container_errors.UsageFault, Unacceptable),
)

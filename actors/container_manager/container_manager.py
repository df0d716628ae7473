"""What runs here, as an actor: the face of `Containers` for other actors of this node.

    started --async with Containers--> takes orders and calls --stopped--> workers ended, containers kept

Calls of services run beside the mailbox, as many at once as the containers take. Other nodes never reach it: they ask
the gateway, which knows who may do what.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import anyio
import anyio.abc

from atoll.actors.container_manager.containers import Containers
from atoll.actors.container_manager.errors import ContainerError
from atoll.actors.container_manager.messages import (
    ContainerInfo,
    ContainerList,
    ImageInfo,
    Images,
    ListContainers,
    ListImages,
    ListServices,
    Logs,
    ReadLogs,
    RemoveContainer,
    RemoveImage,
    RunContainer,
    ServiceCall,
    ServiceReply,
    Services,
    StartContainer,
    StopContainer,
)
from atoll.actors.runtime.actor import LATER, Actor, Delivery, ReplyTo, handles
from atoll.actors.runtime.errors import Declined
from atoll.transport.base import Standing


class ContainerManager(Actor):
    """Loads, starts, stops and calls the light containers of this node."""

    open_to: ClassVar[frozenset[Standing]] = frozenset()

    def __init__(self, containers: Callable[[], Containers]) -> None:
        """Take what makes the `Containers`; the actor opens and closes it."""
        self._make = containers
        self._containers: Containers

    async def started(self) -> None:
        """Open the containers."""
        # In a task of its own: `started` and `stopped` are no place to enter and leave a task group.
        await self.tasks.start(self._hold)

    async def _hold(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with self._make() as self._containers:
            task_status.started()
            await anyio.sleep_forever()

    async def receive(self, delivery: Delivery) -> Any:
        """Take a call beside the mailbox, anything else in its turn.

        Raises:
            Declined: The order cannot be carried out; the text says why.
        """
        if isinstance(delivery.message, ServiceCall):
            self.tasks.start_soon(self._call, delivery.message, delivery.reply_to)
            return LATER
        try:
            return await super().receive(delivery)
        except ContainerError as error:
            raise Declined(str(error)) from error

    async def _call(self, call: ServiceCall, reply_to: ReplyTo | None) -> None:
        try:
            reply = await self._containers.call(call)
        except ContainerError as error:
            reply = fault_reply(error)
        if reply_to is not None:
            reply_to.answer(reply)

    @handles
    async def list_images(self, _: ListImages) -> Images:
        """List the images."""
        return Images(self._containers.list_images())

    @handles
    async def remove_image(self, message: RemoveImage) -> ImageInfo:
        """Remove an image."""
        return await self._containers.remove_image(message.image)

    @handles
    async def run(self, message: RunContainer) -> ContainerInfo:
        """Create a container and start it."""
        return await self._containers.run(message.name, message.image, dict(message.env), message.client)

    @handles
    async def list_containers(self, _: ListContainers) -> ContainerList:
        """List the containers."""
        return ContainerList(self._containers.list())

    @handles
    async def start(self, message: StartContainer) -> ContainerInfo:
        """Start a container."""
        return await self._containers.start(message.container)

    @handles
    async def stop_container(self, message: StopContainer) -> ContainerInfo:
        """Stop a container."""
        return await self._containers.stop(message.container)

    @handles
    async def remove(self, message: RemoveContainer) -> ContainerInfo:
        """Remove a container."""
        return await self._containers.remove(message.container)

    @handles
    async def logs(self, message: ReadLogs) -> Logs:
        """Give the newest lines of a container."""
        return Logs(self._containers.logs(message.container, message.lines_max))

    @handles
    async def list_services(self, _: ListServices) -> Services:
        """List the services."""
        return Services(self._containers.services())


def fault_reply(error: ContainerError) -> ServiceReply:
    """Say an error as the reply to a call; its status is HTTP's, its body plain text."""
    text = str(error)
    return ServiceReply(
        error.status, (("content-type", "text/plain; charset=utf-8"),), f"{text}\n".encode(), fault=text
    )

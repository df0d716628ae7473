"""What runs here, as an actor: the face of `Containers` for other actors of this node.

    started --async with Containers--> takes orders and calls --stopped--> workers ended, containers kept

Calls of services run beside the mailbox, as many at once as the containers take; so do loads and readers of archives,
because a long load must not keep others waiting. Other nodes never reach it: they ask the gateway, which knows who may
do what.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import anyio
import anyio.abc

from atoll.actors.container_manager.containers import Containers
from atoll.actors.container_manager.errors import ContainerError
from atoll.actors.container_manager.lifecycle import CALL_LIMIT_MAX_S, LAUNCH_S
from atoll.actors.container_manager.messages import (
    ArchivePart,
    ContainerInfo,
    ContainerList,
    ImageInfo,
    Images,
    ListContainers,
    ListImages,
    ListServices,
    LoadImage,
    Logs,
    ReadArchive,
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
from atoll.actors.runtime.actor import LATER, Actor, ActorRef, Delivery, ReplyTo, handles
from atoll.actors.runtime.errors import AskDeclined
from atoll.transport.base import Standing
from atoll.transport.codec import Message

_Asked = TypeVar("_Asked", bound=Message)
ORDER_S = CALL_LIMIT_MAX_S + LAUNCH_S
"""Longer than the longest call; what it is asked ends by limits of its own."""


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
        """Take a call beside the mailbox, anything else in its turn."""
        match delivery.message:
            case ServiceCall() as call:
                self.tasks.start_soon(self._beside, delivery.reply_to, self._containers.call, call)
                return LATER
            case LoadImage() as load:
                self.tasks.start_soon(self._beside, delivery.reply_to, self._load, load)
                return LATER
            case ReadArchive() as read:
                self.tasks.start_soon(self._beside, delivery.reply_to, self._read_archive, read)
                return LATER
        try:
            return await super().receive(delivery)
        except ContainerError as error:
            decline(delivery.reply_to, error)
            return LATER

    async def _load(self, load: LoadImage) -> ImageInfo:
        return await self._containers.load_image(Path(load.path), load.client, load.expected)

    async def _read_archive(self, read: ReadArchive) -> ArchivePart:
        return await self._containers.archive_part(read.digest, read.offset)

    async def _beside(
        self, reply_to: ReplyTo | None, do: Callable[[_Asked], Awaitable[Message]], message: _Asked
    ) -> None:
        try:
            reply = await do(message)
        except ContainerError as error:
            decline(reply_to, error)
        else:
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


def decline(reply_to: ReplyTo | None, error: ContainerError) -> None:
    """Say no to whoever asked, and why: `order` raises the error there."""
    if reply_to is not None:
        declined = AskDeclined(str(error))
        declined.__cause__ = error
        reply_to.fail(declined)


async def order(manager: ActorRef, message: Any, *, timeout_s: float = ORDER_S) -> Any:
    """Ask the container manager of this node, and get its errors as they are there.

    Raises:
        ContainerError: It says no; the subclass says why.
        AskFailed: It did not answer.
    """
    try:
        return await manager.ask(message, timeout_s=timeout_s)
    except AskDeclined as declined:
        if isinstance(declined.__cause__, ContainerError):
            raise declined.__cause__ from None
        raise


def fault_reply(error: ContainerError) -> ServiceReply:
    """Say an error as the reply to a call; its status is HTTP's, its body plain text."""
    text = str(error)
    return ServiceReply(
        error.status, (("content-type", "text/plain; charset=utf-8"),), f"{text}\n".encode(), fault=text
    )

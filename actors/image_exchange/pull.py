"""One pull: from a name to an image of this node.

finding --every member asked--> one image --the cache wants it, too--> reading it there, else at its holders
        --none, several--> refused                                    --checked as a pushed one--> here

Concurrent pulls of the same name for the same client are one (`exchange.py`). Nothing goes to the cloud.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import anyio

from atoll.actors.container_manager.container_manager import order
from atoll.actors.container_manager.errors import StorageFault
from atoll.actors.container_manager.messages import PATH as CONTAINER_MANAGER
from atoll.actors.container_manager.messages import ImageInfo, ListImages, LoadImage
from atoll.actors.discoverer.membership import SMALL_SITE_MAX
from atoll.actors.image_exchange.errors import NobodyHasIt
from atoll.actors.image_exchange.fetching import ask_member, fetch
from atoll.actors.image_exchange.messages import (
    CACHE,
    PATH,
    SOURCES_MAX,
    FindImages,
    HeldImage,
    ImageCached,
    ImagesHeld,
    ImageWanted,
    PullState,
)
from atoll.actors.image_exchange.offers import Choice, choose, split_name
from atoll.actors.image_exchange.site import Neighbourhood, find_site
from atoll.actors.image_exchange.transfer import Transfer
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.identity import NodeId

FIND_S = 3.0
"""For a member to say what it has; who says nothing has nothing."""
FINDING_MAX = 16
"""Members asked at once: a large site is no reason for a thousand dials."""
DIALLED_MAX = 64
"""Members without a link that are dialled and asked when nobody with a link has it."""
WANTED_S = 5.0
WANTED_AGAIN_S = 0.1
PULL_PREFIX = "pull-"
WANTED_MAX_S = 90.0
"""For the cache to get it: 64 MiB at 6 Mbit/s. Then the holders are asked themselves."""


@dataclass(slots=True, kw_only=True)
class Pull:
    """One pull on its way; `state` says how far it is."""

    system: ActorSystem
    image: str
    client: str
    source: NodeId | None
    """The member whose image it shall be, who is then asked itself; None for whoever has it."""
    spool: Path
    counts: Counter[str]
    state: PullState = field(init=False)
    _site: Neighbourhood = field(default_factory=Neighbourhood)
    _passed_over: int = 0
    """Members who were not asked, because the site has so many."""

    def __post_init__(self) -> None:
        self.state = PullState(self.image)

    async def run(self) -> PullState:
        """Get it.

        Raises:
            ContainerError: It cannot be had, or not be kept; the subclass says whose fault that is.
        """
        split_name(self.image)
        self._site = await find_site(self.system) if self.source is None else Neighbourhood((self.source,))
        offers = await self._offers()
        try:
            choice = choose(offers, self.image, self.client)
        except NobodyHasIt as error:
            asked = len(self._site.members) - self._passed_over
            mute = asked - len(offers)
            said = f"; {mute} of {asked} members did not answer" if mute else ""
            said += f"; {self._passed_over} more were not asked" if self._passed_over else ""
            raise NobodyHasIt(f"{error}{said}; push the image first: `atoll image push FILE`") from None
        if (own := await self._own(choice)) is not None:
            return self._ended(choice, own, self.system.node_id)
        return await self._fetched(choice)

    async def _offers(self) -> dict[NodeId, Iterable[HeldImage]]:
        members = self._site.members
        if len(members) < SMALL_SITE_MAX:
            return await self._asked(members)
        # Most members of a large site have no link to each other: whoever has one is asked first.
        near = [each for each in members if each in self._site.linked]
        offers = await self._asked(near)
        if not any(offers.values()):
            far = [each for each in members if each not in self._site.linked]
            self._passed_over = len(far[DIALLED_MAX:])
            offers |= await self._asked(far[:DIALLED_MAX])
        return offers

    async def _asked(self, members: Iterable[NodeId]) -> dict[NodeId, Iterable[HeldImage]]:
        offers: dict[NodeId, Iterable[HeldImage]] = {}
        wanted = FindImages(*split_name(self.image))
        limit = anyio.CapacityLimiter(FINDING_MAX)

        async def find(member: NodeId) -> None:
            async with limit:
                try:
                    held = await ask_member(self.system, Address(member, PATH), wanted, ImagesHeld, timeout_s=FIND_S)
                except AskFailed:
                    self.counts["members_mute"] += 1
                else:
                    offers[member] = held.images

        async with anyio.create_task_group() as asking:
            for member in members:
                asking.start_soon(find, member)
        return offers

    async def _own(self, choice: Choice) -> ImageInfo | None:
        """Give this node's own image, when it is that one already."""
        listed = await order(self.system.ref(Address(self.system.node_id, CONTAINER_MANAGER)), ListImages())
        digest = f"sha256:{choice.digest.hex()}"
        tag = f"{choice.name}:{choice.version}"
        return next(
            (
                each
                for each in listed.images
                if each.digest == digest and each.client == self.client and tag in each.repo_tags
            ),
            None,
        )

    async def _fetched(self, choice: Choice) -> PullState:
        cache = await self._cached(choice)
        transfer = Transfer(choice.digest, [*([] if cache is None else [cache]), *choice.holders][:SOURCES_MAX])
        with _spooled(self.spool) as file:
            await fetch(self.system, transfer, _Spool(file, self, choice, transfer, cache), self.counts)
            # A member may call an archive what it likes: one of another name would replace another image here.
            load = LoadImage(file.name, self.client, f"{choice.name}:{choice.version}")
            image = await order(self.system.ref(Address(self.system.node_id, CONTAINER_MANAGER)), load)
        return self._ended(choice, image, transfer.source, cached=transfer.source == cache)

    async def _cached(self, choice: Choice) -> NodeId | None:
        """Have the site's cache hold it, and give that one; None where there is none, or it cannot."""
        cache = self._site.cache
        if cache is None:
            return None
        there, wanted = Address(cache, CACHE), ImageWanted(choice.digest, choice.holders[:SOURCES_MAX])
        with anyio.move_on_after(WANTED_MAX_S):
            while True:
                try:
                    answer = await ask_member(self.system, there, wanted, ImageCached, timeout_s=WANTED_S)
                except AskFailed:
                    self.counts["cache_lost"] += 1
                    return None
                if answer.ready or answer.problem:
                    return cache if answer.ready else None
                self.state = PullState(
                    choice.name, 0, choice.size_bytes, cache, cached=True, cache_bytes=answer.got_bytes
                )
                await anyio.sleep(WANTED_AGAIN_S)
        return None

    def _ended(self, choice: Choice, image: ImageInfo, source: NodeId | None, *, cached: bool = False) -> PullState:
        self.state = PullState(choice.name, image.size_bytes, image.size_bytes, source, cached, image)
        return self.state


def _spooled(folder: Path) -> "tempfile._TemporaryFileWrapper[bytes]":
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.NamedTemporaryFile(dir=folder, prefix=PULL_PREFIX, suffix=".tar")
    except OSError as error:
        raise StorageFault(f"{folder} cannot be written: {error.strerror}; is the disk full?") from error


@dataclass(slots=True)
class _Spool:
    """A temporary file that a pull writes to."""

    file: IO[bytes]
    pull: Pull
    choice: Choice
    transfer: Transfer
    cache: NodeId | None

    def append(self, data: bytes) -> None:
        try:
            self.file.write(data)
            # Now, so that a full disk is said here and not in the end.
            self.file.flush()
        except OSError as error:
            raise StorageFault(f"the image cannot be stored: {error.strerror}; is the disk full?") from error
        source = self.transfer.source
        cached, cache_bytes = source == self.cache, self.pull.state.cache_bytes
        self.pull.state = PullState(
            self.choice.name, self.file.tell(), self.choice.size_bytes, source, cached, cache_bytes=cache_bytes
        )

    def start_over(self) -> None:
        self.file.seek(0)
        self.file.truncate()

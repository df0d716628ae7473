"""The images of a node, as the other members of its site see them; and where this node pulls from.

    a member --FindImages, ReadImage--> answered out of the containers' images and the cache's store
    this node --PullImage--> a pull begins, or is joined --> its state after at most `wait_s`, or how it ended

What peers ask is answered or declined, `SERVING_MAX` at once, the others in turn; pulls run beside. Only members reach
it, and what they ask costs a chunk of memory each.
"""

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import anyio
import anyio.to_thread

from atoll.actors.container_manager.container_manager import order
from atoll.actors.container_manager.errors import ContainerError, LimitReached
from atoll.actors.container_manager.messages import PATH as CONTAINER_MANAGER
from atoll.actors.container_manager.messages import ArchivePart, ListImages, ReadArchive
from atoll.actors.image_exchange.blob_store import BlobStore
from atoll.actors.image_exchange.messages import (
    OFFERS_MAX,
    FindImages,
    HeldImage,
    ImageChunk,
    ImagesHeld,
    PullImage,
    PullState,
    ReadImage,
)
from atoll.actors.image_exchange.pull import PULL_PREFIX, Pull
from atoll.actors.runtime.actor import LATER, Actor, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskDeclined, AskFailed, Declined
from atoll.actors.runtime.machine import Address
from atoll.transport.base import Standing

READ_S = 5.0
SERVING_MAX = 16
PULLS_MAX = 8
"""At once; each may have 64 MiB on its way."""
ENDED_KEPT_S = 30.0
"""How long the end of a pull waits for somebody to ask about it."""

_Key: TypeAlias = tuple[str, str, bytes]


class _Running:
    """A pull and how it ended."""

    def __init__(self, pull: Pull) -> None:
        self.pull = pull
        self.ended = anyio.Event()
        self.outcome: PullState | AskFailed | None = None
        self.waiting = 0


class ImageExchange(Actor):
    """Gives this node's images to members, and gets theirs."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, store: BlobStore, spool: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._store = store
        self._spool = spool
        self._pulls: dict[_Key, _Running] = {}
        self._serving = 0

    async def started(self) -> None:
        """Remove what pulls of a life before left."""
        for path in self._spool.glob(f"{PULL_PREFIX}*.tar"):
            path.unlink(missing_ok=True)

    async def receive(self, delivery: Delivery) -> Any:
        """Answer members out of what is here, and this node's own orders, beside the mailbox."""
        match delivery.message:
            case FindImages() | ReadImage() as asked:
                if delivery.reply_to is None or self._serving >= SERVING_MAX:
                    return await self._answer(asked)
                self._serving += 1
                self.tasks.start_soon(self._serve, asked, delivery.reply_to)
                return LATER
            case PullImage() as wanted if delivery.standing is None:
                self.tasks.start_soon(self._pull, wanted, delivery.reply_to)
                return LATER
            case _:
                self.counts["not_understood"] += 1
                return await super().receive(delivery)

    # For members

    async def _serve(self, asked: FindImages | ReadImage, reply_to: ReplyTo) -> None:
        try:
            reply_to.answer(await self._answer(asked))
        except Declined as error:
            reply_to.fail(AskDeclined(str(error)))
        finally:
            self._serving -= 1

    async def _answer(self, asked: FindImages | ReadImage) -> ImagesHeld | ImageChunk:
        if isinstance(asked, FindImages):
            return await self._find(asked.name, asked.version)
        return await self._read(asked.digest, asked.offset)

    async def _find(self, name: str, version: str) -> ImagesHeld:
        listed = await self._order(ListImages())
        own = [
            HeldImage(each.client, name, tag.partition(":")[2], _digest(each.digest), each.size_bytes)
            for each in listed.images
            for tag in each.repo_tags[:1]
            if each.name == name and version in ("", tag.partition(":")[2])
        ]
        cached = await anyio.to_thread.run_sync(self._store.find, name, version)
        return ImagesHeld((*own, *cached)[:OFFERS_MAX])

    async def _read(self, digest: bytes, offset: int) -> ImageChunk:
        try:
            part: ArchivePart = await self._order(ReadArchive(digest.hex(), offset))
        except Declined:
            found = await anyio.to_thread.run_sync(self._store.read, digest, offset)
            if found is None:
                self.counts["not_there"] += 1
                raise
            part = ArchivePart(*found)
        if not part.data:
            raise Declined("the archive has no such byte")
        self.counts["chunks_given"] += 1
        self.counts["bytes_given"] += len(part.data)
        return ImageChunk(part.data, part.last)

    async def _order(self, message: Any) -> Any:
        manager = self.system.ref(Address(self.system.node_id, CONTAINER_MANAGER))
        try:
            return await order(manager, message, timeout_s=READ_S)
        except ContainerError as error:
            raise Declined(str(error)) from error
        except AskFailed as error:
            raise Declined(f"the images of this node cannot be read now: {error}") from error

    # For this node

    async def _pull(self, wanted: PullImage, reply_to: ReplyTo | None) -> None:
        key = (wanted.image, wanted.client, wanted.source or b"")
        running = self._pulls.get(key)
        if running is None:
            if len(self._pulls) >= PULLS_MAX:
                _tell(reply_to, _declined(LimitReached(f"{PULLS_MAX} images are being pulled already; wait for one")))
                return
            running = self._pulls[key] = self._begin(wanted, key)
        running.waiting += 1
        with anyio.move_on_after(wanted.wait_s):
            await running.ended.wait()
        running.waiting -= 1
        if running.outcome is None:
            _tell(reply_to, running.pull.state)
            return
        # Told once: who asks again after that means a new pull.
        self._pulls.pop(key, None)
        _tell(reply_to, running.outcome)

    def _begin(self, wanted: PullImage, key: _Key) -> _Running:
        pull = Pull(
            system=self.system,
            image=wanted.image,
            client=wanted.client,
            source=wanted.source,
            spool=self._spool,
            counts=self.counts,
        )
        running = _Running(pull)
        self.tasks.start_soon(self._run, running, key)
        return running

    async def _run(self, running: _Running, key: _Key) -> None:
        try:
            running.outcome = await running.pull.run()
        except ContainerError as error:
            running.outcome = _declined(error)
        except AskFailed as error:
            running.outcome = error
        running.ended.set()
        if not running.waiting:
            await anyio.sleep(ENDED_KEPT_S)
            if self._pulls.get(key) is running:
                del self._pulls[key]


def _digest(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("sha256:"))


def _declined(error: ContainerError) -> AskDeclined:
    declined = AskDeclined(str(error))
    declined.__cause__ = error
    return declined


def _tell(reply_to: ReplyTo | None, outcome: PullState | AskFailed) -> None:
    if reply_to is None:
        return
    if isinstance(outcome, AskFailed):
        reply_to.fail(outcome)
    else:
        reply_to.answer(outcome)

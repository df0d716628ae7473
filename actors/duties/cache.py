"""The duty `cache`: images fetched once for the whole site, and kept for its members.

    ImageWanted --kept here--> ready
                --not yet--> one fetch for all who want it --digest and archive are right--> kept, ready
                                                           --nobody gives it, no room--> the reason

It answers soon, with how far it is, and is asked again: that is how a cache that died is noticed. The bytes are read
from the ImageExchange of its node, which goes on giving them when the duty has moved. So the state that moves is small:
which digests were kept, and where; a new holder fetches each when somebody wants it, from the old holder first.
"""

import contextlib
import logging
from collections import Counter
from typing import Annotated, Any, ClassVar

import anyio
import anyio.to_thread
import msgspec

from atoll.actors.container_manager.archive import ARCHIVE_BYTES_MAX
from atoll.actors.container_manager.errors import ContainerError
from atoll.actors.duties.duty import Duty
from atoll.actors.image_exchange.blob_store import BlobStore, Incoming
from atoll.actors.image_exchange.fetching import ask_member, fetch
from atoll.actors.image_exchange.messages import (
    CACHE,
    PATH,
    PROBLEM_CHARACTERS_MAX,
    SOURCES_MAX,
    Digest,
    ImageCached,
    ImageChunk,
    ImageWanted,
    ReadImage,
)
from atoll.actors.image_exchange.shelf import IMAGES_MAX
from atoll.actors.image_exchange.site import find_site
from atoll.actors.image_exchange.transfer import Transfer
from atoll.actors.runtime.actor import LATER, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.transport.base import Standing
from atoll.transport.codec import decode_special, encode_special
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.duties")

FETCHES_MAX = 4
"""At once; who wants a fifth image is told to ask again."""
ASKERS_MAX = 256
"""Who is waiting for an answer at once; others are told to ask again without a wait."""
ANSWER_S = 1.0
"""How long an asker waits before it is told how far a fetch is."""
READ_S = 5.0
SNAPSHOT_VERSION = 1


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    digest: Digest
    holder: NodeId


class _Snapshot(msgspec.Struct, frozen=True, array_like=True):
    version: int
    images: Annotated[tuple[_Kept, ...], msgspec.Meta(max_length=IMAGES_MAX)]
    """The one used longest ago first."""


_encoder = msgspec.msgpack.Encoder(enc_hook=encode_special)
_decoder = msgspec.msgpack.Decoder(_Snapshot, dec_hook=decode_special)


class _Fetch:
    """One image on its way, and all who wait for it."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.ended = anyio.Event()
        self.problem = ""


class Cache(Duty):
    """Holds images for the members of its site."""

    name = CACHE
    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, own: NodeId, store: BlobStore) -> None:
        self.counts: Counter[str] = Counter()
        self._own = own
        self._store = store
        self._fetches: dict[bytes, _Fetch] = {}
        self._askers = 0
        self._remembered: dict[bytes, NodeId] = {}
        """What another holder kept, and this one has not fetched yet."""

    async def started(self) -> None:
        """Do it from now on."""
        self.ready()

    def snapshot(self) -> bytes:
        """Give the state that moves with the duty: which digests are kept, and at which node."""
        here = {each.digest: self._own for each in self._store.shelf.images()}
        images = [_Kept(*each) for each in {**self._remembered, **here}.items()]
        return _encoder.encode(_Snapshot(SNAPSHOT_VERSION, tuple(images[-IMAGES_MAX:])))

    def restore(self, state: bytes) -> None:
        """Take over what the holder before kept, to be fetched from there."""
        try:
            snapshot = _decoder.decode(state)
        except (msgspec.MsgspecError, ValueError) as error:
            raise MalformedFrame(f"no state of a cache: {error}") from error
        if snapshot.version != SNAPSHOT_VERSION:
            raise MalformedFrame(f"the state of a cache of version {snapshot.version}; {SNAPSHOT_VERSION} is read here")
        self._remembered = {each.digest: each.holder for each in snapshot.images if each.holder != self._own}

    async def receive(self, delivery: Delivery) -> Any:
        """Take wishes beside the mailbox: one that waits must not keep others waiting."""
        if isinstance(delivery.message, ImageWanted) and delivery.reply_to is not None:
            if self._askers >= ASKERS_MAX:
                self.counts["askers_put_off"] += 1
                return ImageCached(ready=False)
            self._askers += 1
            self.tasks.start_soon(self._want, delivery.message, delivery.reply_to)
            return LATER
        return await super().receive(delivery)

    async def _want(self, wanted: ImageWanted, reply_to: ReplyTo) -> None:
        answer = ImageCached(ready=False, problem="the cache ended here; ask a holder, or the next cache")
        try:
            answer = await self._answer(wanted)
        finally:
            # When the duty leaves, too: nobody should wait for what will not come.
            self._askers -= 1
            reply_to.answer(answer)

    async def _answer(self, wanted: ImageWanted) -> ImageCached:
        running = self._fetches.get(wanted.digest)
        if running is None:
            if await self._is_here(wanted.digest):
                return ImageCached(ready=True)
            # Another one may have begun while this one looked.
            running = self._fetches.get(wanted.digest) or await self._begin(wanted)
        if running is None:
            self.counts["put_off"] += 1
            await anyio.sleep(ANSWER_S)
            return ImageCached(ready=False)
        with anyio.move_on_after(ANSWER_S):
            await running.ended.wait()
        ready = running.ended.is_set() and not running.problem
        return ImageCached(ready, running.transfer.offset, running.problem[:PROBLEM_CHARACTERS_MAX])

    async def _is_here(self, digest: bytes) -> bool:
        if await anyio.to_thread.run_sync(self._store.holds, digest):
            return True
        # Pushed to this very node, perhaps.
        with contextlib.suppress(AskFailed):
            await ask_member(self.system, Address(self._own, PATH), ReadImage(digest, 0), ImageChunk, timeout_s=READ_S)
            return True
        return False

    async def _begin(self, wanted: ImageWanted) -> _Fetch | None:
        known = {*(await find_site(self.system)).members, self._own}
        if (running := self._fetches.get(wanted.digest)) is not None:
            return running
        if len(self._fetches) >= FETCHES_MAX:
            return None
        before = self._remembered.pop(wanted.digest, None)
        named = [*([] if before is None else [before]), *wanted.sources]
        sources = [each for each in named if each in known and each != self._own]
        self.counts["strangers_named"] += len(named) - len(sources)
        # Not more than there is room for: one that gives bytes without end is then struck off, and the next one asked.
        bytes_max = min(ARCHIVE_BYTES_MAX, self._store.shelf.quota_bytes)
        transfer = Transfer(wanted.digest, sources[:SOURCES_MAX], bytes_max=bytes_max)
        running = self._fetches[wanted.digest] = _Fetch(transfer)
        self.tasks.start_soon(self._fetch, running)
        return running

    async def _fetch(self, running: _Fetch) -> None:
        digest = running.transfer.digest
        try:
            with self._store.incoming(digest) as incoming:
                await self._fill(running.transfer, incoming)
            self.counts["kept"] += 1
        except (ContainerError, OSError) as error:
            self.counts["not_kept"] += 1
            running.problem = str(error)
            log.info("the image sha256:%s cannot be kept for others: %s", digest.hex(), error)
        finally:
            del self._fetches[digest]
            running.ended.set()

    async def _fill(self, transfer: Transfer, incoming: Incoming) -> None:
        await fetch(self.system, transfer, incoming, self.counts)
        # To its end even when the duty leaves: half a step would leave a file that the index does not name.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(incoming.keep)

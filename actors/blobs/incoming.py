"""One blob that a peer offers: shown, accepted or not, taken chunk by chunk into the folder.

    offered --known and accepted before, or somebody waits for it--> checking --what came before was read--> receiving
            --nobody--> waiting --yes--> checking      --no, or nobody for WAITING_S--> refused
    receiving --all is there, sealed--> whole    --the way is lost--> broken, until the peer offers it again

What was verified in this process is remembered between two streams; after a restart the disk is asked.
"""

from collections import Counter
from collections.abc import Callable

import anyio
import anyio.to_thread
from msgspec import structs

from atoll.actors.blobs.blob_talk import BlobTalk
from atoll.actors.blobs.errors import NoRoom, UnknownBlob
from atoll.actors.blobs.folder import BlobFolder, Entry, Key, Part
from atoll.actors.blobs.manifest import Manifest
from atoll.actors.blobs.messages import (
    REASON_CHARACTERS_MAX,
    BlobOffered,
    BlobRefused,
    BlobTaken,
    BlobWaits,
    BlobWithdrawn,
)
from atoll.actors.blobs.orders import IncomingState
from atoll.actors.blobs.receiving import KeepList, Over, Receiving, ReceivingEffect, Seal, Write
from atoll.actors.blobs.sending import Say
from atoll.actors.container_manager.errors import ContainerError
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId
from atoll.transport.talk import StreamLost

WAITING_S = 600.0
"""How long an offer is shown; then its sender may offer it again."""
QUIET_S = 120.0
"""A sender whose next chunk takes longer is gone: 256 KiB at 2 kB/s."""
LAST_WORD_S = 5.0
"""For the other end to hear how it ended."""
CHECK_CHUNKS = 16
"""Chunks verified in one go of a thread."""


class Incoming:
    """What is known of one (peer, address), over all streams that bring it."""

    def __init__(self, peer: NodeId, offer: BlobOffered, tell: Callable[[], None]) -> None:
        self.state = IncomingState(peer, offer.digest, offer.name, offer.size_bytes)
        self.offer = offer
        self.have: bytes | None = None
        """Which chunks are verified, as this process knows it."""
        self.decided = anyio.Event()
        self.accepted = False
        self.why_not = ""
        self.busy = False
        """A stream offers or brings it now."""
        self.coming = False
        """A stream brings it now."""
        self.free = anyio.Event()
        """Set when no stream does any more."""
        self.scope = anyio.CancelScope()
        self._tell = tell

    @property
    def key(self) -> Key:
        """Give who offers it, and its address."""
        return self.state.peer, self.state.digest

    def renew(self, offer: BlobOffered) -> None:
        """Begin with another stream."""
        self.offer = offer
        self.busy, self.coming, self.accepted, self.why_not = True, False, False, ""
        self.decided, self.free, self.scope = anyio.Event(), anyio.Event(), anyio.CancelScope()
        self.state.name, self.state.size_bytes = offer.name, offer.size_bytes

    def end_stream(self) -> None:
        """End with a stream."""
        self.busy = self.coming = False
        self.free.set()

    def decide(self, *, accept: bool, why: str = "") -> None:
        """Say yes or no."""
        self.accepted, self.why_not = accept, why
        # At once: who looks now must not be asked a second time.
        self.tell("checking" if accept else "refused", why)
        self.decided.set()

    def tell(self, step: str, why: str = "", got_bytes: int | None = None) -> None:
        """Say how far it is; only a new step is news."""
        if got_bytes is not None:
            self.state.got_bytes = got_bytes
        if (self.state.step, self.state.why) != (step, why):
            self.state.step, self.state.why = step, why
            self._tell()


class Taking:
    """Takes one blob over one stream."""

    def __init__(
        self, incoming: Incoming, talk: BlobTalk, folder: BlobFolder, counts: Counter[str], now: Callable[[], float]
    ) -> None:
        self._incoming = incoming
        self._talk = talk
        self._folder = folder
        self._counts = counts
        self._now = now
        self._part: Part | None = None
        self._lost_count = False
        """A chunk counts in the machine that may not be on the disk."""

    async def wait_for_yes(self) -> bool:
        """Show the offer until somebody decides, and tell whether it was a yes.

        Raises:
            StreamLost: The sender has gone.
            MalformedFrame: It says what it must not.
        """
        incoming = self._incoming
        await self._talk.say(BlobWaits())
        incoming.tell("waiting", "nobody has accepted it yet")
        withdrawn = ""

        async def listen() -> None:
            nonlocal withdrawn
            message = await self._talk.hear(WAITING_S)
            if not isinstance(message, BlobWithdrawn):
                raise MalformedFrame(f"{type(message).__name__} before a yes")
            withdrawn = message.reason or "without a reason"
            incoming.decided.set()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                await incoming.decided.wait()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            lost, rest = group.split((StreamLost, MalformedFrame))
            if rest is not None or lost is None:
                raise
            raise lost.exceptions[0] from None
        if withdrawn:
            raise StreamLost(f"the sender called it back: {withdrawn}")
        if not incoming.accepted:
            await self.refuse(incoming.why_not or "the receiver said no")
        return incoming.accepted

    async def refuse(self, why: str, *, again: bool = False) -> None:
        """Say no."""
        self._counts["refused"] += 1
        self._incoming.tell("refused", why)
        await self._talk.say(BlobRefused(why[:REASON_CHARACTERS_MAX], again))
        await self._talk.finish(LAST_WORD_S)

    async def say_taken(self) -> None:
        """Say that it is here already."""
        self._counts["taken_before"] += 1
        # Until the stream ends it is listed: nobody must be asked about it meanwhile.
        self._incoming.decide(accept=True)
        await self._talk.say(BlobTaken())
        await self._talk.finish(LAST_WORD_S)

    async def take(self) -> None:
        """Take it; how that ended stands in the incoming's state.

        Raises:
            StreamLost: The way was lost; what has come is kept.
            MalformedFrame: The sender breaks the rules.
        """
        try:
            await self._take()
        except ContainerError as error:
            self._counts["no_room" if isinstance(error, NoRoom) else "not_kept"] += 1
            await self.refuse(str(error), again=isinstance(error, NoRoom))
        finally:
            if self._part is not None:
                self._part.close()

    async def _take(self) -> None:
        incoming, offer = self._incoming, self._incoming.offer
        known = self._folder.find(incoming.key)
        listed = b"" if known is None or known.taken else known.digests
        entry = Entry(
            bytes(incoming.state.peer), offer.digest, offer.order, offer.name, offer.size_bytes, self._now(), listed
        )
        await anyio.to_thread.run_sync(self._folder.note, entry)
        manifest, have = entry.manifest, None
        if manifest is not None:
            have = await self._checked(manifest)
        else:
            incoming.have = None
        receiving = Receiving(offer, manifest, have)
        self._talk.expect_chunks()
        try:
            incoming.tell("receiving", got_bytes=receiving.got_bytes)
            await self._carry_out(receiving.start(), receiving)
            while not receiving.over:
                await self._carry_out(receiving.take(await self._talk.hear(QUIET_S)), receiving)
        finally:
            # Behind `Write` in this process: what was not written raised, and nothing is remembered then.
            incoming.have = receiving.have if self._part is not None and not self._lost_count else None

    async def _checked(self, manifest: Manifest) -> bytes:
        self._part = part = await anyio.to_thread.run_sync(self._folder.part, self._incoming.key)
        have = self._incoming.have
        if have is not None and len(have) == manifest.count:
            return have
        self._incoming.tell("checking", "what has come before is verified once more")
        found = bytearray()
        verified = part.verified()

        def check_some() -> bytes:
            return bytes(next(verified) for _ in range(min(CHECK_CHUNKS, manifest.count - len(found))))

        while len(found) < manifest.count:
            found += await anyio.to_thread.run_sync(check_some)
        self._counts["chunks_found"] += sum(found)
        return bytes(found)

    async def _carry_out(self, effects: list[ReceivingEffect], receiving: Receiving) -> None:
        incoming = self._incoming
        for effect in effects:
            match effect:
                case Say(message):
                    await self._talk.say(message)
                case KeepList(manifest):
                    await self._keep_list(manifest)
                case Write(index, data):
                    await self._write(index, data)
                    incoming.tell("receiving", got_bytes=receiving.got_bytes)
                case Seal():
                    assert self._part is not None  # noqa: S101 - the list opened it
                    await anyio.to_thread.run_sync(self._part.seal)
                    self._counts["blobs_taken"] += 1
                    incoming.tell("whole", got_bytes=incoming.state.size_bytes)
                case Over(reason, useless):
                    await self._over(reason, useless=useless)

    async def _write(self, index: int, data: bytes) -> None:
        assert self._part is not None  # noqa: S101 - the list opened it
        self._lost_count = True
        await anyio.to_thread.run_sync(self._part.write, index, data)
        self._lost_count = False
        self._counts["chunks_taken"] += 1

    async def _keep_list(self, manifest: Manifest) -> None:
        entry = self._folder.find(self._incoming.key)
        if entry is None:
            raise UnknownBlob("it was removed while it came")
        await anyio.to_thread.run_sync(self._folder.note, structs.replace(entry, digests=manifest.digests))
        self._part = await anyio.to_thread.run_sync(self._folder.part, self._incoming.key)

    async def _over(self, reason: str, *, useless: bool) -> None:
        if reason:
            self._counts["broken_off"] += 1
            self._incoming.tell("broken", reason)
        if useless:
            await anyio.to_thread.run_sync(self._folder.drop, self._incoming.key)
        await self._talk.finish(LAST_WORD_S)

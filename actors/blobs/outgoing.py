"""One order to send a file to a node: read through, offered, given, and offered again until it was taken.

    reading --its list is there--> reaching --a stream--> offering --accepted--> sending --taken--> taken
    reaching, offering, sending --the way is lost, not now--> reaching, after `RETRY_S`
                                --refused--> refused    --the file changed--> changed
                                --nothing came forward for ORDER_S--> expired

Chunks that were given over and over without end (`GIVEN_FACTOR`) are the peer's fault.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
from anyio.abc import ByteStream

from atoll.actors.blobs.blob_talk import BlobTalk
from atoll.actors.blobs.manifest import Manifest
from atoll.actors.blobs.messages import REASON_CHARACTERS_MAX, BlobOffered, BlobWithdrawn
from atoll.actors.blobs.orders import OutgoingState
from atoll.actors.blobs.sending import Ended, Outcome, Read, Say, Sending, SendingEffect
from atoll.actors.blobs.source import FileMark, Source
from atoll.actors.container_manager.errors import ContainerError
from atoll.transport.errors import MalformedFrame, TransportError
from atoll.transport.identity import NodeId
from atoll.transport.talk import StreamLost

ORDER_S = 3600.0
"""How long an order stands without a chunk given: a person may have to say yes, a host to wake."""
RETRY_S = 1.0
RETRY_S_MAX = 5.0
QUIET_S = 300.0
"""A receiver that says nothing for so long is gone: half a window at 7 kB/s, or a last sync. A session dies sooner."""
WAITING_S = 900.0
"""The same while a person is waited for."""
READ_CHUNKS = 16
"""Chunks read in one go of a thread."""
GIVEN_FACTOR = 4
"""How often, on the average, each chunk may be given before the receiver is believed to want none."""
WITHDRAW_S = 2.0

OpenStream: TypeAlias = Callable[[NodeId], Awaitable[ByteStream]]
"""Opens a stream to a node's Blobs; raises a `TransportError` or an `AskFailed` where there is no way."""


class Outgoing:
    """One order; `state` says how far it is. Run it once, in a task of its own."""

    def __init__(
        self,
        *,
        order: bytes,
        path: Path,
        peer: NodeId,
        name: str,
        mark: FileMark | None,
        open_stream: OpenStream,
        no_way: tuple[type[Exception], ...],
        clock: Callable[[], float],
        counts: Counter[str],
    ) -> None:
        self.state = OutgoingState(order=order, path=str(path), peer=peer, name=name)
        self.mark = mark
        """Of the file when it was ordered."""
        self.changed = anyio.Event()
        """Set, and replaced, at every step that is worth telling."""
        self._path = path
        self._open_stream = open_stream
        self._no_way: tuple[type[Exception], ...] = (TransportError, OSError, *no_way)
        self._clock = clock
        self._counts = counts
        self._withdrawn = ""
        self._scope = anyio.CancelScope()
        self._given = 0
        self._moved_at = clock()

    @property
    def ended(self) -> bool:
        """Tell whether nothing follows."""
        return self.state.ended

    @property
    def called_back(self) -> bool:
        """Tell whether somebody wants it no more."""
        return bool(self._withdrawn)

    def withdraw(self, reason: str) -> None:
        """Call it back; `run` ends soon."""
        self._withdrawn = reason
        self._scope.cancel()

    async def run(self) -> None:
        """Carry it out; what went wrong stands in `state`."""
        try:
            with self._scope:
                await self._run()
        except ContainerError as error:
            self._end("failed", str(error))
        if self._scope.cancelled_caught:
            self._end("withdrawn", self._withdrawn)

    async def _run(self) -> None:
        source = await anyio.to_thread.run_sync(Source, self._path)
        try:
            manifest = await self._read_through(source)
            self.state.digest = manifest.digest
            self._tell("reaching")
            await self._deliver(source, manifest)
        finally:
            source.close()

    async def _read_through(self, source: Source) -> Manifest:
        self.state.size_bytes = source.size_bytes
        digests: list[bytes] = []
        batches = source.digests(READ_CHUNKS, self._note_read)
        while (batch := await anyio.to_thread.run_sync(next, batches, None)) is not None:
            digests += batch
        return Manifest.of(source.size_bytes, digests)

    def _note_read(self, count: int) -> None:
        # From the thread that reads: one assignment, which somebody may see.
        self.state.read_bytes += count

    async def _deliver(self, source: Source, manifest: Manifest) -> None:
        offer = BlobOffered(self.state.order, manifest.digest, manifest.size_bytes, self.state.name)
        retry_s = RETRY_S
        while True:
            begun = self._given
            try:
                stream = await self._open_stream(self.state.peer)
            except self._no_way as error:
                self._tell("reaching", str(error))
            else:
                await self._talk_over(stream, Sending(offer, manifest), source)
            if self._given > begun:
                retry_s, self._moved_at = RETRY_S, self._clock()
            if self.ended or self._gives_up(manifest):
                return
            await anyio.sleep(retry_s)
            retry_s = min(2 * retry_s, RETRY_S_MAX)

    def _gives_up(self, manifest: Manifest) -> bool:
        if self._given > GIVEN_FACTOR * manifest.count + READ_CHUNKS:
            self._counts["asked_without_end"] += 1
            self._end("failed", "the other node asks for the same again and again")
        elif self._clock() - self._moved_at > ORDER_S:
            self._end("expired", f"for {ORDER_S / 60:g} min nothing came forward: {self.state.why}")
        return self.ended

    async def _talk_over(self, stream: ByteStream, sending: Sending, source: Source) -> None:
        self._counts["streams"] += 1
        # Why the last attempt came to nothing is shown until this one has come to something.
        self._tell("offering", self.state.why)
        async with BlobTalk(stream, self._counts) as talk:
            try:
                await self._carry_out(sending.start(), sending, talk, source)
                while not sending.ended:
                    message = await talk.hear(WAITING_S if sending.waits else QUIET_S)
                    await self._carry_out(sending.take(message), sending, talk, source)
            except StreamLost as error:
                self._counts["streams_lost"] += 1
                self._tell("reaching", str(error))
            except MalformedFrame as error:
                self._counts["broken_rules"] += 1
                await self._try_to_say(talk, BlobWithdrawn(f"the rules were broken: {error}"[:REASON_CHARACTERS_MAX]))
                self._end("failed", f"the other node breaks the rules: {error}")
            except anyio.get_cancelled_exc_class():
                if self._withdrawn:
                    await self._try_to_say(talk, BlobWithdrawn(self._withdrawn[:REASON_CHARACTERS_MAX]))
                raise

    async def _carry_out(self, effects: list[SendingEffect], sending: Sending, talk: BlobTalk, source: Source) -> None:
        for effect in effects:
            match effect:
                case Say(message):
                    await talk.say(message)
                case Read(index):
                    data = await anyio.to_thread.run_sync(source.chunk, sending.manifest, index)
                    await self._carry_out(sending.read(index, data), sending, talk, source)
                    if sending.ended:
                        return
                    self._given += 1
                    self._counts["chunks_given"] += 1
                case Ended(outcome, reason):
                    await self._judge(outcome, reason, talk)
        if sending.ended:
            return
        if sending.accepted:
            self.state.there_bytes = sending.there_bytes
            self._tell("sending")
        elif sending.waits:
            self._tell("waiting", "nobody there has accepted it yet")

    async def _judge(self, outcome: Outcome, reason: str, talk: BlobTalk) -> None:
        if outcome is Outcome.TAKEN:
            self.state.there_bytes = self.state.size_bytes
            self._end("taken", "")
        elif outcome is Outcome.LATER:
            self._tell("reaching", reason)
        else:
            if outcome is Outcome.CHANGED:
                await talk.finish(WITHDRAW_S)
            self._end(outcome.value, reason)

    async def _try_to_say(self, talk: BlobTalk, message: BlobWithdrawn) -> None:
        with anyio.move_on_after(WITHDRAW_S, shield=True):
            try:
                await talk.say(message)
            except StreamLost:
                return
            await talk.finish(WITHDRAW_S)

    def _tell(self, step: str, why: str = "") -> None:
        if (self.state.step, self.state.why) != (step, why):
            self.state.step, self.state.why = step, why
            changed, self.changed = self.changed, anyio.Event()
            changed.set()

    def _end(self, step: str, why: str) -> None:
        self._counts[f"ended_{step}"] += 1
        self._tell(step, why)

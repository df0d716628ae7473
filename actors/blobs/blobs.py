"""The Blobs of a node: sends files of its host to other nodes, and takes what they offer, if somebody wants it.

    a command --SendBlob--> an order (`outgoing.py`), which goes on when the command has gone
    a peer's stream --an offer--> known? wanted? --> taken (`incoming.py`), or shown until somebody says yes
    a command --AwaitBlobs--> what comes meanwhile is accepted; --ReadBlob, RemoveBlob--> it has it; --StopAwaiting

Deny by default. Every number of things that a peer can bring about here has a limit of its own. Other nodes reach it by
streams only, through the Router, which says who they are.
"""

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import anyio
import anyio.to_thread
import nacl.utils
from anyio.abc import ByteStream

from atoll.actors.blobs.blob_talk import BlobTalk
from atoll.actors.blobs.errors import BadFile, SeveralOffer, TooMany, UnknownBlob
from atoll.actors.blobs.folder import BlobFolder, Entry, Key
from atoll.actors.blobs.incoming import Incoming, Taking
from atoll.actors.blobs.manifest import address_of
from atoll.actors.blobs.messages import ORDER_BYTES, SERVICE, BlobOffered
from atoll.actors.blobs.names import check_name
from atoll.actors.blobs.orders import (
    AwaitBlobs,
    BlobsDescribed,
    DecideBlob,
    DescribeBlobs,
    EndHeard,
    IncomingState,
    OutgoingState,
    ReadBlob,
    RemoveBlob,
    SendBlob,
    StopAwaiting,
    WithdrawBlob,
)
from atoll.actors.blobs.outgoing import OpenStream, Outgoing
from atoll.actors.blobs.source import FileMark, mark_of
from atoll.actors.container_manager.container_manager import decline
from atoll.actors.container_manager.errors import ContainerError
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import ServeStreams, StreamArrived
from atoll.actors.runtime.actor import LATER, Actor, Delivery, NotUnderstood, ReplyTo, handles
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.transport.base import Standing
from atoll.transport.errors import MalformedFrame, Refused
from atoll.transport.identity import NodeId
from atoll.transport.talk import StreamLost
from atoll.transport.talks_heard import TalksHeard

OUTGOING_MAX = 16
"""Orders at once; each holds a file open, and a list of up to 2 MiB."""
INCOMING_MAX = 8
"""Blobs that come at once; each has a window of 4 MiB on its way."""
WAITING_MAX = 64
"""Offers shown at once."""
WAITING_PER_PEER_MAX = 8
REMEMBERED_MAX = 64
"""Blobs whose verified chunks are remembered between two streams; up to 64 KiB each."""
STREAMS_PER_PEER_MAX = 32
"""Streams of one peer, before and after their first word."""
OFFER_S = 10.0
"""For a peer that has opened a stream to say what it offers."""
RECEIVER_S = 3.0
"""For a command that was answered to ask again; until then it is believed to wait for blobs, though it may be dead."""
RECEIVERS_MAX = 64
ENDED_KEPT_S = 60.0
"""How long the end of an order waits for somebody who hears it."""
EXPIRY_LOOK_S = 600.0

_Asked = TypeVar("_Asked")


@dataclass(slots=True)
class _Receiver:
    """A command that waits for blobs."""

    source: NodeId | None
    accept: bool
    until: float


class Blobs(Actor):
    """Sends and takes blobs; see the module."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER, Standing.GRANTED})
    """Whose streams are heard; their messages are not."""

    def __init__(
        self, folder: Callable[[], BlobFolder], open_stream: OpenStream, *, accept: Iterable[Standing] = ()
    ) -> None:
        """Take what opens the folder, what opens streams, and whose blobs are accepted without asking."""
        self.counts: Counter[str] = Counter()
        self._make_folder = folder
        self._open_stream = open_stream
        self._accept = frozenset(accept)
        self._folder: BlobFolder
        self._outgoing: dict[bytes, Outgoing] = {}
        self._incoming: dict[Key, Incoming] = {}
        self._receivers: dict[str, _Receiver] = {}
        self._left: deque[str] = deque(maxlen=RECEIVERS_MAX)
        """Receivers that have ended; what is still under way of them is not heeded."""
        self._talks = TalksHeard(self.counts, STREAMS_PER_PEER_MAX)
        self._news = anyio.Event()

    # Life

    async def started(self) -> None:
        """Open the folder.

        Raises:
            StorageFault: It cannot be used.
        """
        self._folder = await anyio.to_thread.run_sync(self._make_folder)
        self.system.tell(Address(self.system.node_id, ROUTER), ServeStreams(SERVICE, self.ref.address.path))
        self.tasks.start_soon(self._let_go_of_the_old)

    async def stopped(self) -> None:
        """Close it."""
        if hasattr(self, "_folder"):
            self._folder.close()

    async def _let_go_of_the_old(self) -> None:
        while True:
            await anyio.sleep(EXPIRY_LOOK_S)
            in_use = frozenset(key for key, each in self._incoming.items() if each.busy)
            await anyio.to_thread.run_sync(self._folder.expire, in_use)

    async def receive(self, delivery: Delivery) -> Any:
        """Take an order of this node, beside the mailbox where it may last."""
        if delivery.standing is not None:
            self.counts["not_understood"] += 1
            raise NotUnderstood("blobs come by streams, and orders from this node alone")
        try:
            match delivery.message:
                case StreamArrived(stream, peer, standing):
                    self.tasks.start_soon(self._take_stream, stream, peer, standing)
                case SendBlob() as wanted:
                    self.tasks.start_soon(self._send, wanted, delivery.reply_to)
                case AwaitBlobs() as wanted:
                    self.tasks.start_soon(self._await, wanted, delivery.reply_to)
                case ReadBlob() as wanted:
                    self.tasks.start_soon(self._beside, delivery.reply_to, self._read, wanted)
                case RemoveBlob() as wanted:
                    self.tasks.start_soon(self._beside, delivery.reply_to, self._remove, wanted)
                case _:
                    return await super().receive(delivery)
        except ContainerError as error:
            decline(delivery.reply_to, error)
        return LATER

    async def _beside(self, reply_to: ReplyTo | None, do: Callable[[_Asked], Awaitable[Any]], message: _Asked) -> None:
        """Do what waits for the disk or for a peer without keeping others waiting."""
        try:
            answer = await do(message)
        except ContainerError as error:
            decline(reply_to, error)
        else:
            if reply_to is not None:
                reply_to.answer(answer)

    async def _read(self, wanted: ReadBlob) -> bytes:
        key = self._key_of(wanted.digest, wanted.peer, whole=True)
        return await anyio.to_thread.run_sync(self._folder.read, key, wanted.index)

    async def _remove(self, wanted: RemoveBlob) -> IncomingState:
        key = self._key_of(wanted.digest, wanted.peer)
        incoming, entry = self._incoming.get(key), self._folder.find(key)
        whole = self._folder.is_whole(key)
        state = IncomingState(*key, "", 0) if entry is None else self._state_of(entry)
        if incoming is not None and not whole:
            state = replace(incoming.state)
            incoming.decide(accept=False, why="the receiver called it off")
            await self._end_stream_of(key)
        if entry is not None:
            await anyio.to_thread.run_sync(self._folder.collect if whole else self._folder.drop, key)
        self._incoming.pop(key, None)
        self._tell()
        return state

    @handles
    async def decide(self, decision: DecideBlob) -> IncomingState:
        """Say yes or no to an offer."""
        incoming = self._incoming.get(self._key_of(decision.digest, decision.peer))
        if incoming is None or incoming.decided.is_set():
            raise UnknownBlob(f"no offer of {address_of(decision.digest)} waits for an answer")
        incoming.decide(accept=decision.accept, why="" if decision.accept else "the receiver said no")
        return replace(incoming.state)

    @handles
    async def forget_the_end(self, heard: EndHeard) -> None:
        """Let go of an order whose end was heard."""
        outgoing = self._outgoing.get(heard.order)
        if outgoing is not None and outgoing.ended:
            del self._outgoing[heard.order]

    @handles
    async def withdraw(self, wanted: WithdrawBlob) -> OutgoingState:
        """Call an order back."""
        outgoing = self._outgoing.get(wanted.order)
        if outgoing is None:
            raise UnknownBlob("there is no such order")
        outgoing.withdraw("it was called back")
        return replace(outgoing.state)

    @handles
    async def describe(self, _: DescribeBlobs) -> BlobsDescribed:
        """Say what comes and lies here, and what goes."""
        return self._described()

    # What there is

    def _described(self) -> BlobsDescribed:
        known = {key: replace(each.state) for key, each in self._incoming.items()}
        for entry in self._folder.entries():
            if not entry.taken and (entry.key not in known or self._folder.is_whole(entry.key)):
                known[entry.key] = self._state_of(entry)
        return BlobsDescribed(
            tuple(sorted(known.values(), key=lambda each: (each.name, each.digest, each.peer))),
            tuple(replace(each.state) for each in self._outgoing.values()),
            self._folder.used_bytes,
            self._folder.quota_bytes,
            dict(self.counts + self._folder.counts),
        )

    def _state_of(self, entry: Entry) -> IncomingState:
        whole = self._folder.is_whole(entry.key)
        return IncomingState(
            *entry.key,
            entry.name,
            entry.size_bytes,
            entry.size_bytes if whole else 0,
            "whole" if whole else "broken",
            "" if whole else "what has come waits for its sender",
            str(self._folder.path(entry.key)) if whole else "",
        )

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    def _key_of(self, digest: bytes, peer: NodeId | None, *, whole: bool = False) -> Key:
        keys = {each.key for each in self._folder.entries() if not each.taken} | set(self._incoming)
        found = sorted(
            key
            for key in keys
            if key[1] == digest and peer in (None, key[0]) and (not whole or self._folder.is_whole(key))
        )
        if not found:
            raise UnknownBlob(f"{address_of(digest)} is not here{' as a whole' if whole else ''}")
        if len(found) > 1:
            senders = ", ".join(key[0].short for key in found)
            raise SeveralOffer(f"{address_of(digest)} came from several nodes: {senders}; say from which")
        return found[0]

    # Sending

    async def _send(self, wanted: SendBlob, reply_to: ReplyTo | None) -> None:
        mark = await anyio.to_thread.run_sync(mark_of, wanted.path)
        try:
            outgoing = self._order_for(wanted, mark)
        except ContainerError as error:
            decline(reply_to, error)
            return
        if not outgoing.ended:
            changed = outgoing.changed
            with anyio.move_on_after(wanted.wait_s):
                await changed.wait()
        # Kept though it ended, until `EndHeard`: a command that was killed is answered, too, and hears nothing.
        if reply_to is not None:
            reply_to.answer(replace(outgoing.state))

    def _order_for(self, wanted: SendBlob, mark: FileMark | None) -> Outgoing:
        if (known := self._known(wanted, mark)) is not None:
            return known
        try:
            check_name(wanted.name)
        except Refused as error:
            raise BadFile(f"{error}; send it under another one") from error
        if len(self._outgoing) >= OUTGOING_MAX:
            # Ends that nobody has heard yet must not keep anybody from sending; the oldest goes.
            ended = next((order for order, each in self._outgoing.items() if each.ended), None)
            if ended is not None:
                del self._outgoing[ended]
        if len(self._outgoing) >= OUTGOING_MAX:
            raise TooMany(f"{OUTGOING_MAX} files are being sent already; wait for one, or call one back")
        outgoing = Outgoing(
            order=nacl.utils.random(ORDER_BYTES),
            path=Path(wanted.path),
            peer=wanted.peer,
            name=wanted.name,
            mark=mark,
            open_stream=self._open_stream,
            no_way=(AskFailed,),
            clock=self.system.clock,
            counts=self.counts,
        )
        self._outgoing[outgoing.state.order] = outgoing
        self.tasks.start_soon(self._run, outgoing)
        return outgoing

    def _known(self, wanted: SendBlob, mark: FileMark | None) -> Outgoing | None:
        """Find the order that is meant: who follows one has its end; who begins means the file as it is now."""
        said = (wanted.path, wanted.peer, wanted.name)
        same = [each for each in self._outgoing.values() if (each.state.path, each.state.peer, each.state.name) == said]
        followed = (each for each in same if each.state.order == wanted.order)
        begun = (each for each in same if each.mark == mark and not each.called_back)
        return next(followed, None) or next(begun, None)

    async def _run(self, outgoing: Outgoing) -> None:
        await outgoing.run()
        await anyio.sleep(ENDED_KEPT_S)
        self._outgoing.pop(outgoing.state.order, None)

    # Taking

    async def _await(self, wanted: AwaitBlobs, reply_to: ReplyTo | None) -> None:
        now = self.system.clock()
        self._receivers = {name: each for name, each in self._receivers.items() if each.until > now}
        if len(self._receivers) >= RECEIVERS_MAX and wanted.receiver not in self._receivers:
            decline(reply_to, TooMany(f"{RECEIVERS_MAX} commands wait for blobs already; end one"))
            return
        receiver = _Receiver(wanted.source, wanted.accept, now + wanted.wait_s + RECEIVER_S)
        if wanted.receiver not in self._left:
            self._receivers[wanted.receiver] = receiver
        for each in self._incoming.values():
            if each.busy and not each.decided.is_set() and self._is_awaited(each.state.peer):
                each.decide(accept=True)
        news = self._news
        with anyio.move_on_after(wanted.wait_s):
            await news.wait()
        receiver.until = min(receiver.until, self.system.clock() + RECEIVER_S)
        if reply_to is not None:
            reply_to.answer(self._described())

    @handles
    async def stop_awaiting(self, ended: StopAwaiting) -> None:
        """Accept nothing more for that receiver."""
        self._receivers.pop(ended.receiver, None)
        if ended.for_good:
            self._left.append(ended.receiver)

    def _is_awaited(self, peer: NodeId) -> bool:
        now = self.system.clock()
        return any(
            each.accept and each.until > now and each.source in (None, peer) for each in self._receivers.values()
        )

    async def _take_stream(self, stream: ByteStream, peer: NodeId, standing: Standing | None) -> None:
        async with BlobTalk(stream, self.counts) as talk:
            if standing in self.open_to | {None}:
                await self._talks.hear(peer, partial(self._hear, talk, peer, standing))
            else:
                self.counts["not_heard"] += 1

    async def _hear(self, talk: BlobTalk, peer: NodeId, standing: Standing | None) -> None:
        offer = await talk.hear(OFFER_S)
        if not isinstance(offer, BlobOffered):
            raise MalformedFrame(f"{type(offer).__name__} where an offer should be")
        self.counts["offers"] += 1
        key = (peer, offer.digest)
        # The newest stream wins: whoever opens one knows that the one before is lost.
        await self._end_stream_of(key)
        incoming = self._incoming.setdefault(key, Incoming(peer, offer, self._tell))
        incoming.renew(offer)
        taking = Taking(incoming, talk, self._folder, self.counts, time.time)
        try:
            with incoming.scope:
                await self._take(incoming, taking, standing)
            if incoming.scope.cancelled_caught and incoming.why_not:
                await taking.refuse(incoming.why_not)
        except (StreamLost, MalformedFrame) as error:
            incoming.tell("broken", str(error))
            raise
        finally:
            incoming.end_stream()
            self._forget(incoming)

    async def _end_stream_of(self, key: Key) -> None:
        while (incoming := self._incoming.get(key)) is not None and incoming.busy:
            incoming.scope.cancel()
            await incoming.free.wait()

    def _forget(self, incoming: Incoming) -> None:
        """Keep in memory only what is good for the next stream."""
        if self._folder.is_whole(incoming.key) or incoming.have is None:
            if self._incoming.get(incoming.key) is incoming:
                del self._incoming[incoming.key]
            self._tell()
        idle = [each for each in self._incoming.values() if not each.busy]
        for each in idle[: max(0, len(idle) - REMEMBERED_MAX)]:
            del self._incoming[each.key]

    async def _take(self, incoming: Incoming, taking: Taking, standing: Standing | None) -> None:
        offer, peer = incoming.offer, incoming.state.peer
        try:
            check_name(offer.name)
        except Refused as error:
            self.counts["names_refused"] += 1
            await taking.refuse(f"{error}; send it under another one")
            return
        if await self._lies_about_its_size(incoming):
            await taking.refuse("its size is not that of its address")
            return
        known = self._folder.find(incoming.key)
        if known is not None and (known.order == offer.order if known.taken else self._folder.is_whole(incoming.key)):
            await taking.say_taken()
            return
        if offer.size_bytes > self._folder.quota_bytes:
            await taking.refuse(f"it has {offer.size_bytes} bytes, more than the {self._folder.quota_bytes} kept here")
            return
        if (known is not None and not known.taken) or standing in self._accept or self._is_awaited(peer):
            incoming.decide(accept=True)
        elif not await self._shown(incoming, taking):
            return
        if sum(each.coming for each in self._incoming.values()) >= INCOMING_MAX:
            await taking.refuse(f"{INCOMING_MAX} blobs come here already", again=True)
            return
        incoming.coming = True
        await taking.take()

    async def _lies_about_its_size(self, incoming: Incoming) -> bool:
        """Compare the offer with one of that address before; what was accepted was accepted with its size."""
        known = self._folder.find(incoming.key)
        if known is None or known.taken or known.size_bytes == incoming.offer.size_bytes:
            return False
        if known.digests:
            # The list has proved it.
            return True
        incoming.have = None
        await anyio.to_thread.run_sync(self._folder.drop, incoming.key)
        return False

    async def _shown(self, incoming: Incoming, taking: Taking) -> bool:
        waiting = [each.state.peer for each in self._incoming.values() if each.busy and not each.decided.is_set()]
        # This one is among them.
        if len(waiting) > WAITING_MAX or waiting.count(incoming.state.peer) > WAITING_PER_PEER_MAX:
            await taking.refuse("too many offers wait for an answer here", again=True)
            return False
        return await taking.wait_for_yes()

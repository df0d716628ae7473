"""What a node sends and gets of blobs, as the gateway sees it, by asking its Blobs."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from atoll.actors.blobs.errors import BlobDamaged, NoRoom
from atoll.actors.blobs.manifest import address_of, read_address
from atoll.actors.blobs.messages import PATH
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
from atoll.actors.container_manager.container_manager import order
from atoll.actors.container_manager.errors import ContainerError
from atoll.actors.gateway.blob_views import BlobsReply, BlobView, SendingView
from atoll.actors.gateway.live_containers import port_error
from atoll.actors.gateway.node_views import NodeView
from atoll.actors.gateway.ports import Conflict, Unacceptable, UnknownName
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId

ANSWER_S = 10.0
"""Beyond what the caller waits; a chunk comes from the disk, and a removal is synced."""


@dataclass(slots=True)
class LiveBlobs:
    """Implements the gateway's `BlobPort` with the actors of a system."""

    system: ActorSystem
    find: Callable[[str], Awaitable[NodeView]]
    names: Callable[[], Awaitable[Mapping[NodeId, str]]]

    async def list(self) -> BlobsReply:
        """List everything that comes, lies here, and goes."""
        return await self._reply(await self._order(DescribeBlobs()))

    async def send(self, path: str, node: str, name: str, wait_s: float, *, order_id: str) -> SendingView:
        """Send a file of this host to the node of that name, or wait on for that."""
        peer = await self._peer(node)
        assert peer is not None  # noqa: S101 - for mypy: a node was named
        wanted = SendBlob(path, peer, name, wait_s, _order_of(order_id))
        state: OutgoingState = await self._order(wanted, wait_s)
        return _sending_view(state, await self.names())

    async def end_heard(self, order_id: str) -> None:
        """Note that the client has the end of its order."""
        await self._order(EndHeard(bytes.fromhex(order_id)))

    async def withdraw(self, order_id: str) -> SendingView:
        """Call an order to send back."""
        return _sending_view(await self._order(WithdrawBlob(_order_of(order_id))), await self.names())

    async def receive(self, receiver: str, source: str, wait_s: float, *, accept: bool) -> BlobsReply:
        """Wait for blobs, of one node or of any."""
        peer = await self._peer(source)
        described: BlobsDescribed = await self._order(AwaitBlobs(receiver, accept, peer, wait_s), wait_s)
        incoming = tuple(each for each in described.incoming if peer in {None, each.peer})
        return await self._reply(replace(described, incoming=incoming))

    async def stop_receiving(self, receiver: str, *, for_good: bool) -> None:
        """Have nothing more accepted for that receiver."""
        await self._order(StopAwaiting(receiver, for_good))

    async def decide(self, digest: str, source: str, *, accept: bool) -> BlobView:
        """Accept or refuse an offer."""
        decision = DecideBlob(_digest(digest), accept, await self._peer(source))
        return _blob_view(await self._order(decision), await self.names())

    async def chunk(self, digest: str, source: str, index: int) -> bytes:
        """Read a chunk of a whole blob."""
        data: bytes = await self._order(ReadBlob(_digest(digest), index, await self._peer(source)))
        return data

    async def remove(self, digest: str, source: str) -> BlobView:
        """Let go of a blob."""
        return _blob_view(await self._order(RemoveBlob(_digest(digest), await self._peer(source))), await self.names())

    async def _peer(self, node: str) -> NodeId | None:
        return NodeId.parse((await self.find(node)).id) if node else None

    async def _order(self, message: Any, wait_s: float = 0.0) -> Any:
        blobs = self.system.ref(Address(self.system.node_id, PATH))
        try:
            return await order(blobs, message, timeout_s=wait_s + ANSWER_S)
        except (BlobDamaged, NoRoom) as error:
            raise Conflict(str(error), "have it sent again") from error
        except ContainerError as error:
            raise port_error(error) from error

    async def _reply(self, described: BlobsDescribed) -> BlobsReply:
        names = await self.names()
        return BlobsReply(
            incoming=[_blob_view(each, names) for each in described.incoming],
            outgoing=[_sending_view(each, names) for each in described.outgoing],
            used_bytes=described.used_bytes,
            quota_bytes=described.quota_bytes,
            counters=described.counters,
        )


def _digest(text: str) -> bytes:
    try:
        return read_address(text)
    except UsageError as error:
        raise Unacceptable(str(error), "list the blobs with GET /atoll/v1/blobs") from error


def _order_of(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UnknownName("that is no order of a blob", "list them with GET /atoll/v1/blobs") from error


def _blob_view(state: IncomingState, names: Mapping[NodeId, str]) -> BlobView:
    return BlobView(
        digest=address_of(state.digest),
        name=state.name,
        node=str(state.peer),
        node_name=names.get(state.peer, state.peer.short),
        size_bytes=state.size_bytes,
        got_bytes=state.got_bytes,
        state=state.step,
        why=state.why,
        path=state.path,
    )


def _sending_view(state: OutgoingState, names: Mapping[NodeId, str]) -> SendingView:
    return SendingView(
        order=state.order.hex(),
        path=state.path,
        name=state.name,
        node=str(state.peer),
        node_name=names.get(state.peer, state.peer.short),
        digest=address_of(state.digest) if state.digest else "",
        size_bytes=state.size_bytes,
        read_bytes=state.read_bytes,
        there_bytes=state.there_bytes,
        state=state.step,
        why=state.why,
        ended=state.ended,
    )

"""Carries a `Transfer` out: asks members for chunks, and writes what comes.

A source without a link is waited for a little; what is asked of this very node stays on it. It must never keep
anything: whoever gave it the place to write does, after `Complete`.
"""

import contextlib
from collections import Counter, deque
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread

from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import LinkWanted
from atoll.actors.image_exchange.errors import NotDelivered
from atoll.actors.image_exchange.messages import PATH, ImageChunk, ReadImage
from atoll.actors.image_exchange.transfer import Append, Ask, Complete, Effect, GiveUp, StartOver, Transfer
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskNotUnderstood, AskRefused, AskUnreachable
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.codec import Message
from atoll.transport.errors import Congested
from atoll.transport.identity import NodeId

CHUNK_S = 5.0
"""For one chunk; a link that is silent for 3 s is down, and then the answer is quicker."""
LINK_S = 3.0
"""For a link that is not up just now: the node has just come, changes its address, or has none on a large site.

Two handshakes of a second, and a host that stands still in one of them."""
LINK_LOOK_S = 0.1

_Answer = TypeVar("_Answer", bound=Message)


class Place(Protocol):
    """Where the bytes go; both methods block."""

    def append(self, data: bytes) -> None:
        """Write behind what is there."""
        ...

    def start_over(self) -> None:
        """Throw away what is there."""
        ...


async def ask_member(
    system: ActorSystem,
    address: Address,
    message: Message,
    answer: type[_Answer],
    *,
    timeout_s: float,
) -> _Answer:
    """Ask an actor of a member; without a link, have one made, and wait `LINK_S` for it.

    There is no other way: a member that comes through a relay has not proved that it is one.

    Raises:
        AskFailed: No answer.
    """
    deadline = system.clock() + LINK_S
    while True:
        _want_link(system, address.node)
        try:
            found: Any = await system.ask(address, message, timeout_s=timeout_s, reply_type=answer)
            break
        except AskUnreachable:
            if address.node == system.node_id or system.clock() >= deadline:
                raise
        await anyio.sleep(LINK_LOOK_S)
    if not isinstance(found, answer):
        raise AskNotUnderstood(f"{address.path} answered with {type(found).__name__}")
    return found


def _want_link(system: ActorSystem, node: NodeId) -> None:
    """Say that there is something to say; again and again, for the member may be heard of only now."""
    if node != system.node_id and (discoverer := system.find(DISCOVERER)) is not None:
        with contextlib.suppress(Congested):
            discoverer.tell(LinkWanted(node))


async def fetch(system: ActorSystem, transfer: Transfer, place: Place, counts: Counter[str]) -> int:
    """Fetch the archive into `place`, and give its size.

    Raises:
        NotDelivered: No source gave it; the text says how each failed.
        ContainerError: The place cannot take it.
    """
    todo: deque[Effect] = deque(transfer.start())
    while todo:
        match todo.popleft():
            case Append(data):
                await anyio.to_thread.run_sync(place.append, data)
            case StartOver():
                counts["started_over"] += 1
                await anyio.to_thread.run_sync(place.start_over)
            case Ask(source, offset):
                todo.extend(await _asked(system, transfer, source, offset, counts))
            case GiveUp(reasons):
                raise NotDelivered(_why(reasons))
            case Complete(size_bytes):
                counts["fetched"] += 1
                counts["bytes_fetched"] += size_bytes
                return size_bytes
    raise AssertionError("a transfer ends with Complete or GiveUp")


async def _asked(
    system: ActorSystem, transfer: Transfer, source: NodeId, offset: int, counts: Counter[str]
) -> list[Effect]:
    try:
        chunk = await ask_member(
            system, Address(source, PATH), ReadImage(transfer.digest, offset), ImageChunk, timeout_s=CHUNK_S
        )
    except AskFailed as error:
        counts["chunks_failed"] += 1
        # Not there, not allowed, or no answer of ours: asking again gives the same.
        for_good = isinstance(error, AskDeclined | AskRefused | AskNotUnderstood)
        return transfer.failed(str(error), for_good=for_good)
    liars = len(transfer.liars)
    effects = transfer.take(chunk.data, last=chunk.last)
    counts["refused"] += len(transfer.liars) - liars
    return effects


def _why(reasons: tuple[tuple[NodeId, str], ...]) -> str:
    if not reasons:
        return "nobody is left to give the image; push it again"
    return "nobody gave the image: " + ", ".join(f"{node.short}: {why}" for node, why in reasons)

"""Links inside one process, for tests, simulations and embedders: real admission, real limits, no sockets.

    dialling --somebody listens, both judge--> up --hang_up, close, crash, silence--> ended

Links are within credit, as everywhere: what the other end's reader has not taken waits there as far as its window goes,
and then here.

A `MemoryNetwork` is the wire: it knows who listens where, and which pairs it has been told to keep apart. Between
those nothing passes: what is sent waits, and when the cut lasts for `silence_s` the link is down at both ends, each
for itself, as with a real network. All waiting is anyio's, so that a virtual clock can drive it.

Keys are believed here, not proved: it may never carry anything between processes.
"""

from collections import Counter, deque
from functools import partial
from types import TracebackType
from typing import Self

import anyio
import anyio.abc
import anyio.lowlevel

from atoll.transport.base import (
    SILENCE_S,
    Admission,
    DialFailed,
    LinkDown,
    LinkEvent,
    LinkUp,
    Standing,
)
from atoll.transport.credit import MESSAGE_COST_BYTES, Grant, message_bytes_max, window_for
from atoll.transport.envelope import Envelope, encode_envelope
from atoll.transport.errors import Congested, Refused, Unreachable, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.inbox import Inbox
from atoll.transport.keys import NodeKey
from atoll.transport.link_frames import (
    BACKLOG_BYTES_MAX,
    BACKLOG_MESSAGES_MAX,
    CREDENTIAL_BYTES_MAX,
    LABEL_CHARACTERS_MAX,
)

FIRST_FREE_PORT = 49_152
EVERY_HOST = "0.0.0.0"
_LOST = "the connection was lost or silent for too long"


class _End:
    """One end of a link; `held` is what a cut, or want of credit, keeps from the other end."""

    __slots__ = ("credit", "far", "grant", "held", "held_bytes", "message_bytes_max", "owner", "peer")

    def __init__(self, owner: "MemoryTransport", peer: NodeId, ours: Standing, theirs: Standing) -> None:
        """Make our end towards `peer`: what it is here, and what we are there."""
        self.owner, self.peer = owner, peer
        self.far: _End | None = None
        """The other end; None when it has ended."""
        self.grant = Grant(window_for(ours), partial(owner.lend, self))
        self.credit = window_for(theirs)
        self.message_bytes_max = message_bytes_max(self.credit)
        self.held: deque[bytes] = deque()
        self.held_bytes = 0


class MemoryNetwork:
    """Where memory transports find each other, and where tests part them."""

    def __init__(self, *, silence_s: float = SILENCE_S, connect_s: float = 2.0) -> None:
        self.silence_s = silence_s
        self.connect_s = connect_s
        """How long a dial waits for somebody who is cut off."""
        self._listening: dict[tuple[str, int], MemoryTransport] = {}
        self._cuts: dict[frozenset[NodeId], object] = {}
        self._next_port = FIRST_FREE_PORT

    def cut(self, first: NodeId, second: NodeId) -> None:
        """Let nothing pass between two nodes until `heal`."""
        cut = self._cuts[frozenset((first, second))] = object()
        for end in self._ends(first, second):
            end.owner.expect_silence(end, cut)

    def heal(self, first: NodeId, second: NodeId) -> None:
        """Let pass again, what waited first."""
        if self._cuts.pop(frozenset((first, second)), None) is not None:
            for end in self._ends(first, second):
                end.owner.release(end)

    def cut_between(self, first: NodeId, second: NodeId) -> object | None:
        """Give the cut between two nodes, the same until it is healed; None when they hear each other."""
        return self._cuts.get(frozenset((first, second)))

    def listen(self, transport: "MemoryTransport", host: str, port: int) -> int:
        """Give `transport` an address, for port 0 a free one; returns the port.

        Raises:
            UsageError: Somebody has it.
        """
        if port == 0:
            port, self._next_port = self._next_port, self._next_port + 1
        if any(
            (taken == port and EVERY_HOST in (host, at)) or (at, taken) == (host, port) for at, taken in self._listening
        ):
            raise UsageError(
                f"port {port} on {host} is in use: stop what uses it, or choose another port (0 takes any free one)"
            )
        self._listening[host, port] = transport
        return port

    def forget(self, transport: "MemoryTransport") -> None:
        """Take a transport's address back."""
        for address in [each for each, listener in self._listening.items() if listener is transport]:
            del self._listening[address]

    def listener(self, host: str, port: int) -> "MemoryTransport | None":
        """Give who listens at an address."""
        return self._listening.get((host, port)) or self._listening.get((EVERY_HOST, port))

    def _ends(self, first: NodeId, second: NodeId) -> list[_End]:
        pair = {first, second}
        ends = (end for transport in list(self._listening.values()) for end in transport.ends if transport.own in pair)
        return [end for end in ends if end.peer in pair]


class MemoryTransport:
    """A node's links over a `MemoryNetwork`; `async with` takes the address and gives it back.

    Raises (from `async with`):
        UsageError: The port is in use on this network.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        key: NodeKey,
        admission: Admission,
        *,
        label: str,
        host: str = EVERY_HOST,
        port: int = 0,
    ) -> None:
        if len(label) > LABEL_CHARACTERS_MAX or not label.isprintable():
            raise UsageError(f"a label has at most {LABEL_CHARACTERS_MAX} printable characters")
        self.own, self.port = key.node_id, port
        self.label = label
        self._network, self._admission, self._host = network, admission, host
        self._links: dict[NodeId, _End] = {}
        self._dials: dict[NodeId, anyio.CancelScope] = {}
        self._joined: dict[NodeId, list[tuple[str, int]]] = {}
        """Addresses that came while a dial was under way."""
        self._inbox = Inbox()
        self._counts: Counter[str] = Counter()
        self._open = False

    async def __aenter__(self) -> Self:
        self.port = self._network.listen(self, self._host, self.port)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in {**self._links, **self._dials}:
            self.hang_up(peer, "the node closes its links")
        self._close()
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(kind, error, trace)

    def crash(self) -> None:
        """End as a killed process does: say nothing; the others see their connections break."""
        for end in list(self._links.values()):
            self.end_link(end, "this node has crashed")
            if (far := end.far) is not None and not self._network.cut_between(self.own, end.peer):
                far.owner.end_link(far, _LOST)
        self._close()

    def dial(self, peer: NodeId, host: str, port: int) -> None:
        """Begin to open a link to whoever listens there."""
        if not 0 < port < 65536:
            raise UsageError(f"{port} is no port; ports are 1 to 65535")
        if peer in self._links:
            return
        if peer in self._dials:
            self._joined.setdefault(peer, []).append((host, port))
            return
        if not self._open or peer == self.own:
            why = "this is the node itself" if self._open else "this transport is not open"
            self._inbox.put(DialFailed(peer, why))
            return
        self._counts["dials"] += 1
        self._dials[peer] = anyio.CancelScope()
        self._group.start_soon(self._pursue, peer, host, port, self._dials[peer])

    def hang_up(self, peer: NodeId, reason: str) -> None:
        """Close the link to `peer`, or give up a dial; the other end is told `reason`."""
        self._joined.pop(peer, None)
        if (scope := self._dials.pop(peer, None)) is not None:
            scope.cancel()
            self._inbox.put(DialFailed(peer, reason))
        if (end := self._links.get(peer)) is not None:
            far = end.far
            self.end_link(end, reason)
            if far is not None and not self._network.cut_between(self.own, peer):
                far.owner.end_link(far, f"the other end hung up: {reason}")

    def send(self, peer: NodeId, data: bytes) -> None:
        """Queue one message; raises what `Transport.send` says."""
        end = self._links.get(peer)
        if end is None:
            raise Unreachable(f"no link to {peer.short} is up")
        if len(data) > end.message_bytes_max:
            raise UsageError(
                f"a message to {peer.short} has at most {end.message_bytes_max} bytes, this one has {len(data)}"
            )
        if end.held_bytes + len(data) > BACKLOG_BYTES_MAX or len(end.held) >= BACKLOG_MESSAGES_MAX:
            self._counts["congested"] += 1
            raise Congested(f"the peer takes too little: {end.held_bytes} bytes wait for it; the message was not taken")
        self._counts["messages_sent"] += 1
        self._counts["bytes_sent"] += len(data)
        end.held.append(bytes(data))
        end.held_bytes += len(data)
        self._carry(end)

    def send_envelope(self, peer: NodeId, envelope: Envelope) -> None:
        """Queue an envelope by itself: what runs save, a memory network does not spend."""
        self.send(peer, encode_envelope(envelope))

    async def receive(self) -> LinkEvent:
        """Wait for the next event; one reader at a time.

        Raises:
            Unreachable: The transport is closed and everything was read.
        """
        return await self._inbox.take()

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many links there are now."""
        return {**self._counts, "links": len(self._links), "connections": len(self._links)}

    def links_over(self, addresses: frozenset[str]) -> list[NodeId]:
        """Give nobody: a memory network has no addresses to lose."""
        del addresses
        return []

    # What the network does here.

    @property
    def ends(self) -> list[_End]:
        """Our ends of all links."""
        return list(self._links.values())

    def expect_silence(self, end: _End, cut: object) -> None:
        """End a link on our side when the cut lasts too long."""
        self._group.start_soon(self._wait_silence, end, cut)

    def release(self, end: _End) -> None:
        """Let what a cut has held go on, or notice that the other end is gone."""
        if end.far is None:
            self.end_link(end, _LOST)
            return
        end.grant.settle()
        self._carry(end)

    def lend(self, end: _End, amount: int) -> bool:
        """Tell the other end that it may send so much more; False while a cut is in the way."""
        if end.far is None or self._network.cut_between(self.own, end.peer) is not None:
            return False
        end.far.credit += amount
        end.far.owner.release(end.far)
        return True

    def _carry(self, end: _End) -> None:
        """Let what waits at our end arrive, as far as credit goes and nothing is in the way."""
        if end.far is None or self._network.cut_between(self.own, end.peer) is not None:
            return
        while end.held and len(end.held[0]) + MESSAGE_COST_BYTES <= end.credit:
            data = end.held.popleft()
            end.held_bytes -= len(data)
            end.credit -= len(data) + MESSAGE_COST_BYTES
            end.far.owner.arrive(end.far, data)

    # What the other end of a wire does here.

    def shown_to(self, peer: NodeId) -> bytes:
        """Give the credential we show."""
        credential = self._admission.credential_for(peer)
        if len(credential) > CREDENTIAL_BYTES_MAX:
            raise UsageError(f"a credential has at most {CREDENTIAL_BYTES_MAX} bytes, this one has {len(credential)}")
        return credential

    def arrive(self, end: _End, data: bytes) -> None:
        """Take a message that has come over the wire."""
        self._counts["messages_received"] += 1
        self._counts["bytes_received"] += len(data)
        end.grant.spend(len(data) + MESSAGE_COST_BYTES)
        self._inbox.put_messages(end.peer, [data], end.grant)

    def judge(self, other: "MemoryTransport") -> Standing:
        """Judge what another end shows us.

        Raises:
            Refused: Our admission says no.
        """
        credential = other.shown_to(self.own)
        try:
            return self._admission.judge(other.own, credential)
        except Refused:
            self._counts["refused_peers"] += 1
            raise

    def come_up(self, end: _End, standing: Standing, label: str, host: str) -> None:
        """Take a link whose both ends were judged."""
        if (former := self._links.get(end.peer)) is not None:
            self.end_link(former, "the peer opened a newer link")
        self._joined.pop(end.peer, None)
        if (scope := self._dials.pop(end.peer, None)) is not None:
            scope.cancel()
        self._links[end.peer] = end
        self._counts["links_up"] += 1
        self._inbox.put(LinkUp(end.peer, standing, label, "127.0.0.1" if host == EVERY_HOST else host))

    def end_link(self, end: _End, reason: str) -> None:
        """End our side of a link, once."""
        if self._links.get(end.peer) is not end:
            return
        del self._links[end.peer]
        self._counts["links_down"] += 1
        self._counts["messages_dropped"] += len(end.held)
        end.held.clear()
        if end.far is not None:
            end.far.far = None
        self._inbox.put(LinkDown(end.peer, reason))

    # Waiting and dialling.

    async def _wait_silence(self, end: _End, cut: object) -> None:
        await anyio.sleep(self._network.silence_s)
        if self._network.cut_between(self.own, end.peer) is cut:
            self.end_link(end, _LOST)

    async def _pursue(self, peer: NodeId, host: str, port: int, scope: anyio.CancelScope) -> None:
        reason: str | None = f"nobody answers at {host}:{port}"
        with scope:
            await anyio.lowlevel.checkpoint()
            listener = self._network.listener(host, port)
            if listener is not None and self._network.cut_between(self.own, listener.own) is not None:
                await anyio.sleep(self._network.connect_s)
            elif listener is not None and listener.own != peer:
                reason = f"whoever listens at {host}:{port} has another key than it is dialled with"
            elif listener is not None:
                reason = self._greet(listener, host)
        if self._dials.get(peer) is scope:
            del self._dials[peer]
            if reason is not None and (joined := self._joined.get(peer)):
                self.dial(peer, *joined.pop(0))
            elif reason is not None:
                self._counts["dials_failed"] += 1
                self._inbox.put(DialFailed(peer, reason))

    def _greet(self, listener: "MemoryTransport", host: str) -> str | None:
        """Show and judge credentials, theirs first; both ends are up at once, or none. Returns why none is."""
        try:
            ours = listener.judge(self)
        except Refused as error:
            return f"the other end refused: {error}"
        try:
            theirs = self.judge(listener)
        except Refused as error:
            return f"refused here: {error}"
        near, far = _End(self, listener.own, theirs, ours), _End(listener, self.own, ours, theirs)
        near.far, far.far = far, near
        self.come_up(near, theirs, listener.label, host)
        listener.come_up(far, ours, self.label, self._host)
        return None

    def _close(self) -> None:
        self._open = False
        self._network.forget(self)
        self._inbox.close()

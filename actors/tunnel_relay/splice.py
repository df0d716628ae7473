"""The data path of tunnels: bytes go from socket to pipe to socket inside the kernel and never enter Python.

Each direction of a tunnel is a *flow*:

    idle     --source readable-->                moving
    moving   --source empty-->                   idle       (its pipe goes back to the pool)
    moving   --target takes no more-->           blocked    (keeps its pipe only if bytes are stuck in it)
    moving   --work budget used up-->            queued behind the others, still moving
    moving   --its tunnel's rate used up-->      paused until some of it is there again
    blocked  --target writable-->                moving
    moving   --end of source, all passed on-->   done       (the end is passed on: half-close)

A tunnel is over when both flows are done, or at once when a socket fails, its bytes are used up or somebody ends it;
then both sockets are reset, so that a tunnel cut short is never taken for one that ended. TCP's own back-pressure does
the rest: a reader that is slow fills its pipe and its sender's window, and nobody else's.

A rate is kept by not reading: the sender's window fills while a flow is paused, and no byte waits here.

When all pipes are kept by blocked flows, the last one is emptied into memory (`spilled`): the only bytes Python sees.
"""

import heapq
import os
import select
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.actors.tunnel_relay.bucket import Bucket
from atoll.actors.tunnel_relay.pipes import Pipe, PipePool
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import NO_RATE

WORK_BUDGET_BYTES = 512 * 1024
"""What a flow may move before the others get their turn: about 0.2 ms."""
WORK_BUDGET_MOVES = 32
"""The same for flows of small messages: also about 0.2 ms."""
SPILLED_BYTES_MAX = 64 * 1024 * 1024
"""Past this, blocked flows are fed by the page, so that each spills a page at most."""
PAGE_BYTES = 4096
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

_READABLE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True, eq=False)
class Flow:
    """One direction of a tunnel."""

    tunnel: "Tunnel"
    source: socket.socket
    target: socket.socket
    readable: bool = True
    writable: bool = True
    queued: bool = False
    paused: bool = False
    """It waits for its tunnel's rate."""
    done: bool = False
    pipe: Pipe | None = None
    """Kept only while bytes are stuck in it."""
    stuck_bytes: int = 0
    spilled: bytes = b""


@dataclass(slots=True, eq=False)
class Tunnel:
    """Two joined sockets and what may still pass between them."""

    name: bytes
    quota_bytes: int
    left_bytes: int
    bucket: Bucket | None = None
    """What its rate lets pass now; None: it has no rate."""
    flows: tuple[Flow, ...] = ()


class _OverQuotaError(Exception):
    """The source has more than the ticket allows."""


class _OverRateError(Exception):
    """The tunnel's rate allows nothing now."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s


@dataclass(slots=True)
class Splices:
    """All tunnels of one epoll; the owner polls, hands in events, and calls `work` while `busy`.

    `on_end(name, forwarded_bytes, reason)` is called when a tunnel is over by itself; reason None means both ends are
    done. Not for several threads at once.
    """

    epoll: select.epoll
    pool: PipePool
    on_end: Callable[[bytes, int, Reason | None], None]
    counters: Counter[str] = field(default_factory=Counter)
    forwarded_bytes: int = 0
    spilled_bytes: int = 0
    _flows: dict[int, tuple[Flow, Flow]] = field(default_factory=dict)
    """By descriptor: the flow out of this socket and the flow into it."""
    _tunnels: dict[bytes, Tunnel] = field(default_factory=dict)
    _ready: deque[Flow] = field(default_factory=deque)
    _paused: list[tuple[float, int, Flow]] = field(default_factory=list)
    """A heap of flows that wait for their rate, by when they go on; at most one entry a flow."""
    _pauses: int = 0

    def join(
        self, name: bytes, one: socket.socket, other: socket.socket, quota_bytes: int, bucket: Bucket | None = None
    ) -> None:
        """Make two connected, non-blocking sockets, already known to the epoll, a tunnel; they belong to it now."""
        tunnel = Tunnel(name, quota_bytes, quota_bytes, bucket)
        forth, back = Flow(tunnel, one, other), Flow(tunnel, other, one)
        tunnel.flows = (forth, back)
        self._tunnels[name] = tunnel
        for flow, reverse in ((forth, back), (back, forth)):
            self._flows[flow.source.fileno()] = (flow, reverse)
            self.epoll.modify(flow.source.fileno(), EDGES)
            self._queue(flow)
        self.counters["tunnels_joined"] += 1

    def event(self, descriptor: int, mask: int) -> bool:
        """Note what epoll says of a descriptor; False when it is none of ours."""
        flows = self._flows.get(descriptor)
        if flows is None:
            return False
        outward, inward = flows
        if mask & select.EPOLLERR:
            self._end_by_itself(outward.tunnel, Reason.CLOSED)
            return True
        if mask & _READABLE and not outward.readable:
            outward.readable = True
            self._queue(outward)
        if mask & select.EPOLLOUT and not inward.writable:
            inward.writable = True
            self._queue(inward)
        return True

    def work(self) -> None:
        """Give every flow that can move one turn."""
        while self._paused and self._paused[0][0] <= time.monotonic():
            flow = heapq.heappop(self._paused)[2]
            flow.paused = False
            self._queue(flow)
        for _ in range(len(self._ready)):
            flow = self._ready.popleft()
            flow.queued = False
            if flow.done:
                continue
            try:
                more = self._move(flow)
            except OSError:
                self._end_by_itself(flow.tunnel, Reason.CLOSED)
                continue
            except _OverQuotaError:
                self._end_by_itself(flow.tunnel, Reason.OVER_QUOTA)
                continue
            except _OverRateError as error:
                self._pause(flow, error.wait_s)
                continue
            if more:
                self._queue(flow)
            elif all(each.done for each in flow.tunnel.flows):
                self._end_by_itself(flow.tunnel, None)

    def end(self, name: bytes, reason: Reason | None) -> int | None:
        """Cut a tunnel at once; the bytes it carried, or None when it is over already."""
        tunnel = self._tunnels.pop(name, None)
        if tunnel is None:
            return None
        for flow in tunnel.flows:
            flow.done = True
            self.spilled_bytes -= len(flow.spilled)
            if flow.pipe is not None:
                self.pool.discard(flow.pipe)
                flow.pipe = None
            del self._flows[flow.source.fileno()]
        for flow in tunnel.flows:
            if reason is not None:
                flow.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            flow.source.close()
        self.counters[f"tunnels_ended_{reason.name.lower() if reason else 'done'}"] += 1
        return tunnel.quota_bytes - tunnel.left_bytes

    def close(self) -> None:
        """Cut every tunnel and give the pipes back."""
        for name in list(self._tunnels):
            self.end(name, Reason.CLOSED)
        self.pool.close()

    @property
    def busy(self) -> bool:
        """Whether some flow can move on without a new event."""
        return bool(self._ready)

    def __len__(self) -> int:
        return len(self._tunnels)

    @property
    def resumes_at(self) -> float | None:
        """When the first paused flow goes on, by the monotonic clock; None when none is paused."""
        return self._paused[0][0] if self._paused else None

    def _queue(self, flow: Flow) -> None:
        if not flow.queued and not flow.paused:
            flow.queued = True
            self._ready.append(flow)

    def _end_by_itself(self, tunnel: Tunnel, reason: Reason | None) -> None:
        forwarded_bytes = self.end(tunnel.name, reason)
        if forwarded_bytes is not None:
            self.on_end(tunnel.name, forwarded_bytes, reason)

    def _move(self, flow: Flow) -> bool:
        """Move bytes until source or target blocks (False) or the budget is used up (True).

        Every event is an edge, so one that is not followed to its end is never told again.
        """
        if not flow.writable or not self._unstick(flow) or not flow.readable:
            return False
        pipe = self.pool.take()
        try:
            return self._pump(flow, pipe)
        finally:
            if not flow.stuck_bytes:
                self.pool.give(pipe)
            elif self.pool.last():
                self._spill(flow, pipe)
            else:
                flow.pipe = pipe

    def _pump(self, flow: Flow, pipe: Pipe) -> bool:
        tunnel, bucket = flow.tunnel, flow.tunnel.bucket
        source, target = flow.source.fileno(), flow.target.fileno()
        most_bytes = pipe.capacity_bytes if self.spilled_bytes < SPILLED_BYTES_MAX else PAGE_BYTES
        budget_bytes = WORK_BUDGET_BYTES
        try:
            for _ in range(WORK_BUDGET_MOVES):
                chunk_bytes = most_bytes if tunnel.left_bytes >= most_bytes else self._allowed_bytes(flow)
                if bucket is not None:
                    chunk_bytes = _within_rate(bucket, chunk_bytes)
                moved = os.splice(source, pipe.writer, chunk_bytes, flags=_FLAGS)
                if not moved:
                    flow.target.shutdown(socket.SHUT_WR)
                    flow.done = True
                    return False
                tunnel.left_bytes -= moved
                if bucket is not None:
                    bucket.take(moved)
                self.forwarded_bytes += moved
                flow.stuck_bytes = moved
                while flow.stuck_bytes:
                    flow.stuck_bytes -= os.splice(pipe.reader, target, flow.stuck_bytes, flags=_FLAGS)
                budget_bytes -= moved
                if budget_bytes <= 0:
                    break
        except BlockingIOError:
            # The pipe was empty before bytes came in and holds some until they are out: so it is certain who blocked.
            if flow.stuck_bytes:
                flow.writable = False
            else:
                flow.readable = False
            return False
        return True

    def _pause(self, flow: Flow, wait_s: float) -> None:
        flow.paused = True
        self._pauses += 1
        # The number, so that two flows of one moment are never compared.
        heapq.heappush(self._paused, (time.monotonic() + wait_s, self._pauses, flow))
        self.counters["pauses"] += 1

    def _allowed_bytes(self, flow: Flow) -> int:
        left_bytes = flow.tunnel.left_bytes
        if left_bytes or not flow.source.recv(1, socket.MSG_PEEK):
            return left_bytes or PAGE_BYTES  # its end may always be passed on
        raise _OverQuotaError

    def _unstick(self, flow: Flow) -> bool:
        """Send what was stuck; True when nothing is any more."""
        try:
            while flow.spilled:
                sent = flow.target.send(flow.spilled)
                flow.spilled = flow.spilled[sent:]
                self.spilled_bytes -= sent
            while flow.stuck_bytes and flow.pipe is not None:
                flow.stuck_bytes -= os.splice(flow.pipe.reader, flow.target.fileno(), flow.stuck_bytes, flags=_FLAGS)
        except BlockingIOError:
            flow.writable = False
            return False
        if flow.pipe is not None:
            self.pool.give(flow.pipe)
            flow.pipe = None
        return True

    def _spill(self, flow: Flow, pipe: Pipe) -> None:
        """Take stuck bytes into memory: the pipe is the last, and others need it."""
        pieces: list[bytes] = []
        while flow.stuck_bytes:
            pieces.append(os.read(pipe.reader, flow.stuck_bytes))
            flow.stuck_bytes -= len(pieces[-1])
        flow.spilled = b"".join(pieces)
        self.spilled_bytes += len(flow.spilled)
        self.counters["spills"] += 1
        self.pool.give(pipe)


def bucket_for(rate_bytes_s: int, *, full: bool) -> Bucket | None:
    """Make what keeps a tunnel's rate; None where it has none."""
    return None if rate_bytes_s == NO_RATE else Bucket(rate_bytes_s=rate_bytes_s, now=time.monotonic(), full=full)


def _within_rate(bucket: Bucket, wanted_bytes: int) -> int:
    """Give how much may pass now.

    Raises:
        _OverRateError: Nothing worthwhile.
    """
    available_bytes = bucket.available(time.monotonic())
    if available_bytes < wanted_bytes and (wait_s := bucket.wait_s()):
        raise _OverRateError(wait_s)
    return min(wanted_bytes, available_bytes)

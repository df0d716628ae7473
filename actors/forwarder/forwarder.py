"""Carries TCP connections between a port of this host and a port of another node, over streams of a session.

    OpenForward --the port is free--> listening --a connection--> a stream `tcp/PORT` to the peer --> joined to its end
                                      listening --not renewed in time, or CloseForward--> over, with all connections
    a peer's stream `tcp/PORT` --the port is allowed here--> a connection to 127.0.0.1:PORT --> joined to its end
                               --not allowed, or nobody listens--> reset, with the reason

Nothing of this host can be reached that its config does not name (`forward.allow`), and of that only ports of its
loopback address. Whether a relay dies under a connection is the session's business; it goes on.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio
import anyio.abc

from atoll.actors.forwarder.joining import BROKEN, Broke, abort_on_close, join
from atoll.actors.forwarder.messages import (
    PATH,
    SERVICE,
    CloseForward,
    DescribeForwards,
    ForwardsDescribed,
    ForwardSeen,
    OpenForward,
    RenewForward,
)
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import ServeStreams, StreamArrived
from atoll.actors.router.session_stream import SessionStream
from atoll.actors.router.streams import open_stream
from atoll.actors.runtime.actor import LATER, Actor, Delivery, ReplyTo
from atoll.actors.runtime.errors import AskDeclined, Declined
from atoll.actors.runtime.machine import Address
from atoll.transport.accepted import read_on_demand
from atoll.transport.base import Standing
from atoll.transport.bearer import make_bearer_ready, raw_socket_of
from atoll.transport.errors import TransportError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.forwarder")

FORWARDS_MAX = 64
CONNECTIONS_MAX = 48
"""Of one forward; a session has 64 streams."""
TAKEN_MAX = 256
"""Connections of others to this host."""
CONNECT_S = 10.0
"""For the port at the other end."""
FOR_S_MAX = 3600.0
WHY_CHARACTERS_MAX = 300


@dataclass(slots=True, eq=False)
class Forward:
    """One port that is listened at."""

    number: int
    order: OpenForward
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    listen_port: int = 0
    connections: int = 0
    connections_total: int = 0
    failed: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    failure: str = ""

    def seen(self) -> ForwardSeen:
        """Say what others may know."""
        order = self.order
        return ForwardSeen(
            number=self.number,
            host=order.host,
            listen_port=self.listen_port,
            peer=order.peer,
            peer_name=order.peer_name,
            port=order.port,
            connections=self.connections,
            connections_total=self.connections_total,
            failed=self.failed,
            sent_bytes=self.sent_bytes,
            received_bytes=self.received_bytes,
            failure=self.failure,
        )

    def renew(self, for_s: float) -> None:
        """Live for so long from now."""
        self.scope.deadline = anyio.current_time() + min(for_s, FOR_S_MAX)

    def sent(self, size: int) -> None:
        """Count what went to the peer."""
        self.sent_bytes += size

    def received(self, size: int) -> None:
        """Count what came from the peer."""
        self.received_bytes += size

    def note_failure(self, why: str) -> None:
        """Keep why a connection came to nothing."""
        self.failed += 1
        self.failure = why[:WHY_CHARACTERS_MAX]


class Forwarder(Actor):
    """Both ends of forwarded ports; see the module."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER, Standing.GRANTED})

    def __init__(self, own: NodeId, allowed: tuple[int, ...]) -> None:
        self._own = own
        self._allowed = frozenset(allowed)
        self._forwards: dict[int, Forward] = {}
        self._last = 0
        self._taken = 0
        self._counts: Counter[str] = Counter()

    async def started(self) -> None:
        """Serve streams to ports, whichever are allowed: who asks for others is told so."""
        self.system.tell(Address(self._own, ROUTER), ServeStreams(SERVICE, PATH))

    async def receive(self, delivery: Delivery) -> Any:
        """Take orders of this node, and streams of others."""
        message, reply_to, local = delivery.message, delivery.reply_to, delivery.standing is None
        match message:
            case StreamArrived(stream) if local:
                self.tasks.start_soon(self._take, stream)
            case OpenForward() if local and reply_to is not None:
                self.tasks.start_soon(self._forward, message, reply_to)
            case RenewForward(number, for_s) if local:
                forward = self._known(number)
                forward.renew(for_s)
                return forward.seen()
            case CloseForward(number) if local:
                forward = self._known(number)
                forward.scope.cancel()
                return forward.seen()
            case DescribeForwards() if local:
                seen = tuple(each.seen() for each in self._forwards.values())
                return ForwardsDescribed(seen, tuple(sorted(self._allowed)), self._taken, self._counts["refused"])
            case _:
                return await super().receive(delivery)
        return LATER

    def _known(self, number: int) -> Forward:
        forward = self._forwards.get(number)
        if forward is None:
            raise Declined(f"there is no forward {number} any more")
        return forward

    # This end listens

    async def _forward(self, order: OpenForward, reply_to: ReplyTo) -> None:
        if len(self._forwards) >= FORWARDS_MAX:
            reply_to.fail(AskDeclined(f"{FORWARDS_MAX} ports are forwarded already"))
            return
        try:
            listener = await anyio.create_tcp_listener(local_host=order.host, local_port=order.listen_port)
        except (OSError, ValueError) as error:
            reply_to.fail(AskDeclined(f"cannot listen at {order.host} port {order.listen_port}: {_why(error)}"))
            return
        self._last += 1
        forward = self._forwards[self._last] = Forward(self._last, order)
        forward.listen_port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's
        forward.renew(order.for_s)
        reply_to.answer(forward.seen())
        try:
            with forward.scope:
                async with listener, anyio.create_task_group() as tasks:
                    await listener.serve(lambda near: self._carry(forward, near), tasks)
        finally:
            del self._forwards[forward.number]

    async def _carry(self, forward: Forward, near: anyio.abc.SocketStream) -> None:
        """Carry one connection to the peer."""
        order = forward.order
        read_on_demand(near)
        async with near:
            if forward.connections >= CONNECTIONS_MAX:
                forward.note_failure(f"{CONNECTIONS_MAX} connections are open already")
                abort_on_close(near)
                return
            try:
                make_bearer_ready(raw_socket_of(near))
            except BROKEN:
                # It was reset at once; with uvloop there is no socket below it then.
                return
            forward.connections += 1
            forward.connections_total += 1
            try:
                async with await open_stream(self.system, order.peer, f"{SERVICE}/{order.port}") as far:
                    await join(near, far, count_out=forward.sent, count_in=forward.received)
            except (TransportError, Broke, *BROKEN) as error:
                forward.note_failure(_why(error))
                abort_on_close(near)
            except BaseException:
                abort_on_close(near)
                raise
            finally:
                forward.connections -= 1

    # This end is connected to

    async def _take(self, stream: SessionStream) -> None:
        """Connect a peer's stream to the port that it names."""
        self._taken += 1
        try:
            async with stream:
                await self._connect(stream)
        finally:
            self._taken -= 1

    async def _connect(self, stream: SessionStream) -> None:
        name = stream.service.removeprefix(f"{SERVICE}/")
        port = int(name) if name.isascii() and name.isdecimal() and len(name) <= len("65535") else 0
        if stream.standing is not None and port not in self._allowed:
            self._counts["refused"] += 1
            listed = ", ".join(map(str, sorted({*self._allowed, port} - {0})))
            stream.reset(f"port {name[:20]} is not open to others there: set forward.allow = [{listed}] in its config")
            return
        if self._taken > TAKEN_MAX:
            self._counts["refused"] += 1
            stream.reset(f"{TAKEN_MAX} connections to its ports are open already")
            return
        try:
            with anyio.fail_after(CONNECT_S):
                near = await anyio.connect_tcp("127.0.0.1", port)
        except (OSError, TimeoutError) as error:
            self._counts["refused"] += 1
            stream.reset(f"nobody takes connections at port {port} there: {_why(error)}")
            return
        async with near:
            try:
                make_bearer_ready(raw_socket_of(near))
            except BROKEN as error:
                stream.reset(f"the connection to port {port} there broke: {_why(error)}"[:WHY_CHARACTERS_MAX])
                return
            try:
                await join(near, stream, count_out=lambda _: None, count_in=lambda _: None)
            except Broke as error:
                log.debug("a connection to port %d broke: %s", port, error)
                stream.reset(f"the connection to port {port} there broke: {error}"[:WHY_CHARACTERS_MAX])
                abort_on_close(near)
            except BaseException:
                abort_on_close(near)
                raise


def _why(error: BaseException) -> str:
    """Say what the system refused, without its numbers."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__

"""A relay: the SEP port, the bearer port, one key, one issuer whose tickets it takes.

    async with Relay(key, issuer) as relay:
        ...  # relay.sep_port, relay.bearer_port, relay.statistics()

It needs no disk and knows no other relay. When one port fails the whole relay does, and `async with` raises the error.
"""

import logging
import math
import os
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

import anyio
import anyio.to_thread

from atoll.actors.tunnel_relay.bearer_server import BearerLimits, BearerServer
from atoll.actors.tunnel_relay.bearer_workers import BearerWorkers
from atoll.actors.tunnel_relay.relay_address import WebDoor
from atoll.actors.tunnel_relay.sep_server import SepServer
from atoll.actors.tunnel_relay.tickets import NO_RATE
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey

if TYPE_CHECKING:
    from atoll.actors.tunnel_relay.websocket_server import WebSocketServer, WebSocketSettings

log = logging.getLogger("atoll.relay")

Bearers: TypeAlias = BearerServer | BearerWorkers

SEP_PORT = 8088
BEARER_PORT = 8089
WEBSOCKETS_MAX = 512
WEBSOCKET_DESCRIPTORS = 1200
"""Two for each WebSocket beside the tunnel's, and one for each that is not open yet."""
DRAIN_S = 30.0
"""How long those who are here may take to move away."""


class Relay:
    """Serves both ports inside `async with`; port 0 means any free one, and the attributes then say which.

    Raises (from `async with`):
        UsageError: A port cannot be opened, or this system cannot splice.
    """

    def __init__(
        self,
        key: NodeKey,
        issuer: NodeId,
        *,
        sep_port: int = SEP_PORT,
        bearer_port: int = BEARER_PORT,
        host: str = "0.0.0.0",
        limits: BearerLimits | None = None,
        sep_bytes_s: int = NO_RATE,
        websocket: "WebSocketSettings | None" = None,
        workers: int = 1,
    ) -> None:
        self.node_id = key.node_id
        self.sep_port = sep_port
        self.bearer_port = bearer_port
        self._key, self._issuer, self._host, self._limits = key, issuer, host, limits
        self._sep_bytes_s = sep_bytes_s
        self._workers = workers or len(os.sched_getaffinity(0))
        self._websocket_settings = websocket
        self.websocket_port = 0 if websocket is None else websocket.port
        self._websockets: WebSocketServer | None = None
        self.told_to_drain = anyio.Event()
        self._sep: SepServer | None = None
        self._bearers: Bearers | None = None
        self._stack = AsyncExitStack()
        self.draining = False

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            bearers = self._open_bearers()
            stack.callback(bearers.close)
            sep = SepServer(
                key=self._key,
                issuer=self._issuer,
                host=self._host,
                port=self.sep_port,
                rate_bytes_s_max=self._sep_bytes_s,
            )
            stack.callback(sep.close)
            websockets = self._websockets = _websockets(self._websocket_settings, bearers, sep.port)
            if websockets is not None:
                stack.callback(websockets.close)
            group = await stack.enter_async_context(anyio.create_task_group())
            group.start_soon(_serve_bearers, bearers)
            group.start_soon(sep.run)
            for watch in bearers.watchers() if isinstance(bearers, BearerWorkers) else ():
                group.start_soon(watch)
            stack.callback(group.cancel_scope.cancel)
            if websockets is not None:
                group.start_soon(websockets.run)
                self.websocket_port = websockets.port
            self._sep, self._bearers = sep, bearers
            self.sep_port, self.bearer_port = sep.port, bearers.port
            self._stack = stack.pop_all()
        return self

    def _open_bearers(self) -> Bearers:
        limits = self._limits or BearerLimits()
        relay, issuer, host, port = self.node_id, self._issuer, self._host, self.bearer_port
        if self._workers == 1:
            return BearerServer(relay=relay, issuer=issuer, host=host, port=port, limits=limits)
        return BearerWorkers(relay=relay, issuer=issuer, host=host, port=port, limits=limits, count=self._workers)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self.draining and not self.idle:
            numbers = self.statistics()
            left = numbers["sep_registrations"], numbers["bearer_tunnels"]
            log.warning("%d registrations and %d tunnels did not move in time and are cut", *left)
        return await self._stack.__aexit__(kind, error, trace)

    def statistics(self) -> dict[str, int]:
        """Counters since the start and present numbers, as `sep_…` and `bearer_…`."""
        sep, bearers = self._running()
        numbers = {f"sep_{name}": value for name, value in sep.statistics().items()}
        if self._websockets is not None:
            numbers |= {f"websocket_{name}": value for name, value in self._websockets.statistics().items()}
        return numbers | {f"bearer_{name}": value for name, value in bearers.statistics().items()}

    def drain(self, seconds: float = DRAIN_S) -> None:
        """Take nobody new and tell who is here to move within `seconds`; it all goes on until the relay is closed."""
        sep, bearers = self._running()
        self.draining = True
        self.told_to_drain.set()
        sep.drain(math.ceil(seconds))
        bearers.drain()
        numbers = self.statistics()
        log.info(
            "draining: %d registrations and %d tunnels may move within %g s",
            numbers["sep_registrations"],
            numbers["bearer_tunnels"],
            seconds,
        )

    @property
    def web(self) -> WebDoor | None:
        """Its other door, as nodes are told; None where there is none."""
        return None if self._websockets is None else WebDoor(self.websocket_port, self._websockets.fingerprint)

    @property
    def load(self) -> float:
        """How full it is with tunnels, from 0 to 1."""
        numbers = self.statistics()
        return min(1.0, numbers["bearer_tunnels"] / max(1, numbers["bearer_tunnels_max"]))

    @property
    def idle(self) -> bool:
        """Nobody is served any more."""
        if self.draining and isinstance(self._bearers, BearerWorkers) and not self._bearers.up_to_date:
            return False
        numbers = self.statistics()
        return not numbers["bearer_tunnels"] and not numbers["sep_registrations"]

    @property
    def processes(self) -> list[int]:
        """Name the processes that it consists of."""
        workers = self._bearers.pids if isinstance(self._bearers, BearerWorkers) else []
        return [os.getpid(), *workers]

    def _running(self) -> tuple[SepServer, Bearers]:
        if self._sep is None or self._bearers is None:
            raise UsageError("a relay is used inside its `async with`")
        return self._sep, self._bearers


def _websockets(settings: "WebSocketSettings | None", bearers: Bearers, sep_port: int) -> "WebSocketServer | None":
    if settings is None:
        return None
    # Imported where it is wanted: TLS and WebSocket take their memory.
    from atoll.actors.tunnel_relay.websocket_server import WebSocketServer  # noqa: PLC0415

    return WebSocketServer(settings, bearers.adopt, sep_port)


async def _serve_bearers(bearers: Bearers) -> None:
    """Run the data path in its thread, and be through with it when this is cancelled."""
    async with anyio.create_task_group() as group:
        group.start_soon(_stop_when_cancelled, bearers)
        # A limiter of its own: this thread stays as long as the relay and must not use up one of the common ones.
        await anyio.to_thread.run_sync(bearers.run, limiter=anyio.CapacityLimiter(1))
        group.cancel_scope.cancel()


async def _stop_when_cancelled(bearers: Bearers) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        bearers.stop()

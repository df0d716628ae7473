"""The Gateway actor: this node's HTTP sockets, and the requests of other nodes' gateways.

    started --bind--> serving (a background task) --stopped--> drained

Requests from other nodes are answered side by side, each in a task of its own, at most `REMOTE_CALLS_MAX` at once; a
slow service holds up nobody. It must never run a request in anybody's name but that of the node which the link or the
session has proved.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import anyio
from anyio.abc import TaskStatus
from starlette.applications import Starlette

from atoll.actors.gateway.api_key import FILE_NAME, load_or_create_api_key
from atoll.actors.gateway.app import make_app
from atoll.actors.gateway.authority import Principal, principal_of_node
from atoll.actors.gateway.bodies import remove_leftovers
from atoll.actors.gateway.http_server import Limits, Listening, bind_tcp, bind_unix, serve_http
from atoll.actors.gateway.in_process import problem_message, run_app
from atoll.actors.gateway.messages import HttpRequest
from atoll.actors.gateway.ports import NodePort
from atoll.actors.gateway.problems import Problem
from atoll.actors.runtime.actor import LATER, Actor, Delivery, NotUnderstood, ReplyTo
from atoll.transport.base import Standing

log = logging.getLogger("atoll.gateway")

REMOTE_CALLS_MAX = 256
"""Requests of other nodes in hand; one body each of up to 3.5 MiB must fit into memory."""
REMOTE_CALL_S_MAX = 300.0
"""For a request whose asker named no deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What a gateway needs to know besides its node."""

    state: Path
    """The state directory: `api.key` and uploads in passing."""
    unix_socket: Path | None
    host: str = "127.0.0.1"
    port: int | None = 8083
    """0 takes any free one, None opens no port."""
    limits: Limits = field(default_factory=Limits)


class Gateway(Actor):
    """Answers on this node's sockets, and other nodes' gateways."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER, Standing.GRANTED})

    def __init__(self, node: NodePort, settings: GatewaySettings) -> None:
        self._settings = settings
        self.counters: Counter[str] = Counter()
        self._listening: Sequence[Listening] = ()
        self._remote_calls = 0
        self.api_key = load_or_create_api_key(settings.state / FILE_NAME)
        self.app: Starlette = make_app(
            node, api_key=self.api_key, spool=settings.state / "uploads", counters=self.counters
        )

    @property
    def addresses(self) -> list[str]:
        """Where it can be reached, as URLs; known once it has started."""
        return [each.url for each in self._listening]

    @property
    def port(self) -> int | None:
        """The TCP port; known once it has started."""
        return next((each.port for each in self._listening if each.port is not None), None)

    async def started(self) -> None:
        """Bind, or fail with a text that says which address and what to do.

        Raises:
            AddressInUse: Somebody else listens there.
        """
        settings = self._settings
        remove_leftovers(settings.state / "uploads")
        listening: list[Listening] = []
        self._listening = listening
        if settings.unix_socket is not None:
            listening.append(await bind_unix(settings.unix_socket))
        if settings.port is not None:
            listening.append(await bind_tcp(settings.host, settings.port))
        await self.tasks.start(self._serve)

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        """Serve; when this task is cancelled, let requests in flight finish within `drain_s`."""
        stopping = anyio.Event()

        async def shielded(*, task_status: TaskStatus[None]) -> None:
            with anyio.CancelScope(shield=True):
                await serve_http(
                    self.app,
                    self._listening,
                    limits=self._settings.limits,
                    stopping=stopping,
                    counters=self.counters,
                    task_status=task_status,
                )

        async with anyio.create_task_group() as tasks:
            try:
                # Cancelled in here, nobody would be left to tell the server to stop.
                with anyio.CancelScope(shield=True):
                    await tasks.start(shielded)
                task_status.started()
                await anyio.sleep_forever()
            finally:
                stopping.set()

    async def stopped(self) -> None:
        """Close what a failed start left open; the server has closed its own."""
        for each in self._listening:
            await each.aclose()

    async def receive(self, delivery: Delivery) -> Any:
        """Begin to answer a request of another node's gateway, and take the next."""
        request, reply_to = delivery.message, delivery.reply_to
        if not isinstance(request, HttpRequest):
            return await super().receive(delivery)
        if reply_to is None:
            # Nobody waits for the reply: then nobody needs the call.
            self.counters["untold_requests"] += 1
            return None
        if delivery.standing is None or delivery.sender is None:
            raise NotUnderstood("the gateway takes no HttpRequest of its own node: send that to one of its sockets")
        if self._remote_calls >= REMOTE_CALLS_MAX:
            self.counters["refused"] += 1
            return problem_message(
                Problem("busy", f"{REMOTE_CALLS_MAX} requests of other nodes are in hand", "try again in a second")
            )
        principal = principal_of_node(delivery.sender.address.node, delivery.standing)
        self._remote_calls += 1
        left_s = REMOTE_CALL_S_MAX if delivery.deadline is None else max(0.0, delivery.deadline - self.system.clock())
        self.tasks.start_soon(self._answer, request, principal, reply_to, left_s)
        return LATER

    async def _answer(self, request: HttpRequest, principal: Principal, reply_to: ReplyTo, left_s: float) -> None:
        self.counters["remote_requests"] += 1
        try:
            with anyio.move_on_after(left_s) as scope:
                reply_to.answer(await run_app(self.app, request, principal))
            if scope.cancelled_caught:
                self.counters["late"] += 1
        finally:
            self._remote_calls -= 1

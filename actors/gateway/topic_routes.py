"""`/atoll/v1/topics`: publishing, and subscribing as a stream of JSON, a line an event.

An empty line comes where nothing else does, so that either end finds out when the other one has gone.
"""

import base64
import contextlib
from datetime import UTC, datetime

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atoll.actors.container_manager.errors import ContainerError
from atoll.actors.gateway.bodies import whole_body
from atoll.actors.gateway.client_presence import while_there
from atoll.actors.gateway.door import Door
from atoll.actors.gateway.http_line import ClientGone
from atoll.actors.gateway.ports import NodePort
from atoll.actors.gateway.problems import Problem
from atoll.actors.gateway.replies import json_reply
from atoll.actors.gateway.topic_views import (
    EndEvent,
    MessageEvent,
    MissedEvent,
    ReadyEvent,
    TopicEvent,
    WayFoundEvent,
    WayLostEvent,
)
from atoll.actors.topics.errors import GateLost
from atoll.actors.topics.messages import PAYLOAD_BYTES_MAX, Publication
from atoll.actors.topics.orders import WayFound, WayLost
from atoll.actors.topics.ring import Missed
from atoll.actors.topics.subscription import Event, Subscription

SIGN_OF_LIFE_S = 10.0
LINES = "application/x-ndjson"
TIME_MS_MAX = 253_402_300_799_000
"""The end of the year 9999: no time beyond has a form."""
_encoder = msgspec.json.Encoder()


class TopicRoutes(msgspec.Struct, frozen=True):
    """The endpoints."""

    node: NodePort

    def routes(self, door: Door) -> list[Route]:
        """Give the routes behind `door`."""
        return [
            door.route("GET", "/atoll/v1/topics", self.subscribe),
            door.route("POST", "/atoll/v1/topics/{topic:path}", self.publish),
            door.route("GET", "/atoll/v1/pubsub", self.describe),
        ]

    async def publish(self, request: Request) -> Response:
        """Publish the body."""
        payload = await whole_body(request, PAYLOAD_BYTES_MAX)
        to = request.query_params.get("to", "")
        return json_reply(await self.node.topics.publish(request.path_params["topic"], payload, to))

    async def subscribe(self, request: Request) -> Response:
        """Every event from now on."""
        filters = request.query_params.getlist("filter")
        if not filters:
            raise Problem("bad-input", "no filter says what is wanted", "add ?filter=sensors/%2B/temperature, or more")
        source = request.query_params.get("from", "")
        return _Lines(await self.node.topics.subscribe(filters, source))

    async def describe(self, _request: Request) -> Response:
        """Who reads topics here, and how the joins do."""
        return json_reply(await self.node.topics.describe())


def event_of(event: Event) -> TopicEvent:
    """Say an event of a subscription in the words of the interface."""
    match event:
        case Publication():
            try:
                payload, encoding = event.payload.decode(), "utf-8"
            except UnicodeDecodeError:
                payload, encoding = base64.b64encode(event.payload).decode(), "base64"
            when = datetime.fromtimestamp(min(event.time_ms, TIME_MS_MAX) / 1000, UTC)
            return MessageEvent(
                topic=event.topic,
                payload=payload,
                encoding="utf-8" if encoding == "utf-8" else "base64",
                node=str(event.node),
                epoch=event.boot.hex(),
                sequence=event.sequence,
                time=when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            )
        case Missed(count):
            return MissedEvent(count=count)
        case WayLost(why):
            return WayLostEvent(why=why)
        case WayFound():
            return WayFoundEvent()


class _Lines(Response):
    """The events of a subscription, as long as the client reads them."""

    def __init__(self, subscription: Subscription) -> None:
        super().__init__(media_type=LINES)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self._subscription = subscription

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them until the client has gone, or the subscription has ended."""
        del scope
        async with self._subscription:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            with contextlib.suppress(ClientGone):
                await while_there(receive, lambda: self._send(send))

    async def _send(self, send: Send) -> None:
        subscription = self._subscription
        source = "" if subscription.source is None else str(subscription.source)
        event: TopicEvent | None = ReadyEvent(filters=list(subscription.filters), node=source)
        while not isinstance(event, EndEvent):
            line = b"\n" if event is None else _encoder.encode(event) + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
            event = None
            with anyio.move_on_after(SIGN_OF_LIFE_S):
                try:
                    event = event_of(await subscription.next())
                except ContainerError as error:
                    event = EndEvent(why=str(error), again=isinstance(error, GateLost))
        await send({"type": "http.response.body", "body": _encoder.encode(event) + b"\n", "more_body": False})

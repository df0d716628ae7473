"""The gateway's Starlette application, put together.

    socket --> http_server --> Starlette --> door (who, may it) --> route --> NodePort
    another node's gateway --> run_app ---------^

Routes: `/atoll/v1` (the node), `/mcm/v1` (the published interface), `/at/{node}/…` (other nodes), the node's own small
documents, and everything that is left: services.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atoll.actors.gateway.actor_routes import ActorRoutes
from atoll.actors.gateway.blob_routes import BlobRoutes
from atoll.actors.gateway.call_routes import CallRoutes
from atoll.actors.gateway.door import Door
from atoll.actors.gateway.forward_routes import ForwardRoutes
from atoll.actors.gateway.mcm_routes import McmRoutes
from atoll.actors.gateway.mcm_views import NodeConfiguration
from atoll.actors.gateway.node_routes import NodeRoutes
from atoll.actors.gateway.openapi import openapi_document
from atoll.actors.gateway.ports import NodePort
from atoll.actors.gateway.replies import HANDLERS, json_reply
from atoll.actors.gateway.topic_routes import TopicRoutes

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def make_app(node: NodePort, *, api_key: str, spool: Path, counters: Mapping[str, int] | None = None) -> Starlette:
    """Make the application: `node` answers, `api_key` opens TCP, `spool` is a folder for uploads in passing.

    `counters` are the server's, for `/metrics`.
    """
    door = Door.of_this_process(api_key)
    documents = _Documents(node, Counter() if counters is None else counters, openapi_document())
    own = [
        *documents.routes(door),
        *NodeRoutes(node, spool).routes(door),
        *ActorRoutes(node).routes(door),
        *BlobRoutes(node).routes(door),
        *ForwardRoutes(node).routes(door),
        *TopicRoutes(node).routes(door),
        *McmRoutes(node, spool).routes(door),
    ]
    app = Starlette(
        routes=[*own, *CallRoutes(node, door, list(own)).routes(door)],
        exception_handlers=HANDLERS,
    )
    # A service's path is its own affair: no redirect may add or take a slash.
    app.router.redirect_slashes = False
    return app


class _Documents(msgspec.Struct, frozen=True):
    node: NodePort
    counters: Mapping[str, int]
    openapi: bytes

    def routes(self, door: Door) -> list[Route]:
        return [
            door.route("GET", "/.well-known/node-configuration", self.configuration),
            door.route("GET", "/openapi.json", self.describe),
            door.route("GET", "/metrics", self.metrics),
        ]

    async def configuration(self, _request: Request) -> Response:
        return json_reply(NodeConfiguration())

    async def describe(self, _request: Request) -> Response:
        return Response(self.openapi, media_type="application/json")

    async def metrics(self, _request: Request) -> Response:
        """Counters in Prometheus' text form."""
        status = await self.node.status()
        values = {f"atoll_{_metric(name)}_total": value for name, value in status.counters.items()}
        values |= {f"atoll_gateway_{_metric(name)}_total": value for name, value in self.counters.items()}
        lines = [f"# TYPE {name} counter\n{name} {value}\n" for name, value in sorted(values.items())]
        lines.append(f"# TYPE atoll_links gauge\natoll_links {len(status.links)}\n")
        return Response("".join(lines), headers={"content-type": METRICS_TYPE})


def _metric(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)

"""What a relay counts, for its operator: Prometheus' text and a short JSON, over HTTP on an address of its own.

    GET /metrics  -->  counters since the start and present numbers
    GET /status   -->  the same in short, as JSON: what `atoll relay status` shows

It says how much and why not, never who: no id of a node, site, tunnel or ticket is in it, nor an address.
By default it is on loopback, and off; whoever reads it learns how busy the relay is.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import msgspec
import psutil
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atoll.actors.gateway.http_server import Limits, Listening, bind_tcp, serve_http
from atoll.actors.tunnel_relay.relay import Relay

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
READERS_MAX = 16
"""One or two collectors and a person; each costs a descriptor."""
BODY_BYTES_MAX = 1024
PREFIX = "atoll_relay_"

GAUGES = {
    "bearer_tunnels": "Tunnels that are open now",
    "bearer_tunnels_max": "Tunnels that there is room for",
    "bearer_waiting": "Halves of tunnels that wait for the other half",
    "bearer_preambles": "Bearer connections that have not shown a ticket yet",
    "bearer_pipes": "Kernel pipes in the pool, lent or free",
    "bearer_pipes_max": "Kernel pipes that the pool may have",
    "bearer_spilled_bytes": "Bytes held in memory because all pipes are lent",
    "sep_connections": "Connections at the SEP port",
    "sep_new": "Connections at the SEP port without a ticket yet",
    "sep_registrations": "Registrations of sites",
    "sep_labels": "Labels that can be called",
    "sep_circuits": "Circuits from callers to labels",
    "sep_grants": "SEP tickets whose spending is remembered",
    "websocket_open": "WebSockets that are open",
    "websocket_handshakes": "WebSockets that are not open yet",
    "draining": "1 while the relay lets those who are here move away",
    "descriptors": "Open files of all its processes",
    "descriptors_max": "Open files that they may have",
}
COUNTERS = {
    "bearer_forwarded_bytes": "Bytes that tunnels have carried, both directions",
    "bearer_tunnels_joined": "Tunnels that were opened",
    "bearer_accepted": "Bearer connections that were taken",
    "bearer_addresses_told": "Questions of STUN that were answered",
    "bearer_accept_failed": "Times that no connection could be taken, mostly for want of descriptors",
    "bearer_pauses": "Times that a tunnel waited for its rate",
    "bearer_spills": "Times that a blocked pipe was emptied into memory",
    "bearer_preamble_left": "Bearer connections that left before they had shown a ticket",
    "bearer_waiting_left": "Halves of tunnels that left while they waited",
    "sep_admitted": "Tickets that were admitted at the SEP port",
    "sep_times_scarce": "Times that the SEP port ran short of descriptors, and let one go for each that came",
    "websocket_accepted": "Connections at the WebSocket port that were taken",
    "websocket_accept_failed": "Times that no connection could be taken there",
    "bearer_shed": "Bearer connections that were let go at once for want of descriptors",
    "sep_notices_dropped": "Notices that found no sender any more",
}
BY_REASON = {
    "bearer_refused_": ("bearer_refused", "Connections at the bearer port that were refused", "reason"),
    "bearer_tunnels_ended_": ("bearer_tunnels_ended", "Tunnels that are over", "reason"),
    "websocket_refused_": ("websocket_refused", "Connections at the WebSocket port that were let go", "reason"),
    "sep_refused_": ("sep_refused", "Refusals at the SEP port", "reason"),
    "sep_undelivered_": ("sep_undelivered", "Records that were not passed on", "reason"),
    "sep_cut_": ("sep_cut", "Connections at the SEP port that were cut", "reason"),
    "sep_records_": ("sep_records", "Records that were passed on", "direction"),
}
"""Counters of one kind, by the beginning of their names; the rest of the name is the label."""


class RelayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a relay is doing, in short."""

    draining: bool
    tunnels: int
    tunnels_max: int
    waiting: int
    registrations: int
    connections: int
    circuits: int
    forwarded_bytes: int
    descriptors: int
    descriptors_max: int
    pipes: int
    pipes_max: int
    refusals: dict[str, int]
    """By reason, all ports together, since the start."""


def numbers_of(relay: Relay) -> dict[str, int]:
    """Give all that a relay counts."""
    used = most = 0
    for pid in relay.processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            used += process.num_fds()
            most += process.rlimit(psutil.RLIMIT_NOFILE)[0]
    return {**relay.statistics(), "draining": int(relay.draining), "descriptors": used, "descriptors_max": most}


def status_of(numbers: dict[str, int]) -> RelayStatus:
    """Say it in short."""
    refusals: dict[str, int] = {}
    for name, value in numbers.items():
        for port in ("bearer_refused_", "sep_refused_", "websocket_refused_"):
            if value and name.startswith(port):
                reason = name.removeprefix(port)
                refusals[reason] = refusals.get(reason, 0) + value
    return RelayStatus(
        draining=bool(numbers["draining"]),
        tunnels=numbers["bearer_tunnels"],
        tunnels_max=numbers["bearer_tunnels_max"],
        waiting=numbers["bearer_waiting"],
        registrations=numbers["sep_registrations"],
        connections=numbers["sep_connections"],
        circuits=numbers["sep_circuits"],
        forwarded_bytes=numbers["bearer_forwarded_bytes"],
        descriptors=numbers["descriptors"],
        descriptors_max=numbers["descriptors_max"],
        pipes=numbers["bearer_pipes"],
        pipes_max=numbers["bearer_pipes_max"],
        refusals=dict(sorted(refusals.items())),
    )


def families(numbers: dict[str, int]) -> Iterator[Metric]:
    """Give the numbers as Prometheus has them; what has no name of its own here is not shown."""
    for name, what in GAUGES.items():
        yield GaugeMetricFamily(PREFIX + name, what, numbers.get(name, 0))
    for name, what in COUNTERS.items():
        yield CounterMetricFamily(PREFIX + name, what, numbers.get(name, 0))
    for beginning, (name, what, label) in BY_REASON.items():
        family = CounterMetricFamily(PREFIX + name, what, labels=[label])
        for each, value in sorted(numbers.items()):
            if each.startswith(beginning):
                family.add_metric([each.removeprefix(beginning)], value)
        yield family


class _RelayCollector(Collector):
    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def collect(self) -> Iterator[Metric]:
        return families(numbers_of(self._relay))


def metrics_app(relay: Relay) -> Starlette:
    """Make the application that answers with a relay's numbers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_RelayCollector(relay))
    ProcessCollector(registry=registry)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), headers={"content-type": METRICS_TYPE})

    async def status(_request: Request) -> Response:
        return Response(msgspec.json.encode(status_of(numbers_of(relay))), media_type="application/json")

    return Starlette(routes=[Route("/metrics", metrics), Route("/status", status)])


@asynccontextmanager
async def telling_metrics(relay: Relay, *, host: str, port: int) -> AsyncIterator[Listening]:
    """Answer on this address for the time of the block; port 0 takes any free one.

    Raises:
        WorldError: The port cannot be opened; the text says why and what to do.
    """
    listening = await bind_tcp(host, port, setting="metrics.port")
    limits = Limits(connections_max=READERS_MAX, body_bytes_max=BODY_BYTES_MAX)
    async with anyio.create_task_group() as tasks:
        await tasks.start(_serve, metrics_app(relay), listening, limits)
        yield listening
        tasks.cancel_scope.cancel()


async def _serve(
    app: Starlette,
    listening: Listening,
    limits: Limits,
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    await serve_http(app, [listening], limits=limits, task_status=task_status)

"""What a relay is made of, from its config: its ports, its metrics, and where a cloud is told of it the reporter.

    relay   its two ports (`Relay`), metrics (`telling_metrics`); router, uplink, reporter (`reporting`)

It imports nothing of what only nodes need, and the rest when it is wanted: a relay is small.
"""

import logging
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from atoll.actors.runtime.own_faults import own_faults
from atoll.actors.runtime.state_dir import held_state_dir
from atoll.actors.tunnel_relay.bearer_server import BearerLimits
from atoll.actors.tunnel_relay.relay import WEBSOCKET_DESCRIPTORS, Relay
from atoll.actors.tunnel_relay.tickets import NO_RATE, UNLIMITED
from atoll.cluster_specs.config import RelayConfig
from atoll.transport.keys import NodeKey

if TYPE_CHECKING:
    from atoll.actors.tunnel_relay.websocket_server import WebSocketSettings

log = logging.getLogger("atoll.relay")

TURN_S = 0.0005
"""For one thread, before another one may have the interpreter; Python's own 5 ms are what a good peer would wait."""


@contextmanager
def _quick_turns() -> Iterator[None]:
    """Let the threads of a relay take turns as often as its good peers need it, and not each 5 ms.

    The data path gives the interpreter's lock away with every system call, and under a flood of the SEP it would wait
    for it as long as another thread may keep it.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


def _websocket(config: RelayConfig) -> "WebSocketSettings | None":
    if config.websocket.port < 0:
        return None
    from atoll.actors.tunnel_relay.certificate import make_certificate_if_none  # noqa: PLC0415
    from atoll.actors.tunnel_relay.websocket_server import WebSocketSettings  # noqa: PLC0415

    certificate, key = (config.state_dir / each for each in (config.websocket.certificate, config.websocket.key))
    make_certificate_if_none(certificate, key)
    return WebSocketSettings(port=config.websocket.port, host=config.listen, certificate=certificate, key=key)


def _bearer_limits(config: RelayConfig) -> BearerLimits:
    limits = config.limits
    return BearerLimits(
        tunnels_max=limits.tunnels,
        quota_bytes_max=limits.tunnel_bytes or UNLIMITED,
        rate_bytes_s_max=limits.tunnel_bytes_s or NO_RATE,
        others_descriptors=WEBSOCKET_DESCRIPTORS if config.websocket.port >= 0 else 0,
    )


@asynccontextmanager
async def open_relay(config: RelayConfig) -> AsyncIterator[Relay]:
    """Run a relay, and tell the cloud of it if the config says where both are.

    Raises:
        UsageError: A port is taken, or a file is damaged.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(held_state_dir(config.state_dir))
        key = NodeKey.load_or_create(config.key_file)
        stack.enter_context(_quick_turns())
        relay = await stack.enter_async_context(
            Relay(
                key,
                config.cloud.id,
                sep_port=config.sep_port,
                bearer_port=config.bearer_port,
                host=config.listen,
                limits=_bearer_limits(config),
                sep_bytes_s=config.limits.sep_bytes_s or NO_RATE,
                websocket=_websocket(config),
                workers=config.workers,
            )
        )
        if config.metrics.port >= 0:
            # Imported where it is wanted: it takes 5 MB, and the reporter 8.
            from atoll.actors.tunnel_relay.relay_metrics import telling_metrics  # noqa: PLC0415

            metrics = await stack.enter_async_context(
                telling_metrics(relay, host=config.metrics.host, port=config.metrics.port)
            )
            log.info("metrics at %s/metrics", metrics.url)
        if config.cloud.host and config.host:
            from atoll.actors.tunnel_relay.reporter import reporting_to  # noqa: PLC0415

            with own_faults():
                await stack.enter_async_context(reporting_to(config.cloud, relay, key, config.name, config.host))
        yield relay

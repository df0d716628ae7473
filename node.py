"""The composition root: what a process of Atoll is made of. Today a relay; nodes and the cloud follow."""

import signal
import sys

import anyio

from atoll.actors.tunnel_relay.relay import DRAIN_S, Relay
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey


async def run_relay(key: NodeKey, issuer: NodeId, host: str, sep_port: int, bearer_port: int) -> None:
    """Serve a relay until it is told to end; says on stderr where it listens, and its id, which tickets name.

    SIGINT ends it at once. SIGTERM drains: nobody new is taken and registrations are told to move; a second signal, or
    the drain time, ends it.

    Raises:
        UsageError: A port cannot be opened.
    """
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with Relay(key, issuer, sep_port=sep_port, bearer_port=bearer_port, host=host) as relay:
            sys.stderr.write(
                f"relay {relay.node_id}: SEP on {host}:{relay.sep_port}, bearers on {host}:{relay.bearer_port},"
                f" taking tickets of {issuer.short}\n"
            )
            if await anext(signals) == signal.SIGINT:
                return
            relay.drain()
            with anyio.move_on_after(DRAIN_S):
                await anext(signals)

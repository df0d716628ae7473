"""Connections that were accepted: read only when somebody asks for it.

AnyIO (4.16) pauses a connection that it has dialled until `receive` is called, and not one that it has accepted: on
asyncio and uvloop its protocol then takes whatever comes, without a bound, while nobody reads.
"""

from typing import Any

from anyio.abc import SocketStream


def read_on_demand(stream: SocketStream) -> None:
    """Pause a connection that was just accepted; on trio there is nothing to do."""
    transport: Any = getattr(stream, "_transport", None)
    # Not by its type: uvloop's is none of asyncio's.
    if hasattr(transport, "pause_reading") and not transport.is_closing():
        transport.pause_reading()

"""Joins two byte streams: what comes out of one goes into the other, both ways, each direction with its own end.

both open --one side ends--> its direction is done, the other goes on --that ends, too--> done
--one side breaks--> broken: the other is told, and nothing is left open
"""

import contextlib
import socket
import struct
from collections.abc import Callable

import anyio
import anyio.abc
from anyio.abc import ByteStream

CHUNK_BYTES = 256 * 1024
LINGER_OFF = struct.pack("ii", 1, 0)
BROKEN = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Broke(Exception):
    """One of the two is over before its end; the text says which and why."""


async def join(
    near: ByteStream,
    far: ByteStream,
    *,
    count_out: Callable[[int], None],
    count_in: Callable[[int], None],
) -> None:
    """Carry bytes both ways until both directions are done; closes neither.

    Raises:
        Broke: One of the two broke.
    """
    failures: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def copy(
            source: anyio.abc.ByteStream, target: anyio.abc.ByteStream, count: Callable[[int], None]
        ) -> None:
            try:
                while True:
                    try:
                        data = await source.receive(CHUNK_BYTES)
                    except anyio.EndOfStream:
                        await target.send_eof()
                        return
                    await target.send(data)
                    count(len(data))
            except BROKEN as error:
                failures.append(str(error) or "the connection broke")
                tasks.cancel_scope.cancel()

        tasks.start_soon(copy, near, far, count_out)
        tasks.start_soon(copy, far, near, count_in)
    if failures:
        raise Broke(failures[0])


def abort_on_close(stream: anyio.abc.SocketStream) -> None:
    """Let its close be a reset: who reads from it must not take what broke for its end."""
    # A connection that broke by itself has no socket any more: a ValueError with uvloop.
    with contextlib.suppress(OSError, ValueError, AttributeError, LookupError):
        sock = stream.extra(anyio.abc.SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)

"""Runs one process in the foreground: log, signals, and what a service manager wants to know.

    starting --READY=1--> running --SIGINT, SIGTERM, SIGHUP--> stopping --> exit 0
             --it cannot start--> exit 1 with what to do

Only commands do this: a program that embeds a node keeps its own signals and its own log.
"""

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import anyio

from atoll.actors.runtime.allocator import keep_memory_for_bursts
from atoll.actors.runtime.stall_watch import stall_watch
from atoll.cli.output import fail
from atoll.transport.errors import TransportError

DRAIN_LOOK_S = 0.1
END_S = 10.0
"""What the end itself may take, after that."""


def notify(state: str) -> None:
    """Tell the service manager, if there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            sys.stderr.write(f"atoll: the service manager cannot be told {state}: {error}\n")


@dataclass(frozen=True, slots=True)
class Drain:
    """How a process that is told SIGTERM lets go of those whom it serves; a second signal ends it sooner."""

    begin: Callable[[Any], None]
    done: Callable[[Any], bool]
    within_s: float
    """How long they may take to go elsewhere."""


class _JsonLines(logging.Formatter):
    """One JSON object a line, for collectors."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def set_up_log(level: str, *, as_json: bool) -> None:
    """Write the log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _ending_signals() -> list[signal.Signals]:
    """Give the signals that end a process; that of a closed terminal only where nobody (nohup) has it ignored."""
    closed = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *closed]


def _patience_us(drain: Drain) -> int:
    """Say how long the service manager should wait before it kills, whatever its own settings say."""
    return int((drain.within_s + END_S) * 1e6)


async def _first_of(signals: Any, done: Callable[[], bool]) -> None:
    """Wait for another signal, or until it is done."""
    async with anyio.create_task_group() as tasks:

        async def second_signal() -> None:
            await anext(signals)
            tasks.cancel_scope.cancel()

        tasks.start_soon(second_signal)
        while not done():  # noqa: ASYNC110 - counters have no event
            await anyio.sleep(DRAIN_LOOK_S)
        tasks.cancel_scope.cancel()


def run_in_foreground(
    opened: Callable[[], AbstractAsyncContextManager[Any]],
    said: Callable[[Any], str],
    *,
    remedy: str,
    drain: Drain | None = None,
) -> None:
    """Open, say what runs, wait for a signal, close; `said` words what was opened, `remedy` what helps if it fails."""
    keep_memory_for_bursts()

    async def serve() -> None:
        with anyio.open_signal_receiver(*_ending_signals()) as signals:
            async with opened() as running, stall_watch(notify):
                sys.stderr.write(said(running) + "\n")
                notify("READY=1")
                received = await anext(signals)
                drained = drain if received == signal.SIGTERM else None
                notify("STOPPING=1" + (f"\nEXTEND_TIMEOUT_USEC={_patience_us(drained)}" if drained else ""))
                if drained is not None:
                    drained.begin(running)
                    with anyio.move_on_after(drained.within_s):
                        await _first_of(signals, lambda: drained.done(running))

    try:
        anyio.run(serve, backend_options={"use_uvloop": sys.platform != "win32"})
    except BaseExceptionGroup as group:
        said_in_words, others = group.split((TransportError, OSError))
        if said_in_words is None or others is not None:
            # What is a mistake of ours is shown whole, whatever else went wrong with it.
            raise
        error: BaseException = said_in_words
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        fail(str(error), remedy)
    except (TransportError, OSError) as error:
        fail(str(error), remedy)

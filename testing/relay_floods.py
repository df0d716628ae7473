"""A relay under floods, and what its good peers notice of them.

    with good_peers(relay) as peers:
        finding = flooded(relay, peers, Flood("forged", "bearer", 5000), seconds=10)

A good peer sends a small message through its tunnel, another one a record over the SEP, a hundred times a second each,
and both are timed. Floods come from processes of their own (`relay_flood_source.py`), over real sockets.
"""

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import psutil

from atoll.actors.tunnel_relay.frames import Accepted, Inbound, Returned
from atoll.actors.tunnel_relay.tickets import Role
from atoll.testing.relay_program import PATIENCE_S, RelayProgram

PACE_S = 0.01
MESSAGE = b"m" * 64
LABEL = b"l" * 16
SETTLE_S = 0.5
"""How long a flood runs before anything is measured."""


@dataclass(frozen=True, slots=True)
class Flood:
    """What comes, at which port (`bearer` or `sep`), and how many a second; for `idle`, how many at once."""

    kind: str
    port: str
    rate: int

    def __str__(self) -> str:
        """Name it for tables."""
        each = "connections" if self.kind == "idle" else "a second"
        return f"{self.kind} at the {self.port} port, {self.rate} {each}"


@dataclass(slots=True)
class GoodPeers:
    """Round trips of those who do nothing wrong, in seconds, by the path they go; and what broke."""

    trips: dict[str, list[float]] = field(default_factory=lambda: {"bearer": [], "sep": []})
    broken: list[str] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """Begin to measure."""
        self.trips = {"bearer": [], "sep": []}

    def over_bearer(self, relay: RelayProgram) -> None:
        """Go to and fro through a tunnel until the end; for a thread."""
        try:
            one, other = relay.tunnel()
            with one, other:
                for sock in (one, other):
                    sock.settimeout(PATIENCE_S)
                while not self.ending.wait(PACE_S):
                    began = time.perf_counter()
                    for near, far in ((one, other), (other, one)):
                        near.sendall(MESSAGE)
                        _read(far, len(MESSAGE))
                    self.trips["bearer"].append(time.perf_counter() - began)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the measurement
            self.broken.append(f"bearer: {error!r}")

    def over_sep(self, relay: RelayProgram) -> None:
        """Call and be answered until the end; for a thread."""
        try:
            anyio.run(self._call, relay)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the measurement
            self.broken.append(f"sep: {error!r}")

    async def _call(self, relay: RelayProgram) -> None:
        registration = os.urandom(16)
        async with relay.sep(Role.REGISTER, registration) as proxy, relay.sep(Role.REACH, registration) as caller:
            proxy.set_labels([LABEL])
            while not isinstance(await proxy.receive(), Accepted):
                pass
            async with anyio.create_task_group() as tasks:

                async def serve() -> None:
                    while True:
                        match await proxy.receive():
                            case Inbound(circuit, _, record):
                                proxy.answer(circuit, record)

                tasks.start_soon(serve)
                while not self.ending.is_set():
                    began = time.perf_counter()
                    caller.call(LABEL, MESSAGE)
                    with anyio.fail_after(PATIENCE_S):
                        while not isinstance(await caller.receive(), Returned):
                            pass
                    self.trips["sep"].append(time.perf_counter() - began)
                    await anyio.sleep(PACE_S)
                tasks.cancel_scope.cancel()


def _read(sock: socket.socket, count: int) -> None:
    while count:
        count -= len(sock.recv(count)) or _ended()


def _ended() -> int:
    raise ConnectionResetError("the tunnel ended")


@contextmanager
def good_peers(relay: RelayProgram) -> Iterator[GoodPeers]:
    """Keep two good peers busy for the time of the block."""
    peers = GoodPeers()
    threads = [threading.Thread(target=go, args=(relay,), daemon=True) for go in (peers.over_bearer, peers.over_sep)]
    for thread in threads:
        thread.start()
    try:
        yield peers
    finally:
        peers.ending.set()
        for thread in threads:
            thread.join(2 * PATIENCE_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a flood did."""

    flood: str
    made: int
    """Connections the flood took."""
    trips: dict[str, list[float]]
    cpu: float
    """Of a core, the relay's."""
    rss_mb: float
    files: int
    """Open files of the relay, the most that were seen."""
    refused: dict[str, int]

    def percentile_ms(self, path: str, part: float) -> float:
        """Give a percentile of the round trips over `bearer` or `sep`, in ms; infinite where there was none."""
        trips = sorted(self.trips[path])
        return trips[min(len(trips) - 1, int(len(trips) * part))] * 1e3 if trips else math.inf

    def line(self) -> str:
        """Say it in a line."""
        shown = "; ".join(
            f"{path} p50 {self.percentile_ms(path, 0.5):.2f} p99 {self.percentile_ms(path, 0.99):.1f} "
            f"max {self.percentile_ms(path, 1.0):.1f} ms of {len(self.trips[path])}"
            for path in self.trips
        )
        return (
            f"{self.flood}: {self.made} came; {shown}; relay {self.cpu * 100:.0f} % of a core, {self.rss_mb:.0f} MB, "
            f"{self.files} files; refused {self.refused}"
        )


def flooded(relay: RelayProgram, peers: GoodPeers, flood: Flood | None, seconds: float) -> Finding:
    """Flood a relay (None: leave it in peace) and tell what its good peers noticed; in `broken`, whether they broke."""
    before = relay.status()["refusals"]
    source: subprocess.Popen[str] | None = None
    if flood is not None:
        port = relay.port if flood.port == "bearer" else relay.sep_port
        words = [flood.kind, str(port), str(flood.rate), str(seconds + SETTLE_S)]
        words += [relay.tickets()[0].hex()] if flood.kind == "forged" else []
        command = [sys.executable, "-m", "atoll.testing.relay_flood_source", *words]
        source = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
    try:
        time.sleep(SETTLE_S)
        peers.forget()
        cpu_s, began, files = relay.cpu_s(), time.monotonic(), 0
        process = psutil.Process(relay.process.pid)
        while time.monotonic() < began + seconds:
            files = max(files, process.num_fds())
            time.sleep(seconds / 20)
        took_s = time.monotonic() - began
        used, trips, rss_mb = (relay.cpu_s() - cpu_s) / took_s, peers.trips, relay.rss_mb()
        made = int(source.communicate(timeout=PATIENCE_S)[0]) if source is not None else 0
    finally:
        if source is not None:
            source.kill()
            source.wait()
    after = relay.status()["refusals"]
    refused = {
        reason: count - before.get(reason, 0) for reason, count in after.items() if count > before.get(reason, 0)
    }
    return Finding(
        flood=str(flood or "peace"), made=made, trips=trips, cpu=used, rss_mb=rss_mb, files=files, refused=refused
    )

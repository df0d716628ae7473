"""The door of a relay with several workers: it reads what connections show, and passes each to the worker of its purse.

    accepted --a whole preamble--> passed on (SCM_RIGHTS) to the worker of its purse, or of its tunnel where it has none
             --garbage, too slow--> refused here

Whatever is counted together is in one worker, so quotas, rates, the newest connection of a role and the tunnels of a
purse hold as in one process. A worker that ends takes the relay with it: a new one would have forgotten what was spent.
"""

import contextlib
import json
import socket
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from atoll.actors.tunnel_relay.bearer_server import BearerLimits, BearerServer
from atoll.actors.tunnel_relay.bearer_worker import DRAIN, DRAINING, TICKET, settings_of
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import counted_by
from atoll.transport.errors import Unreachable
from atoll.transport.identity import NodeId

STATISTICS_BYTES_MAX = 16_384
END_S = 5.0
"""For a worker to end by itself, before it is killed."""


class Worker:
    """A process that serves some of the tunnels."""

    def __init__(self, relay: NodeId, issuer: NodeId, limits: BearerLimits) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "atoll.actors.tunnel_relay.bearer_worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        self.control.send(settings_of(relay, issuer, limits))
        self.control.setblocking(False)
        self.statistics: dict[str, int] = {}

    def take(self, ticket: bytes, sock: socket.socket) -> Reason | None:
        """Pass a connection on; a reason when it takes nothing now."""
        try:
            socket.send_fds(self.control, [TICKET + ticket], [sock.fileno()])
        except OSError:
            return Reason.FULL
        return None

    async def watch(self) -> None:
        """Read what it tells until it ends.

        Raises:
            Unreachable: It has ended.
        """
        while True:
            await anyio.wait_readable(self.control)
            try:
                data = self.control.recv(STATISTICS_BYTES_MAX)
            except BlockingIOError:
                continue
            if not data:
                raise Unreachable(
                    f"a worker of this relay (process {self.process.pid}) has ended; what it said stands above. "
                    "Start the relay again"
                )
            self.statistics = json.loads(data)

    def close(self) -> None:
        """End it, with its tunnels."""
        self.control.close()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class BearerWorkers:
    """The bearer port with workers behind it: serves as a `BearerServer` does, and is asked in the same words."""

    def __init__(
        self, *, relay: NodeId, issuer: NodeId, host: str, port: int, limits: BearerLimits, count: int
    ) -> None:
        share = limits.divided_by(count)
        self._door = BearerServer(
            relay=relay, issuer=issuer, host=host, port=port, limits=limits, dispatch=self._dispatch
        )
        self.port = self._door.port
        self.run, self.stop, self.adopt = self._door.run, self._door.stop, self._door.adopt
        self._workers: list[Worker] = []
        self._draining = False
        try:
            for _ in range(count):
                self._workers.append(Worker(relay, issuer, share))
        except BaseException:
            self.close()
            raise

    def _dispatch(self, ticket: bytes, sock: socket.socket) -> Reason | None:
        if self._draining:
            return Reason.DRAINING
        together = counted_by(ticket)
        if together is None:
            return Reason.MALFORMED
        return self._workers[zlib.crc32(together) % len(self._workers)].take(ticket, sock)

    @property
    def pids(self) -> list[int]:
        """Name the workers' processes."""
        return [each.process.pid for each in self._workers]

    def watchers(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """Give what is to be run beside `run`: it raises when a worker ends."""
        return [each.watch for each in self._workers]

    def drain(self) -> None:
        """Take no new tunnels, and let go of who waits for one. From any thread."""
        self._draining = True
        for worker in self._workers:
            # One that takes nothing now has its hands full, or has ended; the door refuses whoever comes.
            with contextlib.suppress(OSError):
                worker.control.send(DRAIN)

    def statistics(self) -> dict[str, int]:
        """Counters since the start and present numbers, of all together; those of workers are 0.2 s old at most."""
        numbers = Counter(self._door.statistics())
        for name in ("tunnels_max", "pipes", "pipes_max"):
            del numbers[name]
        for worker in self._workers:
            numbers.update(worker.statistics)
        del numbers[DRAINING]
        return dict(numbers)

    @property
    def up_to_date(self) -> bool:
        """Whether, after a drain, every worker has told its numbers of after it: only then is nobody really nobody."""
        return all(each.statistics.get(DRAINING) for each in self._workers)

    def close(self) -> None:
        """Let everybody go."""
        for worker in self._workers:
            worker.close()
        self._door.close()

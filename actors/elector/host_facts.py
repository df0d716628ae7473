"""Keeps what this node's host is like, fresh: for the election, and for members who ask.

Announces `ScoreChanged` when a class changes. What the config says takes the place of a measurement in the election;
what people are shown is measured.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from atoll.actors.elector.messages import ScoreChanged
from atoll.actors.elector.score import NodeFacts, Score, score_of
from atoll.actors.host.details import measure_host, wired
from atoll.actors.host.messages import DescribeHost, HostDetails
from atoll.actors.runtime.actor import LATER, Actor, Delivery
from atoll.actors.uplink.messages import CloudSeen
from atoll.transport.base import Standing
from atoll.transport.naps import beat
from atoll.transport.network_watch import NetworkChanged

MEASURE_S = 10.0
"""Facts change slowly and a measurement costs a millisecond."""


class StatedFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the config says in place of a measurement; None: measure."""

    on_mains: bool | None = None
    wired: bool | None = None
    memory_free_bytes: int | None = None


def measure(said: StatedFacts, host: HostDetails, *, cloud_reachable: bool, started_at: float) -> NodeFacts:
    """Put together what counts in the election; `started_at` is the process's start on the monotonic clock."""
    return NodeFacts(
        on_mains=host.on_mains if said.on_mains is None else said.on_mains,
        wired=wired(host) if said.wired is None else said.wired,
        cloud_reachable=cloud_reachable,
        memory_free_bytes=host.memory_free_bytes if said.memory_free_bytes is None else said.memory_free_bytes,
        processors_idle=host.processors_idle,
        uptime_s=time.monotonic() - started_at,
    )


class HostFacts(Actor):
    """Keeps the Elector informed of this node's fitness; answers `DescribeHost`."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, said: StatedFacts, state_dir: Path, host: Callable[[Path], HostDetails] = measure_host) -> None:
        self._said = said
        self._state_dir = state_dir
        self._measure_host = host
        self._host = host(state_dir)
        self._cloud_reachable = False
        self._score: Score | None = None
        self._started_at = time.monotonic()

    async def started(self) -> None:
        """Begin to measure."""
        self.system.subscribe(CloudSeen, self.ref)
        self.system.subscribe(NetworkChanged, self.ref)
        self._look()
        self.tasks.start_soon(self._keep_looking)

    async def receive(self, delivery: Delivery) -> Any:
        """Note whether the cloud is there; say what the host is like."""
        if isinstance(delivery.message, DescribeHost):
            return self._host
        match delivery.message:
            case CloudSeen(reachable=reachable):
                self._cloud_reachable = reachable
            case NetworkChanged():
                pass
            case _:
                return await super().receive(delivery)
        self._look()
        return LATER

    async def _keep_looking(self) -> None:
        while True:
            await beat(MEASURE_S)
            self._look()

    def _look(self) -> None:
        self._host = self._measure_host(self._state_dir)
        facts = measure(self._said, self._host, cloud_reachable=self._cloud_reachable, started_at=self._started_at)
        score = score_of(facts)
        if score != self._score:
            self._score = score
            self.system.announce(ScoreChanged(score))

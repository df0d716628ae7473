"""Measures this host, for the election: power, wire, memory, processors, uptime. Every value may be set in the config.

Announces `ScoreChanged` when a class changes; what cannot be measured counts as the better case on a machine without a
battery, because servers and containers know neither.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anyio
import psutil

from atoll.actors.elector.messages import ScoreChanged
from atoll.actors.elector.score import NodeFacts, Score, score_of
from atoll.actors.runtime.actor import LATER, Actor, Delivery
from atoll.actors.uplink.messages import CloudSeen
from atoll.transport.base import Standing

MEASURE_S = 10.0
"""Facts change slowly and a measurement costs a millisecond."""
_WIRELESS = Path("/sys/class/net")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedFacts:
    """What the config says in place of a measurement; None: measure."""

    on_mains: bool | None = None
    wired: bool | None = None
    memory_free_bytes: int | None = None


def measure(said: StatedFacts, *, cloud_reachable: bool, started_at: float) -> NodeFacts:
    """Measure the host; `started_at` is the process's start on the monotonic clock."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    plugged = battery is None or bool(battery.power_plugged)
    return NodeFacts(
        on_mains=plugged if said.on_mains is None else said.on_mains,
        wired=_wired() if said.wired is None else said.wired,
        cloud_reachable=cloud_reachable,
        memory_free_bytes=psutil.virtual_memory().available
        if said.memory_free_bytes is None
        else said.memory_free_bytes,
        processors_idle=(psutil.cpu_count() or 1) * (1 - psutil.cpu_percent(interval=None) / 100),
        uptime_s=time.monotonic() - started_at,
    )


def _wired() -> bool:
    """Tell whether an interface that is up is no radio."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup and name != "lo"}
    return not up or any(not (_WIRELESS / name / "wireless").exists() for name in up)


class HostFacts(Actor):
    """Keeps the Elector informed of this node's fitness."""

    open_to: ClassVar[frozenset[Standing]] = frozenset()

    def __init__(self, said: StatedFacts, measure: Callable[..., NodeFacts] = measure) -> None:
        self._said = said
        self._measure = measure
        self._cloud_reachable = False
        self._score: Score | None = None
        self._started_at = time.monotonic()

    async def started(self) -> None:
        """Begin to measure."""
        self.system.subscribe(CloudSeen, self.ref)
        self._look()
        self.tasks.start_soon(self._keep_looking)

    async def receive(self, delivery: Delivery) -> Any:
        """Note whether the cloud is there."""
        if not isinstance(delivery.message, CloudSeen):
            return await super().receive(delivery)
        self._cloud_reachable = delivery.message.reachable
        self._look()
        return LATER

    async def _keep_looking(self) -> None:
        while True:
            await anyio.sleep(MEASURE_S)
            self._look()

    def _look(self) -> None:
        facts = self._measure(self._said, cloud_reachable=self._cloud_reachable, started_at=self._started_at)
        score = score_of(facts)
        if score != self._score:
            self._score = score
            self.system.announce(ScoreChanged(score))

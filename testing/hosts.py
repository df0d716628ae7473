"""Simulated hosts: what one is doing, its drifting clock, its timers."""

import enum
from typing import Any

from atoll.actors.runtime.machine import Seconds
from atoll.testing.disk import Disk
from atoll.transport.identity import NodeId


class State(enum.Enum):
    """What a host is doing."""

    UP = "up"
    DOWN = "down"
    PAUSED = "paused"
    SUSPENDED = "suspended"


class Clock:
    """A host's lease clock: true time seen through an offset and a rate."""

    __slots__ = ("_local", "_true", "rate")

    def __init__(self, local: Seconds, rate: float) -> None:
        self._true, self._local, self.rate = 0.0, local, rate

    def local(self, true: Seconds) -> Seconds:
        """Read the clock at a true time."""
        return self._local + (true - self._true) * self.rate

    def set(self, true: Seconds, rate: float, *, back_s: Seconds = 0.0) -> None:
        """Change the rate from `true` on; `back_s` is what the clock missed while it stood still."""
        self._local, self._true, self.rate = self.local(true) - back_s, true, rate


class Host:
    """One simulated host: a machine, its clock, its disk, its timers."""

    __slots__ = (
        "boots",
        "clock",
        "disk",
        "held",
        "index",
        "machine",
        "node",
        "since",
        "state",
        "timers",
        "torn",
        "turn",
    )

    def __init__(self, index: int, node: NodeId, clock: Clock, disk: Disk) -> None:
        self.index = index
        self.node = node
        self.clock = clock
        self.machine: Any = None
        """The running machine; None while the host is down."""
        self.state = State.DOWN
        self.since: Seconds = 0.0
        self.turn = 0
        """Counts changes of state, so that the end of an earlier one is recognised as such."""
        self.boots = 0
        self.torn: Seconds = 0.0
        """When above zero: die during the next effects that persist, for so long."""
        self.disk = disk
        self.timers: dict[str, tuple[Seconds, int]] = {}
        self.held: list[tuple[Any, ...]] = []

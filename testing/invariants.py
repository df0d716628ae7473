"""What watches a simulation, and what comes out of it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atoll.actors.runtime.machine import Record, Send
from atoll.testing.hosts import Host

if TYPE_CHECKING:
    from atoll.testing.simulator import Simulation


class Invariant:
    """Watches a simulation; override what is needed, and call `Simulation.violate`.

    A subclass keeps what it saw in itself: one instance belongs to one simulation.
    """

    sent_kinds: tuple[type, ...] = ()
    """Messages that `sent` is called for; empty: all."""

    def handled(self, simulation: "Simulation", host: Host) -> None:
        """After every input of a machine, and after its effects."""

    def persisted(self, simulation: "Simulation", host: Host, record: Record) -> None:
        """A record is on disk."""

    def forgot(self, _simulation: "Simulation", host: Host) -> None:
        """A disk has just lost some of its newest records, or all."""

    def sent(self, simulation: "Simulation", host: Host, effect: Send) -> None:
        """A message is on its way, if the network lets it."""

    def announced(self, simulation: "Simulation", host: Host, fact: Any) -> None:
        """A machine announced a fact."""

    def finished(self, simulation: "Simulation") -> None:
        """The run is over."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of a run."""

    seed: int
    trace_hash: str
    violations: tuple[str, ...]
    events: int
    simulated_s: float
    crashes: int
    partitions: int
    elections: int
    changes: int
    """Of what the probes count; for an election, rosters that came into force."""
    gaps_s: tuple[float, ...]
    """Spans without what the probes call service; for an election, without a lease holder."""

"""What can go wrong in a simulation, and how it is drawn.

Faults are facts about hosts and the network between them, by host number; a `FaultPlan` draws them from the
simulation's own seeded randomness, or names them one by one in its `script`. Nothing here knows which machine runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

from atoll.transport.errors import UsageError


@dataclass(frozen=True, slots=True)
class Crash:
    """The process dies, and starts again after `for_s` with what was persisted."""

    host: int
    for_s: float


@dataclass(frozen=True, slots=True)
class Forget:
    """The process dies, and its journal is damaged or lost: at the next start only a beginning of it is there."""

    host: int
    for_s: float


@dataclass(frozen=True, slots=True)
class Tear:
    """The process dies in the middle of its next effects that persist something: some are carried out, some not."""

    host: int
    for_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """The process stands still (SIGSTOP); clocks go on, and the kernel keeps what arrives."""

    host: int
    for_s: float


@dataclass(frozen=True, slots=True)
class Suspend:
    """The host sleeps: timers stop, the lease clock (CLOCK_BOOTTIME) goes on, half of what arrives is lost."""

    host: int
    for_s: float


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing passes from the first to the second of each pair; a new cut replaces the one before."""

    pairs: frozenset[tuple[int, int]]
    for_s: float


@dataclass(frozen=True, slots=True)
class Loss:
    """Every message is lost with this probability."""

    ratio: float
    for_s: float


@dataclass(frozen=True, slots=True)
class Slow:
    """Every message takes up to `extra_s` longer, each for itself: they overtake each other."""

    extra_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class Drift:
    """A host's clock runs at another rate from now on."""

    host: int
    rate: float


@dataclass(frozen=True, slots=True)
class Tell:
    """The machine is told a fact."""

    host: int
    fact: Any


Fault: TypeAlias = Crash | Forget | Tear | Pause | Suspend | Cut | Loss | Slow | Drift | Tell
Span: TypeAlias = tuple[float, float]

KINDS = ("crash", "forget", "tear", "pause", "suspend", "halves", "one_way", "partial", "loss", "slow", "drift", "tell")
EVERYTHING: dict[str, float] = {kind: 1.0 for kind in KINDS if kind not in ("forget", "tell")}
"""All but what needs the machines' help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Which faults come, how often, how bad; the defaults are everything at once, on a LAN."""

    weights: dict[str, float] = field(default_factory=lambda: dict(EVERYTHING))
    """Kind of fault (`KINDS`) to how likely it is; empty for none."""
    every_s: Span = (0.3, 5.0)
    """Time between two faults."""
    until_s: float = float("inf")
    """When faults stop: everything heals at once, what is in flight is lost, every host runs."""
    aim: float = 0.5
    """How often a fault of a host seeks one that matters (see `Simulation.focus`)."""
    latency_s: float = 0.002
    """Mean of an exponential distribution, above a floor of a tenth of it."""
    late_ratio: float = 0.01
    late_s_max: float = 3.0
    duplicate_ratio: float = 0.02
    duplicate_s_max: float = 1.0
    loss_ratio_max: float = 0.4
    slow_s_max: float = 0.8
    crash_s: Span = (0.05, 4.0)
    pause_s: Span = (0.1, 4.0)
    suspend_s: Span = (0.5, 20.0)
    cut_s: Span = (0.5, 6.0)
    drift_max: float = 0.02
    facts: Sequence[Any] = ()
    """What `tell` tells, one at a time."""
    script: Sequence[tuple[float, Fault]] = ()
    """Faults at given times, besides those that are drawn."""
    lease_clock_sleeps: bool = False
    """Wrong on purpose: the lease clock is CLOCK_MONOTONIC, which stands still while the host sleeps."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(KINDS)):
            raise UsageError(f"no fault is called {', '.join(unknown)}; there are {', '.join(KINDS)}")
        if any(at > self.until_s for at, _ in self.script):
            raise UsageError(f"the script goes on after {self.until_s:g} s, when faults stop")
        if self.weights.get("tell") and not self.facts:
            raise UsageError("`tell` has a weight, and there are no facts to tell")

    @property
    def forgets(self) -> bool:
        """Whether disks may lose what was durable."""
        return bool(self.weights.get("forget")) or any(isinstance(fault, Forget) for _, fault in self.script)

    def rate(self, rng: Random) -> float:
        """Draw a clock's rate: at one end of the bound as often as in between, since bugs live at the ends."""
        extreme = rng.choice((-1.0, 1.0))
        return 1 + self.drift_max * (extreme if rng.random() < 0.5 else rng.uniform(-1, 1))

    def draw(self, rng: Random, hosts: int, focused: Sequence[int]) -> Fault:
        """Draw the next fault among `hosts` hosts, of which `focused` matter most at the moment."""
        kinds = sorted(self.weights)
        kind = rng.choices(kinds, [self.weights[kind] for kind in kinds])[0]
        if kind in ("halves", "one_way", "partial"):
            return Cut(_pairs(rng, kind, hosts), rng.uniform(*self.cut_s))
        if kind == "loss":
            return Loss(rng.uniform(0, self.loss_ratio_max), rng.uniform(*self.cut_s))
        if kind == "slow":
            return Slow(rng.uniform(0, self.slow_s_max), rng.uniform(*self.cut_s))
        host = rng.choice(focused) if focused and rng.random() < self.aim else rng.randrange(hosts)
        if kind == "drift":
            return Drift(host, self.rate(rng))
        if kind == "tell":
            return Tell(host, rng.choice(self.facts))
        stops: dict[str, tuple[type[Crash | Forget | Tear | Pause | Suspend], Span]] = {
            "pause": (Pause, self.pause_s),
            "suspend": (Suspend, self.suspend_s),
            "tear": (Tear, self.crash_s),
            "crash": (Crash, self.crash_s),
            "forget": (Forget, self.crash_s),
        }
        stop, for_s = stops[kind]
        return stop(host, rng.uniform(*for_s))


def _pairs(rng: Random, kind: str, hosts: int) -> frozenset[tuple[int, int]]:
    everybody = range(hosts)
    if kind == "partial":
        share = rng.uniform(0.1, 0.6)
        return frozenset((a, b) for a in everybody for b in everybody if a != b and rng.random() < share)
    side = set(rng.sample(everybody, rng.randint(1, max(1, hosts - 1))))
    both = kind == "halves"
    return frozenset((a, b) for a in everybody for b in everybody if (a in side) != (b in side) and (both or a in side))

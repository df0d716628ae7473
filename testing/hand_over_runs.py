"""Runs many simulated hand-overs, over several cores, and adds up what came out; the same seeds give the same sum.

    seed --world_of--> kind, world, faults --run--> Outcome --Sum.add, until enough moves and crashes--> Sum

Of twenty seeds ten have many moves, seven crashes and torn writes in quick succession; one each changes the stores all
the time, empties them, and is a whole site with its own election and placement (`site_hand_overs.py`).
"""

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from atoll.testing.faults import EVERYTHING, FaultPlan, Span
from atoll.testing.hand_overs import HandOverSimulation, hand_over_simulation, world
from atoll.testing.site_hand_overs import SiteHandOverSimulation, site_hand_over_simulation, site_world

KINDS = ("moves",) * 10 + ("crashes",) * 7 + ("stores change", "stores emptied", "site")
FAILING_MAX = 100
CHUNK = 4
_CRASH_S: Span = (0.02, 1.0)
_PAUSE_S: Span = (0.1, 2.0)
_SUSPEND_S: Span = (0.2, 3.0)
_CUT_S: Span = (0.1, 2.0)
_DAMAGED = {**EVERYTHING, "forget": 0.3}


def _plan(every_s: Span, *, until_s: float = float("inf"), weights: dict[str, float] | None = None) -> FaultPlan:
    return FaultPlan(
        every_s=every_s,
        until_s=until_s,
        weights=dict(weights or EVERYTHING),
        crash_s=_CRASH_S,
        pause_s=_PAUSE_S,
        suspend_s=_SUSPEND_S,
        cut_s=_CUT_S,
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one world."""

    seed: int
    kind: str
    simulated_s: float
    moves: int
    changes: int
    """Of stores."""
    relocations: int
    acknowledged: int
    crashes: int
    torn: int
    """Of the crashes those in the midst of a write."""
    violations: tuple[str, ...]
    trace_hash: str


def kind_of(seed: int) -> str:
    """Say what kind of world a seed is."""
    return KINDS[seed % len(KINDS)]


def _simulation(seed: int) -> tuple[HandOverSimulation | SiteHandOverSimulation, float]:
    """Prepare the world of a seed, and say for how long it runs."""
    match kind_of(seed):
        case "moves":
            # The callers are slow, so that most of what happens is moving.
            of = world(4 + seed % 2, (3, 3, 1, 2, 4)[seed // 20 % 5], 2, move_s=0.002, think_s=0.05)
            return hand_over_simulation(seed, _plan((0.5, 5.0), until_s=20.0), of), 25.0
        case "crashes":
            weights = {"crash": 6.0, "tear": 6.0, "loss": 1.0, "partial": 1.0}
            plan = FaultPlan(weights=weights, every_s=(0.02, 0.2), until_s=20.0, crash_s=(0.01, 0.2), cut_s=_CUT_S)
            return hand_over_simulation(seed, plan, world(4, 3, 3)), 25.0
        case "stores change":
            of = world(5, 1 + seed // 20 % 3, 3, restock_s=(0.05, 0.5))
            return hand_over_simulation(seed, _plan((0.05, 2.0), until_s=20.0), of), 25.0
        case "stores emptied":
            of = world(5, 3 if seed // 20 % 2 else 5, 3, restock_s=(0.1, 1.0) if seed // 40 % 2 else None)
            return hand_over_simulation(seed, _plan((0.3, 3.0), weights=_DAMAGED), of), 25.0
    of_site = site_world(5, voters=(3, 5, 1)[seed // 20 % 3])
    if seed // 20 % 2:
        # Down for longer than a death takes to be declared: the supernode places elsewhere what they had.
        deaths = FaultPlan(weights={**EVERYTHING, "crash": 4.0}, every_s=(0.5, 5.0), until_s=40.0, crash_s=(5.0, 25.0))
        return site_hand_over_simulation(seed, deaths, of_site), 55.0
    return site_hand_over_simulation(seed, _plan((0.3, 4.0), until_s=20.0), of_site), 35.0


def run(seed: int) -> Outcome:
    """Run the world of a seed to its end."""
    simulation, seconds = _simulation(seed)
    report = simulation.run(seconds)
    relocations = simulation.relocations.count if isinstance(simulation, SiteHandOverSimulation) else 0
    once = simulation.once
    return Outcome(
        seed=seed,
        kind=kind_of(seed),
        simulated_s=report.simulated_s,
        moves=once.moves,
        changes=once.changes,
        relocations=relocations,
        acknowledged=once.acknowledged,
        crashes=report.crashes,
        torn=simulation.torn,
        violations=report.violations,
        trace_hash=report.trace_hash,
    )


@dataclass(slots=True)
class Sum:
    """What came out of many worlds."""

    worlds: Counter[str] = field(default_factory=Counter)
    simulated_s: float = 0.0
    moves: int = 0
    changes: int = 0
    relocations: int = 0
    acknowledged: int = 0
    crashes: int = 0
    torn: int = 0
    violations: int = 0
    failing: list[int] = field(default_factory=list)
    """Seeds, at most `FAILING_MAX`."""
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    @property
    def trace_hash(self) -> str:
        """Of all traces, in the order of the seeds."""
        return self._digest.hexdigest()

    def enough(self, moves: int, crashes: int) -> bool:
        """Tell whether so many moves and crashes were simulated."""
        return self.moves >= moves and self.crashes >= crashes

    def add(self, outcome: Outcome) -> None:
        """Count one world."""
        self.worlds[outcome.kind] += 1
        self.simulated_s += outcome.simulated_s
        self.moves += outcome.moves
        self.changes += outcome.changes
        self.relocations += outcome.relocations
        self.acknowledged += outcome.acknowledged
        self.crashes += outcome.crashes
        self.torn += outcome.torn
        self._digest.update(outcome.trace_hash.encode())
        self.violations += len(outcome.violations)
        if outcome.violations and len(self.failing) < FAILING_MAX:
            self.failing.append(outcome.seed)


def outcomes(first: int, jobs: int = 1) -> Iterator[Outcome]:
    """Run worlds from a seed on, without end, in `jobs` processes; in the order of the seeds."""
    seed = first
    if jobs == 1:
        while True:
            yield run(seed)
            seed += 1
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        while True:
            batch = range(seed, seed + jobs * CHUNK * 4)
            yield from pool.map(run, batch, chunksize=CHUNK)
            seed = batch.stop

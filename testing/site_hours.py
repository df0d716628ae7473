"""Runs many simulated sites, over several cores, and adds up what came out; the same seeds give the same sum.

    worlds (seed, size, faults, seconds)  --run_all, `jobs` processes-->  one Total

Many short worlds find more than one long one, and each is replayed by itself. `world_of` draws worlds of all sizes
under all plans, as the tests do; `atoll sim` makes them from a spec.
"""

import hashlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from atoll.actors.elector.messages import Resign
from atoll.testing.elections import election_simulation
from atoll.testing.faults import EVERYTHING, KINDS, FaultPlan
from atoll.testing.invariants import Report
from atoll.testing.site_duties import site_simulation
from atoll.transport.errors import UsageError

WORLD_S = 60.0
WHOLE_EVERY = 4
"""So many worlds come to one that is whole: it takes as long as three or four elections alone."""
WHOLE_NODES_MAX = 32
"""Larger sites run the election alone: what members tell each other of all members grows with the cube of the site."""
CHUNK = 8
"""Worlds that one process takes at a time: a world takes less than a tenth of a second."""
FAILING_MAX = 1000
VOTERS_MAX, BYSTANDERS_MAX = 7, 2
RESIGNATION = (Resign("to drain"),)
DENSE, SPARSE = (0.05, 2.0), (0.5, 8.0)
PLANS = (
    FaultPlan(every_s=DENSE),
    FaultPlan(every_s=SPARSE),
    FaultPlan(every_s=DENSE, weights={**EVERYTHING, "tell": 2.0}, facts=RESIGNATION),
    FaultPlan(every_s=DENSE, weights={**EVERYTHING, "forget": 2.0, "halves": 3.0, "partial": 3.0}, crash_s=(0.01, 2.0)),
)
"""Faults that come thick; seldom; with resignations; with damaged journals."""


@dataclass(frozen=True, slots=True)
class World:
    """One simulated site."""

    seed: int
    voters: int
    bystanders: int
    plan: FaultPlan
    seconds: float = WORLD_S
    whole: bool = True
    """Election, roster, placement, suspicion and duties together; False: the election alone, which is faster."""

    def run(self) -> Report:
        """Run it to its end."""
        seed, voters, others, plan = self.seed, self.voters, self.bystanders, self.plan
        if self.whole:
            # Every second one chooses its voters itself, and changes its roster as members come and go.
            chooses = bool(seed % 2)
            simulation = site_simulation(seed, voters=voters, bystanders=others, faults=plan, chooses=chooses)
        else:
            simulation = election_simulation(seed, voters=voters, bystanders=others, faults=plan)
        return simulation.run(self.seconds)


def world_of(seed: int, seconds: float = WORLD_S) -> World:
    """Draw a world: 1 to 7 voters, up to 2 members without a vote, each plan in turn, whole or the election alone."""
    voters, bystanders = 1 + seed % VOTERS_MAX, seed % (BYSTANDERS_MAX + 1)
    whole = seed // len(PLANS) % WHOLE_EVERY == 0
    return World(seed, voters, bystanders, PLANS[seed % len(PLANS)], seconds, whole)


def plan_with(faults: str) -> FaultPlan:
    """Make the plan that has only faults of these kinds, named with commas between; empty: the usual ones.

    Raises:
        UsageError: There is no such kind.
    """
    if not faults:
        return FaultPlan()
    named = [] if faults == "none" else [each.strip() for each in faults.split(",")]
    if unknown := sorted(set(named) - set(KINDS)):
        raise UsageError(f"no fault is called {', '.join(map(repr, unknown))}; there are {', '.join(KINDS)}, and none")
    return FaultPlan(weights=dict.fromkeys(named, 1.0), facts=RESIGNATION)


@dataclass(slots=True)
class Total:
    """What came out of many worlds."""

    worlds: int = 0
    simulated_s: float = 0.0
    events: int = 0
    elections: int = 0
    crashes: int = 0
    partitions: int = 0
    violations: list[str] = field(default_factory=list)
    failing: list[int] = field(default_factory=list)
    """Seeds, at most `FAILING_MAX`."""
    failed: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    @property
    def trace_hash(self) -> str:
        """Of all traces, in the order of the seeds."""
        return self._digest.hexdigest()

    def add(self, report: Report) -> None:
        """Count one world."""
        self.worlds += 1
        self.simulated_s += report.simulated_s
        self.events += report.events
        self.elections += report.elections
        self.crashes += report.crashes
        self.partitions += report.partitions
        self._digest.update(report.trace_hash.encode())
        if report.violations:
            self.failed += 1
            if len(self.failing) < FAILING_MAX:
                self.failing.append(report.seed)
                self.violations += [f"seed {report.seed}: {each}" for each in report.violations]


def reports(worlds: Iterable[World], jobs: int = 1) -> Iterator[Report]:
    """Run worlds in `jobs` processes; gives the reports in the order of the worlds, as they come."""
    if jobs == 1:
        for world in worlds:
            yield world.run()
        return
    remaining = iter(worlds)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        # In batches, for `map` would take all worlds of a whole night at once.
        while batch := list(islice(remaining, jobs * CHUNK * 16)):
            yield from pool.map(World.run, batch, chunksize=CHUNK)


def run_all(worlds: Iterable[World], jobs: int = 1) -> Total:
    """Run worlds and add up."""
    total = Total()
    for report in reports(worlds, jobs):
        total.add(report)
    return total


def cores() -> int:
    """Give how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

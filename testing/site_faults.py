"""Does to one site of real nodes what hosts and cables do, while its own users call, and says what they saw of it.

    whole --a fault--> looks at who is supernode, calls --its end--> whole again, or said what lacks --> the next fault

Besides what `trials.py` tells of the calls: how soon another supernode was told of, how often it changed, how long
nobody named one that lives.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from atoll.cluster_specs import CallCheck, ClusterSpec, PlannedProcess
from atoll.cluster_specs.plan import CONFIG_FILE
from atoll.testing.cluster import Cluster, atoll_command
from atoll.testing.failovers import SITE
from atoll.testing.lab import Direction, Lab
from atoll.testing.site_watch import QUICK_S, SLOW_S, SiteWatch
from atoll.testing.trials import Fault, Trials, Verdict
from atoll.testing.wall_clock import JumpingClocks

CUT_S = 6.0
SETTLE_S = 8.0
"""How long an address that changed is looked at: more than links may be silent."""
LOSS_S = 60.0
CLOCK_S = 5.0
HOUR_S = 3600
WAYS: tuple[Direction, ...] = ("both", "out", "in")
KINDS = ("cut", "address", "loss", "clock", "sleep")


def ring_of_calls(spec: ClusterSpec) -> list[CallCheck]:
    """Let each node call the next one's service."""
    names = spec.node_names()
    return [
        CallCheck(caller, f"echo@{callee}", "/hello")
        for caller, callee in zip(names, [*names[1:], names[0]], strict=True)
    ]


def clock_file(config: Path) -> Path:
    """Give where the clocks of the process of that config are set."""
    return config.with_name("clocks")


def with_jumping_clocks(library: str, planned: PlannedProcess, config: Path, *, all_clocks: bool) -> list[str]:
    """Give a cluster's command for a node whose clocks can jump."""
    return JumpingClocks(clock_file(config), library, all_clocks).command(atoll_command(planned, config))


@dataclass(frozen=True, slots=True)
class SiteVerdict:
    """How a site took a fault."""

    verdict: Verdict
    replaced_s: float
    """Until a node that was not hit named another supernode; infinite: none did while it lasted."""
    without_s: float
    changes: int
    contradictions: int

    @property
    def line(self) -> str:
        """It as a row of a table."""
        replaced = f"{self.replaced_s:.2f} s" if math.isfinite(self.replaced_s) else "stays"
        whole = self.verdict.lacks or f"{self.verdict.whole_s:.2f} s"
        return (
            f"| {self.verdict.what} | {replaced} | {self.without_s:.2f} s | {self.changes} | {self.verdict.within} "
            f"| {whole} | {self.contradictions} |"
        )


class SiteFaults:
    """The faults of one site; `begin` first, within a task group that ends after `end`."""

    def __init__(self, cluster: Cluster, lab: Lab, library: str | None = None) -> None:
        """Take a running cluster of one site; with `library`, its nodes' clocks can jump."""
        self.cluster = cluster
        self.lab = lab
        self.trials = Trials(cluster, ring_of_calls(cluster.spec))
        self.watch = SiteWatch(cluster, SITE)
        self._library = library
        self._ahead: dict[str, int] = {}
        """Seconds by which all clocks of a node have been put forward; they never go back."""

    async def begin(self, tasks: TaskGroup) -> None:
        """Wait until all is whole, and let callers and looks begin."""
        tasks.start_soon(self.watch.run)
        await self.trials.begin(tasks)

    async def undergo(self, kind: str) -> list[SiteVerdict]:
        """Do all faults of a kind, one after the other."""
        return [await self.once(fault) for fault in self._faults(kind)]

    async def once(self, fault: Callable[[str, str], Fault]) -> SiteVerdict:
        """Do one fault; it is made of the names of the supernode and of a follower."""
        old = await self.cluster.supernode_of(SITE) or ""
        follower = next(name for name in self.cluster.living_nodes(SITE) if name != old)
        done = fault(old, follower)
        seen = len(self.watch.leases.contradictions)
        self.watch.pace_s = QUICK_S
        self.watch.mark()
        replaced_s = math.inf
        at = anyio.current_time()

        async def note() -> None:
            nonlocal replaced_s
            if await self.watch.told(partial(self._another, old, at), math.inf):
                replaced_s = anyio.current_time() - at

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(note)
            verdict = await self.trials.undergo(done)
            tasks.cancel_scope.cancel()
        self.watch.pace_s = SLOW_S
        return SiteVerdict(
            verdict,
            replaced_s,
            self.watch.longest_without_s,
            self.watch.changes,
            len(self.watch.leases.contradictions) - seen,
        )

    def _another(self, old: str, at: float) -> bool:
        looks = [self.watch.last(name) for name in self.cluster.living_nodes(SITE) if name != old]
        return any(look and look.asked_at > at and look.names and look.supernode != old for look in looks)

    def _faults(self, kind: str) -> Iterator[Callable[[str, str], Fault]]:
        match kind:
            case "cut":
                yield from (self._cut_off(way) for way in WAYS)
            case "address":
                yield lambda old, _: self._moved(old, "supernode")
                yield lambda _, follower: self._moved(follower, "follower")
            case "loss":
                yield lambda _old, _follower: self._lossy(0.2)
            case "clock":
                for seconds in (HOUR_S, -HOUR_S):
                    yield partial(self._jump_of_supernode, seconds)
                    yield partial(self._jump_of_follower, seconds)
            case "sleep":
                yield lambda old, _: self._slept(old, "the supernode")
                yield lambda _, follower: self._slept(follower, "a follower")

    def _cut_off(self, way: Direction) -> Callable[[str, str], Fault]:
        def fault(old: str, _follower: str) -> Fault:
            made = self.trials.cut(self.lab, old, way, CUT_S)
            return Fault(_what(made.what, old, "the supernode"), made.begun, made.ended, made.lasts_s)

        return fault

    def _moved(self, name: str, words: str) -> Fault:
        return Fault(f"another address for a {words}", partial(self.lab.change_address, name), _nothing, SETTLE_S)

    def _lossy(self, ratio: float) -> Fault:
        switch = f"switch of {SITE}"
        begun, ended = partial(self.lab.lose, switch, ratio), partial(self.lab.lose, switch, 0.0)
        return Fault(f"{ratio:.0%} of all frames lost for {LOSS_S:g} s", begun, ended, LOSS_S)

    def _jump_of_supernode(self, seconds: int, old: str, _follower: str) -> Fault:
        return self._jump(old, "the supernode", seconds)

    def _jump_of_follower(self, seconds: int, _old: str, follower: str) -> Fault:
        return self._jump(follower, "a follower", seconds)

    def _jump(self, name: str, words: str, seconds: int) -> Fault:
        what = f"wall clock of {words} jumps by {seconds / HOUR_S:+g} h, and back after {CLOCK_S:g} s"
        return Fault(what, partial(self._set_clocks, name, seconds), partial(self._set_clocks, name, 0), CLOCK_S)

    def _slept(self, name: str, words: str) -> Fault:
        ahead = self._ahead[name] = self._ahead.get(name, 0) + HOUR_S
        return Fault(f"all clocks of {words} jump by +1 h", partial(self._set_clocks, name, ahead), _nothing, CLOCK_S)

    async def _set_clocks(self, name: str, seconds: int) -> None:
        if self._library is None:
            raise RuntimeError(f"{name} was not started with clocks that can jump")
        file = clock_file(self.cluster.processes[name].directory / CONFIG_FILE)
        JumpingClocks(file, self._library).jump(seconds)


async def _nothing() -> None:
    pass


def _what(words: str, name: str, role: str) -> str:
    return words.replace(name, role)

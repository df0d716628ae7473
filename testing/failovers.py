"""Takes the supernode away from a site of real nodes, again and again, and measures how soon another is told of.

    whole --SIGKILL, or SIGSTOP for `STOPPED_S`-->  without  --another is confirmed-->  restart, or SIGCONT  --> whole

What counts is what users are told: the gateway of a node that lives on names another, confirmed by a majority. Looking
every 20 ms adds up to 20 ms and the time of the answer to each figure.
"""

import math
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

import anyio

from atoll.cluster_specs import ClusterSpec, NodeSpec, SiteSpec
from atoll.testing.cluster import Cluster
from atoll.testing.errors import NotReady
from atoll.testing.site_watch import QUICK_S, SLOW_S, SiteWatch
from atoll.testing.wholeness import Wholeness

How: TypeAlias = Literal["kill", "stop"]
SITE = "lan"
CONFIRMED_S = 10.0
"""Who is not replaced by then counts as never replaced."""
STOPPED_S = 3.0
PHASE_S_MAX = 0.5
"""A fault comes at any time within two heartbeats and more, not only just after a look at all nodes."""


def site_of(nodes: int) -> ClusterSpec:
    """Make the spec of one local network of so many nodes that are alike, without a cloud."""
    return ClusterSpec(
        f"lan-of-{nodes}", (SiteSpec(SITE, tuple(NodeSpec(f"n{each}") for each in range(1, nodes + 1))),)
    )


@dataclass(frozen=True, slots=True)
class Failover:
    """One supernode taken away."""

    how: How
    old: str
    new: str
    first_s: float
    """Until the first survivor's gateway named another, confirmed; infinite: none did within `CONFIRMED_S`."""
    all_s: float
    """Until every survivor's did."""
    whole_s: float
    """From the restart, or from SIGCONT, until nothing lacked."""
    why: str
    """Of the new one; or what everybody said instead."""
    lacks: str = ""

    @property
    def line(self) -> str:
        """It in a line."""
        return (
            f"{self.how} {self.old} -> {self.new or 'nobody'}: first {self.first_s:.3f} s, all {self.all_s:.3f} s, "
            f"whole after {self.whole_s:.2f} s{' ' if self.lacks else ''}{self.lacks}"
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """A sample in five numbers; percentiles by nearest rank."""

    n: int
    least: float
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, sample: Iterable[float]) -> "Figures":
        """Count a sample; NaN for what an empty one has not."""
        ordered: Sequence[float] = sorted(sample) or [math.nan]
        rank = [ordered[max(0, math.ceil(len(ordered) * share) - 1)] for share in (0.5, 0.99)]
        return cls(0 if math.isnan(ordered[0]) else len(ordered), ordered[0], rank[0], rank[1], ordered[-1])

    def __str__(self) -> str:
        return f"{self.n} | {self.least:.2f} | {self.p50:.2f} | {self.p99:.2f} | {self.most:.2f}"


class Failovers:
    """Fail-overs of one site; run `watch` in a task beside it."""

    def __init__(self, cluster: Cluster, rng: Random) -> None:
        self.cluster = cluster
        self.watch = SiteWatch(cluster, SITE)
        self.done: list[Failover] = []
        self._rng = rng
        self._wholeness = Wholeness(cluster)

    async def once(self, how: How) -> Failover:
        """Take the supernode away once, and give it back.

        Raises:
            NotReady: The site is not whole before anything was done.
        """
        await self._wholeness.awaited()
        await anyio.sleep(self._rng.uniform(0, PHASE_S_MAX))
        old = await self.cluster.supernode_of(SITE)
        if old is None:
            raise NotReady(f"{SITE} has no supernode to take away", "see the nodes' logs")
        self.watch.pace_s = QUICK_S
        at = await self.cluster.kill(old, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        new, first_s, all_s, why = await self._wait_successor(old, at)
        await self._give_back(how, old, at)
        self.watch.pace_s = SLOW_S
        back_at, lacks = anyio.current_time(), ""
        try:
            await self._wholeness.awaited()
        except NotReady as error:
            lacks = str(error)
        failover = Failover(how, old, new, first_s, all_s, anyio.current_time() - back_at, why, lacks)
        self.done.append(failover)
        return failover

    async def _give_back(self, how: How, old: str, at: float) -> None:
        if how == "kill":
            await self.cluster.restart(old)
            return
        await anyio.sleep_until(at + STOPPED_S)
        await self.cluster.kill(old, signal.SIGCONT)
        # Just now it may still believe to be what it was: this is when two would be seen.
        await anyio.sleep(PHASE_S_MAX)

    async def _wait_successor(self, old: str, at: float) -> tuple[str, float, float, str]:
        """Give who follows, after how long the first survivor and all of them named it, and why it was chosen."""
        survivors = [name for name in self.cluster.living_nodes(SITE) if name != old]

        def naming_another() -> list[str]:
            looks = [(name, self.watch.last(name)) for name in survivors]
            return [n for n, look in looks if look and look.told_at > at and look.names and look.supernode != old]

        if not await self.watch.told(lambda: bool(naming_another()), CONFIRMED_S):
            whys = "; ".join(f"{n}: {look.why}" for n in survivors if (look := self.watch.last(n)))
            return "", math.inf, math.inf, whys
        first = naming_another()[0]
        first_s = anyio.current_time() - at
        look = self.watch.last(first)
        everybody = await self.watch.told(lambda: len(naming_another()) == len(survivors), CONFIRMED_S)
        all_s = anyio.current_time() - at if everybody else math.inf
        return (look.supernode or "", first_s, all_s, look.why) if look else ("", first_s, all_s, "")

    @property
    def late(self) -> list[Failover]:
        """Those who were never replaced, or after which something lacked to the end."""
        return [each for each in self.done if each.lacks or not math.isfinite(each.all_s)]

    def rows(self) -> list[str]:
        """Give the figures as rows of a table."""
        rows = []
        for how, words in (("kill", "SIGKILL"), ("stop", f"SIGSTOP for {STOPPED_S:g} s")):
            own = [each for each in self.done if each.how == how]
            if own:
                never = sum(not math.isfinite(each.all_s) for each in own)
                rows += [
                    f"| {words}, first to tell | {Figures.of(each.first_s for each in own)} | {never} |",
                    f"| {words}, all have told | {Figures.of(each.all_s for each in own)} | {never} |",
                    f"| {words}, whole again after its return | {Figures.of(each.whole_s for each in own)} | |",
                ]
        return rows

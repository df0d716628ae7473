"""Asks all nodes of a site, again and again, who is supernode; keeps what each said last, and what contradicts itself.

    SiteWatch(cluster, site)  --run, in a task-->  looks every `pace_s`  --end of the task-->  over

A node that is dead is passed over; one that stands still is asked again when it has let a question pass.
"""

import math
from collections.abc import Callable
from functools import partial

import anyio

from atoll.testing.cluster import Cluster
from atoll.testing.errors import NoAnswer
from atoll.testing.lease_watch import LeaseWatch, Look

QUICK_S, SLOW_S = 0.02, 0.5
"""Between two looks at a node: while something is measured, and otherwise. An answer costs a node about 2 ms."""
ANSWER_S = 2.0


class SiteWatch:
    """Looks at one site of a running cluster."""

    def __init__(self, cluster: Cluster, site: str) -> None:
        self.cluster = cluster
        self.site = site
        self.leases = LeaseWatch()
        self.pace_s = SLOW_S
        self.longest_without_s = 0.0
        """The longest time in which nobody named a confirmed supernode that lives, since `mark`."""
        self.changes = 0
        """How often another confirmed supernode was named than before, since `mark`."""
        self._named_at = math.nan
        self._named: tuple[str, int] = ("", 0)
        self._last: dict[str, Look] = {}
        self._names = {str(each.key.node_id): name for name, each in cluster.planned.items()}
        self._told = anyio.Event()

    async def run(self) -> None:
        """Look until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            for name in self.cluster.planned:
                if name.startswith(f"{self.site}/"):
                    tasks.start_soon(self._follow, name)

    def mark(self) -> None:
        """Begin to count anew."""
        self.longest_without_s, self.changes = 0.0, 0
        self._named_at = anyio.current_time()

    def last(self, node: str) -> Look | None:
        """Give what a node said last."""
        return self._last.get(node)

    async def told(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait until what was said last fulfils a condition; gives whether it did in time."""
        with anyio.move_on_after(within_s):
            while not condition():
                await self._told.wait()
            return True
        return condition()

    async def _follow(self, name: str) -> None:
        while True:
            if self.cluster.processes[name].alive:
                await self._look(name)
            await anyio.sleep(self.pace_s)

    async def _look(self, name: str) -> None:
        asked_at = anyio.current_time()
        try:
            answer = await self.cluster.api(name).ask("GET", "/atoll/v1/status", timeout_s=ANSWER_S)
            status = answer.data
            told = status["supernode"] or {}
        except (NoAnswer, ValueError, KeyError):
            return  # It has just died, has not begun yet, or stands still.
        told_at = anyio.current_time()
        supernode = self._names.get(told.get("node", ""), told.get("node", ""))
        said = partial(Look, name, asked_at, told_at)
        look = said(supernode, told["epoch"], told["confirmed"], told["why"]) if told else said("")
        self._last[name] = look
        self.leases.take(look)
        self._count(look)
        event, self._told = self._told, anyio.Event()
        event.set()

    def _count(self, look: Look) -> None:
        alive = look.supernode in self.cluster.processes and self.cluster.processes[look.supernode].alive
        if not look.names or not alive or look.epoch < self._named[1]:
            return
        if not math.isnan(self._named_at):
            self.longest_without_s = max(self.longest_without_s, look.told_at - self._named_at)
        self._named_at = look.told_at
        if self._named[0] not in ("", look.supernode):
            self.changes += 1
        self._named = (look.supernode, look.epoch)

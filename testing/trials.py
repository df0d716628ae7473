"""Tries a running cluster as fate would: one fault after the other while calls go on, and what the callers saw of it.

    whole --> a fault --> its end (restart, SIGCONT, heal) --> whole again, or said what lacks --> the next fault

Each trial gives the longest silence and the failed calls of two kinds of callers, those of the other site and those of
the callee's own, and how long after the end of the fault everything was as before.
"""

import math
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from atoll.cluster_specs import CallCheck
from atoll.testing.cluster import Cluster
from atoll.testing.errors import NotReady
from atoll.testing.lab import Direction, Lab
from atoll.testing.service_calls import ServiceCalls
from atoll.testing.steady_calls import SteadyCalls
from atoll.testing.wholeness import Wholeness

PAUSE_S = 0.1
"""Five callers that never rest would fill two cores, and what is measured would be that."""
ACROSS, WITHIN = "across", "within"
STEADY_S = 60.0
BROKEN_S = 4.0
"""How long a fault lasts unless it says otherwise: longer than anything needs to be noticed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to a cluster; `ended` undoes it."""

    what: str
    begun: Callable[[], Awaitable[object]]
    ended: Callable[[], Awaitable[object]]
    lasts_s: float = BROKEN_S
    callers_hit: tuple[str, ...] = ()
    """Nodes whose own users cannot be answered meanwhile: they are not counted."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the callers of one kind saw."""

    answered: int
    failed: int
    silence_s: float
    failure: str

    def __str__(self) -> str:
        if not self.answered and not self.failed:
            return "-"
        return f"{self.silence_s:.2f} s, {self.failed} of {self.answered + self.failed}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one trial went."""

    what: str
    across: Seen
    within: Seen
    whole_s: float
    """After the end of the fault."""
    lacks: str = ""

    @property
    def line(self) -> str:
        """The trial as a row of a table."""
        whole = f"{self.whole_s:.1f} s" if not self.lacks else self.lacks
        return f"| {self.what} | {self.across} | {self.within} | {whole} |"


@dataclass(slots=True)
class Trials:
    """The trials of one cluster; use `begin` first, within a task group that ends after `end`."""

    cluster: Cluster
    calls: list[CallCheck]
    _service_calls: ServiceCalls = field(init=False)
    _going: dict[CallCheck, SteadyCalls] = field(default_factory=dict)
    wholeness: Wholeness = field(init=False)

    def __post_init__(self) -> None:
        self._service_calls = ServiceCalls(self.cluster)
        self.wholeness = Wholeness(self.cluster, sorted({call.service for call in self.calls}))

    async def begin(self, tasks: TaskGroup) -> None:
        """Push the services, wait until all is whole, and let the callers begin."""
        for service in self.wholeness.services:
            kind, _, node = service.partition("@")
            await self._service_calls.push(kind, node)
        await self.wholeness.awaited()
        for call in self.calls:
            going = SteadyCalls(partial(self._service_calls.make, call), call.status, pause_s=PAUSE_S)
            self._going[call] = going
            tasks.start_soon(going.run)
        await self.steady()

    @property
    def seen(self) -> str:
        """Say what the callers of both kinds have seen since the last fault."""
        return f"across {_seen(self._going, ACROSS)}; within {_seen(self._going, WITHIN)}"

    def end(self) -> None:
        """Let the callers end."""
        for going in self._going.values():
            going.end()

    async def undergo(self, fault: Fault) -> Verdict:
        """Do a fault, end it, and wait until all is as before."""
        for going in self._going.values():
            going.mark()
        await fault.begun()
        await anyio.sleep(fault.lasts_s)
        await fault.ended()
        over_at, lacks = anyio.current_time(), ""
        try:
            await self.wholeness.awaited()
            await self.steady()
        except NotReady as error:
            lacks = str(error)
        whole_s = anyio.current_time() - over_at
        counted = {call: going for call, going in self._going.items() if call.caller not in fault.callers_hit}
        return Verdict(fault.what, _seen(counted, ACROSS), _seen(counted, WITHIN), whole_s, lacks)

    async def steady(self) -> None:
        """Wait until every caller is answered again, several times in a row.

        Raises:
            NotReady: Somebody was not.
        """
        with anyio.move_on_after(STEADY_S) as waited:
            async with anyio.create_task_group() as tasks:
                for going in self._going.values():
                    tasks.start_soon(going.steady)
        if waited.cancelled_caught:
            failures = {f"{call.caller}: {going.failure}" for call, going in self._going.items() if going.failure}
            raise NotReady(f"calls fail for {STEADY_S:g} s: {'; '.join(sorted(failures))}", "see the nodes' logs")

    # Faults

    def killed(self, *names: str, lasts_s: float = BROKEN_S) -> Fault:
        """Kill processes with SIGKILL and start them again."""
        return Fault(
            f"kill -9 {' and '.join(names)}",
            partial(self._each, self.cluster.kill, names),
            partial(self._each, self.cluster.restart, names),
            lasts_s,
            names,
        )

    def all_stopped(self) -> Fault:
        """End every process in good order, and start it again with the state that it had."""
        names = tuple(self.cluster.processes)
        return Fault(
            "SIGTERM to all, and again on the same state",
            partial(self._each, partial(self.cluster.kill, number=signal.SIGTERM), names),
            partial(self._each, self.cluster.restart, names),
            1.0,
            names,
        )

    def nodes_first(self) -> Fault:
        """Kill all, and start the nodes long before the relays and the cloud that they need."""
        names = tuple(self.cluster.processes)
        nodes = tuple(name for name in names if "/" in name)

        async def begun() -> None:
            await self._each(self.cluster.kill, names)
            await self._each(self.cluster.restart, nodes)

        others = tuple(name for name in names if name not in nodes)
        restarted = partial(self._each, self.cluster.restart, others)
        return Fault("kill -9 all; relays and cloud 10 s after the nodes", begun, restarted, 10.0, names)

    def paused(self, name: str, lasts_s: float) -> Fault:
        """Stop a process as `kill -STOP` does, and let it go on."""
        return Fault(
            f"SIGSTOP {name} for {lasts_s:g} s",
            partial(self.cluster.kill, name, signal.SIGSTOP),
            partial(self.cluster.kill, name, signal.SIGCONT),
            lasts_s,
            (name,),
        )

    def cut(self, lab: Lab, name: str, direction: Direction, lasts_s: float) -> Fault:
        """Lose what a process or an uplink sends, gets, or both."""
        how = {"both": "cut", "out": "mute", "in": "deafen"}[direction]
        heal = partial(lab.heal, name)
        return Fault(f"{how} {name} for {lasts_s:g} s", partial(lab.cut, name, direction), heal, lasts_s)

    def unplugged(self, lab: Lab, name: str, lasts_s: float) -> Fault:
        """Pull a cable and put it back."""
        return Fault(f"unplug {name} for {lasts_s:g} s", partial(lab.unplug, name), partial(lab.replug, name), lasts_s)

    def without_address(self, lab: Lab, name: str, lasts_s: float) -> Fault:
        """Take the address of a process away and give it back."""
        return Fault(
            f"{name} without its address for {lasts_s:g} s",
            partial(lab.drop_address, name),
            partial(lab.give_address, name),
            lasts_s,
        )

    async def _each(self, do: Callable[[str], Coroutine[Any, Any, object]], names: tuple[str, ...]) -> None:
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(do, name)


def _seen(going: dict[CallCheck, SteadyCalls], kind: str) -> Seen:
    own = [each for call, each in going.items() if _kind(call) == kind]
    return Seen(
        answered=sum(each.answered for each in own),
        failed=sum(each.failed for each in own),
        silence_s=max((each.silence_s for each in own), default=math.nan),
        failure=next((each.failure for each in own if each.failure), ""),
    )


def _kind(call: CallCheck) -> str:
    site = call.service.partition("@")[2].partition("/")[0]
    return WITHIN if call.caller.startswith(f"{site}/") else ACROSS

"""Plays what a spec asks for on a running cluster: services pushed, supernodes awaited, calls checked, faults done.

    push services  -->  a supernode in every site  -->  checks  -->  each fault at its time, while the calls go on

Every step is told as data when it is done: what, how long, what was seen, and whether it is as it should be.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import anyio

from atoll.cluster_specs import CallCheck, Check
from atoll.testing.breakage import Breakage
from atoll.testing.cluster import Cluster
from atoll.testing.errors import ClusterFault, NoAnswer, NotReady
from atoll.testing.service_calls import ServiceCalls, in_words, route_of
from atoll.testing.steps import StepDone, step

ANSWERED_S = 20.0
"""How long a call may fail before a check fails: routes come about only after the first supernode."""
ASK_AGAIN_S = 0.1


@dataclass(slots=True)
class Rehearsal:
    """One play of a cluster's spec."""

    cluster: Cluster
    calls: ServiceCalls = field(init=False)
    began: float = 0.0
    """When all was up, on anyio's clock."""

    def __post_init__(self) -> None:
        self.calls = ServiceCalls(self.cluster)

    async def set_up(self) -> AsyncIterator[StepDone]:
        """Push the services and wait for the supernodes."""
        for site in self.cluster.spec.site:
            for node in site.node:
                for service in node.services:
                    name = f"{site.name}/{node.name}"
                    yield await step(f"push {service} to {name}", partial(self.calls.push, service, name))
        for site in self.cluster.spec.site:
            yield await step(f"{site.name} elects a supernode", partial(self.cluster.elected, site.name))
        self.began = anyio.current_time()

    async def play(self) -> AsyncIterator[StepDone]:
        """Do the checks, then each fault at its time while the checks' calls go on."""
        for check in self.cluster.spec.check:
            yield await self._check(check)
        for fault in sorted(self.cluster.spec.fault, key=lambda each: each.at_s):
            await anyio.sleep_until(self.began + fault.at_s)
            for done in await Breakage(self.calls, fault).run():
                yield done

    async def revive(self) -> AsyncIterator[StepDone]:
        """Start again what was killed."""
        for name, process in list(self.cluster.processes.items()):
            if not process.alive:
                yield await step(f"start {name} again", partial(self._restarted, name))

    async def _check(self, check: Check) -> StepDone:
        by = f" by {check.call.by}" if check.call.by else ""
        try:
            call = await self.calls.cast(check.call)
        except ClusterFault as error:
            return StepDone(f"{check.call.caller} calls {check.call.service}{by}", 0.0, str(error), ok=False)
        return await step(f"{call.caller} calls {call.service}{by}", partial(self._answered, call))

    async def _answered(self, call: CallCheck) -> str:
        tries, seen = 0, "nobody answered"
        with anyio.move_on_after(ANSWERED_S):
            while True:
                tries += 1
                try:
                    answer = await self.calls.make(call)
                except NoAnswer as error:
                    seen = error.what
                else:
                    if answer.status == call.status and call.by in ("", route_of(answer)):
                        return in_words(answer) + (f", at try {tries}" if tries > 1 else "")
                    seen = f"{in_words(answer)}: {answer.body[:200].decode('utf-8', 'replace')}"
                await anyio.sleep(ASK_AGAIN_S)
        by = f" by {call.by}" if call.by else ""
        raise NotReady(f"no status {call.status}{by} within {ANSWERED_S:g} s; at last: {seen}", "see the nodes' logs")

    async def _restarted(self, name: str) -> str:
        await self.cluster.restart(name)
        return f"process {self.cluster.process(name).pid}"

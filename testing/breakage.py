"""Breaks one thing of a running cluster in the midst of calls, and sees it healed.

    calls go on --> the victim is killed --> its site has a supernode again --> every call is answered again

Calls that begin or end at the victim cannot be made without it: they are left out, and told so.
"""

from dataclasses import dataclass, field
from functools import partial

import anyio
from msgspec.structs import replace

from atoll.cluster_specs import CallCheck, FaultSpec
from atoll.testing.errors import NotReady
from atoll.testing.service_calls import ServiceCalls, callee, in_words
from atoll.testing.steady_calls import SteadyCalls
from atoll.testing.steps import StepDone, step

SUPERNODE_OF, RELAY_IN_USE_BY = "supernode of ", "relay in use by "
"""What a fault may name besides a process."""
STEADY_S = 20.0
"""How long calls may fail before they are given up."""
BEARER_S = 10.0
LOOK_AGAIN_S = 0.05


@dataclass(slots=True)
class Breakage:
    """One fault, done once."""

    calls: ServiceCalls
    fault: FaultSpec
    victim: str = ""
    _going: dict[CallCheck, SteadyCalls] = field(default_factory=dict)
    _left_out: list[CallCheck] = field(default_factory=list)

    async def run(self) -> list[StepDone]:
        """Do it; the steps are told when all is healed, or given up."""
        begun = await step(f"kill {self.fault.kill}", self._prepare)
        if not begun.ok:
            return [begun]
        async with anyio.create_task_group() as tasks:
            for going in self._going.values():
                tasks.start_soon(going.run)
            steps = [await step(f"kill {self.fault.kill}", self._kill)]
            if self.victim:
                steps += [*await self._site_healed(), *await self._calls_go_on()]
            for going in self._going.values():
                going.end()
        return steps

    async def _prepare(self) -> str:
        """Choose the victim where that can be known now, and who calls."""
        cluster, kill = self.calls.cluster, self.fault.kill
        if kill.startswith(SUPERNODE_OF):
            self.victim = await cluster.supernode_of(kill.removeprefix(SUPERNODE_OF)) or ""
            if not self.victim:
                raise NotReady(f"there is no {kill} to kill", "see the nodes' logs")
        elif not kill.startswith(RELAY_IN_USE_BY):
            self.victim = kill
        for check in cluster.spec.check:
            call = await self.calls.cast(replace(check.call, by=""), self.victim)
            ends = [call.caller, callee(call)]
            if self.victim in ends or not all(cluster.process(name).alive for name in ends):
                self._left_out.append(call)
            else:
                self._going[call] = SteadyCalls(partial(self.calls.make, call), call.status)
        return ""

    async def _kill(self) -> str:
        for call, going in self._going.items():
            with anyio.move_on_after(STEADY_S) as waited:
                await going.steady()
            if waited.cancelled_caught:
                raise NotReady(f"{_line(call)} fails before anything is killed: {going.failure}", "see the nodes' logs")
        if self.fault.kill.startswith(RELAY_IN_USE_BY):
            self.victim = await self._relay_in_use()
        for going in self._going.values():
            going.mark()
        pid = self.calls.cluster.process(self.victim).pid
        await self.calls.cluster.kill(self.victim)
        return f"{self.victim}, process {pid}"

    async def _relay_in_use(self) -> str:
        cluster, place = self.calls.cluster, self.fault.kill.removeprefix(RELAY_IN_USE_BY)
        call = next((call for call in self._going if call.caller.split("/")[0] == place or call.caller == place), None)
        with anyio.move_on_after(BEARER_S):
            while call is not None:
                peer = str(cluster.planned[callee(call)].key.node_id)
                bearers = [each for each in (await cluster.status(call.caller))["beps"] if each["peer"] == peer]
                if bearers:
                    busiest = max(bearers, key=lambda each: each["sent_bytes"])
                    return str(busiest["relay"])
                await anyio.sleep(LOOK_AGAIN_S)
        raise NotReady(f"nobody at {place} has a bearer through a relay", "see `atoll status` there")

    async def _site_healed(self) -> list[StepDone]:
        site, _, node = self.victim.partition("/")
        if not node:
            return []
        healed = partial(self.calls.cluster.elected, site)
        return [await step(f"{site} has a supernode without {self.victim}", healed)]

    async def _calls_go_on(self) -> list[StepDone]:
        without = f"without {self.victim}"
        left_out = [
            StepDone(f"{_line(call)} {without}", 0.0, "left out: one of the two was killed", ok=True)
            for call in self._left_out
        ]
        return left_out + [
            await step(f"{_line(call)} {without}", partial(_goes_on, going)) for call, going in self._going.items()
        ]


async def _goes_on(going: SteadyCalls) -> str:
    with anyio.move_on_after(STEADY_S):
        await going.steady()
        last = in_words(going.last) if going.last is not None else ""
        failed = f"{going.failed} failed" if going.failed else "none failed"
        return f"{going.answered} answered, {failed}, at most {going.silence_s:.2f} s without an answer; now {last}"
    raise NotReady(f"not answered again within {STEADY_S:g} s: {going.failure}", "see the nodes' logs")


def _line(call: CallCheck) -> str:
    return f"{call.caller} calls {call.service}"

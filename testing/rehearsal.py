"""Plays what a spec asks for on a running cluster: services pushed, supernodes awaited, calls checked, faults done.

    push services  -->  a supernode in every site  -->  checks  -->  each fault at its time: kill, heal, checks again

Every step is told as data when it is done: what, how long, what was seen, and whether it is as it should be. A check
whose caller or callee was killed before is left out and told so; nothing else is ever left out.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote

import anyio

from atoll.cluster_specs import Check, FaultSpec, SiteSpec
from atoll.testing.api_client import Answer
from atoll.testing.cluster import Cluster
from atoll.testing.errors import ClusterFault, NoAnswer, NotReady
from atoll.testing.services import ECHO, service_archive

SOURCES = {"echo": ECHO}
"""The services that ship."""
VERSION = "1.0.0"
ELECTED_S = 15.0
ANSWERED_S = 20.0
"""How long a call may fail before a check fails: routes come about only after the first supernode."""
ASK_AGAIN_S = 0.1
CALL_S = 5.0


@dataclass(frozen=True, slots=True)
class StepDone:
    """What happened."""

    what: str
    took_s: float
    detail: str
    ok: bool


@dataclass(slots=True)
class Rehearsal:
    """One play of a cluster's spec."""

    cluster: Cluster
    paths: dict[str, str] = field(default_factory=dict)
    """Where each service lives on its node, by `echo@home/tv`."""
    began: float = 0.0
    """When all was up, on anyio's clock."""

    async def set_up(self) -> AsyncIterator[StepDone]:
        """Push the services and wait for the supernodes."""
        for site in self.cluster.spec.site:
            for node in site.node:
                for service in node.services:
                    name = f"{site.name}/{node.name}"
                    yield await self._step(f"push {service} to {name}", partial(self.push, service, name))
        for site in self.cluster.spec.site:
            yield await self._step(f"{site.name} elects a supernode", partial(self._elected, site))
        self.began = anyio.current_time()

    async def play(self) -> AsyncIterator[StepDone]:
        """Do the checks, then each fault at its time, with the checks again behind it."""
        async for step in self.check_all(""):
            yield step
        for fault in sorted(self.cluster.spec.fault, key=lambda each: each.at_s):
            await anyio.sleep_until(self.began + fault.at_s)
            async for step in self.break_and_heal(fault):
                yield step

    async def check_all(self, after: str) -> AsyncIterator[StepDone]:
        """Do every check of the spec; `after` says what was broken before."""
        for check in self.cluster.spec.check:
            call = check.call
            what = f"{call.caller} calls {call.service}{call.path}{after}"
            gone = [name for name in (call.caller, call.service.partition("@")[2]) if not self._alive(name)]
            if gone:
                yield StepDone(what, 0.0, f"left out: {', '.join(gone)} was killed", ok=True)
            else:
                yield await self._step(what, partial(self._checked, check))

    async def break_and_heal(self, fault: FaultSpec) -> AsyncIterator[StepDone]:
        """Kill what the fault names, wait for the site to have a supernode again, and check again."""
        victims: list[str] = []
        yield await self._step(f"kill {fault.kill}", partial(self._killed, fault, victims))
        for victim in victims:
            site = next((each for each in self.cluster.spec.site if victim.startswith(f"{each.name}/")), None)
            if site is not None:
                yield await self._step(f"{site.name} has a supernode without {victim}", partial(self._elected, site))
        async for step in self.check_all(f" without {', '.join(victims)}" if victims else ""):
            yield step

    async def push(self, service: str, node: str) -> str:
        """Load the image of a service that ships on a node and run it; gives where it lives."""
        if service not in SOURCES:
            raise ClusterFault(
                f"there is no service {service!r} that ships; there is {', '.join(SOURCES)}",
                "push your own with `atoll image push` instead",
            )
        api, image = self.cluster.api(node), f"{service}-v1"
        archive = await anyio.to_thread.run_sync(service_archive, image, VERSION, SOURCES[service])
        await api.post_file("/mcm/v1/images", "image", archive)
        wanted = {"name": image, "image": image, "env": {"MCM.BASE_API_PATH": f"/{service}/v1"}}
        made = await api.post_json("/mcm/v1/containers", wanted)
        containers = (await api.get("/atoll/v1/containers"))["containers"]
        path = next((each["path"] for each in containers if each["id"] == made["id"]), "")
        if not path:
            raise NoAnswer(f"{node} runs {image} but names no path for it", "see `atoll container list`")
        self.paths[f"{service}@{node}"] = path
        return f"lives at {path}"

    async def call(self, caller: str, service: str, path: str) -> Answer:
        """Call a service from a node, once."""
        node = service.partition("@")[2]
        target = f"/at/{quote(node, safe='')}{self.paths[service].rstrip('/')}{path}"
        return await self.cluster.api(caller).ask("GET", target, timeout_s=CALL_S)

    async def _checked(self, check: Check) -> str:
        call, tries, seen = check.call, 0, "nobody answered"
        with anyio.move_on_after(ANSWERED_S):
            while True:
                tries += 1
                try:
                    answer = await self.call(call.caller, call.service, call.path)
                except NoAnswer as error:
                    seen = error.what
                else:
                    if answer.status == call.status:
                        return _told(answer, tries)
                    seen = f"status {answer.status}: {answer.body[:200].decode('utf-8', 'replace')}"
                await anyio.sleep(ASK_AGAIN_S)
        raise NotReady(f"no status {call.status} within {ANSWERED_S:g} s; at last: {seen}", "see the nodes' logs")

    async def _elected(self, site: SiteSpec) -> str:
        if not self.cluster.living_nodes(site.name):
            raise NotReady(f"no node of {site.name} is left", "kill fewer")
        with anyio.move_on_after(ELECTED_S):
            while True:
                if (name := await self.cluster.supernode_of(site.name)) is not None:
                    status = await self.cluster.status(name)
                    return f"{name}, epoch {status['supernode']['epoch']}: {status['supernode']['why']}"
                await anyio.sleep(ASK_AGAIN_S / 4)
        raise NotReady(
            f"{site.name} has no supernode within {ELECTED_S:g} s", "see `problems` in the status of its nodes"
        )

    async def _killed(self, fault: FaultSpec, victims: list[str]) -> str:
        name: str | None = fault.kill
        if fault.kill.startswith("supernode of "):
            name = await self.cluster.supernode_of(fault.kill.removeprefix("supernode of "))
        if name is None:
            raise NotReady(f"there is no {fault.kill} to kill", "see the nodes' logs")
        victims.append(name)
        pid = self.cluster.process(name).pid
        await self.cluster.kill(name)
        return f"{name}, process {pid}"

    def _alive(self, name: str) -> bool:
        return self.cluster.process(name).alive

    async def _step(self, what: str, doing: Callable[[], Awaitable[str]]) -> StepDone:
        at = anyio.current_time()
        try:
            detail, ok = await doing(), True
        except ClusterFault as error:
            detail, ok = str(error), False
        return StepDone(what, anyio.current_time() - at, detail, ok)


def _told(answer: Answer, tries: int) -> str:
    route, why = answer.headers.get("x-atoll-route", "?"), answer.headers.get("x-atoll-why", "")
    return f"{answer.status} by {route}" + (f" ({why})" if why else "") + (f", at try {tries}" if tries > 1 else "")

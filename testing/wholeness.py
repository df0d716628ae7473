"""Says what a cluster still lacks to be whole, as its users would find out: by asking every node, and calling.

Whole is: every process runs; every node answers, names no problem, and knows all members, one confirmed supernode and
one proxy; every proxy is registered at all relays that it may be at; every service is listed by all of its site.
"""

from dataclasses import dataclass, field
from typing import Any

import anyio

from atoll.testing.cluster import Cluster
from atoll.testing.errors import NoAnswer, NotReady

WHOLE_S = 40.0
LOOK_AGAIN_S = 0.1
RELAYS_OF_A_SITE = 2


@dataclass(slots=True)
class Wholeness:
    """What is expected of one cluster; `services` are those that were pushed, as in `echo@home/tv`."""

    cluster: Cluster
    services: list[str] = field(default_factory=list)

    async def awaited(self, within_s: float = WHOLE_S) -> float:
        """Wait until nothing lacks; gives how long that took.

        Raises:
            NotReady: Something lacked to the end.
        """
        began = anyio.current_time()
        lacks: list[str] = []
        with anyio.move_on_after(within_s):
            while True:
                lacks = await self.lacks()
                if not lacks:
                    return anyio.current_time() - began
                await anyio.sleep(LOOK_AGAIN_S)
        raise NotReady(f"not whole within {within_s:g} s: {'; '.join(lacks)}", "see the logs of those named")

    async def lacks(self) -> list[str]:
        """List what is not as it should be, in sentences; nothing: the cluster is whole."""
        dead = [f"{name} does not run" for name, each in self.cluster.processes.items() if not each.alive]
        sites = [await self._lacks_of(site.name) for site in self.cluster.spec.site]
        return dead + [lack for site in sites for lack in site]

    async def _lacks_of(self, site: str) -> list[str]:
        lacks, supernodes, proxies = [], set(), set()
        names = self.cluster.living_nodes(site)
        for name in names:
            try:
                status = await self.cluster.status(name)
                services = (await self.cluster.api(name).get("/atoll/v1/services"))["services"]
            except NoAnswer as error:
                lacks.append(f"{name}: {error.what}")
                continue
            supernode = status["supernode"] or {}
            supernodes.add(supernode.get("node"))
            proxies.add(_proxy(status))
            lacks += [f"{name}: {lack}" for lack in self._lacks_of_node(status, len(names))]
            lacks += [f"{name} does not list {each}" for each in self._unlisted(services, site)]
        if len(supernodes) > 1:
            lacks.append(f"the nodes of {site} name {len(supernodes)} different supernodes")
        if len(proxies) > 1:
            lacks.append(f"the nodes of {site} name {len(proxies)} different proxies")
        return lacks

    def _lacks_of_node(self, status: dict[str, Any], members: int) -> list[str]:
        lacks = [f"says {problem!r}" for problem in status["problems"]]
        supernode = status["supernode"]
        if supernode is None or not supernode["confirmed"]:
            lacks.append("knows no confirmed supernode")
        if wanted := min(RELAYS_OF_A_SITE, len(self.cluster.spec.relay)):
            # A supernode that runs on a battery gives the duty of the proxy to somebody fitter.
            up = [each["relay"] for each in status["seps"] if each["state"] == "up"]
            if (proxy := _proxy(status)) is None:
                lacks.append("knows no proxy")
            elif proxy == status["node"]["id"] and len(up) < wanted:
                lacks.append(f"is proxy and registered at {len(up)} of {wanted} relays")
        if status["site"]["members"] != members:
            lacks.append(f"sees {status['site']['members']} of {members} members")
        return lacks

    def _unlisted(self, listed: list[dict[str, Any]], site: str) -> list[str]:
        found = {(each["name"].rpartition("-v")[0], each["node"]) for each in listed}
        return [
            service
            for service in self.services
            for kind, _, node in [service.partition("@")]
            if node.startswith(f"{site}/") and (kind, str(self.cluster.planned[node].key.node_id)) not in found
        ]


def _proxy(status: dict[str, Any]) -> str | None:
    return next((duty["node"] for duty in status["duties"] if duty["duty"] == "proxy"), None)

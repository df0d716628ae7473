"""Puts the services that ship on nodes of a cluster, and calls them as their users do: by REST, from another node."""

from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote

import anyio
from msgspec.structs import replace

from atoll.cluster_specs import CallCheck
from atoll.testing.api_client import Answer
from atoll.testing.cluster import Cluster
from atoll.testing.errors import ClusterFault, NoAnswer, NotReady
from atoll.testing.services import ECHO, service_archive

SOURCES = {"echo": ECHO}
"""The services that ship."""
VERSION = "1.0.0"
CALL_S = 5.0


def callee(call: CallCheck) -> str:
    """Name the node whose service is called."""
    return call.service.partition("@")[2]


@dataclass(slots=True)
class ServiceCalls:
    """The services of one cluster."""

    cluster: Cluster
    paths: dict[str, str] = field(default_factory=dict)
    """Where each service lives on its node, by `echo@home/tv`."""

    async def push(self, service: str, node: str) -> str:
        """Load the image of a service that ships on a node and run it; gives where it lives.

        Raises:
            ClusterFault: There is no such service, or the node would not have it.
        """
        if service not in SOURCES:
            raise ClusterFault(
                f"there is no service {service!r} that ships; there is {', '.join(SOURCES)}",
                "push your own with `atoll image push` instead",
            )
        api, image = self.cluster.api(node), f"{service}-v1"
        archive = await anyio.to_thread.run_sync(partial(service_archive, image, VERSION, SOURCES[service]))
        await api.post_file("/mcm/v1/images", "image", archive)
        wanted = {"name": image, "image": image, "env": {"MCM.BASE_API_PATH": f"/{service}/v1"}}
        made = await api.post_json("/mcm/v1/containers", wanted)
        containers = (await api.get("/atoll/v1/containers"))["containers"]
        path = next((each["path"] for each in containers if each["id"] == made["id"]), "")
        if not path:
            raise NoAnswer(f"{node} runs {image} but names no path for it", "see `atoll container list`")
        self.paths[f"{service}@{node}"] = path
        return f"lives at {path}"

    async def make(self, call: CallCheck) -> Answer:
        """Make a call, once.

        Raises:
            NoAnswer: Nobody answered in time.
        """
        target = f"/at/{quote(callee(call), safe='')}{self.paths[call.service].rstrip('/')}{call.path}"
        return await self.cluster.api(call.caller).ask("GET", target, timeout_s=CALL_S)

    async def cast(self, call: CallCheck, avoided: str = "") -> CallCheck:
        """Put a node for the site that calls: a living one that is neither its supernode nor `avoided`.

        A caller that is a node already stays as it is.

        Raises:
            NotReady: The site has no such node.
        """
        if "/" in call.caller:
            return call
        living = [name for name in self.cluster.living_nodes(call.caller) if name != avoided]
        if not living:
            raise NotReady(f"no node of {call.caller} is left to call", "kill fewer")
        supernode = await self.cluster.supernode_of(call.caller)
        return replace(call, caller=next((name for name in living if name != supernode), living[0]))


def route_of(answer: Answer) -> str:
    """Give the kind of route that an answer came by, as in `sep`."""
    return answer.headers.get("x-atoll-route", "?")


def in_words(answer: Answer) -> str:
    """Say how an answer came."""
    why = answer.headers.get("x-atoll-why", "")
    return f"{answer.status} in {answer.took_s * 1000:.0f} ms by {route_of(answer)}" + (f" ({why})" if why else "")

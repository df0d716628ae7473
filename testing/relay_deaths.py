"""Takes the relay in use away in the midst of a long transfer from site to site, and sees what the transfer notices.

    a TCP connection from home to office, by `atoll forward` --> bytes flow --> the relay that carries them is
        killed (SIGKILL), frozen (SIGSTOP), or swallows everything --> all bytes arrive --> the relay comes back

Promise R8: the bytes are the same, and never stand still for more than two seconds. Both ends are programs of their own
(`bulk.py`) that know nothing of Atoll. Every other transfer goes the other way.
"""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from signal import SIGCONT, SIGSTOP
from subprocess import PIPE
from typing import Any, Literal

import anyio
from anyio.streams.text import TextReceiveStream

from atoll.cluster_specs import CloudSpec, ClusterSpec, NodeSpec, RelaySpec, SiteSpec
from atoll.cluster_specs.spec import Nat
from atoll.testing.cluster import Cluster
from atoll.testing.errors import NoAnswer, NotReady
from atoll.testing.lab import Lab
from atoll.testing.wholeness import WHOLE_S, Wholeness

KINDS = ("kill", "freeze", "swallow")
PORT = 7001
"""Where the end at the office listens."""
NEAR, FAR = "home/tv", "office/desk"
TRANSFER_S = 120.0
BEARERS = 2
WARM_BYTES = 2_000_000
"""Before the first fault: so that the connection goes over a bearer."""
_BULK = [sys.executable, "-P", "-m", "atoll.testing.bulk"]


def spec_of_two_sites(
    relays: int = 2,
    home: Nat = "masquerade",
    office: Nat = "symmetric",
    *,
    strict: bool = False,
    colleagues: tuple[str, ...] = (),
) -> ClusterSpec:
    """Two sites behind NAT, and relays; with these kinds of NAT nobody gets through without one.

    Each site has one node, the office's `colleagues` as well. `strict`: nothing but port 443 is let out of either site.
    """
    egress: Literal["https", "all"] = "https" if strict else "all"
    return ClusterSpec(
        name="relay-deaths",
        cloud=(CloudSpec("cloud", 443 if strict else 8087),),
        relay=tuple(RelaySpec(f"relay-{number + 1}", websocket=strict) for number in range(relays)),
        site=(
            SiteSpec("home", (NodeSpec("tv"),), nat=home, egress=egress),
            SiteSpec(
                "office",
                (NodeSpec("desk", forward=(PORT,)), *map(NodeSpec, colleagues)),
                nat=office,
                egress=egress,
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one transfer noticed."""

    kind: str
    up: bool
    """It went from home to office."""
    relay: str
    stall_s: float
    took_s: float
    failure: str = ""
    """What was wrong with the bytes, or why they did not come."""


class RelayDeaths:
    """Transfers over one cluster in a lab."""

    def __init__(self, cluster: Cluster, lab: Lab, rng: Random, size: int) -> None:
        self._cluster = cluster
        self._lab = lab
        self._rng = rng
        self._size = size
        self._wholeness = Wholeness(cluster)
        self._listen_port = 0

    @asynccontextmanager
    async def forwarding(self) -> AsyncIterator[None]:
        """Keep the port of the office at home."""
        api = self._cluster.api(NEAR)
        with anyio.fail_after(TRANSFER_S):
            await self._wholeness.awaited()
            order = {"node": FAR, "port": PORT, "for_s": 3600}
            while True:
                try:
                    reply = await api.post_json("/atoll/v1/forwards", order)
                    break
                except NoAnswer:
                    await anyio.sleep(0.1)  # The cloud has not heard of the other site yet.
            self._listen_port = reply["forward"]["listen_port"]
            await self.transfer(WARM_BYTES, up=False)
            await self._two_bearers()
        yield

    async def undergo(self, kind: str, number: int) -> Transfer:
        """Take the relay in use away in the midst of one transfer, and give it back afterwards."""
        up = bool(number % 2)
        fault_at = self._rng.randrange(1, 9)
        hit: list[str] = []

        async def break_it(tenth: int) -> None:
            if tenth == fault_at:
                hit.append(await self._relay_in_use())
                await self._take_away(kind, hit[0])

        try:
            with anyio.fail_after(TRANSFER_S):
                ended = await self.transfer(self._size, up=up, at=break_it)
            transfer = Transfer(kind, up, hit[0] if hit else "", ended["stall_s"], ended["took_s"])
            if not hit:
                transfer = Transfer(kind, up, "", 0.0, 0.0, "it had ended before the fault came")
        except (NotReady, NoAnswer, TimeoutError) as error:
            failure = str(error) or f"it did not end within {TRANSFER_S:g} s"
            transfer = Transfer(kind, up, hit[0] if hit else "", 0.0, 0.0, failure)
        finally:
            if hit:
                await self._give_back(kind, hit[0])
        await self._two_bearers()
        return transfer

    async def paths(self) -> list[dict[str, Any]]:
        """Give the paths of the session between the sites, as a user sees them."""
        return await self._paths()

    async def _two_bearers(self) -> None:
        """Wait until the site is whole and two bearers stand, as before the fault.

        Raises:
            NotReady: They did not come.
        """
        await self._wholeness.awaited()
        with anyio.move_on_after(WHOLE_S):
            while True:
                bearers = [each for each in await self._paths() if each["kind"] == "bep"]
                if len({each["relay"] for each in bearers if each["condition"] == "usable"}) >= BEARERS:
                    return
                await anyio.sleep(0.05)
        raise NotReady(f"no two bearers within {WHOLE_S:g} s", "see `atoll status`")

    async def _paths(self) -> list[dict[str, Any]]:
        """Give the paths of the session between the sites, as a user sees them."""
        status: dict[str, Any] = await self._cluster.status(NEAR)
        return [path for route in status["routes"] for path in route["paths"]]

    async def _take_away(self, kind: str, relay: str) -> None:
        if kind == "swallow":
            await self._lab.cut(relay)
        elif kind == "freeze":
            await self._cluster.kill(relay, SIGSTOP)
        else:
            await self._cluster.kill(relay)

    async def _give_back(self, kind: str, relay: str) -> None:
        if kind == "swallow":
            await self._lab.heal(relay)
        elif kind == "freeze":
            await self._cluster.kill(relay, SIGCONT)
        else:
            await self._cluster.restart(relay)

    async def _relay_in_use(self) -> str:
        """Name the relay that the path in use goes through, as a user sees it."""
        found = [path["relay"] for path in await self._paths() if path["in_use"]]
        if not found:
            raise NotReady("no path is in use", "see `atoll status`")
        return str(found[0])

    async def transfer(self, size: int, *, up: bool, at: Any = None) -> dict[str, Any]:
        """Carry bytes between the two programs; gives what the receiver tells at its end.

        Raises:
            NotReady: One of the two failed; the text is its own.
        """
        roles = {FAR: ["--listen", str(PORT)], NEAR: ["--connect", str(self._listen_port)]}
        sender, receiver = (NEAR, FAR) if up else (FAR, NEAR)
        roles[sender] += ["--send", str(size)]
        roles[receiver] += ["--receive", str(size)]
        async with await self._lab.run(FAR, [*_BULK, *roles[FAR]], stdin=None, stdout=PIPE, stderr=PIPE) as far:
            told = _lines(far)
            await anext(told)
            async with await self._lab.run(NEAR, [*_BULK, *roles[NEAR]], stdin=None, stdout=PIPE, stderr=PIPE) as near:
                hears = told if up else _lines(near)
                ended: dict[str, Any] = {}
                async for line in hears:
                    if "at" in line and at is not None:
                        await at(line["at"] * 10 // size)
                    elif "bytes" in line:
                        ended = line
                for process in (near, far):
                    if await process.wait():
                        raise NotReady(await _said(process), "see the nodes' logs")
        return ended


async def _lines(process: Any) -> AsyncIterator[dict[str, Any]]:
    text = ""
    async for piece in TextReceiveStream(process.stdout):
        *whole, text = (text + piece).split("\n")
        for line in whole:
            yield json.loads(line)


async def _said(process: Any) -> str:
    return "".join([piece async for piece in TextReceiveStream(process.stderr)]).strip() or "it failed without a word"

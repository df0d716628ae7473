"""Tries in a lab to punch through every kind of NAT to every other, and counts.

a site of one node behind each kind of NAT, twice; two relays outside that say what they see
--for each pair, again and again--> initiate there, respond here --> punched, and how long it took, or why not
"""

import json
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from subprocess import PIPE
from typing import Any, get_args

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from atoll.cluster_specs import ClusterSpec, NodeSpec, RelaySpec, SiteSpec
from atoll.cluster_specs.spec import Nat
from atoll.testing.errors import NotReady
from atoll.testing.lab import Lab

KINDS: tuple[Nat, ...] = tuple(kind for kind in get_args(Nat) if kind != "none")
RELAYS = ("relay-1", "relay-2")
PORT = 8089
TRY_S = 30.0
LINE_BYTES_MAX = 65_536
_END = [sys.executable, "-P", "-m", "atoll.testing.punch_end"]


def spec_of_kinds(kinds: Sequence[Nat]) -> ClusterSpec:
    """A site of one node behind each of them, and another one, and two relays."""
    sites = tuple(SiteSpec(f"{kind}-{side}", (NodeSpec("node"),), nat=kind) for kind in kinds for side in "ab")
    return ClusterSpec(name="punches", relay=tuple(RelaySpec(name) for name in RELAYS), site=sites)


@dataclass(slots=True, eq=False)
class Pair:
    """What came of the attempts between two kinds of NAT."""

    one: Nat
    other: Nat
    took_s: list[float] = field(default_factory=list)
    """Of those that were punched, from the first question to a relay on."""
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def tries(self) -> int:
        """How many there were."""
        return len(self.took_s) + self.failures.total()

    @property
    def line(self) -> str:
        """The pair as a row of a table."""
        times = [1000 * each for each in sorted(self.took_s)]
        took = f"{times[0]:.0f} / {statistics.median(times):.0f} / {times[-1]:.0f}" if times else "-"
        why = "; ".join(f"{text} ({count})" for text, count in self.failures.most_common()) or "-"
        return f"| {self.one} | {self.other} | {len(times)} of {self.tries} | {took} | {why} |"


HEAD = "| one end | the other | punched | ms: least / middle / most | why not |\n|---|---|---|---|---|"


class _Program:
    """A program in the lab that tells JSON lines."""

    def __init__(self, process: Process) -> None:
        if process.stdout is None:
            raise RuntimeError("the program has no stdout though one was asked for")
        self._process = process
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def told(self) -> dict[str, Any]:
        try:
            line = await self._lines.receive_until(b"\n", LINE_BYTES_MAX)
        except (anyio.EndOfStream, anyio.IncompleteRead) as error:
            raise NotReady("a program of the lab has ended", "see what it said above") from error
        found: dict[str, Any] = json.loads(line)
        return found

    async def tell(self, **what: Any) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the program has no stdin though one was asked for")
        await self._process.stdin.send(json.dumps(what).encode() + b"\n")


class PunchTrials:
    """Attempts in one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._ends: dict[str, _Program] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the relays and all ends for the time of the block."""
        async with AsyncExitStack() as stack:
            for name in RELAYS:
                program = await self._program(stack, name, ["--reflect", str(PORT)])
                await program.told()
            relays = [f"{self._lab.address_of(name)}:{PORT}" for name in RELAYS]
            for site in self._lab.spec.site:
                self._ends[site.name] = await self._program(stack, f"{site.name}/node", relays)
            yield

    async def _program(self, stack: AsyncExitStack, place: str, arguments: list[str]) -> _Program:
        process = await self._lab.run(place, [*_END, *arguments], stdin=PIPE, stdout=PIPE, stderr=None)
        stack.push_async_callback(process.aclose)
        stack.callback(process.kill)
        return _Program(process)

    async def attempt(self, pair: Pair, number: int) -> None:
        """Try once; every other time the other end initiates."""
        sites = [f"{pair.one}-a", f"{pair.other}-b"]
        initiator, responder = (self._ends[name] for name in (sites if number % 2 == 0 else reversed(sites)))
        with anyio.fail_after(TRY_S):
            await initiator.tell(**{"try": number})
            told = await initiator.told()
            if "request" in told:
                await responder.tell(request=told["request"])
                if "agreed" in (answered := await responder.told()):
                    await initiator.tell(agreed=answered["agreed"])
                    told = await initiator.told()
                    await responder.told()
                else:
                    raise NotReady(f"the responder says {answered}", "see what it said above")
        if "punched" in told:
            pair.took_s.append(told["punched"]["took_s"])
        else:
            pair.failures[told["failed"]] += 1

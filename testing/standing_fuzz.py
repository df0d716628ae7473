"""Hostile envelopes to a real Elector in a real actor system, from peers of every standing.

    good envelopes --mutated (`fuzz.py`)--> `deliver`, with a standing --> refused and counted, or the Elector's

Who is no member of the site changes nothing, whatever it sends, and each of its envelopes is counted exactly once; a
member's may change what elections change, and ends no actor.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import anyio
import anyio.lowlevel

from atoll.actors.elector.elector import PATH, Elector
from atoll.actors.elector.messages import MESSAGES
from atoll.actors.elector.roster import Roster
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import ActorSystem
from atoll.testing.election_fuzz import FINDINGS_MAX, Harvest, fingerprint
from atoll.testing.fuzz import Mutator
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.envelope import Envelope, Header, Kind, decode_envelope, encode_envelope
from atoll.transport.errors import MalformedFrame
from atoll.transport.keys import NodeKey, SiteKeys

CODEC = Codec([*RUNTIME_MESSAGES, *MESSAGES])
HEADERS = 100
GAUGES = ("actors", "tasks", "supervisors", "handled", "asks_remote")
"""In the statistics, and no counters of what was refused."""
LOOKED_AT_EVERY = 8
"""Comparing the whole machine before and after costs ten times what it is compared for."""
DRAINED_EVERY = 16
"""Members' messages wait in the mailbox until then."""


@dataclass(slots=True)
class StandingFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    fates: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cases: int = 0

    def run(self, cases: int) -> None:
        """Run so many cases."""
        with tempfile.TemporaryDirectory() as folder:
            anyio.run(self._run, cases, Path(folder))

    async def _run(self, cases: int, folder: Path) -> None:
        rng, site = Random(self.seed), SiteKeys.generate()
        keys = [NodeKey.generate() for _ in range(3)]
        own = keys[0]
        roster = Roster.found(site, sorted(key.node_id for key in keys))
        electors: list[Elector] = []

        def elector() -> Elector:
            electors.append(Elector(own.node_id, site, roster, sign=own.sign, journal=folder / "journal"))
            return electors[-1]

        bodies = [data for found in Harvest.reaped(self.seed).messages.values() for data in found]
        headers = _headers(rng, keys)
        mutator, until = Mutator(rng), self.cases + cases
        async with ActorSystem(own.node_id, CODEC, lambda _: None) as system:
            await system.spawn(elector, PATH)
            while self.cases < until and len(self.findings) < FINDINGS_MAX:
                self.cases += 1
                header = mutator.variant(headers) if rng.random() < 0.3 else rng.choice(headers)
                data = (
                    len(header).to_bytes(2, "big") + header + mutator.variant(bodies) if len(header) < 2**16 else header
                )
                self._deliver(system, electors[-1], data, rng.choice(list(Standing)))
                if self.cases % DRAINED_EVERY == 0:
                    await anyio.lowlevel.checkpoint()
                    if len(electors) > 1:
                        self.findings.append(f"case {self.cases} of seed {self.seed}: the Elector was restarted")
                        return

    def _deliver(self, system: ActorSystem, elector: Elector, data: bytes, standing: Standing) -> None:
        try:
            envelope = decode_envelope(data)
        except MalformedFrame:
            self.fates["no envelope"] += 1
            return
        looked = self.cases % LOOKED_AT_EVERY == 0
        before, whole = _counted(system), fingerprint(elector.election) if looked else None
        try:
            system.deliver(envelope, standing)
        except Exception as error:  # noqa: BLE001 - whatever is raised here is a finding
            self._find(envelope, standing, f"raised {type(error).__name__}: {error}")
            return
        counted = _counted(system) - before
        self.fates[f"{standing.value}: {'refused' if counted else 'taken'}"] += 1
        if looked and fingerprint(elector.election) != whole:
            self._find(envelope, standing, "changed something before the Elector had its turn")
        if standing is not Standing.MEMBER and counted != 1:
            self._find(envelope, standing, f"was counted {counted} times")

    def _find(self, envelope: Envelope, standing: Standing, what: str) -> None:
        sent = f"a {standing.value}'s {envelope.header} {envelope.body[:80]!r}"
        self.findings.append(f"case {self.cases} of seed {self.seed}: {sent} {what}")


def _counted(system: ActorSystem) -> int:
    return sum(count for name, count in system.statistics().items() if isinstance(count, int) and name not in GAUGES)


def _headers(rng: Random, keys: list[NodeKey]) -> list[bytes]:
    headers = []
    for _ in range(HEADERS):
        kind = rng.choice((Kind.TELL, Kind.TELL, Kind.TELL, Kind.ASK, Kind.REPLY, Kind.FAULT))
        header = Header(
            1,
            kind,
            rng.choice(keys).node_id,
            PATH,
            keys[0].node_id if rng.random() < 0.9 else keys[1].node_id,
            PATH if rng.random() < 0.9 else "nobody",
            b"" if kind is Kind.TELL else rng.randbytes(16),
        )
        headers.append(encode_envelope(Envelope(header, b""))[2:])
    return headers

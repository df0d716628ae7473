"""Hostile beacons and suspicion messages to the real parser and machines: forged, replayed, oversized, truncated.

    good beacons --changed--> BeaconEar --what it believes--> Membership         (nothing but genuine ones may pass)
    messages of a simulated site --mutated (`fuzz.py`)--> codec --what it reads--> Suspicion

A hostile packet changes nothing and is counted. What a member says, who holds the site's secret, may be believed; but
the same message a second time changes nothing more, tables keep their limits, and answers stay small.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from atoll.actors.discoverer.membership import Membership
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.actors.runtime.machine import Received, Send, TimerFired, Told
from atoll.testing.discovery import CODEC, suspicion_simulation
from atoll.testing.election_fuzz import FINDINGS_MAX
from atoll.testing.elections import simulated_node
from atoll.testing.faults import Crash, FaultPlan, Loss
from atoll.testing.fuzz import Mutator
from atoll.testing.hosts import Host
from atoll.testing.invariants import Invariant
from atoll.testing.simulator import Simulation
from atoll.transport.beacon_packet import MEMBERS_MAX, PACKET_BYTES_MAX, STRANGERS_MAX, BeaconEar, BeaconPacket
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId
from atoll.transport.keys import SIGNATURE_BYTES, NodeKey, SiteKeys

SITE, ELSEWHERE = SiteKeys(b"s" * 32), SiteKeys(b"e" * 32)
KEYS = [NodeKey(bytes([number]) * 32) for number in range(1, 14)]
OWN = KEYS[0]
BEATS = 24
SOURCES = 3000
"""More than the ear remembers."""
EFFECTS_MAX = 40
"""What one message may cause; a ping for another and a few pieces of news are far below."""
MESSAGE_BYTES_MAX = 1024
NODES = 8
SAMPLES_MAX = 3000
TICK_EVERY = 20


@dataclass(slots=True)
class BeaconFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    fates: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cases: int = 0
    _rng: Random = field(init=False)
    _ear: BeaconEar = field(init=False)
    _membership: Membership = field(init=False)
    _good: list[bytes] = field(init=False)
    _genuine: set[bytes] = field(init=False)
    _now: float = 1000.0

    def __post_init__(self) -> None:
        self._rng = rng = Random(self.seed)
        self._ear = BeaconEar(OWN.node_id, 5000, SITE)
        self._membership = Membership(OWN.node_id, rng=Random(self.seed))
        self._membership.start((), self._now)
        self._good = [
            BeaconPacket(key.node_id, 8085, boot, sequence, rng.choice(("tv", "", "ö" * 24)), "0.1.0").encode(key, site)
            for number, key in enumerate(KEYS)
            for site in ((SITE, ELSEWHERE, None)[number % 3],)
            for boot in (4000, 6000)
            for sequence in range(BEATS)
        ]
        # What stands before the signature: a known member's beacons are believed by the site's HMAC alone.
        self._genuine = {data[:-SIGNATURE_BYTES] for data in self._good}

    def run(self, cases: int) -> None:
        """Run so many packets."""
        until = self.cases + cases
        while self.cases < until and len(self.findings) < FINDINGS_MAX:
            self.cases += 1
            self._now += self._rng.expovariate(200.0)
            data = self._packet()
            try:
                self._hear(data, f"192.0.{self._rng.randrange(SOURCES) // 250}.{self._rng.randrange(250)}")
            except Exception as error:  # noqa: BLE001 - nothing may come out of the ear or the machine
                self._found(data, f"{type(error).__name__}: {error}")

    def _hear(self, data: bytes, host: str) -> None:
        before = sum(self._ear.statistics().values()) - self._known()
        heard = self._ear.hear(data, host, self._now)
        if sum(self._ear.statistics().values()) - self._known() != before + 1:
            self._found(data, "it was not counted")
        if self._ear.statistics()["members_known"] > MEMBERS_MAX or self._known() > MEMBERS_MAX + STRANGERS_MAX:
            self._found(data, "a table outgrew its limit")
        if self.cases % TICK_EVERY == 0:
            self._membership.handle(TimerFired("look"), self._now)
        if heard is None:
            self.fates["refused"] += 1
            return
        self.fates["believed"] += 1
        if data[:-SIGNATURE_BYTES] not in self._genuine or len(data) > PACKET_BYTES_MAX:
            self._found(data, f"a beacon of {heard.peer.short} that nobody wrote is believed")
        effects = self._membership.handle(Told(heard), self._now)
        self._membership.check()
        if len(effects) > EFFECTS_MAX:
            self._found(data, f"{len(effects)} effects of one beacon")

    def _known(self) -> int:
        statistics = self._ear.statistics()
        return statistics["members_known"] + statistics["strangers_known"]

    def _packet(self) -> bytes:
        rng = self._rng
        data = rng.choice(self._good)
        kind = rng.choice(("good", "flip", "flip", "cut", "long", "splice", "sealed", "signed", "noise"))
        if kind == "good":
            return data
        changed = bytearray(data)
        if kind == "flip":
            for _ in range(rng.randrange(1, 5)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del changed[rng.randrange(len(changed)) :]
        elif kind == "long":
            changed += rng.randbytes(rng.choice((1, 40, 200, 60_000)))
        elif kind == "splice":
            other = rng.choice(self._good)
            at = rng.randrange(len(changed))
            changed[at:] = other[min(at, len(other)) :]
        elif kind == "sealed":
            # By somebody of another site, who says that it is of ours.
            return self._forged(rng.choice(KEYS), ELSEWHERE, SITE.tag)
        elif kind == "signed":
            # In the name of a node, with a key that is not its own.
            return self._forged(NodeKey(rng.randbytes(32)), None, b"")
        else:
            return rng.randbytes(rng.randrange(300))
        return bytes(changed)

    def _forged(self, key: NodeKey, site: SiteKeys | None, tag: bytes) -> bytes:
        rng, victim = self._rng, self._rng.choice(KEYS).node_id
        packet = BeaconPacket(key.node_id, 8085, 7000, rng.randrange(2**32), "forged")
        data = packet.encode(key, site)
        if site is not None:
            return data.replace(site.tag, tag)
        return data.replace(bytes(key.node_id), bytes(victim))

    def _found(self, data: bytes, what: str) -> None:
        self.findings.append(f"case {self.cases} of seed {self.seed}: {data[:100]!r}: {what}")


class _Samples(Invariant):
    def __init__(self) -> None:
        self.said: list[bytes] = []

    def sent(self, _simulation: Simulation, _host: Host, effect: Send) -> None:
        if len(self.said) < SAMPLES_MAX:
            self.said.append(CODEC.encode(effect.message))


@dataclass(slots=True)
class SuspicionFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    kind: type[Suspicion] = Suspicion
    fates: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cases: int = 0
    _mutator: Mutator = field(init=False)
    _machine: Suspicion = field(init=False)
    _said: list[bytes] = field(init=False)
    _now: float = field(init=False)

    def __post_init__(self) -> None:
        samples = _Samples()
        plan = FaultPlan(weights={}, script=((1.0, Loss(0.4, 25.0)), (5.0, Crash(1, 8.0))))
        simulation = suspicion_simulation(self.seed, nodes=NODES, faults=plan, kind=self.kind, probes=(samples,))
        simulation.run(30.0)
        host = simulation.hosts[0]
        self._machine, self._now = host.machine, simulation.local(host)
        self._mutator, self._said = Mutator(Random(self.seed)), samples.said

    def run(self, cases: int) -> None:
        """Run so many messages."""
        until = self.cases + cases
        while self.cases < until and len(self.findings) < FINDINGS_MAX:
            self.cases += 1
            data = self._mutator.variant(self._said)
            sender = simulated_node(self._mutator.rng.randrange(1, NODES + 4))
            try:
                self._take(sender, data)
            except Exception as error:  # noqa: BLE001 - nothing may come out of the codec or the machine
                self._found(data, f"{type(error).__name__}: {error}")

    def _take(self, sender: NodeId, data: bytes) -> None:
        self._now += 0.001
        if self.cases % TICK_EVERY == 0:
            self._now = max(self._now, self._machine.tick_due)
            self._checked(self._machine.handle(TimerFired("tick"), self._now), data)
            self._checked(self._machine.handle(TimerFired("direct"), self._now), data)
            self._checked(self._machine.handle(TimerFired("relayed"), self._now + 0.3), data)
        before = self._beliefs()
        try:
            message = CODEC.decode(data)
        except MalformedFrame:
            self.fates["malformed"] += 1
            if self._beliefs() != before:
                self._found(data, "a malformed message changed something")
            return
        self._checked(self._machine.handle(Received(sender, message), self._now), data)
        once = self._beliefs()
        self.fates[f"{type(message).__name__} {'changed something' if once != before else 'changed nothing'}"] += 1
        self._checked(self._machine.handle(Received(sender, message), self._now), data)
        if self._beliefs() != once:
            self._found(data, "replayed, it changed something again")

    def _checked(self, effects: list[Any], data: bytes) -> None:
        self._machine.check()
        if len(effects) > EFFECTS_MAX:
            self._found(data, f"{len(effects)} effects of one input")
        for effect in effects:
            if isinstance(effect, Send) and len(CODEC.encode(effect.message)) > MESSAGE_BYTES_MAX:
                self._found(data, f"a message of {len(CODEC.encode(effect.message))} bytes")

    def _beliefs(self) -> tuple[Any, ...]:
        return self._machine.incarnation, self._machine.beliefs()

    def _found(self, data: bytes, what: str) -> None:
        self.findings.append(f"case {self.cases} of seed {self.seed}: {data[:100]!r}: {what}")

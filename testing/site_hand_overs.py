"""The hand-over on a whole simulated site: election, roster, placement, suspicion, relocation, hosts, stores, callers.

What `hand_overs.py` has a register for is done by those who do it on a real site: the supernode keeps the placement on
its voters, finds out who died, and places what was there elsewhere. A call must still be applied once, whatever happens
to whom; and when the faults have stopped everybody gets answers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from atoll.actors.discoverer import messages as discoverer
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.actors.elector import messages as elector
from atoll.actors.elector.messages import ScoreChanged
from atoll.actors.hand_over import messages as hand_over
from atoll.actors.hand_over import site_messages
from atoll.actors.hand_over.client import Callers
from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import CALLERS, HOST_RECORDS, HOSTING, LOG_STORE, STORE_RECORDS, LogLost
from atoll.actors.hand_over.orders import Found, Move
from atoll.actors.hand_over.relocation import Relocation
from atoll.actors.hand_over.site_messages import RELOCATION, HostOffers, Relocated
from atoll.actors.placement import messages as placement
from atoll.actors.placement.messages import FindPlace, ListPlaces, SwapPlace
from atoll.actors.placement.placement import Placement
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Effect,
    Input,
    Machine,
    Received,
    Record,
    Seconds,
    Send,
    TimerFired,
)
from atoll.testing.disk import Lost
from atoll.testing.elections import (
    SimulatedSite,
    reachability,
    safety,
    simulated_node,
)
from atoll.testing.faults import FaultPlan
from atoll.testing.hand_over_invariants import ExactlyOnce, OneGenerationServes, Progress, SameReply
from atoll.testing.hand_overs import ACTOR, SimulatedCaller, make_ledger
from atoll.testing.hosts import Host
from atoll.testing.invariants import Invariant
from atoll.testing.placements import ELECTION_RECORDS, LOSSES, PLACEMENT_RECORDS
from atoll.testing.simulator import VIOLATIONS_MAX, Simulation
from atoll.testing.site_duties import LINKS, Links
from atoll.testing.stack import Answer, Answered, Asked, Stack, ask
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId

OPERATOR = "operator"
CODEC = Codec(
    [
        *elector.MESSAGES,
        *placement.MESSAGES,
        *discoverer.MESSAGES,
        *hand_over.MESSAGES,
        *site_messages.MESSAGES,
        Asked,
        Answered,
    ],
)
WITHIN_S = 10.0
"""Of the end of the faults: a supernode, its placement, word to the host that is placed, its stores."""
COMPACT_BYTES, LOG_BYTES_MAX = 1500, 6000


class Asking:
    """A machine that asks the placement by sending, as its shell lets it: the answer comes in like a message."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self._asked = 0

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        return self._out(self.machine.start(restored, now))

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        if isinstance(event, Received) and isinstance(event.message, Answer):
            event = Received(event.sender, event.message.message)
        return self._out(self.machine.handle(event, now))

    def check(self) -> None:
        self.machine.check()

    def _out(self, effects: list[Effect]) -> list[Effect]:
        return [self._asked_of(each) if isinstance(each, Send) else each for each in effects]

    def _asked_of(self, send: Send) -> Send:
        if not isinstance(send.message, FindPlace | SwapPlace | ListPlaces):
            return send
        self._asked += 1
        return ask(CODEC, send.target, send.path, send.message, self._asked)


class Operator:
    """Somebody who founds the actor on one host, and now and then has it moved."""

    def __init__(self, hosting: Hosting, rng: Random, world: "SiteWorld") -> None:
        self._hosting = hosting
        self._rng = rng
        self._world = world

    def start(self, _restored: Sequence[Record], _now: Seconds) -> list[Effect]:
        founds = [Arm("found", 0.05)] if self._hosting.own == self._world.nodes[0] else []
        return [*founds, *self._again()]

    def check(self) -> None:
        """Hold nothing that could be wrong by itself."""

    def _again(self) -> list[Effect]:
        return [Arm("move", self._rng.expovariate(1 / self._world.move_s))] if self._world.move_s else []

    def handle(self, event: Input, _now: Seconds) -> list[Effect]:
        if not isinstance(event, TimerFired):
            return []
        if event.name == "found":
            return [Announce(Found(ACTOR, "ledger", self._world.stores))]
        target = self._rng.choice(self._world.nodes)
        move = target != self._hosting.own and ACTOR in self._hosting.owners
        return [*([Announce(Move(ACTOR, target))] if move else []), *self._again()]


class HandOverHost(Stack):
    """A host of the site; to the election's invariants it looks like its election."""

    def __init__(self, parts: dict[str, Machine], hosting: Hosting, kinds: tuple[str, ...]) -> None:
        self.election: Any = parts[elector.PATH]
        self.hosting = hosting
        self._offers = HostOffers((), ())
        self._of_kinds = kinds
        super().__init__(
            parts,
            {
                elector.PATH: ELECTION_RECORDS,
                placement.PATH: PLACEMENT_RECORDS,
                HOSTING: HOST_RECORDS,
                LOG_STORE: STORE_RECORDS,
            },
            CODEC,
        )

    def introductions(self, now: Seconds) -> list[Any]:
        """Give what shells ask each other when they start."""
        self._offers = HostOffers(self._of_kinds, self.hosting.owned())
        return [self.election.status(now), ScoreChanged(self.election.outlook.score), self._offers]

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        """Let the parts work, and tell what changed of what this host owns."""
        effects = super().handle(event, now)
        offers = HostOffers(self._of_kinds, self.hosting.owned())
        if offers != self._offers:
            self._offers = offers
            effects += self.tell(offers, now)
        return effects

    def __getattr__(self, name: str) -> Any:
        return getattr(self.election, name)


class Relocations(Invariant):
    """Counts what the supernode placed elsewhere."""

    def __init__(self) -> None:
        self.count = 0

    def announced(self, _simulation: Simulation, _host: Host, fact: Any) -> None:
        self.count += isinstance(fact, Relocated)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteWorld:
    """What is simulated, besides the faults; mutants are named here."""

    nodes: tuple[NodeId, ...]
    voters: int = 3
    callers: int = 3
    move_s: Seconds = 0.2
    think_s: Seconds = 0.05
    hosting_kind: type[Hosting] = Hosting
    relocation_kind: type[Relocation] = Relocation
    chooses: bool = False
    """The site chooses its voters itself: who leaves is struck off, and others come in."""
    broken: tuple[NodeId, ...] = ()
    """Hosts that say they could run the actor, and cannot."""
    soft: bool = False
    """It has no log, and dies with its host."""

    @property
    def stores(self) -> tuple[NodeId, ...]:
        """Who keeps the log at first."""
        return () if self.soft else self.nodes[: min(3, self.voters)]


def refuse_all(_actor: str, _kind: str) -> None:
    """Make no application."""


def site_world(nodes: int = 5, **more: Any) -> SiteWorld:
    """Make a world of so many hosts, of which the first ones vote."""
    return SiteWorld(nodes=tuple(simulated_node(number) for number in range(nodes)), **more)


class SiteHandOverSimulation(Simulation):
    """A simulation in which machines compact their logs themselves."""

    disk_records_max = math.inf

    once: ExactlyOnce
    relocations: Relocations


def site_hand_over_simulation(
    seed: int,
    faults: FaultPlan,
    of: SiteWorld | None = None,
    *,
    within_s: float = WITHIN_S,
    violations_max: int = VIOLATIONS_MAX,
) -> SiteHandOverSimulation:
    """Prepare a site; with `until_s` in the plan, it is checked that everybody gets answers afterwards."""
    world = of or site_world()
    site = SimulatedSite.drawn(seed, world.nodes, voters=world.voters, chooses=world.chooses)
    once, relocations = ExactlyOnce(), Relocations()
    probes: list[Invariant] = [*safety(), once, SameReply(), OneGenerationServes(), relocations]
    if math.isfinite(faults.until_s):
        probes.append(Progress(faults.until_s, within_s))
    starts = dict.fromkeys(world.nodes, 0)

    def maker(node: NodeId) -> Callable[[Random], HandOverHost]:
        def make_host(rng: Random) -> HandOverHost:
            starts[node] += 1
            make = refuse_all if node in world.broken else make_ledger
            hosting = world.hosting_kind(node, rng=rng, make=make, compact_bytes=COMPACT_BYTES)
            parts: dict[str, Machine] = {
                elector.PATH: site.election(node, rng),
                placement.PATH: Placement(node, rng=rng),
                LINKS: Links(),
                discoverer.SUSPICION: Suspicion(node, incarnation=starts[node] * 1000, rng=rng),
                RELOCATION: Asking(world.relocation_kind(node)),
                HOSTING: Asking(hosting),
                LOG_STORE: LogStore(rng=rng, log_bytes_max=LOG_BYTES_MAX),
                OPERATOR: Operator(hosting, rng, world),
            }
            if node in world.nodes[-world.callers :]:
                callers = Callers(node, rng=rng, give_up_s=1e9)
                parts[CALLERS] = Asking(SimulatedCaller(callers, rng, world.think_s))
            return HandOverHost(parts, hosting, ("ledger",))

        return make_host

    simulation = SiteHandOverSimulation(
        seed,
        {node: maker(node) for node in world.nodes},
        faults,
        probes,
        codec=CODEC,
        reachability=reachability,
        focus=lambda machine: machine.reign is not None or bool(machine.hosting.owners),
        loss=(*LOSSES, Lost(STORE_RECORDS, lambda damage: LogLost("", damage))),
        violations_max=violations_max,
    )
    simulation.once, simulation.relocations = once, relocations
    return simulation

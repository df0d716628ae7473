"""Suspicion under simulation: sites to run, and what must never happen in them.

Promise R10 of the project: a sick observer does little harm: at most one false death in 24 simulated hours with 50
nodes, 20 % loss and pauses. And a member that really died is found within a bound, by every other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from atoll.actors.discoverer.membership import RING_LINKS, SMALL_SITE_MAX
from atoll.actors.discoverer.messages import (
    GOSSIP_MAX,
    MESSAGES,
    Life,
    MemberDied,
    MemberSuspected,
    Nack,
    Ping,
)
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.actors.discoverer.suspicion_settings import SuspicionSettings
from atoll.actors.elector.messages import SupernodeElected
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime.machine import Send
from atoll.testing.elections import simulated_node
from atoll.testing.faults import Crash, FaultPlan, Loss
from atoll.testing.hosts import Host, State
from atoll.testing.invariants import Invariant
from atoll.testing.simulator import VIOLATIONS_MAX, Simulation
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId

CODEC = Codec(MESSAGES)
LOSS = 0.2
VOTERS = 3
SICK = 2
"""Hosts of a site that stand still half of the time that anybody does."""
SAME_DEATH_S = 60.0
"""Others hear of one false death for so long; it is counted once."""
REST_S = 120.0
"""After so long everybody knows of everybody."""
ELECTED_S = 5.0
"""Another supernode is there, and has links, so soon after one died; real sites elect within 1.2 s."""
FOUND_S = 45.0
"""How long a run waits until every member knows of a death; at 50 nodes and 20 % loss it takes 14 to 20 s."""

SICK_OBSERVERS = FaultPlan(
    weights={"pause": 1.0},
    every_s=(0.5, 5.0),
    pause_s=(0.1, 4.0),
    aim=0.5,
    script=((0.0, Loss(LOSS, math.inf)),),
)
"""20 % loss all the time, and somebody stands still for up to 4 s every 3 s; half of that hits the two sick hosts."""


class NoFalseDeath(Invariant):
    """Nobody is declared dead who runs; standing still for some seconds is no death.

    With `settled_s` only those count who have run without a pause for so long.
    """

    def __init__(self, allowed: int = 0, settled_s: float = 0.0) -> None:
        self.allowed = allowed
        self.settled_s = settled_s
        self.deaths = 0
        self._last: dict[NodeId, float] = {}

    def announced(self, simulation: Simulation, host: Host, fact: Any) -> None:
        if not isinstance(fact, MemberDied) or host.node == fact.node:
            return
        dead = next(each for each in simulation.hosts if each.node == fact.node)
        if dead.state is State.DOWN or (self.settled_s and not _has_run(simulation, fact.node, self.settled_s)):
            return
        if simulation.now - self._last.get(fact.node, -math.inf) > SAME_DEATH_S:
            self._last[fact.node] = simulation.now
            self.deaths += 1
            if self.deaths > self.allowed:
                simulation.violate(f"{host.node.short} declares {fact.node.short} dead, which runs: {fact.why}")


def _has_run(simulation: Simulation, node: NodeId, settled_s: float) -> bool:
    host = next(each for each in simulation.hosts if each.node == node)
    return host.state is State.UP and simulation.now - host.since >= settled_s


class FewSuspicions(Invariant):
    """Suspicions of members that run stay below so many an hour and node; each costs the site a dozen messages.

    Those that a node raises itself are counted, or with `hearsay` those that it takes from others; of members that
    have run for `settled_s`.
    """

    def __init__(self, per_node_hour_max: float, *, hearsay: bool = False, settled_s: float = 0.0) -> None:
        self.per_node_hour_max = per_node_hour_max
        self.hearsay = hearsay
        self.settled_s = settled_s
        self.raised = 0

    def announced(self, simulation: Simulation, host: Host, fact: Any) -> None:
        if isinstance(fact, MemberSuspected) and self.hearsay is not (fact.by == host.node):
            self.raised += not self.settled_s or _has_run(simulation, fact.node, self.settled_s)

    def finished(self, simulation: Simulation) -> None:
        rate = self.raised / len(simulation.hosts) / simulation.now * 3600
        if rate > self.per_node_hour_max:
            simulation.violate(f"{rate:.0f} wrong suspicions per node and hour, {self.per_node_hour_max:g} are allowed")


class BoundedGossip(Invariant):
    """No message carries more rumours than fit into one packet."""

    def __init__(self) -> None:
        self.messages = 0
        self.pings = 0

    def sent(self, simulation: Simulation, host: Host, effect: Send) -> None:
        message = effect.message
        self.messages += 1
        self.pings += isinstance(message, Ping)
        if not isinstance(message, Nack) and len(message.gossip) > GOSSIP_MAX:  # type: ignore[attr-defined]
            simulation.violate(f"{host.node.short} sends {len(message.gossip)} rumours at once")  # type: ignore[attr-defined]


def links_of(members: Sequence[NodeId]) -> Callable[[NodeId, NodeId], bool]:
    """Tell which two have a link, as `Membership` chooses them (decision 0017).

    On a large site those next to each other by id; the last of `members` presides and has a link to everybody, and
    the last three vote and have links to each other.
    """
    places = {node: place for place, node in enumerate(sorted(members))}
    voters, supernode = frozenset(members[-VOTERS:]), members[-1]

    def linked(a: NodeId, b: NodeId) -> bool:
        apart = abs(places[a] - places[b])
        return supernode in (a, b) or {a, b} <= voters or min(apart, len(places) - apart) <= RING_LINKS

    return linked if len(members) > SMALL_SITE_MAX else lambda _a, _b: True


def suspicion_simulation(
    seed: int,
    *,
    nodes: int,
    faults: FaultPlan | None = None,
    kind: type[Suspicion] = Suspicion,
    settings: SuspicionSettings | None = None,
    probes: tuple[Invariant, ...] | None = None,
    violations_max: int = VIOLATIONS_MAX,
) -> Simulation:
    """Prepare a site of so many members, with the links that a site of that size has."""
    members = [simulated_node(number) for number in range(nodes)]
    sick = frozenset(members[:SICK])
    starts = dict.fromkeys(members, 0)

    def maker(node: NodeId) -> Callable[[Random], Suspicion]:
        def make(rng: Random) -> Suspicion:
            starts[node] += 1
            return kind(node, incarnation=starts[node] * 1000, rng=rng, settings=settings)

        return make

    return Simulation(
        seed,
        {node: maker(node) for node in members},
        faults or SICK_OBSERVERS,
        (NoFalseDeath(), BoundedGossip()) if probes is None else probes,
        codec=CODEC,
        reachability=lambda peer, up: PeerUp(peer, Standing.MEMBER, "", "") if up else PeerDown(peer, "silent for 3 s"),
        linked=links_of(members),
        focus=lambda machine: machine.own in sick,
        violations_max=violations_max,
    )


class Talks:
    """Members of a large site that have something to say to each other: links that are opened, and then let go.

    Each call of `turn` opens so many between members that have none, and ends those opened before.
    """

    def __init__(self, simulation: Simulation, at_once: int = 3) -> None:
        self._simulation = simulation
        self._at_once = at_once
        self._pairs: list[tuple[Host, Host]] = []
        self._rng = Random(f"talks {simulation.seed}")

    def end(self) -> None:
        """Let nobody talk any more."""
        for pair in self._pairs:
            self._simulation.unlink(pair)
        self._pairs = []

    def turn(self) -> None:
        """Let others talk."""
        self.end()
        free = self._simulation.unlinked
        self._pairs = self._rng.sample(free, min(self._at_once, len(free)))
        for pair in self._pairs:
            self._simulation.link(pair)


@dataclass(frozen=True, slots=True)
class Found:
    """How long a death took to be known."""

    first_s: float
    """Until the first member knew."""
    last_s: float
    """Until the last one did; infinite when somebody never did within the bound."""


def time_to_find(
    seed: int,
    *,
    nodes: int,
    loss: float = LOSS,
    kind: type[Suspicion] = Suspicion,
    settings: SuspicionSettings | None = None,
    bound_s: float = FOUND_S,
) -> Found:
    """Let a member die on a settled site, and watch how the others learn of it."""
    quiet = FaultPlan(weights={}, script=((0.0, Loss(loss, math.inf)),))
    simulation = suspicion_simulation(seed, nodes=nodes, faults=quiet, kind=kind, settings=settings)
    dead, *others = simulation.hosts
    simulation.run(10.0 + seed % 7 / 7)
    while any(host.machine.life(dead.node) is None for host in others):
        simulation.run(1.0)
    simulation.apply(Crash(dead.index, math.inf))
    died_at, first_s = simulation.now, math.inf
    while simulation.now - died_at < bound_s:
        simulation.run(0.25)
        knowing = sum(host.machine.life(dead.node) is Life.DEAD for host in others)
        if knowing and first_s == math.inf:
            first_s = simulation.now - died_at
        if knowing == len(others):
            return Found(first_s, simulation.now - died_at)
    return Found(first_s, math.inf)


def ghosts_of(
    seed: int, *, nodes: int, within_s: float, told: bool = True, kind: type[Suspicion] = Suspicion
) -> frozenset[NodeId]:
    """Let half a large site at rest die at once, with the supernode; give who passes for alive after so long.

    They are next to each other on the ring, so that most of those die with them who had a link. Another supernode has
    links to all who live a few seconds later; with `told` it knows that it is supernode. The ring is not closed anew.
    """
    quiet = FaultPlan(weights={}, late_ratio=0.0, duplicate_ratio=0.0)
    simulation = suspicion_simulation(seed, nodes=nodes, faults=quiet, kind=kind, probes=())
    simulation.run(REST_S)
    half = sorted(simulation.hosts[:-1], key=lambda each: each.node)[: nodes // 2]
    dead = [*half, simulation.hosts[-1]]
    living = [host for host in simulation.hosts if host not in dead]
    for host in dead:
        simulation.apply(Crash(host.index, math.inf))
    simulation.run(ELECTED_S)
    supernode = living[-1]
    for pair in simulation.unlinked:
        if supernode in pair:
            simulation.link(pair)
    if told:
        for host in living:
            simulation.tell(host, SupernodeElected(supernode.node, 2, confirmed=True, reason="simulated"))
    simulation.run(within_s)
    gone = (Life.DEAD, None)
    return frozenset(each.node for each in dead for host in living if host.machine.life(each.node) not in gone)

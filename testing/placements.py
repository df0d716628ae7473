"""Election and placement under simulation, together on each host, with clients on all of them.

The placement is what the election's changes of rosters wait for; the invariants of both must hold.
"""

import math
from collections.abc import Callable
from random import Random
from typing import Any

from atoll.actors.elector import messages as elector
from atoll.actors.elector.election import Election
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.placement import messages as placement
from atoll.actors.placement.placement import Placement
from atoll.actors.runtime.machine import Seconds
from atoll.testing.disk import Lost
from atoll.testing.elections import (
    Service,
    SimulatedSite,
    reachability,
    safety,
    simulated_node,
)
from atoll.testing.faults import FaultPlan
from atoll.testing.hosts import Host
from atoll.testing.invariants import Invariant
from atoll.testing.placement_clients import CLIENT, LinearizablePlaces, PlacementClient, TablesRiseOnDisk
from atoll.testing.simulator import VIOLATIONS_MAX, Simulation
from atoll.testing.stack import Answered, Asked, Stack
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId

CODEC = Codec([*elector.MESSAGES, *placement.MESSAGES, Asked, Answered])
ELECTION_RECORDS = (elector.Ballot, elector.RosterChain, elector.Signing, elector.Amnesia)
PLACEMENT_RECORDS = (placement.Accepted, placement.Promised, placement.Amnesia)
LOSSES = (Lost(ELECTION_RECORDS, elector.Amnesia), Lost(PLACEMENT_RECORDS, placement.Amnesia))
PAUSE_S = 0.15
"""Between two questions of one client."""
PATIENCE_S = 0.3
"""After so long a client gives a question up."""


class PlacingHost(Stack):
    """A host with an Elector, a placement and a client; to the election's invariants it looks like its election."""

    def __init__(self, election: Election, places: Placement, client: PlacementClient) -> None:
        self.election = election
        self.placement = places
        super().__init__(
            {elector.PATH: election, placement.PATH: places, CLIENT: client},
            {elector.PATH: ELECTION_RECORDS, placement.PATH: PLACEMENT_RECORDS},
            CODEC,
        )

    def introductions(self, now: Seconds) -> list[Any]:
        """Let the placement know what its shell asks the Elector when it starts."""
        return [self.election.status(now)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.election, name)


class Serving(Invariant):
    """After the faults have stopped there is a placement that answers, within `within_s`."""

    def __init__(self, stopped_s: float, within_s: float) -> None:
        self.stopped_s = stopped_s
        self.within_s = within_s
        self.after_s = math.inf

    def handled(self, simulation: Simulation, host: Host) -> None:
        if self.after_s == math.inf and simulation.now >= self.stopped_s:
            leads = host.machine.placement.leadership
            if leads is not None and leads.serves(simulation.local(host)):
                self.after_s = simulation.now - self.stopped_s

    def finished(self, simulation: Simulation) -> None:
        if self.after_s > self.within_s:
            simulation.violate(f"nobody answers for the placement within {self.within_s:g} s: {self.after_s:.3f}")


def placement_simulation(
    seed: int,
    *,
    voters: int,
    bystanders: int = 0,
    faults: FaultPlan | None = None,
    kind: type[Placement] = Placement,
    settings: ElectionSettings | None = None,
    violations_max: int = VIOLATIONS_MAX,
    chooses: bool = False,
    pause_s: Seconds = PAUSE_S,
    patience_s: Seconds = PATIENCE_S,
) -> Simulation:
    """Prepare a site as `election_simulation` does, with a placement and a client on each host."""
    plan = faults or FaultPlan()
    used = settings or ElectionSettings()
    nodes = tuple(simulated_node(number) for number in range(voters + bystanders))
    site = SimulatedSite.drawn(seed, nodes, voters=voters, chooses=chooses)

    def maker(node: NodeId) -> Callable[[Random], PlacingHost]:
        return lambda rng: PlacingHost(
            site.election(node, rng, settings=used),
            kind(node, rng=rng),
            PlacementClient(node, nodes, CODEC, rng, pause_s=pause_s, patience_s=patience_s),
        )

    probes: list[Invariant] = [*safety(), Service(), LinearizablePlaces(), TablesRiseOnDisk()]
    if math.isfinite(plan.until_s):
        probes.append(Serving(plan.until_s, 5 * used.lease_s))
    return Simulation(
        seed,
        {node: maker(node) for node in nodes},
        plan,
        probes,
        codec=CODEC,
        reachability=reachability,
        focus=lambda machine: machine.reign is not None,
        loss=LOSSES,
        violations_max=violations_max,
    )


def history(simulation: Simulation) -> LinearizablePlaces:
    """Give what the clients of a simulation were told."""
    return next(probe for probe in simulation.probes if isinstance(probe, LinearizablePlaces))

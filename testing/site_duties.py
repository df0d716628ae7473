"""A whole site under simulation: election, changes of its roster, placement, suspicion, and the duties on top of them.

What is done for real is everything that decides. What does a duty is simulated: it takes a moment to begin, asks the
holder before for its state, and may fail.
"""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.discoverer import messages as discoverer
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.actors.duties import messages as duties
from atoll.actors.duties.board import DutyBoard
from atoll.actors.duties.messages import (
    PROXY,
    REGISTRAR,
    DropDuty,
    DutyFailed,
    DutyReady,
    HoldDuty,
    StateGiven,
    StateWanted,
)
from atoll.actors.elector import messages as elector
from atoll.actors.elector.election import Election
from atoll.actors.elector.messages import MemberReachable, MemberUnreachable, ScoreChanged
from atoll.actors.elector.reign import Reign
from atoll.actors.placement import messages as placement
from atoll.actors.placement.placement import Placement
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Received,
    Record,
    Seconds,
    Send,
    TimerFired,
    Told,
)
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
from atoll.testing.placements import ELECTION_RECORDS, LOSSES, PLACEMENT_RECORDS
from atoll.testing.simulator import VIOLATIONS_MAX, Simulation
from atoll.testing.stack import Answered, Asked, Stack
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId

DUTIES = (PROXY, REGISTRAR)
CODEC = Codec(
    [*elector.MESSAGES, *placement.MESSAGES, *discoverer.MESSAGES, *duties.MESSAGES, Asked, Answered],
)
LINKS, DOERS = "links", "doers"
BEGIN_S = (0.02, 0.3)
"""What a duty takes to begin: for a proxy, two dials and two tickets."""
STATE_S = 1.0
STATE_AGAIN_S = 0.05


class Links:
    """Tells the parts of a node what its Router would: whose link is up."""

    facts = (MemberReachable, MemberUnreachable)

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        del restored, now
        return []

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        del now
        fact = event.fact if type(event) is Told else None
        if type(fact) is MemberReachable:
            return [Announce(PeerUp(fact.node, Standing.MEMBER, fact.node.short, ""))]
        if type(fact) is MemberUnreachable:
            return [Announce(PeerDown(fact.node, "simulated"))]
        return []

    def check(self) -> None:
        """Hold nothing that could be wrong."""


class Doers:
    """Does what the board of its node orders, as the shell of the Duties would."""

    facts = (HoldDuty, DropDuty)

    def __init__(self, board: DutyBoard, rng: Random, fails: float) -> None:
        self.doing: dict[str, bytes] = {}
        """Duty to its state; only those that are ready."""
        self.begun: list[tuple[str, bytes, bool]] = []
        """Duty, state, and whether the state is another's, of all that were begun here."""
        self._board = board
        self._rng = rng
        self._fails = fails
        self._states: dict[str, bytes] = {}
        self._sources: dict[str, NodeId] = {}

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        del restored, now
        return []

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        del now
        if type(event) is Told:
            return self._follow(event.fact) if type(event.fact) in self.facts else []
        match event:
            case Received(sender=sender, message=StateWanted(duty=duty)) if self._board.may_give(duty, sender):
                return [Send(sender, StateGiven(duty.encode() + b" " + self.doing.get(duty, b"")))]
            case Received(message=StateGiven(state=told)):
                name, _, state = told.partition(b" ")
                return self._begin(name.decode(), state)
            case TimerFired(name=name):
                return self._go_on(*name.split(" "))
        return []

    def _follow(self, order: HoldDuty | DropDuty) -> list[Effect]:
        duty = order.duty
        if isinstance(order, DropDuty):
            self.doing.pop(duty, None)
            self._sources.pop(duty, None)
            return [Disarm(f"state {duty}"), Disarm(f"again {duty}"), Disarm(f"begin {duty}")]
        if order.source is None:
            return self._begin(duty, b"")
        self._sources[duty] = order.source
        return [*self._go_on("again", duty), Arm(f"state {duty}", STATE_S)]

    def _go_on(self, what: str, duty: str) -> list[Effect]:
        if what == "again":
            return [Send(self._sources[duty], StateWanted(duty)), Arm(f"again {duty}", STATE_AGAIN_S)]
        return self._begin(duty, b"") if what == "state" else self._do(duty)

    def _begin(self, duty: str, state: bytes) -> list[Effect]:
        if duty not in self._board.describe().held or duty in self.doing:
            return []
        self._states[duty] = state
        return [Disarm(f"state {duty}"), Disarm(f"again {duty}"), Arm(f"begin {duty}", self._rng.uniform(*BEGIN_S))]

    def _do(self, duty: str) -> list[Effect]:
        if self._rng.random() < self._fails:
            return [Announce(DutyFailed(duty))]
        inherited = self._states.pop(duty)
        self.doing[duty] = inherited or self._rng.randbytes(8)
        self.begun.append((duty, self.doing[duty], bool(inherited)))
        return [Announce(DutyReady(duty))]

    def check(self) -> None:
        """Hold nothing that could be wrong by itself."""


class SiteHost(Stack):
    """A host of the site; to the election's invariants it looks like its election."""

    def __init__(
        self, election: Election, board: DutyBoard, places: Placement, suspicion: Suspicion, doers: Doers
    ) -> None:
        self.election, self.board, self.doers, self.suspicion = election, board, doers, suspicion
        super().__init__(
            {
                elector.PATH: election,
                placement.PATH: places,
                LINKS: Links(),
                discoverer.SUSPICION: suspicion,
                duties.PATH: board,
                DOERS: doers,
            },
            {elector.PATH: ELECTION_RECORDS, placement.PATH: PLACEMENT_RECORDS},
            CODEC,
            # The election and the placement hear all: whatever comes, they look at the time.
            {
                LINKS: Links.facts,
                discoverer.SUSPICION: suspicion.fact_handlers,
                duties.PATH: board.fact_handlers,
                DOERS: doers.facts,
            },
        )

    def introductions(self, now: Seconds) -> list[Any]:
        """Give what shells ask each other when they start."""
        return [self.election.status(now), ScoreChanged(self.election.outlook.score)]

    @property
    def reign(self) -> Reign | None:
        """What is looked at after each event, and so not left to `__getattr__`."""
        return self.election.reign

    def __getattr__(self, name: str) -> Any:
        return getattr(self.election, name)


def doing(simulation: Simulation, duty: str) -> dict[NodeId, bytes]:
    """Give who does a duty now, with its state; hosts that stand still among them."""
    return {
        host.node: host.machine.doers.doing[duty]
        for host in simulation.hosts
        if host.machine is not None and duty in host.machine.doers.doing
    }


class EachDutyOnce(Invariant):
    """In the end, when the faults have stopped long enough, one host does each duty, and everybody knows which.

    Unless all of them drain.
    """

    def finished(self, simulation: Simulation) -> None:
        if all(host.machine.board.describe().draining for host in simulation.hosts):
            return
        for duty in DUTIES:
            there = doing(simulation, duty)
            if len(there) != 1:
                simulation.violate(f"{duty} is done by {len(there)} hosts: {[node.short for node in there]}")
            told = {
                (place.holder, place.source)
                for host in simulation.hosts
                for place in host.machine.board.describe().places
                if place.duty == duty
            }
            if told != {(node, None) for node in there}:
                simulation.violate(f"{duty} is done by {[n.short for n in there]}; told is {sorted(map(str, told))}")


class NoPause(Invariant):
    """Once a duty is done it goes on being done, and its state with it; for plans in which no host stops or is cut off.

    `after_s`: by then the site has begun.
    """

    def __init__(self, after_s: float = 8.0) -> None:
        self.after_s = after_s
        self.moves = 0
        self._states: dict[str, bytes] = {}
        self._holders: dict[str, frozenset[NodeId]] = {}

    def handled(self, simulation: Simulation, _host: Host) -> None:
        if simulation.now < self.after_s:
            return
        for duty in DUTIES:
            there = doing(simulation, duty)
            if not there:
                simulation.violate(f"nobody does {duty}")
            elif set(there.values()) != {self._states.setdefault(duty, next(iter(there.values())))}:
                simulation.violate(f"{duty} begins afresh though its holder lives")
            holders = frozenset(there)
            self.moves += holders != self._holders.get(duty, holders) and len(holders) == 1
            self._holders[duty] = holders


def site_simulation(
    seed: int,
    *,
    voters: int,
    bystanders: int = 0,
    faults: FaultPlan | None = None,
    kind: type[Election] = Election,
    board: type[DutyBoard] = DutyBoard,
    probes: Sequence[Invariant] = (),
    fails: float = 0.0,
    broken: int = 0,
    chooses: bool = False,
    violations_max: int = VIOLATIONS_MAX,
) -> Simulation:
    """Prepare a site in which every member is able to do every duty.

    A duty fails to begin in a part `fails`, and always on the `broken` fittest. Without `chooses` its voters are named,
    and stay. With `until_s` in the plan it is checked in the end that each duty is done once; run at least 20 s longer
    then.
    """
    plan = faults or FaultPlan()
    nodes = tuple(simulated_node(number) for number in range(voters + bystanders))
    site = SimulatedSite.drawn(seed, nodes, voters=voters, chooses=chooses, cloud=True)
    fittest = sorted(nodes, key=lambda node: (site.scores[node], node), reverse=True)
    starts = dict.fromkeys(nodes, 0)

    def maker(node: NodeId) -> Callable[[Random], SiteHost]:
        def make(rng: Random) -> SiteHost:
            starts[node] += 1
            election = site.election(node, rng, kind)
            its_board = board(NodeRecord(node, node.short, "home"), DUTIES)
            suspicion = Suspicion(node, incarnation=starts[node] * 1000, rng=rng)
            doers = Doers(its_board, rng, 1.0 if node in fittest[:broken] else fails)
            return SiteHost(election, its_board, Placement(node, rng=rng), suspicion, doers)

        return make

    watching: list[Invariant] = [*safety(), Service(), *probes]
    if math.isfinite(plan.until_s):
        watching.append(EachDutyOnce())
    return Simulation(
        seed,
        {node: maker(node) for node in nodes},
        plan,
        watching,
        codec=CODEC,
        reachability=reachability,
        focus=lambda machine: machine.reign is not None or bool(machine.doers.doing),
        loss=LOSSES,
        violations_max=violations_max,
    )

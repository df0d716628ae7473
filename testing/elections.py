"""The election under simulation: sites to run, and what must never happen in them.

Structs are told apart by `type` here, as `isinstance` takes ten times as long where it is another.

Promise R1 of the project: never two lease holders at one real instant, one confirmed supernode per epoch. R4: when
faults stop, there is one within three leases.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from atoll.actors.elector.election import Election
from atoll.actors.elector.messages import (
    MESSAGES,
    Amnesia,
    Ballot,
    MemberReachable,
    MemberUnreachable,
    PlacementSettled,
    RosterChain,
    RosterInForce,
    RosterProposed,
    Signing,
    SupernodeElected,
    Vote,
    VoteRequest,
)
from atoll.actors.elector.roster import Mark, Notary, Roster
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.runtime.machine import Record, Send
from atoll.testing.faults import FaultPlan
from atoll.testing.hosts import Host
from atoll.testing.invariants import Invariant
from atoll.testing.simulator import VIOLATIONS_MAX, Simulation
from atoll.transport.codec import Codec
from atoll.transport.identity import NodeId
from atoll.transport.keys import SiteKeys

SITE = SiteKeys(hashlib.sha256(b"a simulated site").digest())
CODEC = Codec(MESSAGES)
SETTLED_AFTER_S = 0.05
"""How long the simulated placement takes to write to a majority."""


def simulated_node(number: int) -> NodeId:
    """Make an id for a simulated node; no key belongs to it."""
    return NodeId(hashlib.sha256(b"simulated node %d" % number).digest())


def _signature(node: NodeId, data: bytes) -> bytes:
    return hashlib.sha256(node + data).digest()


def simulated_notary(node: NodeId) -> Notary:
    """Make what signs for a simulated node: anybody could forge it, and nobody in a simulation does."""
    return Notary(
        roster_key=SITE.roster_key,
        site_tag=SITE.tag,
        sign=lambda data: _signature(node, data),
        verify=lambda signer, data, signature: signature == _signature(signer, data),
    )


def scores_of(seed: int, nodes: Sequence[NodeId], *, cloud: bool = False) -> dict[NodeId, Score]:
    """Draw how fit each node is; `cloud`: they all reach one."""
    rng = Random(f"scores {seed}")
    return {node: Score(mains=rng.random() < 0.5, cloud=cloud, memory_class=rng.randrange(4)) for node in nodes}


@dataclass(frozen=True, slots=True)
class SimulatedSite:
    """Who is on a simulated site, and what the election of each begins with.

    The voters are named, and stay; a site that `chooses` changes its roster as members come, go and leave.
    """

    scores: Mapping[NodeId, Score]
    roster: Roster
    chooses: bool

    @classmethod
    def drawn(
        cls, seed: int, nodes: Sequence[NodeId], *, voters: int, chooses: bool, cloud: bool = False
    ) -> "SimulatedSite":
        """Let the first `voters` nodes vote, and draw how fit each is; see `scores_of`."""
        return cls(scores_of(seed, nodes, cloud=cloud), Roster.found(SITE, tuple(nodes[:voters])), chooses)

    def election(
        self, node: NodeId, rng: Random, kind: type[Election] = Election, settings: ElectionSettings | None = None
    ) -> Election:
        """Make a node's election, as it is after a start."""
        return kind(
            node,
            # Members without a vote have joined: they learn the roster from the others.
            self.roster if node in self.roster.voters else Roster(),
            rng=rng,
            notary=simulated_notary(node),
            score=self.scores[node],
            settings=settings or ElectionSettings(),
            named=() if self.chooses else self.roster.voters,
        )


def reachability(peer: NodeId, up: bool) -> MemberReachable | MemberUnreachable:  # noqa: FBT001 - the simulator calls it
    """Tell an election that its link to a member came up, or went down."""
    return MemberReachable(peer) if up else MemberUnreachable(peer)


class OneLeaseHolder(Invariant):
    """Never two leases of one incarnation at one real instant, whatever each host's clock says.

    An overlap can only begin when somebody's lease is prolonged, so that is when all clocks are compared.
    """

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def handled(self, simulation: Simulation, host: Host) -> None:
        reign = host.machine.reign
        if reign is None or self._until.get(host.index) == reign.lease_until:
            return
        self._until[host.index] = reign.lease_until
        if not host.machine.lease_held(simulation.local(host)):
            return
        for other in simulation.hosts:
            if other is host or other.machine is None or not other.machine.lease_held(simulation.local(other)):
                continue
            if other.machine.roster.incarnation != host.machine.roster.incarnation:
                continue  # A person has said that the old one is dead.
            simulation.violate(
                f"two lease holders: {host.node.short} in epoch {host.machine.epoch}, "
                f"{other.node.short} in epoch {other.machine.epoch}"
            )


class OneSupernodePerEpoch(Invariant):
    """All announcements of a confirmed supernode in an epoch name the same node."""

    def __init__(self) -> None:
        self._named: dict[int, NodeId] = {}

    def announced(self, simulation: Simulation, host: Host, fact: Any) -> None:
        if type(fact) is SupernodeElected and fact.confirmed:
            named = self._named.setdefault(fact.epoch, fact.node)
            if named != fact.node:
                simulation.violate(
                    f"{host.node.short} names {fact.node.short} in epoch {fact.epoch}, it is {named.short}"
                )


class OneVotePerEpoch(Invariant):
    """A voter gives its vote of an epoch to one node, through crashes too.

    Not through the loss of its journal: then it may vote again where nobody was elected, and `OneSupernodePerEpoch`
    tells whether it did so elsewhere.
    """

    sent_kinds = (Vote, VoteRequest)

    def __init__(self) -> None:
        self._cast: dict[tuple[int, int], NodeId] = {}

    def forgot(self, _simulation: Simulation, host: Host) -> None:
        self._cast = {key: cast for key, cast in self._cast.items() if key[0] != host.index}

    def sent(self, simulation: Simulation, host: Host, effect: Send) -> None:
        message = effect.message
        if type(message) is Vote and not message.refusal:
            self._cast_once(simulation, host, message.asked, effect.target)
        elif type(message) is VoteRequest:
            self._cast_once(simulation, host, message.epoch, host.node)

    def _cast_once(self, simulation: Simulation, host: Host, epoch: int, candidate: NodeId) -> None:
        cast = self._cast.setdefault((host.index, epoch), candidate)
        if cast != candidate:
            simulation.violate(f"{host.node.short} votes for {candidate.short} in epoch {epoch}, after {cast.short}")


class OneRosterEach(Invariant):
    """One roster has each place, whoever takes it over, and follows from the one before by one voter."""

    def __init__(self) -> None:
        self._final: dict[Mark, Roster] = {}
        self._voters: dict[Mark, tuple[NodeId, ...]] = {}

    def announced(self, simulation: Simulation, host: Host, fact: Any) -> None:
        if type(fact) is RosterInForce:
            known = self._voters.setdefault((fact.incarnation, fact.version), fact.voters)
            if known != fact.voters:
                simulation.violate(f"{host.node.short} puts other voters in force as version {fact.version}")

    def persisted(self, simulation: Simulation, host: Host, record: Record) -> None:
        for roster in record.rosters if type(record) is RosterChain else ():
            simulation.changes += roster.mark not in self._final
            known = self._final.setdefault(roster.mark, roster)
            if known is roster:
                self._follows(simulation, roster)
            elif known.digest != roster.digest:
                simulation.violate(f"{host.node.short} has another roster of version {roster.version} than others")

    def _follows(self, simulation: Simulation, roster: Roster) -> None:
        before = self._final.get((roster.incarnation, roster.version - 1))
        if before is not None and before.digest != roster.previous:
            simulation.violate(f"version {roster.version} of the roster does not follow from the one before")
        if before is not None and len(before.difference(roster)) != 1:
            simulation.violate(f"version {roster.version} changes {len(before.difference(roster))} voters")


class ChangesWaitForThePlacement(Invariant):
    """A supernode begins a change only when something is settled in its epoch under its roster.

    It plays the placement too: it writes to a majority, and that takes a moment.
    """

    sent_kinds = (RosterProposed,)

    def __init__(self) -> None:
        self._settled_at: dict[tuple[NodeId, int, Mark], float] = {}
        self._begun: set[bytes] = set()

    def handled(self, simulation: Simulation, host: Host) -> None:
        machine = host.machine
        if machine.reign is None:
            return
        place = host.node, machine.epoch, machine.roster.mark
        if place not in self._settled_at:
            self._settled_at[place] = simulation.now + SETTLED_AFTER_S
            simulation.tell_later(host, PlacementSettled(machine.epoch, *machine.roster.mark), SETTLED_AFTER_S)

    def persisted(self, simulation: Simulation, host: Host, record: Record) -> None:
        if type(record) is Signing and record.proposal is not None:
            self._begin(simulation, host, record.proposal)

    def sent(self, simulation: Simulation, host: Host, effect: Send) -> None:
        message = effect.message
        if type(message) is RosterProposed:
            self._begin(simulation, host, message.proposal)

    def _begin(self, simulation: Simulation, host: Host, proposal: Roster) -> None:
        if proposal.digest in self._begun:
            return  # Whoever finishes what another has begun does not wait.
        self._begun.add(proposal.digest)
        place = host.node, proposal.epoch, (proposal.incarnation, proposal.version - 1)
        if simulation.now < self._settled_at.get(place, math.inf):
            simulation.violate(f"{host.node.short} changes the roster before anything is settled in its epoch")


class EpochsRiseOnDisk(Invariant):
    """On each disk epochs never fall, and a vote once cast stays, for as long as the disk keeps it."""

    def __init__(self) -> None:
        self._ballots: dict[int, Ballot] = {}

    def forgot(self, _simulation: Simulation, host: Host) -> None:
        self._ballots.pop(host.index, None)

    def persisted(self, simulation: Simulation, host: Host, record: Record) -> None:
        if type(record) is not Ballot:
            return
        before = self._ballots.get(host.index, Ballot())
        recast = record.epoch == before.epoch and before.voted_for not in (None, record.voted_for)
        if record.epoch < before.epoch or recast:
            simulation.violate(f"the disk of {host.node.short} goes from {before} to {record}")
        self._ballots[host.index] = record


class Service(Invariant):
    """Counts elections, and the spans without a lease holder (true time)."""

    def __init__(self) -> None:
        self._until = 0.0
        self._covered_until = 0.0

    def announced(self, simulation: Simulation, host: Host, fact: Any) -> None:
        if type(fact) is SupernodeElected and fact.confirmed and fact.node == host.node:
            simulation.elections += 1

    def handled(self, simulation: Simulation, host: Host) -> None:
        reign = host.machine.reign
        if reign is None or reign.lease_until == self._until:
            return
        self._until = reign.lease_until
        if simulation.now > self._covered_until:
            simulation.gaps_s.append(simulation.now - self._covered_until)
        ends = simulation.now + (reign.lease_until - simulation.local(host)) / host.clock.rate
        self._covered_until = max(self._covered_until, ends)


class Recovery(Invariant):
    """After the faults have stopped there is a lease holder within `within_s`, and in the end all name the same."""

    def __init__(self, stopped_s: float, within_s: float) -> None:
        self.stopped_s = stopped_s
        self.within_s = within_s
        self.after_s = math.inf
        """How long it took."""

    def handled(self, simulation: Simulation, host: Host) -> None:
        waiting = self.after_s == math.inf and simulation.now >= self.stopped_s
        if waiting and host.machine.lease_held(simulation.local(host)):
            self.after_s = simulation.now - self.stopped_s

    def finished(self, simulation: Simulation) -> None:
        if self.after_s > self.within_s:
            simulation.violate(f"no supernode within {self.within_s:g} s after the faults stopped: {self.after_s:.3f}")
        named = [host.machine.status(simulation.local(host)) for host in simulation.hosts]
        if len({(status.supernode, status.confirmed) for status in named}) != 1 or not named[0].confirmed:
            simulation.violate(f"in the end they name {[(s.supernode, s.confirmed, s.role) for s in named]}")


def safety() -> list[Invariant]:
    """Make one of each that holds wherever an election runs, whatever runs beside it."""
    return [OneLeaseHolder(), OneSupernodePerEpoch(), EpochsRiseOnDisk(), OneRosterEach()]


def invariants() -> list[Invariant]:
    """Make one of each that an election by itself must keep."""
    return [*safety(), OneVotePerEpoch(), ChangesWaitForThePlacement(), Service()]


def election_simulation(
    seed: int,
    *,
    voters: int,
    bystanders: int = 0,
    faults: FaultPlan | None = None,
    kind: type[Election] = Election,
    settings: ElectionSettings | None = None,
    violations_max: int = VIOLATIONS_MAX,
    chooses: bool = False,
    aimed: Sequence[Invariant] = (),
) -> Simulation:
    """Prepare a site of so many voters and members without a vote; with `until_s` in the plan, recovery is checked.

    What `chooses` means is told at `SimulatedSite`. What is `aimed` watches the simulation too, to apply faults where
    they hurt.
    """
    plan = faults or FaultPlan()
    used = settings or ElectionSettings()
    nodes = [simulated_node(number) for number in range(voters + bystanders)]
    site = SimulatedSite.drawn(seed, nodes, voters=voters, chooses=chooses)

    def maker(node: NodeId) -> Callable[[Random], Election]:
        return lambda rng: site.election(node, rng, kind, used)

    probes = [*invariants(), *aimed]
    if math.isfinite(plan.until_s):
        probes.append(Recovery(plan.until_s, 3 * used.lease_s))
    return Simulation(
        seed,
        {node: maker(node) for node in nodes},
        plan,
        probes,
        codec=CODEC,
        reachability=reachability,
        focus=lambda machine: machine.reign is not None,
        loss=Amnesia,
        violations_max=violations_max,
    )

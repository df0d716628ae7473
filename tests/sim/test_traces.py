"""Whole elections as text: what each node says, writes and believes, in true time, as `tests/traces/` has it.

A change of the protocol changes these files: look at the difference, and write them anew with
`python -m pytest tests/sim/test_traces.py --write-traces`.
"""

from pathlib import Path

import pytest

from atoll.actors.elector.messages import (
    Ballot,
    Leave,
    Leaving,
    Reform,
    Release,
    RosterChain,
    RosterInForce,
    RosterProposed,
    RosterSigned,
    Signing,
    SupernodeElected,
    SupernodeLost,
    Vote,
    VoteRequest,
)
from atoll.actors.elector.settings import ElectionSettings
from atoll.testing.elections import election_simulation
from atoll.testing.faults import Crash, Fault, FaultPlan, Tell
from atoll.testing.invariants import Invariant

TRACES = Path(__file__).parent.parent / "traces"
NAMES = "ABCDEFG"


class Scribe(Invariant):
    """Writes down what matters in an election: no heartbeats, no greetings."""

    def __init__(self, simulation):
        self.names = {host.node: NAMES[host.index] for host in simulation.hosts}
        self.lines = []

    def line(self, simulation, host, text):
        self.lines.append(f"{simulation.now:8.3f}  {self.names[host.node]}  {text}")

    def these(self, voters):
        return "".join(sorted(self.names[voter] for voter in voters)) or "nobody"

    def persisted(self, simulation, host, record):
        match record:
            case Ballot(epoch=epoch, voted_for=voted_for):
                self.line(simulation, host, f"writes  epoch {epoch}, vote for {self.names.get(voted_for, 'nobody')}")
            case Signing(proposal=proposal) if proposal is not None:
                what = f"version {proposal.version} of epoch {proposal.epoch}: {self.these(proposal.voters)}"
                self.line(simulation, host, f"writes  its signature under {what}")
            case RosterChain(rosters=rosters):
                self.line(simulation, host, f"writes  roster {rosters[-1].version}: {self.these(rosters[-1].voters)}")

    def sent(self, simulation, host, effect):
        match effect.message:
            case VoteRequest(epoch=epoch):
                what = f"asks for a vote in epoch {epoch}"
            case Vote(asked=epoch, refusal=refusal, pending=pending):
                told = f", has signed version {pending.version}" if pending else ""
                what = f"votes in epoch {epoch}{told}" if not refusal else f"refuses epoch {epoch}: {refusal}"
            case Release(epoch=epoch, successor=successor):
                heir = f" in favour of {self.names[successor]}" if successor else ""
                what = f"gives epoch {epoch} up{heir}"
            case RosterProposed(epoch=epoch, proposal=proposal):
                what = f"proposes version {proposal.version} in epoch {epoch}: {self.these(proposal.voters)}"
            case RosterSigned(version=version, refusal=refusal):
                what = f"signs version {version}" if not refusal else f"does not sign: {refusal}"
            case RosterChain(rosters=rosters):
                what = f"sends roster {rosters[-1].version}"
            case Leaving(reason=reason):
                what = f"leaves: {reason}"
            case _:
                return
        self.line(simulation, host, f"to {self.names[effect.target]}    {what}")

    def announced(self, simulation, host, fact):
        match fact:
            case SupernodeElected(node=node, epoch=epoch, confirmed=confirmed):
                sure = "" if confirmed else ", provisionally"
                self.line(simulation, host, f"knows   supernode {self.names[node]} of epoch {epoch}{sure}")
            case SupernodeLost():
                self.line(simulation, host, "knows   no supernode any more")
            case RosterInForce(version=version, voters=voters, reason=reason):
                for node, name in self.names.items():
                    reason = reason.replace(node.short, name)
                self.line(simulation, host, f"knows   roster {version}: {self.these(voters)} ({reason or 'founded'})")


def script(*steps: tuple[float, Fault]) -> FaultPlan:
    return FaultPlan(weights={}, late_ratio=0.0, duplicate_ratio=0.0, drift_max=0.0, script=steps)


SCENES = {
    "first-election": (3, 0, 3.0, script()),
    "a-site-grows-to-three": (1, 2, 4.0, script()),
    "a-voter-leaves": (3, 1, 3.0, script((2.0, Tell(0, Leave("it is sold"))))),
    "the-supernode-dies": (3, 0, 5.0, script((2.0, Crash(2, 1.5)))),
    "a-person-reforms-the-site": (
        3,
        0,
        6.0,
        script((2.0, Crash(1, 9.0)), (2.0, Crash(2, 9.0)), (4.0, Tell(0, Reform("both burned")))),
    ),
}


def trace_of(scene):
    voters, bystanders, seconds, plan = SCENES[scene]
    simulation = election_simulation(
        7,
        voters=voters,
        bystanders=bystanders,
        faults=plan,
        settings=ElectionSettings(settle_s=1.0),
        chooses=bystanders > 0,
    )
    scribe = Scribe(simulation)
    simulation.watch(scribe)
    assert not simulation.run(seconds).violations
    return "\n".join(scribe.lines) + "\n"


@pytest.mark.parametrize("scene", SCENES)
def test_an_election_goes_as_it_is_written_down(scene, request):
    file = TRACES / f"{scene}.txt"
    trace = trace_of(scene)
    if request.config.getoption("--write-traces", False):
        file.write_text(trace)
    assert trace == file.read_text(), f"see what has changed; then write {file.name} anew with --write-traces"


def test_no_trace_is_left_over():
    assert {file.stem for file in TRACES.glob("*.txt")} == set(SCENES)

"""Each rule of changing a roster has a mutant that breaks it, and a nemesis that must notice.

A rule whose mutant lives is either superfluous or not tested. The real machine runs under the very same seeds.
"""

import hashlib
from dataclasses import dataclass, field

import pytest
from kills import must_kill, must_spare
from msgspec.structs import replace

from atoll.actors.elector.election import Election
from atoll.actors.elector.electorate import Electorate, Wish
from atoll.actors.elector.messages import Reform, RosterChain, RosterSigned, Signing
from atoll.actors.elector.recollection import Recollection
from atoll.actors.elector.reign import Reign
from atoll.actors.elector.roster_book import RosterBook
from atoll.actors.elector.roster_change import RosterChange, Signer
from atoll.actors.elector.rosters import Rosters
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.elector.voter import Voter
from atoll.actors.runtime.machine import Persist
from atoll.testing.elections import election_simulation
from atoll.testing.faults import Crash, Cut, FaultPlan
from atoll.testing.hosts import State
from atoll.testing.invariants import Invariant

SEEDS = range(6)


class Restless(Electorate):
    """Wishes for another change at once, each node for another one: safety must not care who should vote."""

    def wish(self, roster, scores, now):
        drawn = hashlib.sha256(self.own + roster.digest + int(now).to_bytes(8, "big")).digest()
        there = [node for node in sorted(self._since) if node not in roster.voters]
        count = len(roster.voters)
        if there and count < 5 and (count < 4 or drawn[0] % 2):
            return Wish((*roster.voters, there[drawn[1] % len(there)]), "it is restless")
        gone = roster.voters[drawn[1] % count]
        left = tuple(voter for voter in roster.voters if voter != gone)
        return Wish(left, "it is restless") if count > 3 else None


class RestlessRosters(Rosters):
    electorate_kind = Restless


class RestlessElection(Election):
    rosters_kind = RestlessRosters


class VoterSignsBeforeTheDisk(Signer):
    def in_order(self, persist, *effects):
        return [*effects, persist]


class SignaturesAreNotOnDisk(Signer):
    def in_order(self, persist, *effects):
        return list(effects)


class NewSupernodeForgetsWhatIsPending(RosterChange):
    def inherit(self, pending):
        pass


class NewSupernodeFinishesTheOldest(RosterChange):
    def inherit(self, pending):
        told = [each for each in pending if each is not None]
        super().inherit(told)
        if self.inherited is not None:
            rivals = [each for each in told if each.previous == self.inherited.previous]
            self.inherited = min(rivals, key=lambda each: each.epoch)


class SupernodeChangesBeforeAnythingIsSettled(RosterChange):
    def settled(self):
        return True


class AnyNumberOfVoters(RosterBook):
    def step_fault(self, before, after):
        if after.mark != (before.incarnation, before.version + 1) or after.previous != before.digest:
            return "it does not follow the roster before"
        return ""


class TwoAtOnce(Restless):
    def wish(self, roster, scores, now):
        wish = super().wish(roster, scores, now)
        others = [voter for voter in roster.voters if wish and voter in wish.voters and voter != self.own]
        if wish is None or len(wish.voters) < 3 or not others:
            return wish
        return Wish(tuple(voter for voter in wish.voters if voter != others[0]), wish.reason)


class TwoVotersChangeAtOnce(Rosters):
    book_kind = AnyNumberOfVoters
    electorate_kind = TwoAtOnce


class RostersAreNotOnDisk(RestlessRosters):
    def in_force(self):
        return [effect for effect in super().in_force() if not isinstance(effect, Persist)]


class ReformedSiteBeginsInTheNextEpoch(Rosters):
    def reformed(self, epoch, reason, rng):
        super().reformed(epoch, reason, rng)
        (made,) = self.book.chain
        self.book.chain = (replace(made, epoch=epoch + 1).sealed(self.book.notary.roster_key),)


class LeaseOfTheOldRosterGoesOn(Reign):
    def follow(self, voters, quorum):
        pass


QUICK = ElectionSettings(
    settle_s=0.05, absent_s=0.5, lease_s=0.3, heartbeat_s=0.05, delay_s_min=0.02, delay_s_max=0.1, again_s=0.02
)
"""Elections and changes three times as often, so that more of them are cut short."""

CALM = FaultPlan(weights={}, latency_s=0.01, late_ratio=0, duplicate_ratio=0)
LOSSY = FaultPlan(
    weights={"loss": 2, "halves": 2, "partial": 1},
    latency_s=0.01,
    every_s=(0.1, 0.5),
    loss_ratio_max=0.8,
    cut_s=(0.2, 1.0),
)
POWER_CUTS = FaultPlan(weights={}, script=[(at, Crash(host, 0.1)) for at in (3.0, 6.0, 9.0) for host in range(5)])
REFORMING = FaultPlan(
    weights={"tell": 2, "halves": 2}, every_s=(0.05, 0.6), cut_s=(0.5, 3), facts=(Reform("a person says so"),)
)


class Sniper(Invariant):
    """Strikes in the few milliseconds that matter; each number is how often."""

    def __init__(self, *, at_final=0.0, at_proposal=0.0, at_signature=0.0, splitting=0.0):
        self.at_final = at_final
        self.at_proposal = at_proposal
        self.at_signature = at_signature
        self.splitting = splitting

    def persisted(self, simulation, host, record):
        leads = host.machine is not None and host.machine.reign is not None
        chance = {RosterChain: self.at_final, Signing: self.at_proposal}.get(type(record), 0.0)
        if leads and simulation.rng.random() < chance:
            self.cut_off(simulation, [host], 0.4, 1.5)
        elif leads and isinstance(record, RosterChain) and simulation.rng.random() < self.splitting:
            other = simulation.rng.choice([other for other in simulation.hosts if other is not host])
            self.cut_off(simulation, [host, other], 0.5, 1.5)

    def cut_off(self, simulation, hosts, shortest, longest):
        inside = {host.index for host in hosts}
        everybody = range(len(simulation.hosts))
        pairs = frozenset((a, b) for a in everybody for b in everybody if (a in inside) != (b in inside))
        simulation.apply(Cut(pairs, simulation.rng.uniform(shortest, longest)))

    def sent(self, simulation, host, effect):
        signed = isinstance(effect.message, RosterSigned) and not effect.message.refusal
        if signed and host.state is State.UP and simulation.rng.random() < self.at_signature:
            simulation.apply(Crash(host.index, simulation.rng.uniform(0.01, 0.2)))


@dataclass(frozen=True)
class Nemesis:
    faults: FaultPlan
    seconds: float
    aims: dict[str, float] = field(default_factory=dict)
    voters: int = 3
    bystanders: int = 2
    settings: ElectionSettings = QUICK

    def violations(self, kind, seed):
        simulation = election_simulation(
            seed,
            voters=self.voters,
            bystanders=self.bystanders,
            faults=self.faults,
            kind=kind,
            settings=self.settings,
            violations_max=1,
            chooses=True,
            aimed=[Sniper(**self.aims)],
        )
        return simulation.run(self.seconds).violations


NEMESES = {
    VoterSignsBeforeTheDisk: Nemesis(CALM, 25, {"at_final": 0.5, "at_signature": 0.4}),
    SignaturesAreNotOnDisk: Nemesis(CALM, 25, {"at_final": 0.5, "at_signature": 0.4}),
    NewSupernodeForgetsWhatIsPending: Nemesis(CALM, 30, {"at_final": 0.5}),
    NewSupernodeFinishesTheOldest: Nemesis(CALM, 40, {"at_final": 0.3, "at_proposal": 0.3}),
    SupernodeChangesBeforeAnythingIsSettled: Nemesis(LOSSY, 20),
    TwoVotersChangeAtOnce: Nemesis(CALM, 20),
    RostersAreNotOnDisk: Nemesis(POWER_CUTS, 12),
    ReformedSiteBeginsInTheNextEpoch: Nemesis(REFORMING, 60),
    LeaseOfTheOldRosterGoesOn: Nemesis(CALM, 40, {"splitting": 0.5}),
}


def election_with(mutant):
    for part, base in (("signer_kind", Signer), ("change_kind", RosterChange), ("book_kind", RosterBook)):
        if issubclass(mutant, base):
            rosters = type(mutant.__name__, (RestlessRosters,), {part: mutant})
            return type(mutant.__name__, (Election,), {"rosters_kind": rosters})
    for part, base in (
        ("rosters_kind", Rosters),
        ("reign_kind", Reign),
        ("voter_kind", Voter),
        ("recollection_kind", Recollection),
    ):
        if issubclass(mutant, base):
            return type(mutant.__name__, (RestlessElection,), {part: mutant})
    raise AssertionError(mutant)


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_nemesis_of_a_rule_kills_its_mutant_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    nemesis = NEMESES[mutant]
    must_spare(right_seeds, lambda seed: nemesis.violations(RestlessElection, seed))
    must_kill(mutant, SEEDS, lambda seed: nemesis.violations(election_with(mutant), seed))

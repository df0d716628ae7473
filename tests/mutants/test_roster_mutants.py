"""Each rule of changing a roster has a mutant that breaks it, and a nemesis that must notice.

A rule whose mutant lives is either superfluous or not tested. The real machine runs under the very same seeds.
"""

import hashlib
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from atoll.actors.elector.election import Election
from atoll.actors.elector.electorate import Electorate, Wish
from atoll.actors.elector.messages import Leave, Reform, Resign, RosterChain, RosterSigned
from atoll.actors.elector.recollection import Recollection
from atoll.actors.elector.reign import Reign
from atoll.actors.elector.roster import Notary
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


class VoterSignsForEpochsItHasLeft(Signer):
    def in_its_epoch(self, proposal, epoch):
        return True


class WhoAnswersARecallSignsOn(Signer):
    def fence(self, epoch, *effects):
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


class WithoutEpoch(Notary):
    def statement(self, proposal):
        return super().statement(replace(proposal, epoch=0))


class CountsAnyEpoch(RosterChange):
    def counts(self, epoch):
        return True


class SignaturesOfSeveralEpochsCountTogether(RestlessRosters):
    change_kind = CountsAnyEpoch

    def __init__(self, own, roster, notary, settings, **more):
        loose = WithoutEpoch(
            roster_key=notary.roster_key, site_tag=notary.site_tag, sign=notary.sign, verify=notary.verify
        )
        super().__init__(own, roster, loose, settings, **more)


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


class CandidatesWithOlderRostersGetVotes(Voter):
    def outdated(self, roster):
        return False


class ForgottenSignaturesAreNotAskedFor(Recollection):
    def pending(self):
        return None

    def rosters(self):
        return [self.book.current]


class ForgetfulVoterTrustsAnOlderRoster(Recollection):
    def complete(self):
        self._marks.clear()
        return super().complete()


QUICK = ElectionSettings(
    settle_s=0.05, absent_s=0.5, lease_s=0.3, heartbeat_s=0.05, delay_s_min=0.02, delay_s_max=0.1, again_s=0.02
)
"""Elections and changes three times as often, so that more of them are cut short."""
EAGER = ElectionSettings(settle_s=0.1, absent_s=0.5, delay_s_min=0.01, delay_s_max=0.06)
LEAVE = (Leave("it is sold"), Resign("to drain"))
OFTEN = (0.05, 0.6)
CUTS = {"one_way": 1.0, "partial": 2.0, "halves": 1.0, "tell": 2.0}
CRASHES = FaultPlan(
    weights={"crash": 4, "tear": 2, "partial": 2, "halves": 1, "tell": 2},
    every_s=OFTEN,
    crash_s=(0.01, 0.6),
    cut_s=(0.3, 2),
    aim=0.3,
    facts=LEAVE,
)
CUT_OFF = FaultPlan(weights=CUTS, every_s=OFTEN, cut_s=(0.2, 2), facts=LEAVE)
SLOW = FaultPlan(
    weights={"slow": 3, "partial": 1, "halves": 1, "tell": 1},
    every_s=OFTEN,
    slow_s_max=1.0,
    cut_s=(0.2, 2),
    facts=LEAVE,
)
FORGETTING = FaultPlan(
    weights={"forget": 3, "partial": 2, "halves": 1, "tell": 2},
    every_s=OFTEN,
    crash_s=(0.01, 0.3),
    cut_s=(0.3, 2),
    aim=0.2,
    facts=(Leave("it is sold"),),
)
REFORMING = FaultPlan(
    weights={"tell": 2, "halves": 2}, every_s=OFTEN, cut_s=(0.5, 3), facts=(Reform("a person says so"),)
)


class Sniper(Invariant):
    """Strikes in the few milliseconds that matter: when a roster becomes final, and when one is signed."""

    def persisted(self, simulation, host, record):
        machine = host.machine
        made = isinstance(record, RosterChain) and machine is not None and machine.reign is not None
        if made and simulation.rng.random() < 0.5:
            others = [other.index for other in simulation.hosts if other is not host]
            pairs = [(host.index, other) for other in others] + [(other, host.index) for other in others]
            simulation.apply(Cut(frozenset(pairs), simulation.rng.uniform(0.4, 1.5)))

    def sent(self, simulation, host, effect):
        signed = isinstance(effect.message, RosterSigned) and not effect.message.refusal
        if signed and host.state is State.UP and simulation.rng.random() < 0.3:
            simulation.apply(Crash(host.index, simulation.rng.uniform(0.01, 0.2)))


@dataclass(frozen=True)
class Nemesis:
    faults: FaultPlan
    seconds: float
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
            aimed=[Sniper()],
        )
        return simulation.run(self.seconds).violations


NEMESES = {
    VoterSignsBeforeTheDisk: Nemesis(CRASHES, 100),
    SignaturesAreNotOnDisk: Nemesis(CRASHES, 100),
    VoterSignsForEpochsItHasLeft: Nemesis(SLOW, 100),
    WhoAnswersARecallSignsOn: Nemesis(FORGETTING, 200),
    NewSupernodeForgetsWhatIsPending: Nemesis(CUT_OFF, 60),
    NewSupernodeFinishesTheOldest: Nemesis(CUT_OFF, 100),
    SupernodeChangesBeforeAnythingIsSettled: Nemesis(CUT_OFF, 20),
    SignaturesOfSeveralEpochsCountTogether: Nemesis(SLOW, 100),
    TwoVotersChangeAtOnce: Nemesis(CUT_OFF, 60),
    RostersAreNotOnDisk: Nemesis(CRASHES, 60),
    ReformedSiteBeginsInTheNextEpoch: Nemesis(REFORMING, 60),
    LeaseOfTheOldRosterGoesOn: Nemesis(CUT_OFF, 100),
    CandidatesWithOlderRostersGetVotes: Nemesis(CUT_OFF, 100),
    ForgottenSignaturesAreNotAskedFor: Nemesis(FORGETTING, 200),
    ForgetfulVoterTrustsAnOlderRoster: Nemesis(FORGETTING, 200),
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
    survived = {seed: nemesis.violations(RestlessElection, seed) for seed in right_seeds}
    assert not any(survived.values()), f"the real machine breaks: {survived}"
    killed: list[int] = []
    for seed in SEEDS:
        if len(killed) * 2 >= len(SEEDS):
            return
        killed += [seed] if nemesis.violations(election_with(mutant), seed) else []
    assert len(killed) * 2 >= len(SEEDS), f"only seeds {killed} of {list(SEEDS)} kill {mutant.__name__}"

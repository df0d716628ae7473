"""Rules of the placement that random faults of whole hosts seldom touch: an adversary that chooses each step does.

A seed is some hundred games. The real machine plays the very same ones.
"""

import pytest
from kills import must_kill, must_spare
from msgspec.structs import replace

from atoll.actors.elector.messages import PlacementSettled
from atoll.actors.placement.leadership import Leadership
from atoll.actors.placement.messages import (
    Accepted,
    Amnesia,
    Outbid,
    Prepare,
    Prepared,
    Promised,
    RemovePlace,
    Write,
    Written,
)
from atoll.actors.placement.placement import Placement
from atoll.actors.placement.register import Register
from atoll.actors.placement.table import PlaceTable
from atoll.actors.runtime.machine import Announce, Persist, Reply
from atoll.testing.placement_adversary import games_lost

SEEDS = range(6)


class VoterAnswersBeforeTheDisk(Placement):
    def _on_write(self, sender, message):
        first, *rest = super()._on_write(sender, message) or [None]
        return [*rest, first] if isinstance(first, Persist) else [each for each in (first, *rest) if each]


class PromisesAreNotOnDisk(Register):
    def durably(self, record):
        return [] if isinstance(record, Promised) else super().durably(record)


class TablesAreNotOnDisk(Register):
    def durably(self, record):
        return [] if isinstance(record, Accepted) else super().durably(record)


class VoterBreaksItsPromise(Register):
    def outbid(self, epoch):
        return self.accepted is not None and epoch < self.accepted.epoch

    def check(self):
        pass


class TakenTableDoesNotBindAfterARestart(Register):
    """Held twice: by what a restart makes of it, and by the comparison with what is there."""

    def restart(self, restored):
        super().restart(restored)
        self.promised = max((each.epoch for each in restored if isinstance(each, Promised)), default=0)

    def write(self, wanted, nonce):
        if self.accepted is not None and self.promised <= wanted.epoch < self.accepted.epoch and not self.forgetful:
            self.accepted = None
        return super().write(wanted, nonce)

    def check(self):
        pass


class VoterGoesBackWithinAnEpoch(Register):
    def write(self, wanted, nonce):
        taken = self.accepted
        if taken is not None and wanted.epoch == taken.epoch and wanted.version < taken.version and not self.forgetful:
            self.accepted = wanted
            return self.durably(wanted), Written(wanted.epoch, wanted.version)
        return super().write(wanted, nonce)


class DamageIsOverlooked(Register):
    def restart(self, restored):
        super().restart([each for each in restored if not isinstance(each, Amnesia)])


class DamagedCopyTellsWhatIsLeft(Register):
    def prepare(self, epoch):
        effects, answer = super().prepare(epoch)
        return effects, Prepared(epoch, self.accepted) if isinstance(answer, Prepared) else answer


class DamagedCopyTakesAnyWrite(Register):
    def vouched(self, nonce):
        return True


class OneNonceForAllLives(Register):
    def nonce_of_this_life(self):
        return 1


class FilledBeforeTheTableIsOnDisk(Register):
    def write(self, wanted, nonce):
        effects, answer = super().write(wanted, nonce)
        return effects[::-1], answer


class ServesWhatItRead(Leadership):
    def begin_to_write(self, adopted, now):
        effects = super().begin_to_write(adopted, now)
        if self.flight is not None:
            self.committed, self.flight, self._settled = self.flight, None, self.mark
        return effects

    def check(self):
        pass


class AdoptsTheHighestVersion(Leadership):
    def adopted(self):
        found = [each.accepted for each in self.told.values() if each.accepted is not None]
        return max(found, key=lambda accepted: (accepted.version, -accepted.epoch), default=None)


class PromiseOfAnyEpochCounts(Leadership):
    def take_promise(self, sender, message, now):
        if self.flight is not None or self.committed is not None or message.nonce:
            return super().take_promise(sender, message, now)
        return super().take_promise(sender, Prepared(self.epoch, message.accepted), now)


class WordOfAnyWriteCounts(Leadership):
    def take_written(self, sender, message, now):
        newest = self.flight or self.committed
        if newest is None:
            return []
        return super().take_written(sender, Written(newest.record.epoch, newest.record.version), now)


class DamagedCopiesCountAsRead(Leadership):
    def read_enough(self):
        return sum(voter in self.told for voter in self.voters) >= self.quorum


class FillsWithoutItsLease(Leadership):
    def _vouches_for(self, sender, nonce, now):
        self.forgetful[sender] = nonce
        return True


class AnswersWithoutItsLease(Leadership):
    def lease_held(self, now):
        return True


class CountsWhoeverHasIt(Leadership):
    def held(self, flight):
        return len(flight.holders) >= self.quorum


class SaysSettledAtOnce(Leadership):
    def renew(self, lease, now):
        told = [] if lease.roster_version == self.lease.roster_version else [settled_under(self, lease)]
        return [*super().renew(lease, now), *told]


def settled_under(leadership, lease):
    return Announce(PlacementSettled(leadership.epoch, lease.incarnation, lease.roster_version))


class WhatIsCutShortWasNeverDone(Leadership):
    @staticmethod
    def _undecided(answers, why):
        return [Reply(to, replace(answer, done=False, current=None, why=why, decided=True)) for to, answer in answers]


class SupernodeWritesToItsOwnDiskLast(Leadership):
    """Only in memory, as long as nobody else has it: a restart uses the version again."""

    def _launch(self, table, version, answers, now):
        return [each for each in super()._launch(table, version, answers, now) if not isinstance(each, Persist)]


class RemovedActorBeginsAgainAtOne(PlaceTable):
    def retired_by(self, removed):
        return self.retired


class RemovalRetiresOnlyWhatStoodThere(PlaceTable):
    """A swap of the old owner that is on its way looks done when somebody puts the same in the place."""

    def retired_by(self, removed):
        return max(self.retired, removed.generation)


class NextSupernodeForgetsWhatIsRetired(Leadership):
    def begin_to_write(self, adopted, now):
        return super().begin_to_write(adopted and replace(adopted, retired=0), now)


class RemovesWhateverStandsThere(PlaceTable):
    def as_expected(self, change):
        return super().as_expected(change) or (isinstance(change, RemovePlace) and change.actor in self._placed)


class RemovedMeansNeverDone(PlaceTable):
    def was_never(self, wanted):
        return True


# Openings: the few steps that matter, and then the adversary goes on by itself. A, B and C vote.


def old_write_meets_a_voter_that_promised(game, mishap):
    a, b, c, *_ = game.players
    game.crown(a)
    game.flow(a, b, c)
    game.swap_at(a)
    game.crown(c)
    game.flow(b, c, only=(Prepare,))
    mishap(b)
    game.flow(a, b)
    game.flow(b, c)
    game.find_at(c)


def promised_and_crashed(game):
    old_write_meets_a_voter_that_promised(game, game.crash)


def promised_and_lost_its_journal(game):
    old_write_meets_a_voter_that_promised(game, game.lose)


def old_write_names_the_nonce_of_an_earlier_loss(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, c)
    game.lose(b)
    game.fire(b, "damaged")
    game.flow(a, b, only=(Outbid,))
    fills = game.letters[:]
    game.swap_at(a)
    later = [letter for letter in game.letters if letter not in fills]
    game.letters = fills
    game.flow(a, b, only=(Write,))
    game.letters = []
    game.crown(c)
    game.flow(b, c, only=(Prepare, Prepared))
    game.lose(b)
    game.letters += later
    game.flow(a, b)
    game.flow(b, c)
    game.find_at(c)


def filled_and_torn(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b)
    game.swap_at(a)
    game.flow(a, b)
    game.lose(b)
    b.tears = True
    game.fire(b, "damaged")
    game.flow(a, b)
    game.crown(c)
    game.flow(b, c)
    game.find_at(c)


def read_at_one_voter_that_is_not_heard_of_again(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, c)
    game.swap_at(a)
    game.crown(a)
    game.flow(a, b, only=(Prepare, Prepared))
    game.find_at(a)
    game.crown(c)
    game.flow(b, c)
    game.find_at(c)


def versions_rise_where_nobody_hears_of_them(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, c)
    game.swap_at(a)
    game.crown(a)
    game.flow(a, b, only=(Prepare, Prepared))
    game.letters = []
    game.crown(c)
    game.flow(b, c)
    game.swap_at(c)
    game.flow(b, c)
    game.crown(b)
    game.flow(a, b)
    game.find_at(b)


def torn_while_it_takes_a_table(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, c)
    b.tears = True
    game.swap_at(a)
    game.flow(a, b)
    game.crown(c)
    game.flow(b, c)
    game.find_at(c)


def done_unknown_to_the_asker_and_removed(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, c)
    game.swap_at(a)
    game.flow(a, b, only=(Write,))
    game.depose(a)
    game.crown(c)
    game.flow(b, c)
    game.find_at(c)
    game.remove_at(c)
    game.flow(b, c)
    game.repeat_at(c)


def promised_and_sound(game):
    old_write_meets_a_voter_that_promised(game, lambda _voter: None)


def damaged_and_asked_at_once(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, c)
    game.swap_at(a)
    game.flow(a, b)
    game.lose(b, kept=2)
    game.crown(c)
    game.flow(b, c)
    game.find_at(c)


def promise_that_comes_two_epochs_late(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, only=(Prepare,))
    late, game.letters = game.letters, []
    game.crown(c)
    game.flow(b, c)
    game.swap_at(c)
    game.flow(b, c)
    game.crown(a)
    game.letters = [letter for letter in late if letter.sender == b.node]
    game.flow(a, b, only=(Prepared, Write, Written))
    game.find_at(a)


def taken_without_a_promise_and_crashed(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, c)
    game.swap_at(a)
    old, game.letters = game.letters, []
    game.crown(c)
    game.letters = [letter for letter in game.letters if letter.target == a.node]
    game.flow(a, c, only=(Prepare, Prepared))
    game.flow(b, c)
    game.swap_at(c)
    game.flow(b, c)
    game.crash(b)
    game.letters = old
    game.flow(a, b)
    game.crown(b)
    game.flow(a, b)
    game.find_at(b)


def placement_alone_starts_again(game):
    a, b, c = game.players
    game.crown(a)
    game.flow(a, b, c)
    game.swap_at(a)
    game.flow(a, b, only=(Write,))
    game.letters = []
    game.start_alone()
    game.flow(a, c)
    game.swap_at(a)
    game.flow(a, b)
    game.crown(c)
    game.flow(b, c)
    game.find_at(c)


def written_at_a_voter_that_is_taken_out(game):
    a, b, c, d = game.players
    game.crown(a)
    game.flow(*game.players)
    game.swap_at(a)
    game.flow(a, d)
    game.reshape([a, b, c])
    game.crown(c)
    game.flow(b, c)
    game.find_at(c)


def two_voters_are_added_before_anybody_hears_of_the_first(game):
    a, b, c, d, e = game.players
    game.crown(a)
    game.flow(a, b)
    game.swap_at(a)
    game.flow(a, b)
    game.reshape([a, b, c, d])
    game.reshape([a, b, c, d, e])
    game.crown(c)
    game.flow(c, d, e)
    game.find_at(c)


PLAIN = {}
CRASHES = {"odds": {"crash": 4}, "strikes": {("crash", Promised): 0.2, ("crash", Accepted): 0.05}}
DAMAGE = {"odds": {"forget": 3, "crash": 0}, "strikes": {("forget", Promised): 0.2, ("forget", Amnesia): 0.3}}
REMOVALS = {"odds": {"remove": 6, "ask_again": 4}}


def opened(opening, **more):
    return {"opening": opening, "games": 25, "steps": 40, **more}


NEMESES = {
    VoterAnswersBeforeTheDisk: opened(torn_while_it_takes_a_table),
    PromisesAreNotOnDisk: opened(promised_and_crashed),
    TablesAreNotOnDisk: CRASHES,
    VoterBreaksItsPromise: opened(promised_and_sound),
    TakenTableDoesNotBindAfterARestart: opened(taken_without_a_promise_and_crashed),
    VoterGoesBackWithinAnEpoch: PLAIN,
    DamageIsOverlooked: DAMAGE,
    DamagedCopyTellsWhatIsLeft: opened(damaged_and_asked_at_once),
    DamagedCopyTakesAnyWrite: opened(promised_and_lost_its_journal),
    OneNonceForAllLives: opened(old_write_names_the_nonce_of_an_earlier_loss),
    FilledBeforeTheTableIsOnDisk: opened(filled_and_torn),
    ServesWhatItRead: opened(read_at_one_voter_that_is_not_heard_of_again),
    AdoptsTheHighestVersion: opened(versions_rise_where_nobody_hears_of_them),
    PromiseOfAnyEpochCounts: opened(promise_that_comes_two_epochs_late),
    WordOfAnyWriteCounts: PLAIN,
    DamagedCopiesCountAsRead: opened(damaged_and_asked_at_once),
    FillsWithoutItsLease: opened(promised_and_lost_its_journal),
    AnswersWithoutItsLease: PLAIN,
    WhatIsCutShortWasNeverDone: PLAIN,
    SupernodeWritesToItsOwnDiskLast: opened(placement_alone_starts_again),
    CountsWhoeverHasIt: opened(written_at_a_voter_that_is_taken_out, voters=4),
    SaysSettledAtOnce: opened(two_voters_are_added_before_anybody_hears_of_the_first, others=2),
    RemovedActorBeginsAgainAtOne: REMOVALS,
    RemovalRetiresOnlyWhatStoodThere: REMOVALS,
    NextSupernodeForgetsWhatIsRetired: REMOVALS,
    RemovesWhateverStandsThere: REMOVALS,
    RemovedMeansNeverDone: opened(done_unknown_to_the_asker_and_removed),
}


def placement_with(mutant):
    if issubclass(mutant, Placement):
        return mutant
    if issubclass(mutant, Register):
        return type(mutant.__name__, (Placement,), {"register_kind": mutant})
    leadership = mutant
    if issubclass(mutant, PlaceTable):
        leadership = type(mutant.__name__, (Leadership,), {"table_kind": mutant})
    return type(mutant.__name__, (Placement,), {"leadership_kind": leadership})


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_adversary_beats_the_mutant_of_a_rule_in_half_the_seeds_and_never_the_real_machine(mutant, right_seeds):
    nemesis = NEMESES[mutant]
    must_spare(right_seeds, lambda seed: games_lost(seed, **nemesis))
    must_kill(mutant, SEEDS, lambda seed: games_lost(seed, placement_with(mutant), **nemesis))

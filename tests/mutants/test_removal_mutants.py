"""Rules about actors that are removed and logs that are dropped: each has a mutant, which the adversary beats.

A seed is some games. The real machines play the very same ones.
"""

import pytest

from atoll.actors.hand_over.durable import DurableOwner
from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.removals import Ending, Removals
from atoll.testing.hosting_adversary import games_lost

SEEDS = range(6)
PLAYS = {
    "hosts": 4,
    "games": 30,
    "steps": 800,
    "odds": {"remove": 0.6, "found": 2.5, "look": 4, "change": 1.5, "replace": 0.3, "move": 1},
}


WHILE_CALLED = {
    "hosts": 3,
    "stores": 0,
    "games": 60,
    "steps": 400,
    "odds": {"remove": 1, "found": 3, "ask": 25, "deliver": 40, "move": 0}
    | dict.fromkeys(("forget", "crash", "tear", "replace"), 0),
}
"""A soft actor, so that calls are answered at once, and little else."""


class DropsWhatIsBeingFounded(LogStore):
    def is_removed(self, kept, first):
        return True


class EmptiesWhatWasSealedAgain(LogStore):
    def is_elsewhere(self, kept, placed):
        return True


class EmptiesWithoutAsking(LogStore):
    def _on_place(self, retention, found):
        kept, placed = self.logs.get(found.actor), found.placed
        if kept is not None and placed is not None and retention.own not in placed.stores and not kept.is_empty:
            return self._empty(kept, placed)
        return super()._on_place(retention, found)


class WholeWithAMajority(DurableOwner):
    @property
    def whole(self):
        return self.serving


class LetsForgetWithAMajority(Hosting):
    durable_kind = WholeWithAMajority


class ServesUntilItHears(Removals):
    def freeze(self, owner):
        pass


class RemovesWhatServes(Hosting):
    removals_kind = ServesUntilItHears


class HearsWhatIsOver(Removals):
    def is_over(self, actor, generation):
        return False


class BeginsWhatWasRemoved(Hosting):
    removals_kind = HearsWhatIsOver


class GoesOnWithoutAWord(Removals):
    """Once the placement was asked to remove it, it may be gone."""

    def ask_again(self, actor, now):
        removal = self._here.get(actor)
        if removal is None or removal.step is not Ending.ASKING:
            return super().ask_again(actor, now)
        return self.over(actor, "the placement does not answer")


class ServesAgainWithoutAWord(Hosting):
    removals_kind = GoesOnWithoutAWord

    def _follow_up(self, actor, now):
        effects = super()._follow_up(actor, now)
        owner = self.owners.get(actor)
        if owner is not None and actor not in self.removals and actor not in self.departures:
            owner.frozen = owner.frozen and self.renewals.frozen(actor)
        return effects


MUTANTS = {
    DropsWhatIsBeingFounded: ("store_kind", PLAYS),
    EmptiesWhatWasSealedAgain: ("store_kind", PLAYS),
    EmptiesWithoutAsking: ("store_kind", PLAYS),
    LetsForgetWithAMajority: ("kind", PLAYS),
    RemovesWhatServes: ("kind", WHILE_CALLED),
    ServesAgainWithoutAWord: ("kind", WHILE_CALLED),
    BeginsWhatWasRemoved: ("kind", WHILE_CALLED),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_adversary_beats_the_mutant_in_half_the_seeds(mutant):
    kind, plays = MUTANTS[mutant]
    killed = [seed for seed in SEEDS if games_lost(seed, **{kind: mutant}, **plays)]
    assert len(killed) * 2 >= len(SEEDS), f"only seeds {killed} of {list(SEEDS)} kill {mutant.__name__}"


@pytest.mark.parametrize("plays", [PLAYS, WHILE_CALLED], ids=["all", "called"])
def test_the_real_machines_lose_no_game(right_seeds, plays):
    assert [lost for seed in right_seeds for lost in games_lost(seed, **plays)] == []

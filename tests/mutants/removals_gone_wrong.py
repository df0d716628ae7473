"""Mutants of removals that two kinds of nemeses meet: the adversary, and a simulation of soft actors."""

from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.removals import Ending, Removals
from atoll.actors.hand_over.soft import SoftOwner


class ServesUntilItHears(Removals):
    def freeze(self, owner):
        pass


class RemovesWhatServes(Hosting):
    removals_kind = ServesUntilItHears


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


class TakesSoftCallsOfTheOneBefore(SoftOwner):
    def stranger(self, call):
        return None


class HostsTakeSoftCallsOfTheOneBefore(Hosting):
    soft_kind = TakesSoftCallsOfTheOneBefore

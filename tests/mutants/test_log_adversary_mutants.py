"""Rules of a durable actor's log that need one rare order of events: an adversary plays it, and goes on from there.

A seed is some games. The real machines play the very same ones.
"""

import pytest
from kills import must_kill, must_spare

from atoll.actors.hand_over.durable import DurableOwner
from atoll.actors.hand_over.messages import Seal, Sealed
from atoll.actors.hand_over.replication import Replication
from atoll.testing.log_adversary import games_lost

SEEDS = range(6)
A, B, C = range(3)


class NoEntryBeginsAGeneration(DurableOwner):
    def begin_generation(self):
        self._begun_at, self.committed = self.log.last.index, -1

    def _adopt(self, *adopted):
        return [*super()._adopt(*adopted), *self._commit()]


class ReadsOnFromAStoreThatForgot(DurableOwner):
    def _begin_anew(self):
        pass


class ForgetfulStoresAreFilledAtOnce(Replication):
    """A store may have sealed a higher generation and forgotten that, too."""

    def _fed(self, replica):
        return replica.memory is not None

    def renewal(self):
        return {}


class FillsForgetfulStoresAtOnce(DurableOwner):
    replication_kind = ForgetfulStoresAreFilledAtOnce


class WritesWithoutAMajority(DurableOwner):
    def sealed_enough(self, voices):
        return len(voices) >= self.stores.reads


def an_old_entry_is_replicated_and_then_overtaken(game):
    """Figure 8 of the Raft paper: what a majority has of an older generation is not safe by that alone."""
    game.flow(A, B, C)
    game.ask(0)
    game.flow(A)
    game.seat(B)
    game.flow(B, C)
    game.ask(1)
    game.flow(B)
    game.seat(A)
    game.flow(A, C)
    game.ask(0)
    game.seat(B)
    game.flow(B, C)


def two_lives_write_different_logs_that_end_alike(game):
    """Each on a store of its own: one has an operation where the other has the beginning of a generation."""
    game.flow(A, B)
    game.ask(0)
    game.flow(B)
    game.seat(A)
    game.flow(A)
    game.seat(A)
    game.flow(A)
    game.start_again()
    game.flow(B)
    game.seat(B)
    game.flow(A, B)
    game.ask(1)
    game.flow(A, B)
    game.seat(B)
    game.flow(B)


def a_store_forgets_while_it_is_read(game):
    game.flow(A, B, C)
    game.ask(0)
    game.flow(A, B, C)
    game.seat(A)
    game.flow(B, C, only=(Seal, Sealed))
    game.lose(B)
    game.retry()
    game.flow(B, only=(Seal, Sealed))
    game.retry()
    game.flow(A, B, C)


def a_store_forgets_that_it_has_sealed_a_higher_generation(game):
    """The owner before fills it again, and has a majority with it that the newer one counts on, too."""
    game.flow(A, B, C)
    game.ask(0)
    game.flow()
    game.seat(B)
    game.flow(B, C, only=(Seal, Sealed))
    game.retry()
    game.flow(B)
    game.lose(C)
    for _ in range(3):
        game.retry(A)
        game.flow(A, C, host=A)
    for _ in range(3):
        game.retry()
        game.flow(B, C)


NEMESES = {
    NoEntryBeginsAGeneration: {"opening": an_old_entry_is_replicated_and_then_overtaken},
    WritesWithoutAMajority: {"opening": two_lives_write_different_logs_that_end_alike, "stores": 2},
    ReadsOnFromAStoreThatForgot: {"opening": a_store_forgets_while_it_is_read},
    FillsForgetfulStoresAtOnce: {"opening": a_store_forgets_that_it_has_sealed_a_higher_generation},
}


@pytest.mark.parametrize("mutant", NEMESES, ids=lambda mutant: mutant.__name__)
def test_the_adversary_beats_the_mutant_in_half_the_seeds_and_never_the_real_machine(mutant):
    nemesis = NEMESES[mutant]
    must_spare(SEEDS, lambda seed: games_lost(seed, games=10, steps=100, **nemesis))
    must_kill(mutant, SEEDS, lambda seed: games_lost(seed, mutant, games=10, steps=100, **nemesis))

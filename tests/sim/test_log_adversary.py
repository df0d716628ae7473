"""Owners and stores of a durable actor against an adversary that does everything it is allowed to do."""

import pytest

from atoll.actors.hand_over.durable import DurableOwner
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import EntriesKept, GenerationSealed
from atoll.testing.log_adversary import LogAdversary, games_lost

WORLDS = (
    {"stores": 3},
    {"stores": 3, "forgets_at": {GenerationSealed: 0.2}, "odds": {"take_over": 1}},
    {"stores": 3, "others": 2, "odds": {"change": 3, "tear": 2, "crash": 2}},
    {"stores": 2, "others": 1, "odds": {"change": 3, "begin_again": 1}, "forgets_at": {GenerationSealed: 0.05}},
    {"stores": 5, "forgets_at": {GenerationSealed: 0.1, EntriesKept: 0.02}},
    {"stores": 4, "others": 1, "odds": {"change": 3}, "forgets_at": {GenerationSealed: 0.05}},
    {"stores": 1, "others": 2, "odds": {"change": 4}},
)
REMOVED = {"remove": 1, "found": 4, "tell": 4, "ask_late": 4}
WHERE_IT_IS_REMOVED = (
    {"stores": 3, "others": 1, "odds": REMOVED},
    {"stores": 3, "others": 2, "odds": {**REMOVED, "change": 3, "tear": 2, "crash": 2}},
    {"stores": 2, "others": 1, "odds": {**REMOVED, "change": 3}},
)


@pytest.mark.seeds(9, least=len(WORLDS))
def test_no_order_of_steps_that_is_allowed_loses_doubles_or_changes_what_was_answered(seed):
    assert not games_lost(seed, games=40, **WORLDS[seed % len(WORLDS)])


@pytest.mark.seeds(6)
def test_a_removed_actor_is_gone_the_next_one_keeps_what_it_answers_and_nothing_late_is_done_in_it(seed):
    of = WHERE_IT_IS_REMOVED[seed % len(WHERE_IT_IS_REMOVED)]
    assert not games_lost(seed, games=40, steps=400, **of)


class DropsWhatLives(LogStore):
    def is_removed(self, kept, first):
        return True


class TakesCallsOfTheOneBefore(DurableOwner):
    def stranger(self, call):
        return None


@pytest.mark.parametrize(
    "mutant", [{"store_kind": DropsWhatLives}, {"owner_kind": TakesCallsOfTheOneBefore}], ids=["drops", "takes"]
)
def test_it_notices_what_breaks_the_rules_of_removal(mutant):
    lost = [seed for seed in range(6) if games_lost(seed, games=60, steps=400, **mutant, **WHERE_IT_IS_REMOVED[0])]
    assert len(lost) >= 3


def test_actors_are_removed_and_logs_dropped_there():
    games = [LogAdversary(f"count {number}", **WHERE_IT_IS_REMOVED[number % 3]) for number in range(30)]
    for game in games:
        game.play(500)
    assert sum(game.removals for game in games) > 15
    assert sum(game.dropped for game in games) > 10


def test_the_adversary_lets_something_happen():
    games = [LogAdversary(f"count {number}", **WORLDS[number % len(WORLDS)]) for number in range(70)]
    for game in games:
        game.play(300)
    assert sum(game.judge.answered for game in games) > 140
    assert sum(game.tenures for game in games) > 300
    assert sum(game.forgotten for game in games) > 50
    assert sum(game.changes for game in games) > 20

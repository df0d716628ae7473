"""Owners and stores of a durable actor against an adversary that does everything it is allowed to do."""

import pytest

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


@pytest.mark.seeds(9, least=len(WORLDS))
def test_no_order_of_steps_that_is_allowed_loses_doubles_or_changes_what_was_answered(seed):
    assert not games_lost(seed, games=40, **WORLDS[seed % len(WORLDS)])


def test_the_adversary_lets_something_happen():
    games = [LogAdversary(f"count {number}", **WORLDS[number % len(WORLDS)]) for number in range(70)]
    for game in games:
        game.play(300)
    assert sum(game.judge.answered for game in games) > 140
    assert sum(game.tenures for game in games) > 300
    assert sum(game.forgotten for game in games) > 50
    assert sum(game.changes for game in games) > 20

"""Hosts of a migratable actor against an adversary that chooses each step: moves, claims, crashes, late letters."""

import pytest

from atoll.testing.hosting_adversary import HostingAdversary, games_lost

SOFT = {"stores": 0, "odds": {"crash": 0, "tear": 0, "forget": 0, "replace": 0}}
WORLDS = (
    {"hosts": 3, "stores": 3},
    {"hosts": 4, "stores": 3},
    {"hosts": 3, "stores": 2, "odds": {"change": 2}},
    {"hosts": 5, "stores": 3, "odds": {"change": 2, "forget": 0.5}},
    {"hosts": 3, "stores": 1},
    SOFT,
)


@pytest.mark.seeds(9, least=len(WORLDS))
def test_no_order_of_steps_that_is_allowed_loses_doubles_or_changes_what_was_answered(seed):
    assert not games_lost(seed, games=15, **WORLDS[seed % len(WORLDS)])


def test_the_adversary_lets_something_happen():
    games = [HostingAdversary(f"count {number}", **WORLDS[number % len(WORLDS)]) for number in range(60)]
    for game in games:
        game.play(1000)
    assert sum(game.judge.answered for game in games) > 400
    assert sum(game.moved for game in games) > 80
    assert sum(game.forgotten for game in games) > 30
    assert sum(game.placed.generation for game in games if game.placed) > 300

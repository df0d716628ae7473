"""The placement against an adversary that chooses each step, with everything it is allowed to do."""

import pytest

from atoll.actors.placement.messages import Accepted, Amnesia, Promised
from atoll.testing.placement_adversary import PlacementAdversary, games_lost

EVERYTHING = {
    "crash": 2,
    "tear": 2,
    "forget": 1,
    "start_alone": 1,
    "change": 3,
    "take_over": 2,
    "remake": 1,
    "remove": 2,
}
STRIKES = {
    ("crash", Promised): 0.05,
    ("tear", Accepted): 0.05,
    ("forget", Promised): 0.05,
    ("forget", Amnesia): 0.1,
    ("tear", Amnesia): 0.1,
}
WORLDS = (
    {"voters": 3, "odds": {"crash": 2, "tear": 2}},
    {"voters": 3, "others": 2, "odds": EVERYTHING},
    {"voters": 3, "odds": {"forget": 2, "start_alone": 1}, "strikes": STRIKES},
    {"voters": 4, "others": 1, "odds": EVERYTHING, "strikes": STRIKES},
    {"voters": 1, "others": 3, "odds": EVERYTHING},
)


@pytest.mark.seeds(10, least=len(WORLDS))
def test_no_order_of_steps_that_is_allowed_breaks_the_compare_and_set(seed):
    assert not games_lost(seed, games=40, **WORLDS[seed % len(WORLDS)])


def test_the_adversary_lets_something_happen():
    worlds = [PlacementAdversary(f"count {number}", voters=3, others=2, odds=EVERYTHING) for number in range(30)]
    for world in worlds:
        world.play(200)
    assert sum(world.history.done for world in worlds) > 30
    assert sum(world.history.found for world in worlds) > 30
    assert sum(world.history.removed for world in worlds) > 1
    assert sum(len(world.rosters) for world in worlds) > 60
    assert max(world.epoch for world in worlds) > 20

"""Streams over paths that die, freeze, swallow, lose and come back: byte-identical, bounded, never still for 2 s."""

import pytest

from atoll.testing.multipath_world import MultipathFaults, MultipathWorld
from atoll.transport.path_set import Rank

BEARER, SIGNALING = Rank.BEARER, Rank.SIGNALING
LOSSY = MultipathFaults(loss=0.02, ranks=(SIGNALING, SIGNALING), bytes_max=1_000_000, reset_ratio=0.3, stall_s_max=5.0)
"""Lost records beside: what is lost three times in a row takes its time."""
TWO = MultipathFaults(ranks=(BEARER, BEARER, SIGNALING), victims=2, kinds=("freeze", "swallow"))
"""Two of three paths go at once, as a relay takes both its ports with it."""

RETIRES = MultipathFaults(
    kinds=("retire",), every_s=(0.5, 1.0), opens_within_s=6.0, streams=(3, 6), reset_ratio=0.1, stall_s_max=0.5
)


def replay(world):
    return f"{world.violations}; replay with: pytest tests/sim/test_multipath_sim.py --sim-seed {world.seed}"


@pytest.mark.seeds(8)
def test_paths_break_one_at_a_time(seed):
    world = MultipathWorld(seed).run()
    assert not world.violations, replay(world)


@pytest.mark.seeds(12)
def test_records_are_lost_too_and_streams_are_reset(seed):
    world = MultipathWorld(seed, LOSSY).run()
    assert not world.violations, replay(world)


@pytest.mark.seeds(8)
def test_two_of_three_paths_break_at_once(seed):
    world = MultipathWorld(seed, TWO).run()
    assert not world.violations, replay(world)


@pytest.mark.seeds(8)
def test_paths_that_end_in_good_order_are_left_before_and_nobody_waits(seed):
    world = MultipathWorld(seed, RETIRES).run()
    assert not world.violations, replay(world)


def test_a_killed_path_costs_no_second_and_a_frozen_one_hardly_more_than_one(enough):
    seeds = range(enough(10))
    killed = [MultipathWorld(seed, MultipathFaults(kinds=("kill",))).run().longest_stall_s for seed in seeds]
    frozen = [MultipathWorld(seed, MultipathFaults(kinds=("freeze",))).run().longest_stall_s for seed in seeds]
    assert max(killed) < 1.0 < max(frozen) < 1.5


def test_the_same_seed_gives_the_same_run():
    first, second = (MultipathWorld(7).run() for _ in range(2))
    assert (first.now, first.trace, first.longest_stall_s) == (second.now, second.trace, second.longest_stall_s)

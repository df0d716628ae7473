"""Sessions that live through re-handshakes, over paths that lose, double, hold back, alter and swap; and a thief."""

import pytest

from atoll.testing.key_world import KeyFaults, KeyWorld, replay

WORLDS = {
    "nothing is lost": KeyFaults(),
    "everything at once": KeyFaults(loss=0.3, double=0.1, hold=0.1, alter=0.1, swap=0.1),
    "half is lost": KeyFaults(loss=0.5, hold=0.2),
    "a path is cut": KeyFaults(cut_s=(5.0, 120.0)),
    "the clock jumps": KeyFaults(jump_s=200.0, loss=0.1),
    "forgeries only": KeyFaults(double=0.3, alter=0.5, swap=0.3),
}


@pytest.mark.seeds(1)
@pytest.mark.parametrize("name", WORLDS)
def test_keys_are_renewed_without_a_pause_and_what_was_stolen_before_opens_nothing_later(name, seed):
    world = KeyWorld(seed, WORLDS[name]).run()
    command = f"pytest tests/sim/test_rehandshake_sim.py -k '{name}' --sim-seed {seed}"
    assert not world.violations, f"{replay(world)}; replay with: {command}"

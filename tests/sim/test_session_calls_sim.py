"""Questions and answers over several paths that break: each answered in time, none lost without a fault."""

from dataclasses import replace

import pytest

from atoll.testing.session_calls import CallFaults, CallWorld

RARE = CallFaults(kinds=("kill", "freeze"), every_s=(0.5, 2.0), answer_s_max=5.0, questions=40)
WORLDS = {
    "everything": CallFaults(),
    "killed, both ends see it": CallFaults(kinds=("kill",), peer_notices=True),
    "killed, one end sees it": CallFaults(kinds=("kill",)),
    "answers take their time": replace(RARE, pauses_s=((7.0, 9.0),), thinks_s=(0.5, 1.5)),
    "questions in couples": replace(RARE, pauses_s=((0.02, 0.3), (6.0, 8.0))),
    "nothing breaks": CallFaults(bearers_only=True),
    "nothing breaks, and much is on its way": CallFaults(
        bearers_only=True, pauses_s=((0.005, 0.05),), every_s=(1.2, 2.5)
    ),
}


@pytest.mark.seeds(4)
@pytest.mark.parametrize("name", WORLDS)
def test_every_question_is_answered_in_time_while_one_path_is_whole(name, seed):
    world = CallWorld(seed, WORLDS[name]).run()
    replay = f"replay with: pytest tests/sim/test_session_calls_sim.py --sim-seed {seed}"
    assert not world.violations, f"{world.violations}; {replay}"

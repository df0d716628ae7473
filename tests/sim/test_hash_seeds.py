"""Runs repeat (promise R3): a trace depends on the seed of the simulation, and not on that of Python's own hashes."""

import os
import subprocess
import sys

import pytest

PLAN = "FaultPlan(every_s=(0.05, 2.0), weights={**EVERYTHING, 'forget': 1.0})"
WORLDS = {
    "elections": "election_simulation(5, voters=5, bystanders=2).run(30.0)",
    "discovery": "suspicion_simulation(5, nodes=8).run(20.0)",
    "placements": f"placement_simulation(5, voters=3, faults={PLAN}).run(10.0)",
    "hand_overs": f"hand_over_simulation(5, {PLAN}).run(4.0)",
    "site_duties": "site_simulation(5, voters=3, bystanders=2).run(10.0)",
    "site_hand_overs": f"site_hand_over_simulation(5, {PLAN}).run(6.0)",
}
"""A run of each kind of world, by the module that makes it."""


@pytest.mark.parametrize("module", WORLDS)
def test_a_trace_does_not_depend_on_the_seed_of_python_s_own_hashes(module):
    program = (
        "from atoll.testing.faults import EVERYTHING, FaultPlan\n"
        f"from atoll.testing.{module} import *\n"
        f"print({WORLDS[module]}.trace_hash)"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2", "random")
    }
    assert len(hashes) == 1

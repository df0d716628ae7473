"""The long run of hand-overs: it adds up, repeats, and shows what breaks."""

import json

from click.testing import CliRunner

from atoll.testing import hand_over_runs
from atoll.testing.hand_over_runs import KINDS, Outcome, Sum, kind_of, run
from atoll.testing.hand_over_runs_main import command


def outcome(seed, **more):
    fields = {
        "seed": seed, "kind": "moves", "simulated_s": 25.0, "moves": 700, "changes": 2, "relocations": 1,
        "acknowledged": 50, "crashes": 9, "torn": 4, "violations": (), "trace_hash": "ab",
    }  # fmt: skip
    return Outcome(**(fields | more))


def told(monkeypatch, outcomes, *arguments):
    monkeypatch.setattr("atoll.testing.hand_over_runs_main.outcomes", lambda _first, _jobs: iter(outcomes))
    return CliRunner().invoke(command, ["--jobs", "1", *arguments])


def test_every_kind_of_world_runs_and_the_same_seed_gives_the_same():
    assert {kind_of(seed) for seed in range(20)} == set(KINDS)
    seed = KINDS.index("crashes")
    first = run(seed)
    assert first.violations == ()
    assert first.crashes > first.torn > 0
    assert run(seed) == first


def test_it_runs_until_there_are_enough_moves_and_crashes(monkeypatch):
    outcomes = [outcome(seed) for seed in range(9)]
    result = told(monkeypatch, outcomes, "--moves", "2000", "--crashes", "45", "--json")
    figures = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (figures["moves"], figures["crashes"], figures["torn_writes"]) == (3500, 45, 20)
    assert figures["seeds"] == [0, 4]


def test_a_violation_is_told_with_the_command_that_replays_it_and_is_the_exit_code(monkeypatch):
    outcomes = [outcome(7), outcome(8, violations=("at 3 s: an operation is lost",))]
    result = told(monkeypatch, outcomes, "--moves", "1000", "--crashes", "0", "--seed", "7")
    assert result.exit_code == 1
    assert "seed 8 (moves): at 3 s: an operation is lost" in result.stdout
    assert "hand_over_runs_main --seed 8 --moves 0 --crashes 0 --jobs 1" in result.stdout


def test_outcomes_come_in_the_order_of_the_seeds(monkeypatch):
    monkeypatch.setattr(hand_over_runs, "run", outcome)
    total = Sum()
    for each, seed in zip(hand_over_runs.outcomes(3), range(3, 6), strict=False):
        assert each.seed == seed
        total.add(each)
    assert total.enough(2100, 27)
    assert not total.enough(2101, 0)

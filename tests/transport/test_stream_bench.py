"""The benchmark of streams runs, and moves what it says; its figures are nobody's promise."""

from click.testing import CliRunner

from atoll.bench.streams import KINDS, main


def test_every_kind_moves_its_bytes():
    assert all(1_000_000 <= work(1_000_000) <= 6_000_000 for work in KINDS.values())


def test_a_cost_is_given_for_each():
    answer = CliRunner().invoke(main, ["--gigabytes", "0.001", "--rounds", "1"])
    assert (answer.exit_code, [line.split("  ")[0].strip() for line in answer.output.splitlines()][1:]) == (
        0,
        ["calls", "streams"],
    )

"""The relay's benchmark runs to its end and reports every figure beside its baseline; speeds are not judged here."""

import json

from atoll.bench.relay import ROUNDS, run
from atoll.bench.report import BenchReport, row


def test_a_short_run_reports_every_figure():
    report = run(duration_s=0.05 * ROUNDS, sizes=(1024,), tunnels=2, idle_tunnels=3)
    named = {each.name: each for each in report.rows}
    for name in (
        "direct TCP, 1024 B messages",
        "BEP, 1024 B messages",
        "BEP, round trip 64 B p99",
        "SEP, 1024 B records",
        "BEP, tunnels set up",
        "BEP, fairness of 2",
        "BEP, memory per tunnel (3 idle)",
    ):
        assert named[name].minimum <= named[name].median <= named[name].maximum
    assert named["BEP, 1024 B messages"].against == "direct TCP, 1024 B messages"
    assert named["SEP, 1024 B records"].against == "C switch, 1024 B records"
    assert 0.5 <= named["BEP, fairness of 2"].median <= 1.0
    json.dumps(report.as_dict())
    assert "BEP, tunnels set up" in report.table()


def test_a_row_is_compared_with_the_baseline_of_its_run():
    baseline = row("raw", "GB/s", [1.0, 2.0, 3.0])
    ours = row("ours", "GB/s", [1.0], against=baseline)
    assert (ours.ratio, ours.against) == (0.5, "raw")
    assert row("ours", "GB/s", [1.0], against=row("idle", "GB/s", [0.0])).ratio is None
    assert "0.50  raw" in BenchReport("any", [baseline, ours], {"note": 1}).table()

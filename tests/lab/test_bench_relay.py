"""The relay's benchmark runs to its end, reports every figure and leaves nothing behind; speeds are not judged here."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from click.testing import CliRunner
from waiting import children

from atoll.bench.processes import End, Process
from atoll.bench.relay import run
from atoll.bench.report import BenchReport, row
from atoll.bench.rounds import ROUNDS, turns
from atoll.cli.bench import command
from atoll.transport.errors import Unreachable, UsageError

WAIT_S = 60
ATOLL = "from atoll.cli import main; main()"


def test_a_short_run_reports_every_figure():
    said = []
    report = run(duration_s=7.0, sizes=(1024,), tunnels=2, idle_tunnels=3, progress=said.append)
    named = {each.name: each for each in report.rows}
    for name in (
        "raw TCP, 1024 B messages",
        "direct TCP, 1024 B messages",
        "BEP, 1024 B messages",
        "BEP, session, 1024 B messages",
        "BEP, 1024 B messages, CPU",
        "BEP, round trip 64 B p99",
        "SEP, 1024 B records",
        "SEP, 1024 B records, CPU each",
        "SEP, round trip beside a callee that does not read p99",
        "BEP, both ways at once",
        "BEP, both ways at once, CPU",
        "BEP, 1024 B messages, CPU each",
        "BEP, probe alone, p50",
        "BEP, probe beside bulk past the relay, p99",
        "BEP, probe beside bulk in another tunnel, p99",
        "BEP, age of bulk, p99",
        "BEP, round trip beside slow readers p99",
        "BEP, tunnels set up",
        "BEP, tunnels set up with sessions",
        "BEP, 2 tunnels together",
        "BEP, fairness of 2",
    ):
        assert 0 < named[name].minimum <= named[name].median <= named[name].maximum, name
        assert len(named[name].slices) == ROUNDS
    assert named["BEP, 1024 B messages"].against == "direct TCP, 1024 B messages"
    assert named["SEP, 1024 B records"].against == "C switch, 1024 B records"
    assert 0.5 <= named["BEP, fairness of 2"].median <= 1.0
    json.dumps(report.as_dict())
    assert "BEP, tunnels set up" in report.table()
    assert said[0].endswith("3 idle tunnels")
    assert children() == []


def test_a_row_is_compared_with_its_baseline_round_by_round():
    baseline = row("raw", "GB/s", [1.0, 2.0, 4.0])
    ours = row("ours", "GB/s", [1.0, 1.0, 1.0], against=baseline)
    assert (ours.ratio_minimum, ours.ratio, ours.ratio_maximum, ours.against) == (0.25, 0.5, 1.0, "raw")
    assert row("ours", "GB/s", [1.0], against=row("idle", "GB/s", [0.0])).ratio is None
    assert "0.50 (0.25 to 1.00)  raw" in BenchReport("any", [baseline, ours], {"note": 1}).table()


def test_every_way_has_its_turn_in_every_round_and_the_first_to_go_changes():
    gone = []
    results = turns({"a": lambda s: gone.append(("a", s)) or "A", "b": lambda s: gone.append(("b", s)) or "B"}, 1.0)
    assert results == {"a": ["A"] * ROUNDS, "b": ["B"] * ROUNDS}
    warm_up, counted = gone[:2], gone[2:]
    assert [way for way, s in warm_up if s < 1.0] == ["a", "b"]
    assert [way for way, _ in counted[:4]] == ["a", "b", "b", "a"]


@pytest.mark.parametrize("wrong", [{"sizes": (0,)}, {"sizes": (65_001,)}, {"tunnels": 251}, {"tunnels": 0}])
def test_what_cannot_be_measured_is_refused_before_anything_starts(wrong):
    with pytest.raises(UsageError, match="not"):
        run(**wrong)


@pytest.mark.parametrize("sizes", ["many", "1024,", "-5", "100000"])
def test_sizes_that_make_no_sense_are_refused_in_words(sizes):
    done = CliRunner().invoke(command, ["relay", f"--sizes={sizes}"])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("atoll: ")


def test_a_failure_in_another_process_says_what_failed():
    end = End()
    try:
        with pytest.raises(Unreachable, match="'sep_call' failed: ZMQError: Invalid argument"):
            end.do("sep_call", message_bytes=1, duration_s=0.1, ticket="", port=1, server="00", public="", secret="")
        end.begin("echo")
        with pytest.raises(Unreachable, match="'echo' ended early"):
            end.answer()
    finally:
        end.close()


def test_a_process_that_does_not_start_is_told_from_one_that_does():
    process = Process("atoll.bench.nothing")
    try:
        with pytest.raises(Unreachable, match="nothing did not start"):
            process.line()
    finally:
        process.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_an_interrupted_run(how):
    bench = subprocess.Popen(
        [sys.executable, "-c", ATOLL, "bench", "relay", "--seconds", "100", "--idle-tunnels", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with bench:
        try:
            while "messages of" not in (line := bench.stderr.readline()):
                assert line, "the benchmark ended too early"
            others = psutil.Process(bench.pid).children(recursive=True)
            assert len(others) == 4
            os.kill(bench.pid, how)
            _, complaints = bench.communicate(timeout=WAIT_S)
            assert psutil.wait_procs(others, timeout=WAIT_S)[1] == []
        finally:
            bench.kill()
    assert "Traceback" not in complaints
    assert bench.returncode == (1 if how is signal.SIGINT else -how)

"""Other actor libraries do the same work where they are installed; nothing of them is left, speeds are not judged."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from click.testing import CliRunner
from waiting import block_until, children

from atoll.bench import actors
from atoll.bench.peers.actors import CONTENDERS, chosen, contender, measured
from atoll.bench.peers.actors.contender import OURS, TITLES, Contender, Running
from atoll.bench.rounds import ROUNDS, silent
from atoll.cli.bench import command
from atoll.transport.errors import Unreachable, UsageError


@pytest.mark.parametrize("name", [OURS, *CONTENDERS])
def test_a_contender_answers_every_operation_and_leaves_nothing(name):
    if name != OURS and (reason := CONTENDERS[name].absence()) is not None:
        pytest.skip(f"{name}: {reason}")
    operations = TITLES if name == OURS else CONTENDERS[name].operations
    running = Running(name)
    try:
        for operation in operations:
            answer = running.do(operation, 0.02)
            assert answer["count"] > 0, operation
            assert answer["took_s"] > 0, operation
            assert answer["cpu_s"] > 0, operation
            assert ("p50_us" in answer) == (operation in {"ask", "ask_across"})
        below = children()
    finally:
        running.close()
    assert psutil.wait_procs(below, timeout=0)[1] == []


@pytest.mark.parametrize("name", [OURS, *CONTENDERS])
def test_a_contender_does_not_outlive_a_killed_benchmark(name):
    if name != OURS and (reason := CONTENDERS[name].absence()) is not None:
        pytest.skip(f"{name}: {reason}")
    program = f"import time; from atoll.bench.peers.actors.contender import Running; running = Running({name!r}); "
    program += "print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as bench:
        try:
            assert bench.stdout.readline()
            others = psutil.Process(bench.pid).children(recursive=True)
            assert others
            os.kill(bench.pid, signal.SIGKILL)
            block_until(lambda: not any(each.is_running() for each in others))
        finally:
            bench.kill()


def test_figures_of_others_are_held_against_ours_round_by_round(monkeypatch):
    class Counted:
        def __init__(self, name):
            self.factor = 1 if name == OURS else 2

        def do(self, operation, seconds):
            asks_one = {"p50_us": 5.0 * self.factor} if operation in {"ask", "ask_across"} else {}
            return {"count": 100, "took_s": seconds * self.factor, "cpu_s": 0.001 * self.factor} | asks_one

        def close(self):
            pass

    monkeypatch.setattr(contender, "Running", Counted)
    other = Contender("other", lambda: True, "", ("tell", "ask"))
    rows = {each.name: each for each in measured([other], 0.1, silent)}
    assert (rows["other, tell"].ratio, rows["other, tell"].against) == (0.5, "atoll, tell")
    assert rows["other, tell, CPU each"].ratio == 2.0
    assert rows["other, ask, 1 in flight, p50"].ratio == 2.0
    assert "other, ask, 64 in flight" not in rows
    assert len(rows["atoll, tell"].slices) == ROUNDS


def test_a_contender_that_does_not_start_is_left_out_of_all_and_an_error_by_name(monkeypatch):
    class Broken:
        def __init__(self, name):
            if name != OURS:
                raise Unreachable(f"{name} did not start: no room")

        def do(self, _operation, seconds):
            return {"count": 1, "took_s": seconds, "cpu_s": 0.001}

        def close(self):
            pass

    monkeypatch.setattr(contender, "Running", Broken)
    other = Contender("other", lambda: True, "", ("tell",))
    absent = {}
    names = [each.name for each in measured([other], 0.01, silent, absent)]
    assert absent == {"other": "other did not start: no room"}
    assert "atoll, tell" in names
    with pytest.raises(Unreachable, match="no room"):
        list(measured([other], 0.01, silent))


def test_all_takes_those_that_are_here_and_says_how_to_get_the_others(monkeypatch):
    here = Contender("here", lambda: True, "", ())
    gone = Contender("gone", lambda: False, "pip install gone", ())
    monkeypatch.setattr(contender, "CONTENDERS", {"here": here, "gone": gone})
    assert chosen(["all"]) == ([here], {"gone": "not installed (pip install gone)"})
    with pytest.raises(UsageError, match=r"gone cannot be measured: not installed \(pip install gone\)"):
        chosen(["gone"])
    with pytest.raises(UsageError, match="no peer is called akka; there are here, gone, and all"):
        chosen(["akka"])


@pytest.mark.parametrize("which", ["relay", "actors"])
def test_the_command_refuses_a_peer_that_nobody_knows_in_words(which):
    done = CliRunner().invoke(command, [which, "--peers", "akka"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "no peer is called akka; there are " in done.stderr


def test_a_contender_that_ends_says_its_last_words():
    with pytest.raises(Unreachable, match=r"nobody did not start: .*No module named"):
        Running("nobody")


def test_rows_of_loops_stand_together_and_beside_what_is_asked(monkeypatch):
    monkeypatch.setattr(actors, "ACTORS", 5)
    report = actors.run(0.3, loops=["uvloop"])
    told = next(each for each in report.rows if each.name == "uvloop, tell")
    assert (told.group, str(told.bar)) == ("tell", "≥ 1,500,000")
    assert json.loads(json.dumps(report.as_dict()))["version"] == 1

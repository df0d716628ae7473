"""Tests of several processes run side by side, but for one that is run again because the host stood still."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Of what runs the tests, not of Atoll.
pytestmark = pytest.mark.deep

TESTS = """
import time
from pathlib import Path

import pytest

RUNS = Path({runs!r})
tried = []

@pytest.mark.timeout(2)
def test_that_fails_first():
    tried.append(1)
    began = time.monotonic()
    time.sleep(0.3)
    with RUNS.open("a") as file:
        print("failing" if len(tried) == 1 else "again", began, time.monotonic(), file=file)
    assert len(tried) == 2

@pytest.mark.timeout(2)
@pytest.mark.parametrize("number", range(8))
def test_beside_it(number):
    began = time.monotonic()
    time.sleep(0.4)
    with RUNS.open("a") as file:
        print("beside", began, time.monotonic(), file=file)
"""
CONFTEST = """
import contextlib
from void_tests import VoidTests

class Pauses(contextlib.nullcontext):
    def longest_s(self, since):
        return 1.0

    total_s = longest_s

def pytest_configure(config):
    config.pluginmanager.register(VoidTests(Pauses))
"""


def test_the_one_that_is_run_again_has_the_host_for_itself(tmp_path):
    runs = tmp_path / "runs"
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS.format(runs=str(runs)))
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pytest; sys.exit(pytest.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "-p", "no:cacheprovider", "-n", "3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    spans = [(kind, float(began), float(ended)) for kind, began, ended in map(str.split, runs.read_text().splitlines())]
    (again,) = [span for span in spans if span[0] == "again"]
    others = [span for span in spans if span[0] == "beside"]
    assert [span for span in others if span[1] > again[2]], "some were left to run after it"
    assert not [span for span in spans if span != again and span[1] < again[2] and again[1] < span[2]], spans
    assert [a for a in others for b in others if a is not b and a[1] < b[2] and b[1] < a[2]], "others share the host"

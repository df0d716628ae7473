"""What fails while the host stands still is run again and told, and nothing else is."""

import subprocess
import sys
from pathlib import Path

import pytest

# Of what runs the tests, not of Atoll.
pytestmark = pytest.mark.deep

CONFTEST = """
import contextlib
from void_tests import VoidTests

class Pauses(contextlib.nullcontext):
    def longest_s(self, since):
        return {still_s}

    def total_s(self, since):
        return {still_s}

def pytest_configure(config):
    config.pluginmanager.register(VoidTests(Pauses))
"""
TESTS = """
runs = []

def test_it(tmp_path):
    runs.append(tmp_path)
    print(len(set(runs)), "runs")
    assert len(runs) == {passes_at}
"""


@pytest.mark.parametrize(
    ("still_s", "passes_at", "failed", "voids"),
    [(0.0, 1, 0, 0), (1.0, 1, 0, 0), (0.0, 2, 1, 0), (1.0, 2, 0, 1), (1.0, 3, 0, 2), (1.0, 4, 1, 2)],
    ids=["passes", "passes all the same", "fails", "once void", "twice void", "fails each time"],
)
def test_a_failure_is_void_where_the_host_stood_still(tmp_path, still_s, passes_at, failed, voids):
    (tmp_path / "conftest.py").write_text(CONFTEST.format(still_s=still_s))
    (tmp_path / "test_it.py").write_text(TESTS.format(passes_at=passes_at))
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import pytest; sys.exit(pytest.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == failed, done.stdout
    assert f"{failed} failed" in done.stdout if failed else "1 passed" in done.stdout
    told = [
        line for line in done.stdout.splitlines() if line.startswith("test_it.py::test_it: the host stood still for")
    ]
    assert len(told) == voids
    assert all("it had failed with " in line for line in told)
    assert (f"{voids} void: the host stood still" in done.stdout) == (voids > 0)
    if failed:
        assert f"{voids + 1} runs" in done.stdout, "each run has fixtures of its own"

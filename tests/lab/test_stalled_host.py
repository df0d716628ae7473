"""A host that stands still is made by freezing all that a test runs, and is measured by a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.testing.stalled_host_main import hierarchy
from atoll.transport.errors import UsageError

MEASURES = """
import sys, time
sys.path.insert(0, "src")
from atoll.testing.host_pauses import HostPauses
with HostPauses() as pauses:
    time.sleep(2)
    print(pauses.longest_s())
sys.exit(3)
"""


@pytest.fixture
def groups():
    try:
        found = hierarchy(Path("/proc/self/mounts").read_text())
    except UsageError as error:
        pytest.skip(str(error))
    if not os.access(found, os.W_OK):
        pytest.skip("control groups are root's")
    return found


def stalled(*arguments):
    """Run it; gives its process id, its exit code, and what it printed."""
    command = [sys.executable, "-m", "atoll.testing.stalled_host_main", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, err = process.communicate()
    return process.pid, process.returncode, out, err


def test_what_runs_on_it_stands_still(groups):
    pid, code, out, err = stalled(
        "--every", "0.3", "--most", "0.4", "--seed", "1", "--", sys.executable, "-c", MEASURES
    )
    assert code == 3, err
    assert float(out) > 0.3
    assert "the host stood still " in err
    assert not (groups / f"atoll-stalled-{pid}").exists()


def test_a_command_that_is_none_is_refused_in_words(groups):
    pid, code, _, err = stalled("--", "no-such-program")
    assert (code, err) == (127, "error: there is no program no-such-program\n")
    assert not (groups / f"atoll-stalled-{pid}").exists()


def test_without_control_groups_it_says_so():
    with pytest.raises(UsageError, match="no control groups of version 2 are mounted here"):
        hierarchy("proc /proc proc rw 0 0\n")

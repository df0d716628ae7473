"""`atoll demo` as a newcomer runs it: nine real processes, real NAT where this host lets us make it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from atoll.cli.demo import SPEC, picture
from atoll.cluster_specs import read_spec
from atoll.testing.warden_main import born

DEMO_S = 200
"""What users are promised; the runner's own timeout ends the test otherwise."""
RUN = "import sys; from atoll.cli import main; main(args=sys.argv[1:], prog_name='atoll')"


@pytest.fixture
def surroundings(tmp_path):
    """Folders of its own, so that what it leaves behind is seen, and other demos on this host do not matter."""
    (tmp_path / "t").mkdir()
    code = f"""
from pathlib import Path
from atoll.testing import runs
runs.default_run_dir = lambda: Path({str(tmp_path)!r})
{RUN}
"""

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "t")},
        )

    return start


def pids_of(tmp_path, spec):
    plain = json.loads((tmp_path / "clusters" / f"{spec}.json").read_text())
    return [pid for pid, _ in plain["processes"].values()]


def clean(tmp_path):
    return not list((tmp_path / "t").iterdir()) and not list((tmp_path / "clusters").iterdir())


@pytest.mark.timeout(DEMO_S)
@pytest.mark.lab
def test_the_demo_shows_what_it_promises_and_leaves_nothing(surroundings, tmp_path):
    with surroundings("demo", "--once", "--json") as child:
        out, err = child.communicate()
    told = json.loads(out)
    steps = {step["what"]: step["detail"] for step in told["steps"]}
    assert child.returncode == 0, f"{err}\n{out}"
    assert told["ok"]
    sep = next(detail for what, detail in steps.items() if what.endswith("calls echo@office/server by sep"))
    assert " by sep (no link: another network; no bearer yet; its proxy answers at relay-" in sep
    bep = next(detail for what, detail in steps.items() if what.endswith("calls echo@office/server by bep"))
    assert " by bep (no link: another network; a bearer through relay-" in bep
    assert any(what.startswith("home has a supernode without home/") for what in steps)
    assert steps["kill relay in use by home"].startswith("relay-")
    assert steps["stop two-sites"] == "every process ended in order"
    assert clean(tmp_path)
    if "no network namespaces" in err:
        pytest.skip(f"THE DEMO RAN WITHOUT NAT, SO NOTHING IS SHOWN ABOUT IT: {err}")


@pytest.mark.lab
def test_an_interrupted_cluster_leaves_nothing(surroundings, tmp_path):
    with surroundings("up", "lan-3") as child:
        while "start lan-3" not in child.stdout.readline():
            assert child.poll() is None, child.stderr.read()
        pids = pids_of(tmp_path, "lan-3")
        assert len(pids) == 3
        child.send_signal(signal.SIGINT)
        _, err = child.communicate()
    assert "ending; everything that was made is removed" in err
    assert "Traceback" not in err
    assert not any(born(pid) for pid in pids)
    assert clean(tmp_path)


def test_the_picture_names_everybody():
    drawn = picture(read_spec(SPEC))
    for name in ("cloud", "relay-1", "relay-2", "tv", "phone", "box", "server (echo)", "desk", "laptop"):
        assert name in drawn

"""A systemd of its own, first process of its own namespaces: units run under it as on a host; it ends with the test.

It knows only the units that are given to it, and no network. Programs stand below `/opt`, because units hide homes.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import block_until

import atoll

SYSTEMD = Path("/lib/systemd/systemd")
NAMESPACES = ["--mount", "--pid", "--fork", "--cgroup", "--net", "--uts", "--ipc", "--mount-proc"]
CGROUPS = Path("/sys/fs/cgroup")
TARGETS = ("basic", "multi-user", "network-online", "shutdown", "sysinit")
CHECKOUT = Path(atoll.__file__).parents[2]
PYTHON = f"/opt/python/{Path(sys.executable).resolve().relative_to(sys.base_prefix)}"
PATHS = "/opt/atoll/src:" + ":".join(
    f"/opt/atoll/{Path(each).relative_to(CHECKOUT)}"
    for each in sys.path
    if Path(each).is_relative_to(CHECKOUT / ".venv")
)
START = """
set -e
mount --make-rprivate /
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=0755 tmpfs /var/lib
mkdir -m 700 /var/lib/private
mount -t tmpfs -o mode=0755 tmpfs /opt
mkdir /opt/atoll /opt/python
mount --bind {checkout} /opt/atoll
mount --bind {python} /opt/python
ip link set lo up
umount -R /sys/fs/cgroup
if [ {unified} = yes ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
fi
export container=other SYSTEMD_UNIT_PATH={units}
exec {systemd} --system --unit=test.target --log-target=console --show-status=no
"""


def _hierarchies():
    """Give the folders in which systemd makes its groups."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [each for each in (CGROUPS / "systemd", CGROUPS / "unified") if each.is_dir()]


@contextlib.contextmanager
def _groups_of_its_own(name):
    """Put what is started within into new control groups, and remove them with all below."""
    made = [each / name for each in _hierarchies()]
    for each in made:
        each.mkdir()
    try:
        yield made
    finally:
        for each in made:
            for folder, _, _ in os.walk(each, topdown=False):
                block_until(lambda folder=folder: _removed(folder), lambda folder=folder: f"{folder} is in use")


def _removed(folder):
    try:
        Path(folder).rmdir()
    except OSError:
        return False
    return True


def run_units(folder, units, check, *, within_s=60):
    """Run these units (name to text) and then the shell script `check`, which sees `systemctl`; give its output."""
    if os.geteuid() != 0 or not SYSTEMD.exists():
        pytest.skip("a systemd of its own needs root and the package systemd, which .ci/run installs")
    if any(not Path(each).stat().st_mode & 0o001 for each in (CHECKOUT, CHECKOUT / "src", sys.base_prefix)):
        pytest.skip("units run as users of their own, and this checkout or its Python is closed to them")
    here = folder / "units"
    here.mkdir()
    for target in TARGETS:
        (here / f"{target}.target").write_text(f"[Unit]\nDescription={target}\nDefaultDependencies=no\n")
    wanted = " ".join(each for each in units if each.endswith(".service"))
    (here / "test.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={wanted} check.service\n")
    for name, text in units.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    said, script = folder / "said", folder / "check.sh"
    script.write_text(f"{check}\necho checked\nsystemctl poweroff -ff\n")
    (here / "check.service").write_text(
        textwrap.dedent(
            f"""
            [Unit]
            DefaultDependencies=no
            [Service]
            Type=oneshot
            StandardOutput=append:{said}
            StandardError=append:{said}
            ExecStart=/bin/bash {script}
            """
        )
    )
    start = START.format(
        checkout=shlex.quote(str(CHECKOUT)),
        python=shlex.quote(sys.base_prefix),
        units=shlex.quote(str(here)),
        unified="yes" if (CGROUPS / "cgroup.controllers").exists() else "no",
        systemd=SYSTEMD,
    )
    with _groups_of_its_own(f"atoll-test-{os.getpid()}") as groups:
        joins = " && ".join(f"echo 0 > {each}/cgroup.procs" for each in groups)
        command = f"{joins} && exec {shutil.which('unshare')} {shlex.join([*NAMESPACES, 'bash', '-c', start])}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=within_s)
    text = said.read_text() if said.exists() else ""
    assert "checked" in text, f"systemd did not come to the end: {done.stderr[-2000:]}\n{text}"
    return text

"""The systemd unit of a relay: systemd takes it, and it is as closed as it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.cli.relay_unit import in_a_home, relay_unit
from atoll.cluster_specs.config import RelayConfig
from atoll.transport.errors import UsageError

COMMAND = [sys.executable, "-c", "from atoll.cli import main; main()", "relay", "unit"]
ANALYZE = shutil.which("systemd-analyze")
with_systemd = pytest.mark.skipif(ANALYZE is None, reason="there is no systemd-analyze on this host")


def analyzed(*words):
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_LOG_LEVEL": "info"}
    return subprocess.run([ANALYZE, *words], capture_output=True, text=True, check=False, timeout=50, env=environment)


@pytest.fixture
def unit(tmp_path):
    file = tmp_path / "atoll-relay.service"
    file.write_text(relay_unit(Path("/etc/atoll/relay.toml"), 30.0))
    return file


def test_the_command_prints_it_for_a_config_with_the_drain_that_it_says(tmp_path):
    config = tmp_path / "relay.toml"
    config.write_text(f'drain_s = 100.5\n[cloud]\nid = "{"a" * 52}"\n')
    done = subprocess.run([*COMMAND, "--config", str(config)], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"LoadCredential=relay.toml:{config}\n" in done.stdout
    # The drain, and some more for what comes after it.
    assert "TimeoutStopSec=131\n" in done.stdout
    named = subprocess.run([*COMMAND, "--config", "relay.toml"], capture_output=True, text=True, check=False)
    assert (named.returncode, named.stdout) == (2, "")
    assert "full path" in named.stderr


@pytest.mark.parametrize("path", ["relay.toml", "/etc/a b.toml", "/etc/%i.toml", "/etc/a:b"])
def test_a_path_that_a_unit_would_take_apart_is_refused(path):
    with pytest.raises(UsageError, match="cannot stand in a unit"):
        relay_unit(Path(path), 30.0)


def test_what_the_unit_sets_are_settings_of_a_relay(unit):
    settings = {f"ATOLL_{name.upper()}" for name in RelayConfig.__struct_fields__}
    for line in re.findall(r"^Environment=(.*)$", unit.read_text(), re.MULTILINE):
        assert {each.partition("=")[0] for each in line.split()} <= settings


def test_a_program_in_a_home_is_noticed():
    assert in_a_home(Path("/root/venv/bin/atoll"))
    assert not in_a_home(Path("/opt/atoll/bin/atoll"))


@with_systemd
def test_systemd_takes_it_without_a_word(unit):
    done = analyzed("verify", "--man=no", str(unit))
    said = [line for line in (done.stdout + done.stderr).splitlines() if "atoll-relay" in line]
    assert (done.returncode, said) == (0, [])


@with_systemd
def test_systemd_finds_little_that_is_open(unit):
    done = analyzed("security", "--offline=true", "--no-pager", "--threshold=25", str(unit))
    if "offline" in done.stderr:
        pytest.skip("this systemd-analyze judges no files")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr

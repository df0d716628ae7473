"""The unit that `atoll relay unit` prints, under a real systemd: what it forbids is nothing that a relay needs."""

import re
from pathlib import Path

import pytest
from systemd_host import PATHS, PYTHON, run_units

from atoll.cli.relay_unit import relay_unit
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.timeout(200)
CONFIG = """
drain_s = 1
workers = 2
sep_port = 8088
bearer_port = 443
[metrics]
port = 9088
[cloud]
id = "{cloud}"
"""
UP = "for i in $(seq 150); do systemctl is-active -q atoll-relay && break; sleep 0.1; done\n"
SHOW = "systemctl show -p NRestarts,ActiveState,Result,ExecMainStatus atoll-relay\n"


def test_a_relay_starts_comes_back_when_it_is_killed_or_stands_still_and_drains_when_it_is_stopped(tmp_path):
    config = tmp_path / "relay.toml"
    config.write_text(CONFIG.format(cloud=NodeKey.generate().node_id))
    config.chmod(0o600)
    program = f'{PYTHON} -c "from atoll.cli import main; main()"'
    unit = relay_unit(Path("/etc/atoll/relay.toml"), 1.0)
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart=")).partition("atoll relay ")[2]
    told = tmp_path / "relay.log"
    drop_in = f"""
[Service]
ExecStart=
ExecStart={program} relay {command}
Environment=PYTHONPATH={PATHS} LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1
WatchdogSec=3
LoadCredential=
LoadCredential=relay.toml:{config}
StandardOutput=append:{told}
StandardError=append:{told}
"""
    check = f"""
{UP}
pid=$(systemctl show -p MainPID --value atoll-relay)
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$pid/status
echo owner $(stat -c %U /proc/$pid) $(stat -c '%U %a' /var/lib/private/atoll-relay/relay.key)
echo ports $(ss -Hltn | awk '{{print $4}}' | sed 's/.*://' | sort -n)
echo metrics $(curl -s http://127.0.0.1:9088/metrics | grep -c '^atoll_relay')
systemctl kill -s KILL --kill-who=main atoll-relay
for i in $(seq 150); do test $(systemctl show -p NRestarts --value atoll-relay) = 1 && break; sleep 0.1; done
{UP}
echo after the kill
{SHOW}
kill -STOP $(systemctl show -p MainPID --value atoll-relay)
for i in $(seq 300); do test $(systemctl show -p NRestarts --value atoll-relay) = 2 && break; sleep 0.1; done
{UP}
echo after the freeze
sleep 5
{SHOW}
systemctl stop atoll-relay
echo after the stop
{SHOW}
"""
    units = {"atoll-relay.service": unit, "atoll-relay.service.d/test.conf": drop_in}
    said = run_units(tmp_path, units, check)
    log = told.read_text() if told.exists() else ""
    before, killed, frozen, stopped = re.split("after the (?:kill|freeze|stop)", said)
    assert "CapEff:\t0000000000000400" in before, "it may bind ports below 1024, and nothing else"
    assert "NoNewPrivs:\t1" in before
    assert "Seccomp:\t2" in before
    assert "owner atoll-relay atoll-relay 600" in before
    assert "ports 443 8088 9088" in before, log
    assert int(before.partition("metrics ")[2].split()[0]) > 10, log
    assert {"NRestarts=1", "ActiveState=active"} <= set(killed.split()), log
    assert {"NRestarts=2", "ActiveState=active"} <= set(frozen.split()), "it was given up once, and gives signs of life"
    assert {"ActiveState=inactive", "Result=success", "ExecMainStatus=0"} <= set(stopped.split()), log
    assert "draining: 0 registrations and 0 tunnels" in log

"""A durable actor moves between real processes, some of which are killed with SIGKILL: nothing is lost or doubled.

`python -m atoll.testing.hand_overs_main` does it a thousand times, and measures.
"""

import sys
from random import Random

import anyio
import pytest

from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.damage import DAMAGES
from atoll.testing.failovers import SITE, site_of
from atoll.testing.hand_overs_main import ledger_command
from atoll.testing.loopback import Loopback
from atoll.testing.real_moves import RealMoves, driver_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]
WAIT_S = 150.0
STATE_BYTES = 200_000


async def test_what_is_acknowledged_is_there_once_whoever_dies_in_a_move_and_whichever_log_is_damaged(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths = site_of(3), []
    with anyio.fail_after(WAIT_S):
        async with (
            Cluster(spec, Loopback(spec), command=ledger_command, on_death=deaths.append) as cluster,
            driver_of(cluster, SITE, tmp_path) as driver,
        ):
            real = RealMoves(cluster, driver, Random(1))
            await real.prepare(STATE_BYTES)
            await real.run(moves=8, kill_every=2)
            assert real.kills.keys() == {"source", "target", "another"}, real.figures
            await damage_a_log(cluster, f"{SITE}/n2")
            await real.run(moves=11, kill_every=0)
    assert real.checked.violations == []
    assert real.moves >= 11
    assert real.checked.acknowledged > 11
    assert deaths == []


async def test_another_host_takes_over_from_one_that_dies_and_does_not_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths = site_of(3), []
    with anyio.fail_after(WAIT_S):
        async with (
            Cluster(spec, Loopback(spec), command=ledger_command, on_death=deaths.append) as cluster,
            driver_of(cluster, SITE, tmp_path) as driver,
        ):
            real = RealMoves(cluster, driver, Random(2))
            await real.prepare(STATE_BYTES)
            lost = await real.lose_host()
            sys.stdout.write(f"\nkilled, and answered by another host after {real.replaced_s[0]:.1f} s\n")
            await cluster.restart(lost)
            await real.run(moves=real.moves + 3, kill_every=0)
    assert real.checked.violations == []
    assert deaths == []


async def damage_a_log(cluster, name):
    logs = cluster.planned[name].config.state_dir / "logs"
    await cluster.kill(name)
    before = (logs / "ledger.log").read_bytes()
    DAMAGES["flipped"](logs / "ledger.log", Random(1))
    damaged = (logs / "ledger.log").read_bytes()
    assert damaged != before
    await cluster.restart(name)
    assert (logs / "ledger.log.corrupt-1").read_bytes() == damaged
    assert "the operation log of ledger is damaged" in cluster.processes[name].log_file.read_text()

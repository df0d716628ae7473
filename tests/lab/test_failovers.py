"""The supernode of a site of real nodes dies and stands still: another is told of, and never two at once.

`python -m atoll.testing.failovers_main` does it hundreds of times, and measures.
"""

from random import Random

import anyio
import pytest

from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.failovers import Failovers, site_of
from atoll.testing.lab import Lab, obstacle
from atoll.testing.loopback import Loopback

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]

WAIT_S = 150.0


async def test_a_supernode_that_dies_or_stands_still_is_replaced_and_never_are_there_two(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths = site_of(3), []
    ground = Lab(spec) if await obstacle() is None else Loopback(spec)
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, ground, on_death=deaths.append) as cluster, anyio.create_task_group() as tasks:
            failovers = Failovers(cluster, Random(1))
            tasks.start_soon(failovers.watch.run)
            for how in ("kill", "stop", "kill", "stop"):
                failover = await failovers.once(how)
                assert failover.new not in ("", failover.old), failover.line
            tasks.cancel_scope.cancel()
    assert failovers.late == []
    assert failovers.watch.leases.looks > 100
    assert failovers.watch.leases.contradictions == []
    assert deaths == []

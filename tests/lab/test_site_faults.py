"""A site of real nodes whose clocks jump and whose addresses change: its users notice little, and never are there two.

`python -m atoll.testing.site_faults_main` does more of it, and measures.
"""

from functools import partial

import anyio
import pytest

from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.failovers import SITE, site_of
from atoll.testing.lab import Lab, obstacle
from atoll.testing.site_faults import HOUR_S, SiteFaults, with_jumping_clocks
from atoll.testing.wall_clock import library

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.lab,
    pytest.mark.timeout(200),
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]

WAIT_S = 150.0


@pytest.fixture
async def possible(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    if (found := await obstacle()) is not None:
        pytest.skip(f"NO FAULTS OF A SITE ARE SHOWN: {found}")


@pytest.mark.usefixtures("possible")
async def test_nobody_is_replaced_when_wall_clocks_jump_by_an_hour_and_no_call_fails():
    faketime = library()
    if faketime is None:
        pytest.skip("NO JUMPING CLOCKS ARE SHOWN: libfaketime is not here (Debian: apt-get install libfaketime)")
    spec, deaths = site_of(3), []
    lab, command = Lab(spec), partial(with_jumping_clocks, faketime, all_clocks=False)
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, lab, command=command, on_death=deaths.append) as cluster, running() as tasks:
            faults = SiteFaults(cluster, lab, faketime)
            await faults.begin(tasks)
            for fault in (partial(faults._jump_of_supernode, HOUR_S), partial(faults._jump_of_follower, -HOUR_S)):
                verdict = await faults.once(fault)
                seen = verdict.verdict.within
                assert (verdict.verdict.lacks, verdict.changes, seen.failed) == ("", 0, 0), verdict.line
                assert seen.answered
            faults.trials.end()
    assert faults.watch.leases.contradictions == []
    assert deaths == []


@pytest.mark.usefixtures("possible")
async def test_a_supernode_with_another_address_is_found_there_and_two_are_never_seen():
    spec, deaths = site_of(3), []
    lab = Lab(spec)
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, lab, on_death=deaths.append) as cluster, running() as tasks:
            faults = SiteFaults(cluster, lab)
            await faults.begin(tasks)
            old = await cluster.supernode_of(SITE)
            before = lab.address_of(old)
            verdict = await faults.once(lambda old, _: faults._moved(old, "supernode"))
            assert verdict.verdict.lacks == "", verdict.line
            assert lab.address_of(old) != before
            reached = next(each for each in cluster.living_nodes(SITE) if each != old)
            links = (await cluster.api(reached).get("/atoll/v1/links"))["links"]
            assert any(lab.address_of(old) in str(each) for each in links), links
            faults.trials.end()
    assert faults.watch.leases.contradictions == []
    assert deaths == []


class running:  # noqa: N801 - reads as a part of the sentence
    """A task group whose tasks end with the block."""

    async def __aenter__(self):
        self._tasks = anyio.create_task_group()
        return await self._tasks.__aenter__()

    async def __aexit__(self, *error):
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(*error)

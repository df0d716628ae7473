"""Files of a stopped node are damaged in many ways: it says which, sets it aside, and is a member of its site again.

What the others hold is held: the same roster, no epoch twice, and the next supernode is elected above all before.
"""

import signal
from random import Random

import anyio
import pytest
from waiting import until

from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.damage import DAMAGES
from atoll.testing.failovers import SITE, Failovers, site_of
from atoll.testing.lab import Lab, obstacle
from atoll.testing.loopback import Loopback
from atoll.testing.wholeness import Wholeness

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(180),
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]

SET_ASIDE = ("flipped", "oversized", "replaced")
"""The rest leaves a file that is empty or ends too soon: there is nothing worth keeping."""
NO_VOTE = "this node has no vote, because its election journal is damaged"
NO_COPY = "the copy of the placement is damaged"
VOTES_AGAIN = "enough voters told their epochs: this node votes again"


async def test_a_node_with_a_damaged_journal_says_so_and_votes_again_and_a_damaged_index_costs_it_its_images(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths, rng = site_of(3), [], Random(1)
    ground = Lab(spec) if await obstacle() is None else Loopback(spec)
    with anyio.fail_after(170):
        async with Cluster(spec, ground, on_death=deaths.append) as cluster, anyio.create_task_group() as tasks:
            failovers, wholeness = Failovers(cluster, rng), Wholeness(cluster)
            tasks.start_soon(failovers.watch.run)
            await wholeness.awaited()
            before, copies_lost = await supernode_at(cluster), 0
            for damage in DAMAGES:
                name = await damaged(cluster, damage, rng)
                await wholeness.awaited()
                await said(cluster, name, damage)
                copies_lost += NO_COPY in cluster.processes[name].log_file.read_text()
                monotone = await supernode_at(cluster)
                assert monotone >= before
                before = monotone
            assert copies_lost > len(DAMAGES) / 2
            failover = await failovers.once("kill")
            assert failover.new, failover.line
            assert await supernode_at(cluster) > before
            await without_images(cluster)
            await wholeness.awaited()
            tasks.cancel_scope.cancel()
    assert failovers.watch.leases.contradictions == []
    assert deaths == []


async def supernode_at(cluster):
    """Give the epoch of the site's supernode."""
    name = await cluster.supernode_of(SITE)
    return (await cluster.status(name))["supernode"]["epoch"]


async def follower(cluster):
    name = await cluster.supernode_of(SITE)
    return next(each for each in cluster.living_nodes(SITE) if each != name)


async def damaged(cluster, damage, rng):
    """Stop a follower, damage its journals, and start it again; gives its name."""
    name = await follower(cluster)
    journals = [cluster.planned[name].config.state_dir / f"{each}.journal" for each in ("election", "placement")]
    # A follower that the supernode has not told of the placement yet has nothing there that could be damaged.
    await until(lambda: all(each.exists() and each.stat().st_size for each in journals))
    await cluster.kill(name, signal.SIGTERM)
    for journal in journals:
        DAMAGES[damage](journal, rng)
    await cluster.restart(name)
    return name


async def said(cluster, name, damage):
    """Check the words of the log, and what lies beside the journal."""
    folder = cluster.planned[name].config.state_dir
    log = cluster.processes[name].log_file
    aside = sorted(folder.glob("election.journal.corrupt-*"))
    if damage in SET_ASIDE:
        assert any(f"the whole file was kept as {each.name}" in log.read_text() for each in aside), log.read_text()
    if NO_VOTE not in log.read_text():
        # The last record alone, which looks like a write that did not finish: nothing can have depended on it.
        assert damage in ("truncated", "zeroed_end"), f"{damage}: {log.read_text()}"
        assert "of a write that did not finish" in log.read_text()
        return
    with anyio.fail_after(60):
        while VOTES_AGAIN not in log.read_text():  # noqa: ASYNC110 - another process's log has no event here
            await anyio.sleep(0.05)


async def without_images(cluster):
    """Damage the index of a node's images: it starts, says so, and keeps all aside."""
    name = await follower(cluster)
    await cluster.kill(name, signal.SIGTERM)
    images = cluster.planned[name].config.state_dir / "containers" / "images"
    (images / "index.json").write_bytes(b'{"version": 1, "images": [{')
    await cluster.restart(name)
    assert f"{images / 'index.json'} is damaged" in cluster.processes[name].log_file.read_text()
    assert images.with_name("images.corrupt-1").is_dir()

"""Real nodes watch each other: one that is killed is suspected, then dead; one that comes back is alive."""

import signal
import sys

import anyio
import pytest

from atoll.cluster_specs import read_spec
from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.loopback import Loopback

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]

WAIT_S = 150.0
LOOK_S = 0.05
WATCHER, OTHER, VICTIM = "lan/one", "lan/two", "lan/three"


@pytest.fixture
async def lan(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths = read_spec("lan-3"), []
    async with Cluster(spec, Loopback(spec), on_death=deaths.append) as cluster:
        for viewer in (WATCHER, OTHER):
            await until_state(cluster, viewer, "alive")
        yield cluster


async def state_of(cluster, viewer, name=VICTIM):
    nodes = (await cluster.api(viewer).get("/atoll/v1/nodes"))["nodes"]
    wanted = str(cluster.planned[name].key.node_id)
    return next(((each["state"], each["state_why"]) for each in nodes if each["id"] == wanted), ("", ""))


async def until_state(cluster, viewer, wanted):
    seen = []
    while not seen or seen[-1] != wanted:
        state, _ = await state_of(cluster, viewer)
        if not seen or seen[-1] != state:
            seen.append(state)
        await anyio.sleep(LOOK_S)
    return seen


async def members_of(cluster, viewer):
    return (await cluster.status(viewer))["site"]["members"]


async def test_a_killed_node_is_suspected_then_dead_and_struck_off_and_alive_when_it_is_back(lan):
    with anyio.fail_after(WAIT_S):
        while await members_of(lan, WATCHER) != 3:  # noqa: ASYNC110 - another process has no event here
            await anyio.sleep(LOOK_S)
        killed_at = await lan.kill(VICTIM)
        seen = await until_state(lan, WATCHER, "dead")
        took_s = anyio.current_time() - killed_at
        assert "suspect" in seen
        state, why = await state_of(lan, WATCHER)
        assert state == "dead"
        assert "silent though suspected" in why or "found it dead" in why
        sys.stdout.write(f"\nkilled, and known to be dead after {took_s:.1f} s\n")
        while await members_of(lan, WATCHER) != 2:  # noqa: ASYNC110
            await anyio.sleep(LOOK_S)
        await lan.restart(VICTIM)
        for viewer in (WATCHER, OTHER):
            await until_state(lan, viewer, "alive")


async def test_a_node_that_stands_still_for_three_seconds_is_not_dead_to_anybody(lan):
    with anyio.fail_after(WAIT_S):
        await lan.kill(VICTIM, signal.SIGSTOP)
        with anyio.move_on_after(3.0):
            while True:
                assert (await state_of(lan, WATCHER))[0] in ("alive", "suspect")
                await anyio.sleep(LOOK_S)
        await lan.kill(VICTIM, signal.SIGCONT)
        for viewer in (WATCHER, OTHER):
            assert "dead" not in await until_state(lan, viewer, "alive")


async def test_a_node_that_ends_in_order_has_left(lan):
    with anyio.fail_after(WAIT_S):
        await lan.kill(VICTIM, signal.SIGTERM)
        for viewer in (WATCHER, OTHER):
            assert "dead" not in await until_state(lan, viewer, "left")
        while await members_of(lan, WATCHER) != 2:  # noqa: ASYNC110
            await anyio.sleep(LOOK_S)

"""The cluster of the demo under faults, with calls going on: whoever is left goes on, and all is whole again after.

`python -m atoll.testing.trials_main` is the long version, in network namespaces.
"""

import signal
from functools import partial

import anyio
import pytest

from atoll.cluster_specs import CallCheck, read_spec
from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.loopback import Loopback
from atoll.testing.trials import Trials

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]

WAIT_S = 150.0
CALLEE = "office/server"
CALLS = [CallCheck(caller, f"echo@{CALLEE}", "/hello") for caller in ("home/phone", "office/laptop")]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths = read_spec("two-sites"), []
    yield Cluster(spec, Loopback(spec), on_death=deaths.append)
    assert deaths == []


async def test_the_rest_goes_on_without_the_cloud_and_past_a_frozen_relay_and_all_is_whole_again(cluster):
    with anyio.fail_after(WAIT_S):
        async with cluster, anyio.create_task_group() as tasks:
            trials = Trials(cluster, CALLS)
            await trials.begin(tasks)
            await frozen_relay_in_use(trials, cluster)
            verdict = await trials.undergo(trials.killed("cloud", lasts_s=0.5))
            assert (verdict.lacks, verdict.across.failed, verdict.within.failed) == ("", 0, 0), verdict
            verdict = await trials.undergo(trials.killed(CALLEE, lasts_s=0.5))
            assert verdict.lacks == ""
            assert verdict.within.answered, "the container lives on, and is found again"
            await cluster.kill("relay-2")
            assert "relay-2 does not run" in await trials.wholeness.lacks()
            trials.end()


async def frozen_relay_in_use(trials, cluster):
    """Freeze the relay that calls go through, and go on only when they are answered again without it."""
    (bearer,) = await until_there(partial(bearers_of, cluster, CALLS[0].caller))
    await cluster.kill(bearer["relay"], signal.SIGSTOP)
    await trials.steady()
    await cluster.kill(bearer["relay"], signal.SIGCONT)
    await trials.wholeness.awaited()


async def bearers_of(cluster, node):
    return (await cluster.status(node))["beps"]


async def until_there(ask):
    while not (found := await ask()):  # noqa: ASYNC110 - another process has no event here
        await anyio.sleep(0.05)
    return found

"""A node that is killed and started again says that it knows its sessions no more: callers do not wait."""

from random import Random

import anyio
import pytest

from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.errors import NotReady
from atoll.testing.lab import Lab, obstacle
from atoll.testing.relay_deaths import FAR, RelayDeaths, spec_of_two_sites

BYTES = 400_000_000
"""More than goes through before the node is killed."""
SOON_S = 12.0
"""It takes one to five seconds; where only silence told, it took up to more than a minute."""
WAIT_S = 180

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"], indirect=True),
]


@pytest.mark.timeout(WAIT_S + 10)
async def test_a_connection_to_a_node_that_was_killed_is_reset_and_the_next_one_works(
    tmp_path, monkeypatch, host_pauses
):
    if (missing := await obstacle()) is not None:
        pytest.skip(f"no namespaces here: {missing}")
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    # The site's proxy lives on another node: it goes on carrying records to the one that was killed.
    spec = spec_of_two_sites(colleagues=("printer", "archive"))
    lab = Lab(spec)
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, lab, on_death=lambda death: None) as cluster:
            trials = RelayDeaths(cluster, lab, Random(1), BYTES)
            async with trials.forwarding():
                # How long silence takes to tell depends on which path was in use: a fault shows in one of a few.
                for _ in range(3):
                    took_s = await reset_after(cluster, trials)
                    assert took_s <= SOON_S + host_pauses.most_s(took_s)
                    assert (await trials.transfer(100_000, up=False))["bytes"] == 100_000


async def reset_after(cluster, trials):
    """Kill the far node in the midst of a transfer; give after how many seconds the near end was told."""
    killed_at = []

    async def kill(tenth):
        if tenth == 2 and not killed_at:
            killed_at.append(anyio.current_time())
            await cluster.restart(FAR)

    with pytest.raises(NotReady, match="reset by peer"):
        await trials.transfer(BYTES, up=False, at=kill)
    return anyio.current_time() - killed_at[0]

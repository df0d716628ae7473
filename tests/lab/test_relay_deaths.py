"""The relay in use dies under a transfer from site to site, in each way once; `make lab-long` has a hundred of each."""

from random import Random

import anyio
import pytest

from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.lab import Lab, obstacle
from atoll.testing.relay_deaths import KINDS, RelayDeaths, spec_of_two_sites
from atoll.testing.relay_deaths_main import STALL_S_MAX, figures_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"], indirect=True),
]
MEGABYTES = 40
WAIT_S = 150


@pytest.mark.timeout(WAIT_S + 10)
async def test_every_byte_comes_and_nothing_stands_still_for_long(tmp_path, monkeypatch, host_pauses):
    if (missing := await obstacle()) is not None:
        pytest.skip(f"no namespaces here: {missing}")
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths, transfers = spec_of_two_sites(), [], []
    lab = Lab(spec)
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, lab, on_death=deaths.append) as cluster:
            trials = RelayDeaths(cluster, lab, Random(1), MEGABYTES * 1_000_000)
            async with trials.forwarding():
                for number, kind in enumerate(KINDS):
                    transfers.append(await trials.undergo(kind, number))
    assert deaths == []
    assert not [each for each in transfers if each.failure], transfers
    longest_s = max(each.stall_s for each in transfers)
    assert longest_s <= STALL_S_MAX + host_pauses.most_s(longest_s), transfers
    assert set(figures_of(transfers)) == set(KINDS)

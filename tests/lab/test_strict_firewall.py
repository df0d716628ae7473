"""Two sites whose firewalls let out nothing but port 443: calls and streams go through the relays' WebSocket ports."""

import sys
from random import Random

import anyio
import pytest

from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.lab import Lab, obstacle
from atoll.testing.relay_deaths import FAR, NEAR, RelayDeaths, spec_of_two_sites

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"], indirect=True),
]
BYTES = 20_000_000
WAIT_S = 150
PROBE = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 2.0)
except OSError:
    sys.exit(1)
"""


async def lets_out(lab, name, host, port):
    async with await lab.run(name, [sys.executable, "-c", PROBE, host, str(port)]) as process:
        return await process.wait() == 0


@pytest.mark.timeout(WAIT_S + 10)
async def test_calls_and_streams_get_out_where_only_443_does(tmp_path, monkeypatch):
    if (missing := await obstacle()) is not None:
        pytest.skip(f"no namespaces here: {missing}")
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec = spec_of_two_sites(strict=True)
    lab = Lab(spec)
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, lab) as cluster:
            relay = lab.address_of("relay-1")
            for name in (NEAR, FAR):
                assert await lets_out(lab, name, relay, 443)
                assert not await lets_out(lab, name, relay, 8088)
                assert not await lets_out(lab, name, relay, 8089)
            trials = RelayDeaths(cluster, lab, Random(1), BYTES)
            began = anyio.current_time()
            async with trials.forwarding():
                ready_s = anyio.current_time() - began
                carried = [await trials.transfer(BYTES, up=up) for up in (True, False)]
                paths = await trials.paths()
    assert [each["bytes"] for each in carried] == [BYTES, BYTES]
    kinds = {each["kind"] for each in paths}
    assert kinds == {"sep", "bep"}
    for each in paths:
        assert "WebSocket on port 443" in each["through"], each
    rates = [f"{BYTES / each['took_s'] / 1e6:.0f}" for each in carried]
    sys.stdout.write(f"ready after {ready_s:.1f} s; {rates[0]} and {rates[1]} MB/s, {paths}\n")

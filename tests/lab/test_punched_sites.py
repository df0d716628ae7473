"""Two sites behind NAT find a way without a relay where their NATs allow it, and go on over one where they do not."""

from contextlib import asynccontextmanager
from random import Random

import anyio
import pytest

from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.lab import Lab, obstacle
from atoll.testing.punches import Pair, PunchTrials, spec_of_kinds
from atoll.testing.relay_deaths import NEAR, RelayDeaths, spec_of_two_sites
from atoll.testing.relay_deaths_main import STALL_S_MAX

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"], indirect=True),
]
MEGABYTES = 40
WAIT_S = 150


@pytest.fixture
async def needs_a_lab():
    if (missing := await obstacle()) is not None:
        pytest.skip(f"no namespaces here: {missing}")


@asynccontextmanager
async def two_sites(tmp_path, monkeypatch, home, office):
    """A cluster in which bytes go from home to office, over relays at first."""
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec, deaths = spec_of_two_sites(home=home, office=office), []
    lab = Lab(spec)
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, lab, on_death=deaths.append) as cluster:
            trials = RelayDeaths(cluster, lab, Random(1), MEGABYTES * 1_000_000)
            async with trials.forwarding():
                yield cluster, lab, trials
    assert deaths == []


async def route_when(cluster, condition):
    """Wait until the route from home to office is as wanted, and give it."""
    with anyio.fail_after(WAIT_S):
        while True:
            for route in (await cluster.status(NEAR))["routes"]:
                if route["paths"] and condition(route):
                    return route
            await anyio.sleep(0.05)


@pytest.mark.timeout(WAIT_S + 10)
@pytest.mark.usefixtures("needs_a_lab")
async def test_a_punched_path_takes_over_and_the_relay_takes_over_when_it_dies(tmp_path, monkeypatch, host_pauses):
    async with two_sites(tmp_path, monkeypatch, "masquerade", "masquerade") as (cluster, lab, trials):
        route = await route_when(cluster, lambda route: route["kind"] == "punched")
        assert route["punching"] == "punched through NAT"
        assert "punched through NAT" in route["why"]
        assert {path["kind"] for path in route["paths"]} >= {"punched", "bep"}, "the relays' paths stand by"
        hit = []

        async def swallow(tenth):
            if tenth == 4:
                # A host that stands still may have moved it to a relay for a moment.
                hit.append(await route_when(cluster, lambda route: route["kind"] == "punched"))
                await lab.cut_between("uplink of home", "uplink of office")

        ended = await trials.transfer(MEGABYTES * 1_000_000, up=True, at=swallow)
        assert [path["kind"] for path in hit[0]["paths"] if path["in_use"]] == ["punched"]
        assert ended["stall_s"] <= STALL_S_MAX + host_pauses.most_s(ended["stall_s"])
        route = await route_when(cluster, lambda route: route["kind"] == "bep")
        assert not [path for path in route["paths"] if path["in_use"] and path["kind"] != "bep"]
        route = await route_when(cluster, lambda route: "not punched" in route["punching"])
        assert "the connection was lost: nothing came back through punched" in route["punching"]


@pytest.mark.timeout(WAIT_S + 10)
@pytest.mark.usefixtures("needs_a_lab")
async def test_where_a_nat_gives_each_destination_another_port_the_relay_is_used_and_it_is_said_why(
    tmp_path, monkeypatch, host_pauses
):
    async with two_sites(tmp_path, monkeypatch, "masquerade", "symmetric") as (cluster, _, trials):
        ended = await trials.transfer(MEGABYTES * 1_000_000, up=True)
        assert ended["stall_s"] <= STALL_S_MAX + host_pauses.most_s(ended["stall_s"])
        route = await route_when(cluster, lambda route: "not punched" in route["punching"])
        assert route["kind"] == "bep"
        assert "not punched through NAT: the NAT of the peer gives each destination another port" in route["punching"]


@pytest.mark.timeout(WAIT_S + 10)
@pytest.mark.usefixtures("needs_a_lab")
async def test_what_can_be_punched_is_punched_each_time_and_nothing_else():
    pairs = {
        Pair("masquerade", "masquerade"): 4,
        Pair("carrier", "firewall"): 4,
        Pair("rejecting", "masquerade"): 4,
        Pair("full-cone", "symmetric"): 4,
        Pair("symmetric", "symmetric"): 0,
        Pair("symmetric", "masquerade"): 0,
    }
    async with Lab(spec_of_kinds(tuple({kind for pair in pairs for kind in (pair.one, pair.other)}))) as lab:
        trials = PunchTrials(lab)
        async with trials.running():
            for pair in pairs:
                for number in range(4):
                    await trials.attempt(pair, number)
    assert {pair: len(pair.took_s) for pair in pairs} == pairs, [pair.line for pair in pairs]

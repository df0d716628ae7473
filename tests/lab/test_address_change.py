"""R9: a node whose address changes is reachable again within 3 s, measured in a namespace with real nodes."""

import ipaddress
import sys

import anyio
import pytest

from atoll.cluster_specs import read_spec
from atoll.testing import runs
from atoll.testing.cluster import Cluster
from atoll.testing.lab import Lab, obstacle

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.lab,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]

WAIT_S = 150.0
HEALED_S = 3.0
NODES = ("lan/one", "lan/two", "lan/three")
LOOK_S = 0.02


@pytest.fixture
async def lan(tmp_path, monkeypatch):
    found = await obstacle()
    if found is not None:
        pytest.skip(f"NO LAB HERE, SO NOTHING IS SHOWN ABOUT ADDRESSES THAT CHANGE: {found}")
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec = read_spec("lan-3")
    lab = Lab(spec)
    async with Cluster(spec, lab) as cluster:
        for name in NODES:
            # Link-local IPv6 outlives every change of IPv4 addresses, and would carry the links through all of them.
            plug = lab.wiring.plug(name)
            await lab._ip(plug.host, [f"link set dev {plug.interface} addrgenmode none"])
            await lab._ip(plug.host, [f"addr flush dev {plug.interface} scope link"])
        yield cluster, lab


async def hosts_of(cluster, viewer, node):
    """Give the address that a node's link has at another one, if it is up."""
    wanted = str(cluster.planned[node].key.node_id)
    return [link["host"] for link in (await cluster.status(viewer))["links"] if link["peer"] == wanted]


async def until_linked(cluster, node, address):
    """Wait until every other node has its link with this one at that address."""
    for viewer in NODES:
        while viewer != node and await hosts_of(cluster, viewer, node) != [address]:  # noqa: ASYNC110 - of processes
            await anyio.sleep(LOOK_S)


async def move(lab, name, address, *, away_s=0.0):
    plug = lab.wiring.plug(name)
    gone = [f"addr flush dev {plug.interface} scope global"]
    there = [f"addr add {address}/{plug.prefix_length} dev {plug.interface}", *lab.wiring.route_lines(plug.host)]
    if not away_s:
        await lab._ip(plug.host, [*gone, *there])
        return
    await lab._ip(plug.host, gone)
    await anyio.sleep(away_s)
    await lab._ip(plug.host, there)


@pytest.mark.parametrize("away_s", [0.0, 1.5])
async def test_a_node_whose_address_changes_is_reachable_again_within_three_seconds(lan, away_s):
    cluster, lab = lan
    took_s = []
    with anyio.fail_after(WAIT_S):
        for name in NODES:
            await until_linked(cluster, name, lab.address_of(name))
        for turn in range(2):
            for name in NODES:
                address = str(ipaddress.ip_address(lab.address_of(name)) + 100 * (1 + turn))
                began = anyio.current_time()
                await move(lab, name, address, away_s=away_s)
                await until_linked(cluster, name, address)
                took_s.append(anyio.current_time() - began - away_s)
                caller = NODES[name == NODES[0]]
                told = await cluster.api(caller).get(f"/at/{name.partition('/')[2]}/atoll/v1/status")
                assert told["node"]["id"] == str(cluster.planned[name].key.node_id)
    sys.stdout.write(
        f"\nR9: {len(took_s)} changes of address (away for {away_s:g} s): reachable again after "
        f"{min(took_s):.2f} to {max(took_s):.2f} s; the promise is {HEALED_S:g} s\n"
    )

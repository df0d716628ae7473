"""DNS-SD beside the mDNS client that Linux desktops have: Avahi sees a node, and a node finds what Avahi announces.

Real nodes without beacons and seeds, each in a namespace of its own. One says and hears DNS-SD; in the namespace of
another, that does not, an Avahi speaks for it.
"""

import contextlib
import dataclasses
import os
import sys

import anyio
import msgspec
import pytest

from atoll.cluster_specs import read_spec
from atoll.cluster_specs.config import BeaconConfig, DiscoveryConfig
from atoll.testing import runs
from atoll.testing.cluster import Cluster, atoll_command
from atoll.testing.lab import Lab, obstacle
from atoll.testing.warden import find_tool

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.lab,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]

WAIT_S = 150.0
LOOK_S = 0.2
SERVICE = "_atoll._tcp"
LINKS_PORT = 8085
TOOLS = ("avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon", "unshare")
BUS = """<busconfig><type>system</type><listen>unix:path={bus}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy></busconfig>"""
AVAHI = """[server]
host-name={host}
use-ipv6=no
[publish]
publish-hinfo=no
publish-workstation=no
[rlimits]
"""
# Avahi writes to /run wherever it is started; this one shall not meet the host's.
DAEMON = "mount -t tmpfs none /run && exec avahi-daemon -f {conf} --no-drop-root --no-chroot --no-rlimits"


@pytest.fixture
def tools():
    missing = [each for each in TOOLS if find_tool(each) is None]
    if missing:
        pytest.skip(
            f"NO {', '.join(missing)} HERE, SO NOTHING IS SHOWN ABOUT STOCK mDNS CLIENTS: install avahi-daemon,"
            " avahi-utils and dbus"
        )


@pytest.fixture
async def lan(tools, tmp_path, monkeypatch):
    """Three nodes who do not find each other: give cluster, lab, who says and hears DNS-SD, and who does not."""
    found = await obstacle()
    if found is not None:
        pytest.skip(f"NO LAB HERE, SO NOTHING IS SHOWN ABOUT STOCK mDNS CLIENTS: {found}")
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    spec = read_spec("lan-3")
    lab = Lab(spec)

    def by_id():
        return sorted(cluster.planned.values(), key=lambda each: each.key.node_id)

    def command(planned, config):
        # Of two that see each other the lower id dials, and only this one sees anybody.
        said = DiscoveryConfig(dnssd=planned.name == by_id()[0].name)
        changed = msgspec.structs.replace(planned.config, discovery=said, beacon=BeaconConfig(enabled=False))
        return atoll_command(planned, dataclasses.replace(planned, config=changed).write(config.parent))

    cluster = Cluster(spec, lab, command=command)
    async with cluster:
        yield cluster, lab, by_id()[0], by_id()[1]


@contextlib.asynccontextmanager
async def avahi(lab, place, folder):
    """Run an Avahi on a bus of its own; give what runs a client of it to its end, and what begins one."""
    folder.mkdir(exist_ok=True)
    bus, conf = folder / "bus", folder / "avahi.conf"
    (folder / "bus.conf").write_text(BUS.format(bus=bus))
    # Two of one name go on renaming themselves for a minute now and then.
    conf.write_text(AVAHI.format(host=f"television-of-{place}"))
    options = {
        "env": {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus}"},
        "stdin": None,
        "stdout": -1,
        "stderr": None,
    }

    async def ask(*argv):
        process = await lab.run(place, argv, **options)
        async with process:
            said = b"".join([piece async for piece in process.stdout])
        return said.decode()

    async with contextlib.AsyncExitStack() as stack:

        async def begin(*argv):
            process = await lab.run(place, argv, **options)
            stack.push_async_callback(process.aclose)
            stack.callback(process.kill)

        await begin(find_tool("dbus-daemon"), f"--config-file={folder / 'bus.conf'}", "--nofork", "--nopidfile")
        while not bus.exists():  # noqa: ASYNC110 - another process makes it
            await anyio.sleep(LOOK_S)
        await begin(find_tool("unshare"), "-m", "sh", "-c", DAEMON.format(conf=conf))
        yield ask, begin


async def test_avahi_sees_a_node_and_a_node_finds_and_links_what_avahi_announces(lan, tmp_path):
    cluster, lab, hearer, mute = lan
    with anyio.fail_after(WAIT_S):
        async with avahi(lab, mute.name, tmp_path) as (ask, begin):
            seen = ""
            while hearer.key.node_id.short not in seen or "=;" not in seen:
                await anyio.sleep(LOOK_S)
                seen = await ask("avahi-browse", "-rtp", SERVICE)
            (resolved,) = [line.split(";") for line in seen.splitlines() if line.startswith("=")]
            assert resolved[4:5] == [SERVICE]
            assert resolved[7:9] == [lab.address_of(hearer.name), str(LINKS_PORT)]
            for text in (f"id={hearer.key.node_id}", f"short={hearer.key.node_id.short}"):
                assert f'"{text}"' in resolved[9]
            assert (await cluster.status(hearer.name))["links"] == []

            texts = (f"id={mute.key.node_id}", f"short={mute.key.node_id.short}", "label=by avahi", "version=0.1.0")
            await begin("avahi-publish", "-s", "by avahi", SERVICE, str(LINKS_PORT), *texts)
            while not (links := (await cluster.status(hearer.name))["links"]):  # noqa: ASYNC110 - of processes
                await anyio.sleep(LOOK_S)
            (link,) = links
            assert (link["peer"], link["host"]) == (str(mute.key.node_id), lab.address_of(mute.name))
    sys.stdout.write(f"\nAvahi: {';'.join(resolved[:9])}\n")


async def test_a_node_and_an_avahi_on_one_host_share_the_port_of_mdns(lan, tmp_path):
    cluster, lab, hearer, mute = lan
    with anyio.fail_after(WAIT_S):
        async with avahi(lab, hearer.name, tmp_path) as (ask, _), avahi(lab, mute.name, tmp_path / "far") as (_, begin):
            while hearer.key.node_id.short not in await ask("avahi-browse", "-tp", SERVICE):  # noqa: ASYNC110 - as below
                await anyio.sleep(LOOK_S)
            await begin("avahi-publish", "-s", "by avahi", SERVICE, str(LINKS_PORT), f"id={mute.key.node_id}")
            while not (links := (await cluster.status(hearer.name))["links"]):  # noqa: ASYNC110 - of processes
                await anyio.sleep(LOOK_S)
    assert [link["peer"] for link in links] == [str(mute.key.node_id)]

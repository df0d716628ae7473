"""Calls between two sites of real processes, of whose two relays one misuses what goes through its SEP port."""

import json

import anyio
import pytest
from two_sites import SMALL

from atoll.cluster_specs import CallCheck
from atoll.cluster_specs.spec import parse_spec
from atoll.testing import runs
from atoll.testing.cluster import Cluster, atoll_command
from atoll.testing.errors import NoAnswer
from atoll.testing.hostile_relay import DEEDS
from atoll.testing.loopback import Loopback
from atoll.testing.service_calls import ServiceCalls
from atoll.testing.wholeness import Wholeness

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"], indirect=True),
    pytest.mark.timeout(200),
]
CALLS = 25
WAIT_S = 150
NEAR, FAR = "home/tv", "office/desk"


async def called(services, number):
    """Call until there is an answer, and give it; one that is not ours would show."""
    wanted = CallCheck(caller=NEAR, service=f"echo@{FAR}", path=f"/number-{number}-of-many", status=200)
    while True:
        try:
            answer = await services.make(wanted)
        except NoAnswer:
            continue
        if answer.status == 200:
            return answer.body
        await anyio.sleep(0.1)


async def test_calls_are_answered_each_with_its_own_answer_though_a_relay_is_hostile(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "default_run_dir", lambda: tmp_path / "rt")
    deeds = tmp_path / "deeds.json"

    def command(planned, config):
        argv = atoll_command(planned, config)
        if planned.name != "relay-1":
            return argv
        return [*argv[:2], "-m", "atoll.testing.hostile_relay", str(deeds), *argv[4:]]

    spec = parse_spec(SMALL, "hostile")
    with anyio.fail_after(WAIT_S):
        async with Cluster(spec, Loopback(spec), command=command) as cluster:
            await Wholeness(cluster).awaited()
            services = ServiceCalls(cluster)
            await services.push("echo", FAR)
            for number in range(CALLS):
                assert f"/number-{number}-of-many".encode() in await called(services, number)
            while not deeds.exists() or set(DEEDS) - set(json.loads(deeds.read_text())):
                # The node begins anew, and so do its sessions: calls that have a bearer do not pass there any more.
                await cluster.kill(NEAR)
                await cluster.restart(NEAR)
                await called(services, 0)

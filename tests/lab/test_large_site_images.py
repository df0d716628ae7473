"""A site of eighteen real nodes: most members have no link to each other, and images come from any of them."""

import contextlib
import secrets
import socket

import anyio
import pytest
from ports import free_port

from atoll.actors.discoverer.membership import SMALL_SITE_MAX
from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import ListSeen
from atoll.cluster_specs import NodeConfig
from atoll.cluster_specs.config import BeaconConfig, GatewayConfig, LinksConfig, SiteConfig
from atoll.cluster_specs.reading import Secret
from atoll.node import Node
from atoll.testing.api_client import NodeApi
from atoll.testing.services import ECHO, service_archive
from atoll.transport.keys import NodeKey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", [("trio", {})], ids=["trio"], indirect=True),
]
NODES = SMALL_SITE_MAX + 2
WITHIN_S = 150


@contextlib.asynccontextmanager
async def site(folder):
    keys = sorted((NodeKey.generate() for _ in range(NODES)), key=lambda key: key.node_id)
    secret, port = Secret(secrets.token_bytes(32)), free_port(socket.SOCK_DGRAM)
    voters = tuple(key.node_id for key in keys[:3])
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for number, key in enumerate(keys):
            config = NodeConfig(
                name=f"n{number}",
                state_dir=folder / f"n{number}",
                run_dir=folder / f"n{number}" / "run",
                site=SiteConfig(name="home", secret=secret, voters=voters),
                gateway=GatewayConfig(port=-1),
                links=LinksConfig(host="127.0.0.1", port=0),
                beacon=BeaconConfig(port=port, interfaces=("lo",)),
            )
            nodes.append(await stack.enter_async_context(Node.open(config, key=key)))
        yield nodes, [NodeApi(folder / f"n{number}" / "run" / "api.sock") for number in range(NODES)]


async def settled(nodes, apis):
    """Wait until everybody has heard everybody, knows all members, and one supernode."""
    with anyio.fail_after(WITHIN_S):
        for node in nodes:
            while True:
                seen = await node.system.ask(node.system.find(DISCOVERER), ListSeen(), timeout_s=5)
                if len(seen.nodes) == NODES - 1:
                    break
                await anyio.sleep(0.2)
        for api in apis:
            while True:
                status = await api.get("/atoll/v1/status")
                if status["site"]["members"] == NODES and (status["supernode"] or {}).get("confirmed"):
                    break
                await anyio.sleep(0.2)


async def linked(api):
    return {each["name"] for each in (await api.get("/atoll/v1/status"))["links"]}


async def test_members_without_a_link_are_dialled_when_an_image_or_an_answer_is_wanted_of_them(tmp_path):
    async with site(tmp_path) as (nodes, apis):
        await settled(nodes, apis)
        # Who came when the site was large already has links to few: the supernode, the voters that it asked, the ring.
        late = apis[-1]
        before = await linked(late)
        far = [f"n{number}" for number in range(NODES - 1) if f"n{number}" not in before]
        assert len(far) > SMALL_SITE_MAX // 2
        owner = far[0]

        archive = service_archive("echo-v1", "1.0.0", ECHO)
        pushed = await apis[int(owner[1:])].post_file("/atoll/v1/images", "image", archive)
        pulled = await late.post_json("/atoll/v1/images/pull", {"image": "echo-v1"})
        assert pulled["image"]["digest"] == pushed["image"]["digest"]
        assert owner in await linked(late)

        refused = await late.ask(
            "POST", "/atoll/v1/images/pull", b'{"image": "nothing"}', {"content-type": "application/json"}
        )
        assert refused.status == 404
        assert "did not answer" not in refused.data["detail"]
        assert "not asked" not in refused.data["detail"]

        # A call to a node without a link gets one, too, with no cloud and no relay anywhere.
        early = apis[-2]
        linked_early = await linked(early)
        mute = next(name for name in far if name not in linked_early and name != "n16")
        answer = await early.ask("GET", f"/at/{mute}/atoll/v1/status")
        assert (answer.status, answer.data["node"]["name"]) == (200, mute)
        assert mute in await linked(early)

"""Real nodes that no beacon reaches find each other by static seeds, living addresses beside dead ones."""

import secrets
import socket
import sys

import anyio
import pytest
from ports import black_holes, free_port

from atoll.actors.discoverer.messages import PATH as DISCOVERER
from atoll.actors.discoverer.messages import SUSPICION, DescribeMembers, Life, ListSeen
from atoll.cluster_specs import NodeConfig
from atoll.cluster_specs.config import BeaconConfig, DiscoveryConfig, GatewayConfig, LinksConfig, SiteConfig
from atoll.cluster_specs.node_address import NodeAddress
from atoll.cluster_specs.reading import Secret
from atoll.node import Node
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio
WITHIN_S = 20
DEAD = 3
"""Of a node's five addresses."""


async def standing(node, peer):
    seen = await node.system.ask(node.system.find(DISCOVERER), ListSeen(), timeout_s=5)
    return next((each.standing for each in seen.nodes if each.node == peer), "")


async def test_five_addresses_of_which_three_are_dead_slow_nobody_down(tmp_path, anyio_backend):
    secret = Secret(secrets.token_bytes(32))

    def told(name, *seeds):
        return NodeConfig(
            name=name,
            state_dir=tmp_path / name,
            run_dir=tmp_path / name,
            site=SiteConfig(secret=secret),
            gateway=GatewayConfig(port=-1),
            links=LinksConfig(host="127.0.0.1", port=port if name == "there" else 0),
            beacon=BeaconConfig(enabled=False),
            discovery=DiscoveryConfig(seeds=seeds),
        )

    port = free_port(socket.SOCK_STREAM)
    # The lower id dials at once; the other one would wait for it, for 1.5 s.
    low, high = sorted((NodeKey.generate() for _ in range(2)), key=lambda key: key.node_id)
    with black_holes(DEAD) as holes:
        places = [("127.0.0.1", hole) for hole in holes]
        places += [("127.0.0.1", free_port(socket.SOCK_STREAM)), ("127.0.0.1", port)]
        seeds = [NodeAddress(high.node_id, *place) for place in places]
        async with Node.open(told("there"), key=high) as there, Node.open(told("here", *seeds), key=low) as here:
            began = anyio.current_time()
            with anyio.fail_after(WITHIN_S):
                while await standing(here, there.id) != "member":  # noqa: ASYNC110 - asked for, it has no event
                    await anyio.sleep(0.01)
            sys.stdout.write(f"linked after {anyio.current_time() - began:.2f} s on {anyio_backend[0]}\n")
            with anyio.fail_after(WITHIN_S):
                while True:
                    about = await here.system.ask(here.system.find(SUSPICION), DescribeMembers(), timeout_s=5)
                    if [(each.node, each.life) for each in about.members] == [(there.id, Life.ALIVE)]:
                        break
                    await anyio.sleep(0.01)

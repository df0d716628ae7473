"""Tickets that expire and a relay that is drained in the middle of a transfer: nobody waits, no byte is lost."""

import os
import re
import signal
import sys

import anyio
import msgspec
import pytest
from test_streams_over_relays import (
    DATA,
    WITHIN_S,
    Calls,
    Ear,
    Service,
    folder,
    opened,
    planned,
    relays,
    seen,
    wait_bearer,
)
from waiting import until

from atoll import Node
from atoll.actors.router.routes import Way
from atoll.node import open_cloud

__all__ = ["folder", "planned", "relays"]
TICKET_S = 10
LASTS_S = 36.0
"""More than three lives of a ticket."""
DRAIN_S = 8.0
"""A site that has no other relay to go to stays as long as it may."""
PIECE = 256 * 1024
LOSING_PAUSE_S = 0.5
"""A path whose other end is not heard of for so long beside others that answer is taken for lost."""
STALL_S_MAX = 1.0
"""Half of what a relay that dies may cost; nothing is lost, so nobody has to notice anything."""
pytestmark = pytest.mark.anyio


class Flow:
    """Bytes in one direction, as fast as they are taken, until somebody says that it is enough."""

    def __init__(self, stream, ear):
        self.stream, self.ear, self.sent, self.enough = stream, ear, 0, False

    async def run(self):
        while not self.enough:
            at = self.sent % len(DATA)
            piece = DATA[at : at + PIECE]
            await self.stream.send(piece)
            self.sent += len(piece)
            # A shared host: what is to be shown is that it goes on, not how fast.
            await anyio.sleep(0.01)
        await self.stream.send_eof()


async def used(node, peer):
    """Name the relay and the way in use."""
    with anyio.fail_after(WITHIN_S):
        while True:
            paths = [path for path in (await seen(node, peer)).paths if path.in_use]
            if paths and paths[0].way is Way.BEP:
                return paths[0].relay
            await anyio.sleep(0.02)


class Ways:
    """Looks at the way in use all the time: how much of it went over bearers, and why it was another's turn."""

    def __init__(self, node, peer):
        self.node, self.peer, self.looks, self.bearers, self.reasons = node, peer, 0, 0, []

    async def run(self):
        while True:
            route = (await seen(self.node, self.peer)).route
            self.looks += 1
            self.bearers += route.way is Way.BEP
            if not self.reasons or self.reasons[-1] != route.reason:
                self.reasons.append(route.reason)
            await anyio.sleep(0.05)


@pytest.fixture
def short(planned):
    """The cloud, with tickets that live for a few seconds; relays, which are started after this, drain as quickly."""
    for name in ("relay-1", "relay-2"):
        file = planned[name][1]
        file.write_text(
            re.sub(r"^drain_s = .*$", f"drain_s = {DRAIN_S}", file.read_text(), count=1, flags=re.MULTILINE)
        )
    return msgspec.structs.replace(planned["cloud"][0].config, ticket_s=TICKET_S)


async def test_a_transfer_outlives_its_tickets_and_a_drain(planned, short, relays, host_pauses):
    async with (
        open_cloud(short),
        Node.open(planned["home/tv"][0].config) as tv,
        Node.open(planned["office/desk"][0].config) as desk,
    ):
        await desk.spawn(Service, name="service")
        here, there = await opened(tv, desk)
        await wait_bearer(tv, desk)
        ears, calls = [Ear(here), Ear(there)], Calls(tv, desk)
        ways = Ways(tv, desk)
        flows = [Flow(there, ears[0]), Flow(here, ears[1])]
        async with anyio.create_task_group() as group:
            async with anyio.create_task_group() as transfer:
                for flow in flows:
                    transfer.start_soon(flow.ear.listen)
                    transfer.start_soon(flow.run)
                group.start_soon(calls.run)
                group.start_soon(ways.run)
                await anyio.sleep(LASTS_S)
                expiries = LASTS_S / TICKET_S
                stalls = [round(ear.stall_s, 2) for ear in ears]
                before = await used(tv, desk)
                os.kill(relays[before].pid, signal.SIGTERM)
                await until(lambda: relays[before].poll() is not None, WITHIN_S)
                after = await used(tv, desk)
                answered = calls.answered
                await until(lambda: calls.answered > answered + 3, WITHIN_S)
                for flow in flows:
                    flow.enough = True
            group.cancel_scope.cancel()
        sys.stdout.write(
            f"{expiries:.1f} lives of a ticket and a drain, {sum(flow.sent for flow in flows) / 1e6:.0f} MB: longest"
            f" stalls {stalls} s, with the drain {[round(ear.stall_s, 2) for ear in ears]} s;"
            f" {calls.answered} calls, the longest {calls.longest_s:.2f} s;"
            f" {ways.bearers / ways.looks:.0%} of the time over bearers\n"
        )
        assert [ear.heard for ear in ears] == [flow.sent for flow in flows]
        longest_s = max(ear.stall_s for ear in ears)
        assert longest_s <= STALL_S_MAX + host_pauses.most_s(longest_s)
        assert after != before
        assert ways.bearers > 0.8 * ways.looks, ways.reasons
        if host_pauses.longest_s() < LOSING_PAUSE_S:
            # A loss heals as well, and nearly as fast; here nothing is lost at all.
            assert not [each for each in ways.reasons if "was lost" in each], ways.reasons
        else:
            sys.stdout.write(f"paths may be lost: the host stood still for {host_pauses.longest_s():.1f} s\n")
        assert [each for each in ways.reasons if "expires" in each], ways.reasons

"""Bearers between TunnelRelays at real relays: both halves, the spare, limits, and what is not read."""

import anyio
import pytest
from relay_world import PATIENCE_S, living_world, two_sites, until

from atoll.actors.router.paths import OpenBearer, OpenSep
from atoll.actors.router.routes import Way
from atoll.actors.runtime import Address
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskRefused
from atoll.actors.tunnel_relay import bearer_ends
from atoll.actors.tunnel_relay import registrations as registrations_module
from atoll.actors.tunnel_relay.messages import (
    BearerRequest,
    ServeSite,
    StopServing,
)
from atoll.transport.base import QUEUE_BYTES_MAX, Standing
from atoll.transport.errors import Congested, Unreachable

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(registrations_module, "RETRY_S_MIN", 0.05)
    async with living_world() as world:
        yield world


async def ask_for_bearer(tv, server, timeout_s=PATIENCE_S):
    return await tv.system.ask(Address(server.id, "tunnel_relay"), BearerRequest(), timeout_s=timeout_s)


def order(peer, half):
    return OpenBearer(peer.id, half.name, half.host, half.port, half.ticket)


async def bearer(tv, server):
    """A bearer at both ends, and the spare half."""
    offered = await ask_for_bearer(tv, server)
    path = await tv.ask(order(server, offered))
    path.send(b"hello over there")
    await until(lambda: any(record == b"hello over there" for _, record in server.router.records))
    there = next(path for path, record in server.router.records if record == b"hello over there")
    server.router.records.clear()
    return path, there, offered.spare


async def test_a_bearer_carries_records_whole_and_in_order_both_ways(world):
    async with two_sites(world, "relay-1", "relay-2") as (server, tv):
        here, there, _ = await bearer(tv, server)
        assert (here.way, here.relay, here.peer, there.peer) == (Way.BEP, "relay-1", server.id, tv.id) or (
            here.relay == "relay-2"
        )
        sent = [bytes([number % 256]) * (1 + number * 300 % 65_000) for number in range(1, 100)]
        sent = [b"records  " + record for record in sent]
        for record in sent:
            here.send(record)
        await until(lambda: len(server.router.records) == len(sent))
        assert [record for _, record in server.router.records] == sent
        there.send(b"records back")
        await until(lambda: tv.router.records)
        assert tv.router.records == [(here, b"records back")]
        (seen,) = (await tv.described()).bearers
        assert seen.peer == server.id
        assert seen.sent_bytes > sum(map(len, sent))
        assert seen.received_bytes > 0


async def test_a_bearer_that_one_end_closes_ends_at_both_and_the_spare_stays_unused(world):
    async with two_sites(world, "relay-1", "relay-2") as (server, tv):
        here, _, spare = await bearer(tv, server)
        assert spare is not None
        # As a session does it: its last record is the goodbye, and the other end closes, too.
        here.send(b"goodbye, then")
        here.close()
        await until(lambda: tv.router.lost and server.router.lost)
        assert (await server.described()).bearers == ()
        with pytest.raises(Unreachable):
            here.send(b"records late")
        # Asked for another, the callee is through with the first.
        await bearer(tv, server)
        other = {"relay-1", "relay-2"} - {here.relay}
        for name in other:
            assert world.relays[name].counted("bearer_waiting") == 0


async def test_when_the_relay_of_a_bearer_dies_both_ends_meet_at_the_spare(world):
    async with two_sites(world, "relay-1", "relay-2") as (server, tv):
        here, _, spare = await bearer(tv, server)
        assert spare.name == ({"relay-1", "relay-2"} - {here.relay}).pop()
        asked = world.asked.count("TunnelRequest")
        await world.relays[here.relay].stop()
        await until(lambda: any(path is here for path, _ in tv.router.lost))
        world.cloud_out_of_reach = True
        second = await tv.ask(order(server, spare))
        second.send(b"hello, once more")
        await until(lambda: any(record == b"hello, once more" for _, record in server.router.records))
        assert world.asked.count("TunnelRequest") == asked == 1


async def test_a_callee_whose_first_relay_is_dead_goes_to_the_spare(world):
    async with two_sites(world, "relay-1", "relay-2") as (server, tv):
        offered = await ask_for_bearer(tv, server)
        world.cloud_out_of_reach = True
        # Before the caller came.
        await world.relays[offered.name].stop()
        with pytest.raises(AskDeclined, match=f"the bearer through {offered.name} did not open"):
            await tv.ask(order(server, offered))
        path = await tv.ask(order(server, offered.spare))
        path.send(b"hello over there")
        await until(lambda: server.router.records)


async def test_one_relay_is_enough_for_a_bearer_and_then_there_is_no_spare(world):
    async with two_sites(world, "relay-1") as (server, tv):
        _, _, spare = await bearer(tv, server)
        assert spare is None


async def test_bearers_are_limited_for_one_caller_and_in_all(world, monkeypatch):
    monkeypatch.setattr(bearer_ends, "BEARERS_PER_PEER_MAX", 1)
    async with two_sites(world, "relay-1") as (server, tv):
        here, _, _ = await bearer(tv, server)
        with pytest.raises(AskDeclined, match="1 bearers for this caller are open or under way"):
            await ask_for_bearer(tv, server)
        monkeypatch.setattr(bearer_ends, "BEARERS_MAX", 1)
        async with world.node("phone") as phone:
            with pytest.raises(AskDeclined, match="1 bearers end here already"):
                await ask_for_bearer(phone, server)
        here.send(b"goodbye, then")
        here.close()
        # At both ends; and the callee's place for another one is free when its Router has answered, not when it heard.
        for end, counter in ((server, "bearers_offered"), (server, "bearers_open"), (tv, "bearers_open")):
            with anyio.fail_after(PATIENCE_S):
                while (await end.described()).counters[counter]:  # noqa: ASYNC110 - counters have no event
                    await anyio.sleep(0.01)
        await bearer(tv, server)


async def test_without_a_relay_or_a_cloud_a_bearer_is_declined_in_words(world):
    async with world.node("server", "office") as server, world.node("tv") as tv:
        with pytest.raises(AskDeclined, match="no relay has reported"):
            await ask_for_bearer(tv, server)
        world.cloud_out_of_reach = True
        with pytest.raises(AskDeclined, match=r"the cloud at .* cannot be reached"):
            await ask_for_bearer(tv, server)


async def test_strangers_get_no_bearer_and_give_no_orders(world):
    async with world.node("server", "office") as server, world.node("tv") as tv:
        world.standing = Standing.NEIGHBOUR
        with pytest.raises(AskRefused, match="not open to a neighbour"):
            await ask_for_bearer(tv, server)
        world.standing = Standing.GRANTED
        for message in (ServeSite("office", {}), StopServing(), OpenSep(tv.id)):
            with pytest.raises(AskFailed):
                await tv.system.ask(Address(server.id, "tunnel_relay"), message)
        assert (await server.described()).registrations == ()
        assert world.asked == []


async def test_a_bearer_that_is_not_read_takes_so_much_and_no_more(world):
    async with two_sites(world, "relay-1") as (server, tv):
        here, _, _ = await bearer(tv, server)
        record = b"x" * 65_000
        for _ in range(QUEUE_BYTES_MAX // len(record)):
            here.send(record)
        with pytest.raises(Congested, match="takes less than is sent"):
            here.send(record)
        await until(lambda: len(server.router.records) >= QUEUE_BYTES_MAX // len(record) - 1)
        here.send(b"records again")
        await until(lambda: server.router.records[-1][1] == b"records again")


async def test_a_bearer_on_which_no_records_come_is_given_up_with_the_reason(world):
    async with two_sites(world, "relay-1") as (server, tv):
        here, _, _ = await bearer(tv, server)
        await here.stream.send(b"\xff\xff\xff\xff")
        await until(lambda: server.router.lost and tv.router.lost)
        assert "a record of 4294967295 bytes stands where at most 65536 may" in server.router.lost[0][1]

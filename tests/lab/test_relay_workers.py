"""A relay with several workers: what is counted together is in one place, and all of it looks like one relay."""

import contextlib
import os
import signal
import time

import anyio
import pytest
from relay_keys import ISSUER, RELAY
from waiting import until

from atoll.actors.tunnel_relay.bearer_server import BearerLimits
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.relay import Relay
from atoll.actors.tunnel_relay.relay_metrics import numbers_of
from atoll.actors.tunnel_relay.tickets import NO_PURSE, Role, counted_by, issue
from atoll.transport.bearer import BearerRefused, dial_bearer
from atoll.transport.errors import Unreachable

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1"
PATIENCE_S = 60
WORKERS = 3


@contextlib.asynccontextmanager
async def relaying(**limits):
    with anyio.fail_after(PATIENCE_S):
        ports = {"sep_port": 0, "bearer_port": 0, "host": HOST}
        async with Relay(RELAY, ISSUER.node_id, **ports, limits=BearerLimits(**limits), workers=WORKERS) as relay:
            await until(lambda: all(each.statistics for each in relay._bearers._workers))
            yield relay


def halves(**fields):
    fields = {"subject": os.urandom(16), "relay": RELAY.node_id, "expires_at": int(time.time()) + 600} | fields
    return [issue(ISSUER, role=role, **fields) for role in (Role.OFFER, Role.CALL)]


async def joined(relay, pair):
    ends = {}

    async def dial(half):
        ends[half] = await dial_bearer(HOST, relay.bearer_port, half)

    async with anyio.create_task_group() as group:
        for half in pair:
            group.start_soon(dial, half)
    return [ends[half] for half in pair]


async def refused(relay, half):
    with pytest.raises(BearerRefused) as refusal:
        await dial_bearer(HOST, relay.bearer_port, half)
    return refusal.value.reason


def counted(relay, name):
    return relay.statistics().get(name, 0)


async def cut(*ends):
    for end in ends:
        await anyio.aclose_forcefully(end)


async def test_tunnels_are_spread_and_carry_and_are_counted_together():
    async with relaying() as relay:
        pairs = [await joined(relay, halves()) for _ in range(24)]
        for one, other in pairs:
            await one.send(b"through a worker")
            assert await other.receive() == b"through a worker"
        await until(lambda: counted(relay, "bearer_forwarded_bytes") == 24 * 16)
        assert counted(relay, "bearer_tunnels") == counted(relay, "bearer_tunnels_joined") == 24
        busy = [each.statistics["tunnels"] for each in relay._bearers._workers]
        assert sum(each > 0 for each in busy) > 1
        assert len(relay.processes) == 1 + WORKERS
        numbers = numbers_of(relay)
        assert numbers["descriptors"] > 48
        assert numbers["bearer_pipes_max"] <= BearerLimits().pipes_max
        for pair in pairs:
            await cut(*pair)
        await until(lambda: counted(relay, "bearer_tunnels") == 0)


async def test_quotas_and_the_newest_of_a_role_hold_whoever_serves():
    async with relaying() as relay:
        for _ in range(4):
            offer, call = halves(quota_bytes=1000)
            one, other = await joined(relay, (offer, call))
            await one.send(bytes(700))
            received = 0
            while received < 700:
                received += len(await other.receive())
            # The newest wins, and what was spent stays spent.
            async with anyio.create_task_group() as group:
                newest = []

                async def dial(half=call, newest=newest):
                    newest.append(await dial_bearer(HOST, relay.bearer_port, half))

                group.start_soon(dial)
                with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                    await other.receive()
                newest.append(await dial_bearer(HOST, relay.bearer_port, offer))
            await newest[1].send(bytes(400))
            with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                while True:
                    received += len(await newest[0].receive())
            assert received <= 1000
            assert await refused(relay, offer) == Reason.OVER_QUOTA
            await cut(one, other, *newest)


async def test_the_tunnels_of_a_purse_are_counted_together_wherever_they_would_go():
    shared = {"purse": b"p" * 8, "tunnels_max": 3}
    async with relaying() as relay:
        pairs = [await joined(relay, halves(**shared)) for _ in range(3)]
        for _ in range(4):
            assert await refused(relay, halves(**shared)[0]) == Reason.TOO_MANY
        for pair in pairs:
            await cut(*pair)


async def test_bad_tickets_are_refused_at_the_door_or_by_a_worker():
    async with relaying() as relay:
        good = halves()[0]
        assert await refused(relay, b"x" * 150) == Reason.MALFORMED
        assert await refused(relay, good[:-1] + bytes([good[-1] ^ 1])) == Reason.FORGED
        assert await refused(relay, halves(expires_at=1)[0]) == Reason.EXPIRED
        await until(lambda: counted(relay, "bearer_refused_forged") == counted(relay, "bearer_refused_expired") == 1)
        assert counted(relay, "bearer_refused_malformed") == 1


async def test_a_drain_reaches_the_workers():
    async with relaying() as relay:
        one, other = await joined(relay, halves())
        reasons = []

        async def wait_in_vain():
            reasons.append(await refused(relay, halves()[0]))

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(wait_in_vain)
            await until(lambda: counted(relay, "bearer_waiting") == 6)
            relay.drain(5)
        assert reasons == [Reason.DRAINING] * 6
        assert await refused(relay, halves()[0]) == Reason.DRAINING
        await one.send(b"still here")
        assert await other.receive() == b"still here"
        assert not relay.idle
        await cut(one, other)
        await until(lambda: relay.idle)


async def test_a_drain_does_not_believe_numbers_from_before_it():
    async with relaying() as relay:
        ends = await joined(relay, halves())
        # What the workers told last may be from before this tunnel, and then nobody seems to be there.
        relay.drain(5)
        with anyio.move_on_after(0.5):
            while not relay.idle:  # noqa: ASYNC110 - counters have no event
                await anyio.sleep(0.001)
        assert not relay.idle
        await cut(*ends)
        await until(lambda: relay.idle)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_worker_that_dies_ends_the_relay_with_the_reason():
    async def outlived():
        async with relaying() as relay:
            os.kill(relay.processes[1], signal.SIGKILL)
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as ended:
        await outlived()
    assert ended.group_contains(Unreachable, match="a worker of this relay")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_when_the_relay_ends_its_workers_have_ended():
    async with relaying() as relay:
        workers = relay.processes[1:]
        assert len(workers) == WORKERS
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_ticket_is_counted_by_its_purse_or_else_by_its_subject():
    subject = bytes(range(16))
    assert counted_by(halves(subject=subject)[0]) == subject
    assert counted_by(halves(subject=subject, purse=b"p" * 8)[1]) == b"p" * 8
    assert counted_by(b"") is counted_by(b"\x01" + halves()[0][1:]) is counted_by(halves()[0] + b"x") is None
    assert counted_by(halves()[0]) != NO_PURSE

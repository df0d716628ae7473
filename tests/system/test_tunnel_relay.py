"""TunnelRelays at real relays: registrations, paths, and relays that refuse, drain, die and come back."""

import contextlib
import os
import time

import anyio
import msgspec
import pytest
from relay_world import CODEC, PATIENCE_S, RunningRelay, living_world, two_sites, until

from atoll.actors.cloud.messages import AnnounceSite, NodeRecord, SepLabel, SepPlaced
from atoll.actors.router.messages import SepAnswer
from atoll.actors.router.paths import OpenSep
from atoll.actors.router.routes import Way
from atoll.actors.runtime import Address
from atoll.actors.runtime.errors import AskDeclined, AskFailed, AskTimedOut
from atoll.actors.tunnel_relay import registrations as registrations_module
from atoll.actors.tunnel_relay import sep_calls, sep_dial
from atoll.actors.tunnel_relay.frames import Undelivered
from atoll.actors.tunnel_relay.messages import (
    BearerOffered,
    StopServing,
)
from atoll.actors.tunnel_relay.sep_client import FreshKey, SepClient
from atoll.transport.base import Standing
from atoll.transport.errors import MalformedFrame, Unreachable
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(registrations_module, "RETRY_S_MIN", 0.05)
    async with living_world() as world:
        yield world


async def test_a_site_is_registered_at_two_relays_and_callers_are_answered_over_both(world):
    async with two_sites(world, "relay-1", "relay-2") as (server, tv):
        assert await server.problem() == ""
        seen = (await server.described()).registrations
        assert [(each.relay, each.up, each.why) for each in seen] == [(each.relay, True, "registered") for each in seen]
        assert {each.relay for each in seen} == {"relay-1", "relay-2"}
        opened = await tv.ask(OpenSep(server.id))
        paths = [*opened.paths, *(path for _, path in tv.router.found)]
        await until(lambda: len(opened.paths) + len(tv.router.found) == 2)
        paths = [*opened.paths, *(path for _, path in tv.router.found)]
        assert {path.relay for path in paths} == {"relay-1", "relay-2"}
        assert opened.expires_at > tv.system.clock() + 60
        for path in paths:
            path.send(b"question over " + path.relay.encode())
        await until(lambda: len(server.router.records) == 2)
        for back, record in server.router.records:
            assert (back.way, back.relay.encode()) == (Way.SEP, record[-7:])
            back.send(b"answer to " + record)
        await until(lambda: len(tv.router.records) == 2)
        assert {path for path, _ in tv.router.records} == set(paths)
        # The same circuit again is the same path: the session must know it.
        paths[0].send(b"another")
        await until(lambda: len(server.router.records) == 3)
        assert server.router.records[2][0] in [back for back, _ in server.router.records[:2]]
        for path in paths:
            path.close()
        await until(lambda: len(tv.router.lost) == 2)
        assert {reason for _, reason in tv.router.lost} == {"this end closed it"}
        with pytest.raises(Unreachable):
            paths[0].send(b"late")


async def test_what_comes_in_for_another_member_goes_to_its_router_and_back_through_the_proxy(world):
    world.standing = Standing.MEMBER
    async with two_sites(world, "relay-1") as (server, tv), world.node("printer", "office") as printer:
        server.serve(printer.id)
        record = NodeRecord(printer.id, "printer", "office")
        label = SepLabel(printer.id, world.id_of("relay-1"), server.labels[printer.id])
        world.directory.announce(world.store.enrolled(server.id), AnnounceSite("office", (record,), (label,)))
        with anyio.fail_after(PATIENCE_S):
            while not printer.router.deliveries:
                (path,) = (await tv.ask(OpenSep(printer.id))).paths
                with contextlib.suppress(Unreachable):
                    path.send(b"question")
                await anyio.sleep(0.05)
        sender, delivery = printer.router.deliveries[0]
        assert (sender.address.node, delivery.relay_name, delivery.record) == (server.id, "relay-1", b"question")
        printer.system.tell(Address(server.id, "tunnel_relay"), SepAnswer(delivery.circuit, delivery.relay, b"answer"))
        await until(lambda: [record for _, record in tv.router.records] == [b"answer"])
        # Whoever is no member may put nothing on circuits.
        world.standing = Standing.GRANTED
        with pytest.raises(AskFailed):
            await tv.system.ask(
                Address(server.id, "tunnel_relay"), SepAnswer(delivery.circuit, delivery.relay, b"forged")
            )
        world.standing = Standing.MEMBER
        printer.system.tell(
            Address(server.id, "tunnel_relay"), SepAnswer(delivery.circuit, tv.id, b"for no registration")
        )
        with anyio.fail_after(PATIENCE_S):
            while not (await server.described()).counters.get("answers_without_registration"):  # noqa: ASYNC110 - counters have no event
                await anyio.sleep(0.01)
        assert [record for _, record in tv.router.records] == [b"answer"]


async def test_a_relay_that_refuses_is_named_with_its_reason_and_not_asked_all_the_time(world, monkeypatch):
    monkeypatch.setattr(registrations_module, "RETRY_S_MAX", 0.4)
    await world.relay("relay-1")
    await world.relay("stranger", issuer=NodeKey.generate())
    async with world.node("server", "office") as server:
        server.serve()
        problem = await server.problem("stranger: ", "issuer this relay does not serve")
        assert "relay-1" not in problem
        await server.wait_served("relay-1")
        # Long enough for a dozen attempts without spacing.
        await until(lambda: world.asked.count("PlaceSep") >= 5)
        began = time.monotonic()
        count = world.asked.count("PlaceSep")
        await until(lambda: world.asked.count("PlaceSep") >= count + 2)
        assert time.monotonic() - began >= 0.2
        assert server.served == {world.id_of("relay-1")}


async def test_too_few_relays_no_relay_and_no_cloud_are_said_with_what_to_do(world):
    async with world.node("server", "office") as server:
        server.serve()
        await server.problem("no relay was found for this site", "start one with `atoll relay run`")
        await world.relay("relay-1")
        await server.wait_served("relay-1")
        await server.problem("at 1 relay and wants 2", "start another one with `atoll relay run`")
        world.cloud_out_of_reach = True
        await server.problem("the cloud at cloud.example:8087 cannot be reached")
        assert server.served == {world.id_of("relay-1")}
        world.cloud_out_of_reach = False
        await world.relay("relay-2")
        await server.wait_served("relay-1", "relay-2")
        await server.problem()


async def test_a_relay_that_dies_is_left_and_registered_at_again_when_it_is_back(world):
    async with two_sites(world, "relay-1", "relay-2") as (server, tv):
        dead = world.relays["relay-1"]
        opened = await tv.ask(OpenSep(server.id))
        await until(lambda: len(opened.paths) + len(tv.router.found) == 2)
        await dead.stop()
        await server.wait_served("relay-2")
        await until(lambda: tv.router.lost)
        assert [path.relay for path, _ in tv.router.lost] == ["relay-1"]
        await server.problem("relay-1")
        again = RunningRelay(dead.key, world.key.node_id, sep_port=dead.sep_port, bearer_port=dead.bearer_port)
        await world.group.start(again.run)
        world.relays["relay-1"] = again
        await server.wait_served("relay-1", "relay-2")
        await server.problem()
        # Callers of before come back, too.
        opened = await tv.ask(OpenSep(server.id))
        await until(lambda: again.counted("sep_connections") == 2)


async def test_a_drained_relay_is_used_until_another_has_taken_over(world):
    async with two_sites(world, "relay-1", "relay-2") as (server, tv):
        world.forget("relay-1")
        world.relays["relay-1"].relay.drain(30)
        with anyio.fail_after(PATIENCE_S):
            while not any("drained" in each.why for each in (await server.described()).registrations):  # noqa: ASYNC110 - counters have no event
                await anyio.sleep(0.01)
        await server.problem("start another one")
        # Still there for those who call meanwhile.
        assert world.relays["relay-1"].counted("sep_registrations") == 1
        assert world.id_of("relay-1") in server.served
        await world.relay("relay-3")
        await server.wait_served("relay-2", "relay-3")
        await until(lambda: not world.relays["relay-1"].counted("sep_registrations"))
        await server.problem()
        assert tv.router.lost == []


async def test_when_the_duty_ends_the_site_is_taken_off_the_relays(world):
    async with two_sites(world, "relay-1", "relay-2") as (server, _):
        server.tell(StopServing())
        await until(lambda: server.served == set())
        for name in ("relay-1", "relay-2"):
            await until(lambda name=name: not world.relays[name].counted("sep_registrations"))
        assert (await server.described()).registrations == ()
        server.serve()
        await server.wait_served("relay-1", "relay-2")


async def test_changed_labels_lead_to_the_node_and_old_ones_nowhere(world):
    async with two_sites(world, "relay-1") as (server, tv):
        (path,) = (await tv.ask(OpenSep(server.id))).paths
        path.send(b"under the old label")
        await until(lambda: len(server.router.records) == 1)
        server.serve()
        await until(lambda: world.relays["relay-1"].counted("sep_labels") == 1)
        server.announce()
        (new,) = (await tv.ask(OpenSep(server.id))).paths
        with anyio.fail_after(PATIENCE_S):
            while not tv.router.lost:
                with contextlib.suppress(Unreachable):
                    path.send(b"under the old label")
                await anyio.sleep(0.01)
        assert tv.router.lost == [
            (path, "relay-1 did not deliver: no live registration has this label; look the node up again")
        ]
        new.send(b"under the new label")
        await until(lambda: server.router.records[-1][1] == b"under the new label")


async def test_a_site_that_comes_to_a_relay_while_somebody_asks_for_it_is_waited_for(world):
    async with world.node("tv") as tv, world.node("server", "office") as server:
        server.labels = {server.id: os.urandom(16)}
        server.announce()
        async with anyio.create_task_group() as tasks:
            asked = anyio.Event()

            async def ask() -> None:
                asked.set()
                opened = await tv.ask(OpenSep(server.id))
                assert [path.relay for path in opened.paths] == ["relay-1"]

            tasks.start_soon(ask)
            await asked.wait()
            await world.relay("relay-1")
            server.serve()
            await server.wait_served("relay-1")


async def test_whom_nobody_knows_or_no_relay_leads_to_is_declined_in_words(world, monkeypatch):
    async with world.node("tv") as tv, world.node("server", "office") as server:
        with pytest.raises(AskDeclined, match=r"the directory knows no node .* that is alive"):
            await tv.ask(OpenSep(server.id))
        server.labels = {server.id: os.urandom(16)}
        server.announce()
        monkeypatch.setattr(sep_calls, "ROUTES_PAUSES_S", (0.01, 0.02))
        with pytest.raises(AskDeclined, match="office/server is known, but its site is at no relay now"):
            await tv.ask(OpenSep(server.id))
        monkeypatch.undo()
        running = await world.relay("relay-1")
        server.serve()
        await server.wait_served("relay-1")
        monkeypatch.setattr(sep_calls, "CALLS_MAX", 1)
        await tv.ask(OpenSep(server.id))
        with pytest.raises(AskDeclined, match="1 paths to other sites are open already"):
            await tv.ask(OpenSep(server.id))
        monkeypatch.undo()
        await running.stop()
        with pytest.raises(AskDeclined, match="no relay of its site let us in: relay-1: "):
            await tv.ask(OpenSep(server.id))
        await until(lambda: tv.router.lost)
        assert (await tv.described()).counters["calls_open"] == 0


async def test_a_relay_that_never_accepts_the_labels_is_given_up_and_named(world, monkeypatch):
    class Mute(SepClient):
        def set_labels(self, labels):
            del labels

    monkeypatch.setattr(sep_dial, "SepClient", Mute)
    monkeypatch.setattr(registrations_module, "LABELS_S", 0.05)
    await world.relay("relay-1")
    async with world.node("server", "office") as server:
        server.serve()
        await server.problem("relay-1: it did not accept the site's labels within 0.05 s")
        monkeypatch.undo()
        await server.wait_served("relay-1")


async def test_placements_under_keys_that_nobody_asked_with_are_passed_over(world, monkeypatch):
    place = world.signaling.place

    def with_others(sender, message):
        (placement,) = place(sender, message).placements
        foreign = msgspec.structs.replace(placement, relay=sender.node, holder=bytes(32))
        return SepPlaced((foreign, placement))

    monkeypatch.setattr(world.signaling, "place", with_others)
    await world.relay("relay-1")
    async with world.node("server", "office") as server:
        server.serve()
        await server.wait_served("relay-1")


async def test_a_reason_of_a_later_release_ends_the_path_and_nothing_else(world, monkeypatch):
    class Later(SepClient):
        async def receive(self):
            return Undelivered(200, self.label)

        def call(self, label, record):
            self.label = label

    async with two_sites(world, "relay-1") as (server, tv):
        monkeypatch.setattr(sep_dial, "SepClient", Later)
        Later.label = server.labels[server.id]
        (path,) = (await tv.ask(OpenSep(server.id))).paths
        await until(lambda: tv.router.lost)
        assert tv.router.lost[0][0] is path
        assert "number 200, which this release does not know" in tv.router.lost[0][1]
        assert tv.system.statistics()["mailboxes"]["tunnel_relay"]["starts"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": ""},
        {"host": "relay example"},
        {"host": "relay\nexample"},
        {"host": "relay.example\n"},
        {"host": "a" * 64},
        {"host": "a." * 127},
        {"host": "rélay.example"},
        {"port": 0},
        {"port": 65_536},
        {"ticket": b""},
        {"ticket": bytes(256)},
    ],
    ids=str,
)
def test_a_half_that_nobody_could_dial_is_malformed(wrong):
    good = {"host": "relay-1.example", "port": 8089, "ticket": bytes(150)}
    node = NodeKey.generate().node_id
    for host in ("192.0.2.1", "::1", "fe80::1%eth0", "relay-1", "relay.example."):
        half = BearerOffered(node, "relay-1", **good | {"host": host}, expires_at=2**31)
        assert CODEC.decode(CODEC.encode(half)) == half
    with pytest.raises(MalformedFrame):
        CODEC.decode(CODEC.encode(BearerOffered(node, "relay-1", **good | wrong, expires_at=2**31)))


async def test_an_address_that_zeromq_does_not_take_is_out_of_reach():
    key = FreshKey.generate()
    with pytest.raises(Unreachable, match="no address of a relay"):
        async with SepClient("no host", 8088, NodeKey.generate().node_id, bytes(150), key):
            pass


async def test_a_path_that_opens_late_is_told_to_the_router(world, monkeypatch):
    gate = anyio.Event()

    class Far(SepClient):
        async def __aenter__(self):
            if self._relay == world.id_of("relay-2"):
                await gate.wait()
            return await super().__aenter__()

    async with two_sites(world, "relay-1", "relay-2") as (server, tv):
        monkeypatch.setattr(sep_dial, "SepClient", Far)
        (first,) = (await tv.ask(OpenSep(server.id))).paths
        gate.set()
        await until(lambda: tv.router.found)
        ((beside, late),) = tv.router.found
        assert beside is first
        assert {first.relay, late.relay} == {"relay-1", "relay-2"}
        late.send(b"question")
        await until(lambda: server.router.records)


async def test_what_nobody_waits_for_any_more_is_closed(world):
    async with two_sites(world, "relay-1") as (server, tv):
        with pytest.raises(AskTimedOut):
            await tv.ask(OpenSep(server.id), timeout_s=0.001)
        await until(lambda: "LookUp" in world.asked)
        with anyio.fail_after(PATIENCE_S):
            while (await tv.described()).counters["calls_open"]:  # noqa: ASYNC110 - counters have no event
                await anyio.sleep(0.01)
        await until(lambda: world.relays["relay-1"].counted("sep_connections") == 1)

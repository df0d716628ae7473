"""Migratable actors on real nodes in one process: hosted, called, moved, restarted, drained; wrong input included."""

import runpy
import socket
from pathlib import Path

import anyio
import msgspec
import pytest
from migration_site import (
    WITHIN_S,
    Add,
    Break,
    CheckingClient,
    Fill,
    Ledger,
    MigrationSite,
    Refuse,
    Tally,
    Tide,
    Wait,
)
from ports import free_port
from waiting import until

from atoll import Actor, DurableActor, MigratableActor
from atoll.actors.duties.messages import Drain
from atoll.actors.hand_over.hosting_actor import WAITING_MAX
from atoll.actors.hand_over.messages import OPERATION_BYTES_MAX, Call, MoveWanted, Seal
from atoll.actors.runtime import AskCrashed, AskDeclined, AskNotUnderstood, AskRefused
from atoll.transport.base import Standing
from atoll.transport.envelope import VERSION, Envelope, Header, Kind
from atoll.transport.errors import Expired, Refused, Unreachable, UsageError
from atoll.transport.keys import NodeKey

pytestmark = pytest.mark.anyio
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "ledger.py"


@pytest.fixture
def site(tmp_path_factory):
    """Three nodes to be, in a folder whose path is short enough for a unix socket."""
    return MigrationSite(tmp_path_factory.mktemp("m"), free_port(socket.SOCK_DGRAM))


async def test_the_example_runs_and_goes_on_where_it_was(tmp_path_factory, monkeypatch, capsys):
    folder = tmp_path_factory.mktemp("m")
    settings = {"STATE_DIR": folder, "RUN_DIR": folder / "run", "GATEWAY_PORT": -1, "LINKS_PORT": 0}
    for name, value in (settings | {"BEACON_PORT": free_port(socket.SOCK_DGRAM)}).items():
        monkeypatch.setenv(f"ATOLL_{name}", str(value))
    for said in ("ann has 500\n", "ann has 1000\n"):
        await runpy.run_path(str(EXAMPLE))["main"]()
        assert capsys.readouterr().out == said


@pytest.mark.parametrize("name", ["ledger", "tide"])
async def test_an_actor_moves_from_node_to_node_and_every_operation_counts_once(site, name):
    totals, clients = set(), []
    async with site.all_nodes(Ledger, Tide) as nodes, anyio.create_task_group() as tasks:
        for number, node in enumerate(nodes):
            client = CheckingClient(await node.find(name), f"client-{number}", totals)
            clients.append(client)
            tasks.start_soon(client.run)
        await until(lambda: all(each.acknowledged for each in clients), WITHIN_S)
        for target in ("n1", "n2", "n0", "n2"):
            before = len(totals)
            ended = await nodes[0].move(name, to=target, timeout_s=WITHIN_S)
            assert (ended.actor, ended.why, ended.paused_ms >= 0) == (name, "", True)
            await until(lambda: site.host_of(name) == target, WITHIN_S)  # noqa: B023 - awaited at once
            await until(lambda: len(totals) > before + 3, WITHIN_S)  # noqa: B023
        tasks.cancel_scope.cancel()
    assert sum(each.acknowledged for each in clients) == len(totals)


async def test_what_is_durable_is_there_again_when_all_nodes_were_stopped(site):
    async with site.all_nodes(Ledger) as nodes:
        ledger = await nodes[0].find("ledger")
        for number in range(1, 6):
            assert await ledger.ask(Add("before")) == Tally(number, number)
        host = site.host_of("ledger")
    async with site.all_nodes(Ledger) as nodes:
        ledger = await nodes[1].find("ledger")
        assert await ledger.ask(Add("before")) == Tally(6, 6)
        assert await ledger.ask(Add("after")) == Tally(7, 1)
    assert host is not None


async def test_a_soft_actor_begins_anew_with_its_host_and_a_crash_is_told(site):
    async with site.node(0, Tide), site.node(1) as other, site.node(2):
        tide = await found(other, "tide")
        assert await tide.ask(Add("a")) == Tally(1, 1)
        with pytest.raises(AskCrashed, match="broken on purpose"):
            await tide.ask(Break())
        assert await tide.ask(Add("a")) == Tally(1, 1), "a fresh one after the crash"
        with pytest.raises(AskDeclined, match="not today"):
            await tide.ask(Refuse())
        assert await tide.ask(Add("a")) == Tally(2, 2)


async def found(node, name):
    """Find an actor as soon as it has a place."""
    with anyio.fail_after(WITHIN_S):
        while True:
            try:
                return await node.find(name)
            except Unreachable:
                await anyio.sleep(0.02)


async def test_what_a_durable_handler_says_and_does_wrong_is_told_and_changes_nothing(site):
    class Unknown(msgspec.Struct):
        pass

    async with site.all_nodes(Ledger) as nodes:
        ledger = await nodes[0].find("ledger")
        assert await ledger.ask(Add("a")) == Tally(1, 1)
        with pytest.raises(AskDeclined, match="not today"):
            await ledger.ask(Refuse())
        with pytest.raises(AskCrashed, match="ValueError: broken on purpose"):
            await ledger.ask(Break(), timeout_s=WITHIN_S)
        with pytest.raises(AskCrashed, match="must not wait"):
            await ledger.ask(Wait(), timeout_s=WITHIN_S)
        with pytest.raises(AskNotUnderstood, match="no handler for 'Unknown'"):
            await ledger.ask(Unknown(), timeout_s=WITHIN_S)
        with pytest.raises(UsageError, match="send it in parts"):
            ledger.tell(Add("x" * OPERATION_BYTES_MAX))
        ledger.tell(Add("a"))
        assert await ledger.ask(Add("b"), timeout_s=WITHIN_S) in (Tally(2, 1), Tally(3, 1))
        await until(lambda: site.hosting(site.host_of("ledger") or "n0").owners["ledger"].application, WITHIN_S)
        assert (await ledger.ask(Add("b"), timeout_s=WITHIN_S)).own == 2
        (owner,) = [owner for name in site.nodes for owner in site.hosting(name).owners.values()]
        assert owner.placed.generation >= 3, "each handler that raised began another one"


async def test_only_so_many_wait_for_moves_of_one_host(site):
    async with site.all_nodes(Ledger) as nodes:
        ledger = await nodes[0].find("ledger")
        await ledger.ask(Add("a"), timeout_s=WITHIN_S)
        host = await until(lambda: site.host_of("ledger"), WITHIN_S)
        target = next(node for name, node in site.nodes.items() if name != host)
        site.shell(host)._waiting["another"] = [object()] * WAITING_MAX
        with pytest.raises(Unreachable, match=f"{WAITING_MAX} wait for the end of a move already"):
            await nodes[0].move("ledger", to=target.id, timeout_s=1.0)
        site.shell(host)._waiting.clear()
        await nodes[0].move("ledger", to=target.id, timeout_s=WITHIN_S)


async def test_one_node_alone_hosts_and_has_nobody_to_give_it_to(tmp_path_factory):
    site = MigrationSite(tmp_path_factory.mktemp("m"), free_port(socket.SOCK_DGRAM), 1)
    async with site.node(0, Ledger, Tide) as node:
        for name in ("ledger", "tide"):
            ref = await node.find(name)
            assert await ref.ask(Add("a")) == Tally(1, 1)
        with pytest.raises(UsageError, match="0 members of this site are called elsewhere; there are n0"):
            await node.move("ledger", to="elsewhere")
        with pytest.raises(UsageError, match="no migratable actor of this site is called nobody"):
            await node.move("nobody", to="n0")
        with pytest.raises(Unreachable, match="no node of this site offers an actor nobody"):
            await node.find("nobody")
        assert (await node.move("ledger", to="n0")).paused_ms == 0


async def test_who_does_not_know_the_kind_declines_and_the_actor_goes_on(site):
    async with site.node(0, Ledger) as node, site.node(1), site.node(2):
        ledger = await node.find("ledger")
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        await site.known()
        with pytest.raises(Refused, match="no actor of the kind Ledger is known here"):
            await node.move("ledger", to="n1", timeout_s=WITHIN_S)
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)


async def test_a_log_that_was_damaged_is_set_aside_and_filled_again(site, caplog):
    async with site.all_nodes(Ledger) as nodes:
        ledger = await nodes[0].find("ledger")
        for _ in range(3):
            await ledger.ask(Add("a"))
        host = await until(lambda: site.host_of("ledger"))
        await site.filled("ledger")
    victim = next(f"n{number}" for number in range(3) if f"n{number}" != host)
    path = site.folder / victim / "logs" / "ledger.log"
    data = bytearray(path.read_bytes())
    data[20] ^= 0x40
    path.write_bytes(data)
    async with site.all_nodes(Ledger) as nodes:
        assert (path.parent / "ledger.log.corrupt-1").read_bytes() == data
        assert "the operation log of ledger is damaged" in caplog.text
        ledger = await nodes[0].find("ledger")
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(4, 4)
        await until(lambda: site.has_voice(victim, "ledger"), WITHIN_S)
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(5, 5)


async def test_a_drained_node_gives_its_actors_away_and_says_how_long_each_paused(site):
    async with site.all_nodes(Ledger, Tide) as nodes:
        for name in ("ledger", "tide"):
            assert await (await nodes[1].find(name)).ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
            await nodes[1].move(name, to="n0", timeout_s=WITHIN_S)
            await until(lambda: site.host_of(name) == "n0", WITHIN_S)  # noqa: B023 - awaited at once
        drained = await drain(nodes[0], Drain(within_s=WITHIN_S))
        moved = {each.what: each for each in drained.moved}
        assert {"ledger", "tide"} <= moved.keys()
        assert not drained.stayed
        for name in ("ledger", "tide"):
            assert moved[name].to in {nodes[1].id, nodes[2].id}
            assert 0 < moved[name].pause_s <= moved[name].took_s
            assert await (await nodes[0].find(name)).ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)
            with pytest.raises(Refused, match="the target declines: this node is drained"):
                await nodes[1].move(name, to="n0", timeout_s=WITHIN_S)
        await drain(nodes[0], Drain(draining=False))
        await until(lambda: not site.shell("n0")._draining, WITHIN_S)
        await nodes[1].move("ledger", to="n0", timeout_s=WITHIN_S)


async def drain(node, order):
    return await node.system.ask(node.system.find("duties"), order, timeout_s=2 * WITHIN_S)


async def test_a_node_that_ends_in_order_gives_its_actors_to_others(site):
    async with site.node(1, Ledger, Tide) as left, site.node(2, Ledger, Tide):
        async with site.node(0, Ledger, Tide):
            await site.known()
            for name in ("ledger", "tide"):
                assert await (await left.find(name)).ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
                await left.move(name, to="n0", timeout_s=WITHIN_S)
                await until(lambda: site.host_of(name) == "n0", WITHIN_S)  # noqa: B023 - awaited at once
            await site.filled("ledger")
        for name in ("ledger", "tide"):
            assert await (await left.find(name)).ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)
            assert site.host_of(name) in ("n1", "n2")


async def test_what_nobody_else_can_take_stays_and_says_why(site):
    async with site.node(0, Ledger) as node, site.node(1), site.node(2):
        ledger = await node.find("ledger")
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        await site.known()
        drained = await drain(node, Drain(within_s=3.0))
        assert [(each.what, each.why) for each in drained.stayed if each.what == "ledger"] == [
            ("ledger", "the target declines: no actor of the kind Ledger is known here")
        ]
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)


class Secretive(Ledger):
    def snapshot(self):
        if self.total:
            raise RuntimeError("not now")
        return super().snapshot()


async def test_an_actor_whose_state_cannot_be_taken_stays_where_it_is_and_goes_on(site):
    async with site.all_nodes(Secretive) as nodes:
        secretive = await nodes[0].find("secretive")
        assert await secretive.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        target = next(name for name in site.nodes if name != site.host_of("secretive"))
        with pytest.raises(Refused, match="its state cannot be taken: RuntimeError: not now"):
            await nodes[0].move("secretive", to=target, timeout_s=WITHIN_S)
        assert await secretive.ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)


async def test_a_megabyte_moves_too(site):
    async with site.all_nodes(Ledger) as nodes:
        ledger = await nodes[0].find("ledger")
        assert await ledger.ask(Fill(2**20), timeout_s=WITHIN_S) == 2**20
        target = next(name for name in site.nodes if name != site.host_of("ledger"))
        await nodes[0].move("ledger", to=target, timeout_s=WITHIN_S)
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        assert len(site.hosting(target).owners["ledger"].application._actor.ballast) == 2**20


async def test_neighbours_reach_no_store_no_host_and_no_caller(site):
    stranger = NodeKey.generate().node_id
    async with site.node(0, Ledger) as node:
        answers = []
        node.system.outlet = answers.append
        codec = node.system._wire._codec
        for path, message in (
            ("log_store", Seal("ledger", 1, 1)),
            ("hosting", Call("ledger", 1, 1, b"")),
            ("hosting", MoveWanted("ledger", stranger)),
            ("callers", Call("ledger", 1, 1, b"")),
        ):
            header = Header(VERSION, Kind.ASK, stranger, "", node.id, path, b"c" * 15 + bytes([len(answers)]), 1000)
            node.system.deliver(Envelope(header, codec.encode(message)), Standing.NEIGHBOUR)
        faults = [codec.decode(each.body) for each in answers if each.header.target_node == stranger]
        assert [each.kind for each in faults] == [AskRefused.kind] * 4
        assert site.store("n0").logs.keys() <= {"ledger"}


class NoState(MigratableActor):
    pass


class OtherState(MigratableActor):
    def snapshot(self) -> str:
        return "text"

    def restore(self, state: int) -> None:
        pass


class Unsendable(DurableActor):
    def snapshot(self) -> object:
        return object()

    def restore(self, state: object) -> None:
        pass


class Active(Ledger):
    async def started(self):
        pass


class Plain(Actor):
    pass


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (NoState, "NoState moves with its state: give it `snapshot` and `restore`"),
        (OtherState, "OtherState.restore does not take what OtherState.snapshot gives"),
        (Unsendable, "Unsendable cannot move: "),
        (Active, "Active.started: a durable actor has handlers only"),
        (Plain, "Plain does not move: derive it from MigratableActor or DurableActor"),
    ],
)
async def test_a_class_that_cannot_move_is_refused_when_it_is_given(tmp_path_factory, kind, why):
    site = MigrationSite(tmp_path_factory.mktemp("m"), free_port(socket.SOCK_DGRAM), 1)
    async with site.node(0) as node:
        with pytest.raises(UsageError) as raised:
            node.host(kind, "it")
        assert why in str(raised.value)


async def test_names_are_taken_once(tmp_path_factory):
    site = MigrationSite(tmp_path_factory.mktemp("m"), free_port(socket.SOCK_DGRAM), 1)
    other = type("Ledger", (Ledger,), {})
    async with site.node(0, Ledger) as node:
        await node.spawn(Plain, name="plain")
        for name in ("plain", "hosting", "registrar"):
            with pytest.raises(UsageError, match="which does not move"):
                node.host(Tide, name)
        with pytest.raises(UsageError, match="a migratable actor of this site is called ledger"):
            await node.spawn(Plain, name="ledger")
        with pytest.raises(UsageError, match=r"ledger is a Ledger here, not a Tide"):
            node.host(Tide, "ledger")
        with pytest.raises(UsageError, match="another class Ledger is known here already"):
            node.host(other, "other")
        with pytest.raises(UsageError, match="1 to 64 characters"):
            node.host(Tide, "x" * 65)
        assert node.host(Ledger, "ledger") == await node.find("ledger")
        assert repr(node.host(Ledger, "ledger")) == "MigratableRef(ledger)"


async def test_without_a_majority_calls_wait_and_say_so_in_time(site):
    async with site.node(0, Ledger) as node:
        ledger = await node.find("ledger")
        with pytest.raises(Expired, match=r"ledger did not answer within .*; whether it was applied is not known"):
            await ledger.ask(Add("a"), timeout_s=0.3)
        with pytest.raises(Unreachable, match="no majority"):
            await node.find("another")
        with pytest.raises(Unreachable, match=r"ledger was not removed within 0.3 s: .*no majority"):
            await node.remove("ledger", timeout_s=0.3)
        async with site.node(1), site.node(2):
            assert (await ledger.ask(Add("b"), timeout_s=WITHIN_S)).own == 1
    with pytest.raises(UsageError, match="does not run"):
        await node.move("ledger", to="n1")
    with pytest.raises(UsageError, match="does not run"):
        node.host(Ledger, "ledger")

"""Actors that are ended for good, on real nodes: nothing of them is left, and one of their name begins empty."""

import socket

import anyio
import pytest
from migration_site import WITHIN_S, Add, Ledger, MigrationSite, Tally, Tide
from ports import free_port
from waiting import until

from atoll.actors.hand_over import retention
from atoll.actors.hand_over.messages import Seal
from atoll.actors.runtime import AskFailed
from atoll.transport.errors import Unreachable, UsageError

pytestmark = pytest.mark.anyio


@pytest.fixture
def site(tmp_path_factory):
    """Three nodes to be, in a folder whose path is short enough for a unix socket."""
    return MigrationSite(tmp_path_factory.mktemp("r"), free_port(socket.SOCK_DGRAM))


@pytest.fixture(autouse=True)
def stores_look_often(monkeypatch):
    """Once a minute is enough for a disk; a test would have to wait."""
    monkeypatch.setattr(retention, "FIRST_S", 0.5)
    monkeypatch.setattr(retention, "ROUND_S", 0.5)


def kept(site, actor):
    """Name the nodes on whose disk a log of that actor is."""
    return [path.parent.parent.name for path in sorted(site.folder.glob(f"n*/logs/{actor}.log"))]


async def settled(site, actor):
    """Wait until all nodes know that somebody has it: who still asks to begin it would begin it anew."""
    await until(lambda: not any(actor in site.hosting(name).claims for name in site.nodes), WITHIN_S)


async def test_a_removed_actor_leaves_no_file_and_one_of_its_name_begins_empty(site):
    async with site.all_nodes(Ledger) as nodes:
        ledger = await nodes[1].find("ledger")
        for number in (1, 2, 3):
            assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(number, number)
        await site.filled("ledger")
        await settled(site, "ledger")
        assert kept(site, "ledger") == ["n0", "n1", "n2"]
        await nodes[0].remove("ledger", timeout_s=WITHIN_S)
        await until(lambda: kept(site, "ledger") == [], WITHIN_S)
        with pytest.raises(AskFailed, match="ledger was removed"):
            await ledger.ask(Add("a"), timeout_s=WITHIN_S)
        with pytest.raises(UsageError, match="no migratable actor of this site is called ledger"):
            await nodes[0].remove("ledger")
        with pytest.raises(Unreachable, match="no node of this site offers an actor ledger"):
            await nodes[site_index(site, "ledger")].find("ledger")
        anew = nodes[2].host(Ledger, "ledger")
        assert await anew.ask(Add("b"), timeout_s=WITHIN_S) == Tally(1, 1)
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 1), "the old reference means the new one"


async def test_a_removal_that_is_repeated_after_a_lost_answer_leaves_the_next_actor_of_that_name(site):
    async with site.all_nodes(Tide) as nodes:
        await nodes[1].find("tide")
        await settled(site, "tide")
        (first,) = (await nodes[1]._site_actors.places()).places
        await nodes[2].remove("tide", timeout_s=WITHIN_S, founded=first.founded)
        await nodes[2].remove("tide", timeout_s=WITHIN_S, founded=first.founded)
        tide = nodes[0].host(Tide, "tide")
        assert await tide.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        await nodes[2].remove("tide", timeout_s=WITHIN_S, founded=first.founded)
        assert await tide.ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)
        (second,) = (await nodes[1]._site_actors.places()).places
        assert second.founded > first.founded
        with pytest.raises(UsageError, match=f"founded in generation {second.founded}, and none in"):
            await nodes[2].remove("tide", timeout_s=WITHIN_S, founded=second.founded + 1)
        await nodes[2].remove("tide", timeout_s=WITHIN_S, founded=second.founded)
        with pytest.raises(AskFailed, match="tide was removed"):
            await tide.ask(Add("a"), timeout_s=WITHIN_S)


def site_index(site, actor):
    """Give a node that was not told to host an actor, or is told no more: the one that had it."""
    return next(number for number in range(3) if actor not in site.shell(f"n{number}")._repertoire.hosted)


async def test_a_store_that_was_away_forgets_a_removed_actor_when_it_is_back(site):
    async with site.node(0, Ledger) as node, site.node(1):
        async with site.node(2):
            await site.known()
            ledger = await node.find("ledger")
            assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
            await site.filled("ledger")
        await node.remove("ledger", timeout_s=WITHIN_S)
        await until(lambda: kept(site, "ledger") == ["n2"], WITHIN_S)
        async with site.node(2):
            await until(lambda: kept(site, "ledger") == [], WITHIN_S)
            assert site.store("n2").generation_floor > 0
            node.host(Ledger, "ledger")
            assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
            await site.filled("ledger")
        async with site.node(2):
            await until(lambda: "ledger" in site.store("n2").logs, WITHIN_S)
            assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)


async def test_a_store_that_was_too_slow_to_begin_the_next_log_keeps_it_a_moment_later(site):
    """It is left out of the set, for it may still have the log of the one before; the supernode wants it back in."""
    async with site.all_nodes(Ledger) as nodes:
        await nodes[1].find("ledger")
        await site.filled("ledger")
        await settled(site, "ledger")
        await nodes[0].remove("ledger", timeout_s=WITHIN_S)
        takes = site.store("n2")._takes
        seal, takes[Seal] = takes[Seal], lambda *_: []
        ledger = nodes[0].host(Ledger, "ledger")
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        (place,) = (await nodes[1]._site_actors.places()).places
        assert nodes[2].id not in place.placed.stores
        takes[Seal] = seal
        await site.filled("ledger")
        (place,) = (await nodes[1]._site_actors.places()).places
        assert set(place.placed.stores) == {node.id for node in nodes}
        assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)


async def test_a_soft_actor_is_removed_while_it_is_called_and_stays_removed(site):
    async with site.all_nodes(Tide) as nodes:
        tide = await nodes[1].find("tide")
        assert await tide.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        await settled(site, "tide")
        said = []

        async def call():
            try:
                while True:
                    await tide.ask(Add("a"), timeout_s=WITHIN_S)
            except AskFailed as error:
                said.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await nodes[2].remove("tide", timeout_s=WITHIN_S)
        assert said == ["tide was removed"]
        assert all(site.host_of("tide") is None for _ in nodes)
        nodes[0].host(Tide, "tide")
        assert await tide.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)


async def test_an_actor_whose_host_is_gone_is_removed_by_force_only(site):
    async with site.node(0) as node, site.node(1):
        async with site.node(2, Ledger):
            await site.known()
            ledger = site.nodes["n2"].host(Ledger, "ledger")
            assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        with pytest.raises(Unreachable, match=r"its host .* says nothing"):
            await node.remove("ledger", timeout_s=1)
        await node.remove("ledger", timeout_s=WITHIN_S, force=True)
        await until(lambda: kept(site, "ledger") == ["n2"], WITHIN_S)
        async with site.node(2):
            await until(lambda: kept(site, "ledger") == [], WITHIN_S)

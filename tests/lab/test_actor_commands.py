"""`atoll actor` on real nodes: what it shows, moves and says, and where it cannot."""

import json
import socket

import anyio
import pytest
from anyio import to_thread
from click.testing import CliRunner
from migration_site import WITHIN_S, Add, Ledger, MigrationSite, Tally, Tide
from ports import free_port
from waiting import until

from atoll.cli import main

pytestmark = pytest.mark.anyio


@pytest.fixture
def site(tmp_path_factory):
    """Three nodes to be, in a folder whose path is short enough for a unix socket."""
    return MigrationSite(tmp_path_factory.mktemp("a"), free_port(socket.SOCK_DGRAM))


async def atoll(node, *words):
    command = ["--at", str(node.config.api_socket), "actor", *words]
    return await to_thread.run_sync(lambda: CliRunner().invoke(main, command, prog_name="atoll"))


async def shown(node, name):
    done = await atoll(node, "show", name, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)["actor"]


async def running(node, name):
    """Show an actor once it runs: its generation may change right after it was begun."""
    with anyio.fail_after(WITHIN_S):
        while True:
            found = await shown(node, name)
            if found["state"] == "running":
                return found
            await anyio.sleep(0.02)


async def told(node):
    """List all actors, as soon as every host says how its own are."""
    with anyio.fail_after(WITHIN_S):
        while True:
            done = await atoll(node, "list", "--json")
            assert done.exit_code == 0, done.stderr
            listed = json.loads(done.stdout)["actors"]
            if all(each["class_name"] for each in listed):
                return listed
            await anyio.sleep(0.1)


async def test_actors_are_listed_shown_and_moved_from_a_shell(site):
    async with site.all_nodes(Ledger, Tide) as nodes:
        for name in ("ledger", "tide"):
            assert await (await nodes[0].find(name)).ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        listed = await told(nodes[1])
        assert [(each["name"], each["class_name"], each["kind"]) for each in listed] == [
            ("ledger", "Ledger", "durable"),
            ("tide", "Tide", "soft"),
        ]
        for name in ("ledger", "tide"):
            before = await running(nodes[2], name)
            assert (before["why"], before["paused_ms"]) == ("", None)
            target = "n0" if site.host_of(name) != "n0" else "n1"
            done = await atoll(nodes[2], "move", name, "--to", target)
            assert done.exit_code == 0, done.stderr
            assert f"{name} is on {target}; it paused for" in done.stdout
            await until(lambda: site.host_of(name) == target, WITHIN_S)  # noqa: B023 - awaited at once
            # The source says it to the target after the move.
            await until(lambda: name in site.hosting(target).paused_ms, WITHIN_S)  # noqa: B023
            after = await running(nodes[2], name)
            assert after["host"]["name"] == target
            assert after["generation"] > before["generation"]
            assert after["paused_ms"] is not None
            assert len(after["stores"]) == (3 if name == "ledger" else 0)
            assert (
                f"{name} is on {target}; it paused for 0.0 ms"
                in (await atoll(nodes[0], "move", name, "--to", target)).stdout
            )


async def behind(node, name, wanted):
    """Wait until exactly these are told to lack something of the actor's log."""
    with anyio.fail_after(WITHIN_S):
        while True:
            if [each["name"] for each in (await shown(node, name))["behind"]] == wanted:
                return
            await anyio.sleep(0.1)


async def test_a_store_that_is_away_is_behind_until_it_has_everything_again(site):
    async with site.node(0, Ledger) as node, site.node(1):
        async with site.node(2):
            await site.known()
            ledger = await node.find("ledger")
            assert await ledger.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
            assert len((await running(node, "ledger"))["stores"]) == 3
            await behind(node, "ledger", [])
        assert await ledger.ask(Add("b"), timeout_s=WITHIN_S) == Tally(2, 1)
        await behind(node, "ledger", ["n2"])
        assert "n2 (behind)" in (await atoll(node, "show", "ledger")).stdout
        async with site.node(2):
            await behind(node, "ledger", [])


async def test_a_move_to_where_the_class_is_not_known_and_wrong_names_are_refused_in_words(site):
    async with site.node(0, Tide) as node, site.node(1), site.node(2):
        await site.known()
        tide = await node.find("tide")
        assert await tide.ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
        stays = await atoll(node, "move", "tide", "--to", "n1")
        assert stays.exit_code == 1
        assert "tide stays where it is: the target declines" in stays.stderr
        assert "node.host" in stays.stderr
        for words, said in (
            (("move", "tide", "--to", "n7"), "n7"),
            (("move", "sea", "--to", "n1"), "no actor of this site that moves is called sea"),
            (("show", "sea"), "no actor of this site that moves is called sea"),
        ):
            done = await atoll(node, *words)
            assert (done.exit_code, "Traceback" in done.output, said in done.stderr) == (1, False, True), done.stderr
        assert await tide.ask(Add("a"), timeout_s=WITHIN_S) == Tally(2, 2)


async def test_without_a_majority_what_is_shown_is_said_to_be_old_and_nothing_moves(site):
    async with site.node(0, Ledger, Tide) as node:
        async with site.node(1, Tide), site.node(2):
            await site.known()
            assert await (await node.find("ledger")).ask(Add("a"), timeout_s=WITHIN_S) == Tally(1, 1)
            await until(lambda: site.host_of("tide") is not None, WITHIN_S)
            if site.host_of("tide") != "n0":
                await node.move("tide", to="n0", timeout_s=WITHIN_S)
        with anyio.fail_after(WITHIN_S):
            done = await atoll(node, "list")
            while not done.stderr:
                await anyio.sleep(0.1)
                done = await atoll(node, "list")
        assert done.exit_code == 0
        assert "this is what the node heard last: no majority of the voters is in reach" in done.stderr
        assert "ledger" in done.stdout
        moved = await atoll(node, "move", "tide", "--to", "n1", "--within", "1")
        assert moved.exit_code == 1
        assert "Traceback" not in moved.output

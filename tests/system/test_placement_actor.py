"""Placements and Electors on real loops, in real time, with journals on disk: several nodes in one process."""

import contextlib

import anyio
import pytest

from atoll.actors.elector import messages as elector
from atoll.actors.elector.elector import Elector
from atoll.actors.elector.roster import Roster
from atoll.actors.placement import messages as placement
from atoll.actors.placement.messages import (
    DescribePlacement,
    FindPlace,
    ListPlaces,
    Placed,
    RemovePlace,
    SwapPlace,
)
from atoll.actors.placement.placement_actor import PlacementActor
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import ActorSystem, Address, AskFailed, AskRefused
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.keys import NodeKey, SiteKeys

pytestmark = pytest.mark.anyio
CODEC = Codec([*RUNTIME_MESSAGES, *elector.MESSAGES, *placement.MESSAGES])
WITHIN_S = 20
"""Far beyond what anything here takes: a busy machine is slow, a wrong one never ends."""


class Site:
    """Nodes whose systems hand their envelopes to each other."""

    def __init__(self, folder, count):
        self.folder = folder
        self.keys = SiteKeys.generate()
        self.signers = {key.node_id: key.sign for key in (NodeKey.generate() for _ in range(count))}
        self.nodes = sorted(self.signers)
        self.roster = Roster.found(self.keys, self.nodes)
        self.systems = {}
        self.standing = Standing.MEMBER

    def outlet(self, envelope):
        target = self.systems.get(envelope.header.target_node)
        if target is not None and envelope.header.source_node in self.systems:
            target.deliver(envelope, self.standing)

    def journal(self, node, of):
        return self.folder / f"{node.short}.{of}"

    @contextlib.asynccontextmanager
    async def node(self, node):
        def make_elector():
            return Elector(
                node,
                self.keys,
                self.roster,
                sign=self.signers[node],
                named=self.roster.voters,
                gated=True,
                journal=self.journal(node, "election"),
            )

        async with ActorSystem(node, CODEC, self.outlet) as system:
            await system.spawn(make_elector, elector.PATH)
            await system.spawn(lambda: PlacementActor(node, journal=self.journal(node, "placement")), placement.PATH)
            for other, peer in self.systems.items():
                system.announce(PeerUp(other, self.standing, "", ""))
                peer.announce(PeerUp(node, self.standing, "", ""))
            self.systems[node] = system
            try:
                yield system
            finally:
                self.systems.pop(node, None)
                for peer in self.systems.values():
                    peer.announce(PeerDown(node, "left"))

    @contextlib.asynccontextmanager
    async def all_nodes(self):
        async with contextlib.AsyncExitStack() as stack:
            for node in self.nodes:
                await stack.enter_async_context(self.node(node))
            yield

    async def ask(self, asked, question):
        """Ask from another node, if there is one."""
        asker = next((node for node in self.systems if node != asked), asked)
        return await self.systems[asker].ask(Address(asked, placement.PATH), question, timeout_s=WITHIN_S)

    async def certain(self, question, good=lambda answer: not answer.why):
        """Ask one member after the other until somebody knows for certain; gives the answer and who gave it."""
        with anyio.fail_after(WITHIN_S):
            while True:
                for node in tuple(self.systems):
                    with contextlib.suppress(AskFailed):
                        answer = await self.ask(node, question)
                        if good(answer):
                            return answer, node
                await anyio.sleep(0.01)

    async def swap(self, actor, expected, wanted):
        """Put the same question until it is known whether it is done."""

        def known(answer):
            return answer.done or answer.decided or answer.current == wanted

        return await self.certain(SwapPlace(actor, expected, wanted), known)


async def test_a_site_of_one_keeps_its_places_through_a_restart(tmp_path):
    site = Site(tmp_path, 1)
    (alone,) = site.nodes
    first, second = Placed(1, alone, (alone,)), Placed(2, alone, (alone,))
    async with site.node(alone):
        assert (await site.swap("ledger", None, first))[0].done
        assert (await site.swap("ledger", first, second))[0].done
        again, _ = await site.swap("ledger", first, second)
        assert (again.done, again.decided, again.current) == (False, False, second)
        refused, _ = await site.swap("ledger", first, Placed(2, alone))
        assert (refused.done, refused.decided, refused.current) == (False, True, second)
    async with site.node(alone):
        found, _ = await site.certain(FindPlace("ledger"))
        assert found.placed == second


async def test_what_was_removed_stays_removed_through_a_change_of_supernode_and_its_old_owner_stays_out(tmp_path):
    site = Site(tmp_path, 3)
    a, b, c = site.nodes
    first, second = Placed(1, a, (a, b, c)), Placed(2, b, (a, b, c))
    async with site.all_nodes():
        assert (await site.swap("ledger", None, first))[0].done
        removed, supernode = await site.certain(RemovePlace("ledger", first), lambda each: each.done or each.first)
        assert removed.first == 3
        site.systems[supernode].announce(elector.Resign("a test wants another one"))
        found, _ = await site.certain(
            FindPlace("ledger"), lambda each: not each.why and each.supernode not in (None, supernode)
        )
        assert (found.placed, found.first) == (None, 3)
        for late in (SwapPlace("ledger", first, second), SwapPlace("ledger", None, first)):
            refused, _ = await site.certain(late, lambda each: each.done or each.first)
            assert (refused.done, refused.current) == (False, None)
        assert (await site.swap("ledger", None, Placed(3, c, (a, b, c))))[0].done


async def test_what_is_placed_stays_known_when_the_supernode_leaves(tmp_path):
    site = Site(tmp_path, 3)
    a, b, c = site.nodes
    first, second = Placed(1, a, (a, b, c)), Placed(2, b, (a, b, c))
    async with site.all_nodes():
        done, supernode = await site.swap("ledger", None, first)
        assert (done.done, done.current, done.supernode) == (True, first, supernode)
        # Whoever is asked names the supernode.
        for other in set(site.nodes) - {supernode}:
            hint = await site.ask(other, FindPlace("ledger"))
            assert (hint.supernode, hint.placed) == (supernode, first)
            assert hint.why == f"{supernode.short} is supernode and knows: ask it"
            undecided = await site.ask(other, SwapPlace("ledger", first, second))
            assert (undecided.done, undecided.decided, undecided.supernode) == (False, False, supernode)
        del site.systems[supernode]
        for peer in site.systems.values():
            peer.announce(PeerDown(supernode, "gone"))
        found, heir = await site.certain(FindPlace("ledger"), lambda each: not each.why)
        assert heir != supernode
        assert found.placed == first
        assert (await site.swap("ledger", first, second))[0].done
        listed, _ = await site.certain(ListPlaces())
        assert [(each.actor, each.placed) for each in listed.places] == [("ledger", second)]
        assert listed.voters >= 2


@pytest.mark.parametrize("ruin", ["unlink", "flip"])
async def test_a_ruined_copy_counts_for_nothing_until_the_supernode_has_filled_it(tmp_path, caplog, ruin):
    caplog.set_level("INFO", "atoll")
    site = Site(tmp_path, 3)
    a, b, c = site.nodes
    first = Placed(1, a)
    async with site.node(a), site.node(b):
        async with site.node(c):
            await site.swap("ledger", None, first)
            await site.certain(ListPlaces(), lambda each: not each.why and each.voters == 3)
        journal = site.journal(c, "placement")
        if ruin == "unlink":
            journal.unlink()
        else:
            journal.write_bytes(journal.read_bytes()[:-1] + b"\x7f")
        async with site.node(c) as system:
            with anyio.fail_after(WITHIN_S):
                while (
                    status := await system.ask(Address(c, placement.PATH), DescribePlacement(), timeout_s=WITHIN_S)
                ).damage or not status.version:
                    assert "copy is damaged" in status.listed.why or not status.damage
                    await anyio.sleep(0.01)
            assert status.listed.places[0].placed == first
    assert "the copy of the placement is damaged" in caplog.text
    assert "the supernode has filled the copy of the placement again" in caplog.text


async def test_neighbours_may_neither_ask_nor_swap(tmp_path):
    site = Site(tmp_path, 2)
    a, b = site.nodes
    async with site.node(a) as system, site.node(b):
        site.standing = Standing.NEIGHBOUR
        for question in (FindPlace("ledger"), SwapPlace("ledger", None, Placed(1, a)), ListPlaces()):
            with pytest.raises(AskRefused):
                await system.ask(Address(b, placement.PATH), question, timeout_s=WITHIN_S)


async def test_two_who_swap_at_once_never_both_succeed(tmp_path):
    site = Site(tmp_path, 3)
    async with site.all_nodes():
        _, supernode = await site.certain(ListPlaces())
        answers = []

        async def swap(node, number):
            question = SwapPlace("ledger", None, Placed(1, node, (site.nodes[number % 3],)))
            answers.append(
                await site.systems[node].ask(Address(supernode, placement.PATH), question, timeout_s=WITHIN_S)
            )

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(swap, site.nodes[number % 3], number)
        (done,) = [answer for answer in answers if answer.done]
        assert {answer.current for answer in answers} == {done.current}

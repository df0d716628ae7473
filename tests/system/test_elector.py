"""Electors on real loops, in real time, with journals on disk: several nodes' actor systems joined in one process."""

import contextlib

import anyio
import pytest

from atoll.actors.elector.elector import PATH, Elector
from atoll.actors.elector.messages import MESSAGES, DescribeElection, Leave, ReformSite, SupernodeElected
from atoll.actors.elector.roster import Roster
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime import MESSAGES as RUNTIME_MESSAGES
from atoll.actors.runtime import Actor, ActorSystem, Address, AskDeclined, handles
from atoll.transport.base import Standing
from atoll.transport.codec import Codec
from atoll.transport.keys import NodeKey, SiteKeys

pytestmark = pytest.mark.anyio
CODEC = Codec([*RUNTIME_MESSAGES, *MESSAGES])
WITHIN_S = 20
"""Far beyond what an election takes: a busy machine is slow, a wrong one never ends."""


class Listener(Actor):
    """Writes down whom its node believes to be supernode."""

    def __init__(self, site, node):
        self.site, self.node = site, node

    async def started(self):
        self.system.subscribe(SupernodeElected, self.ref)

    @handles
    async def elected(self, message: SupernodeElected) -> None:
        self.site.hear(self.node, message)


class Site:
    """Nodes whose systems hand their envelopes to each other."""

    def __init__(self, folder, count, settings=None):
        self.folder, self.settings = folder, settings
        self.keys = SiteKeys.generate()
        self.signers = {key.node_id: key.sign for key in (NodeKey.generate() for _ in range(count))}
        self.nodes = sorted(self.signers)
        self.roster = Roster.found(self.keys, self.nodes)
        self.named = self.roster.voters
        self.systems = {}
        self.heard = {node: [] for node in self.nodes}
        self.standing = Standing.MEMBER
        self._changed = anyio.Event()

    def hear(self, node, message):
        self.heard[node].append(message)
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_until(self, condition):
        with anyio.fail_after(WITHIN_S):
            while not condition():
                await self._changed.wait()

    def outlet(self, envelope):
        target = self.systems.get(envelope.header.target_node)
        if target is not None and envelope.header.source_node in self.systems:
            target.deliver(envelope, self.standing)

    @contextlib.asynccontextmanager
    async def node(self, node, *, mains=False):
        async with ActorSystem(node, CODEC, self.outlet) as system:
            await system.spawn(lambda: Listener(self, node), "listener")
            await system.spawn(
                lambda: Elector(
                    node,
                    self.keys,
                    self.roster,
                    sign=self.signers[node],
                    named=self.named,
                    journal=self.folder / f"{node.short}.journal",
                    score=Score(mains=mains),
                    settings=self.settings,
                ),
                PATH,
            )
            for other, peer in self.systems.items():
                system.announce(PeerUp(other, self.standing, "", ""))
                peer.announce(PeerUp(node, self.standing, "", ""))
            self.systems[node] = system
            try:
                yield system
            finally:
                del self.systems[node]
                for peer in self.systems.values():
                    peer.announce(PeerDown(node, "left"))

    async def run(self, node, leave, *, task_status):
        """Be one node, in a task of its own, until told to leave."""
        async with self.node(node):
            task_status.started()
            await leave.wait()

    def latest(self):
        return [self.heard[node][-1] if self.heard[node] else None for node in self.systems]

    async def wait_supernode(self):
        """Wait until every node that is up names the same confirmed one, which is up."""

        def agreed():
            named = {each and (each.node, each.confirmed) for each in self.latest()}
            return any(named == {(node, True)} for node in self.systems)

        await self.wait_until(agreed)
        return self.latest()[0]


async def test_a_site_of_one_is_its_own_supernode(tmp_path):
    site = Site(tmp_path, 1)
    async with site.node(site.nodes[0]):
        elected = await site.wait_supernode()
    assert elected.node == site.nodes[0]
    assert elected.reason


async def test_three_nodes_elect_one_and_replace_it_when_it_leaves(tmp_path):
    site = Site(tmp_path, 3)
    leaves = {node: anyio.Event() for node in site.nodes}
    async with anyio.create_task_group() as group:
        for node in site.nodes:
            await group.start(site.run, node, leaves[node])
        first = await site.wait_supernode()
        leaves[first.node].set()
        await site.wait_until(lambda: first.node not in site.systems)
        second = await site.wait_supernode()
        for leave in leaves.values():
            leave.set()
    assert second.node != first.node
    assert second.epoch > first.epoch


async def test_a_restarted_voter_remembers_its_ballot(tmp_path):
    site = Site(tmp_path, 1)
    epochs = []
    for _ in range(2):
        async with site.node(site.nodes[0]):
            epochs.append((await site.wait_supernode()).epoch)
        site.heard[site.nodes[0]].clear()
    assert epochs[1] > epochs[0]


@pytest.mark.parametrize("ruin", ["unlink", "flip"])
async def test_a_node_with_a_ruined_journal_says_so_and_votes_again_after_asking_the_others(tmp_path, caplog, ruin):
    caplog.set_level("INFO", "atoll")
    site = Site(tmp_path, 3)
    async with site.node(site.nodes[0]), site.node(site.nodes[1]):
        async with site.node(site.nodes[2]):
            await site.wait_supernode()
        journal = tmp_path / f"{site.nodes[2].short}.journal"
        if ruin == "unlink":
            journal.unlink()
        else:
            journal.write_bytes(journal.read_bytes()[:-1] + b"\x7f")
        async with site.node(site.nodes[2]) as system:
            status = await system.ask(Address(site.nodes[2], PATH), DescribeElection(), timeout_s=WITHIN_S)
            assert status.role == "recalling"
            assert "this node has no vote, because its election journal is damaged" in status.why
            with anyio.fail_after(WITHIN_S):
                while status.role == "recalling":
                    await anyio.sleep(0.01)
                    status = await system.ask(Address(site.nodes[2], PATH), DescribeElection(), timeout_s=WITHIN_S)
            assert "no vote" not in status.why
    assert "0 of the 2 other voters have answered" in caplog.text
    assert "this node votes again, above epoch" in caplog.text


async def test_a_founder_makes_voters_of_those_who_stay_and_takes_out_who_leaves(tmp_path):
    site = Site(tmp_path, 3, ElectionSettings(settle_s=0.2))
    founder, other, leaver = site.nodes
    site.roster, site.named = Roster.found(site.keys, [founder]), ()

    async def described(node):
        return await site.systems[node].ask(Address(node, PATH), DescribeElection(), timeout_s=WITHIN_S)

    async def voters(count):
        with anyio.fail_after(WITHIN_S):
            while True:
                seen = [await described(node) for node in site.systems]
                if {len(status.voters) for status in seen} == {count} and all(status.confirmed for status in seen):
                    return seen
                await anyio.sleep(0.02)

    async with site.node(founder), site.node(other), site.node(leaver):
        grown = await voters(3)
        assert len({status.supernode for status in grown}) == 1
        assert "further members" in grown[0].roster_reason or "odd number" in grown[0].roster_reason
        site.systems[leaver].announce(Leave("it is sold"))
        shrunk = await voters(1)
        assert {status.roster_version for status in shrunk} == {5}
        (kept,) = shrunk[0].voters
        assert kept in (founder, other)
        # What was signed is on disk: a restart takes it up.
    async with site.node(kept):
        assert (await voters(1))[0].roster_version == 5


async def test_a_person_founds_the_site_of_nodes_that_merely_share_a_secret(tmp_path):
    site = Site(tmp_path, 2)
    site.roster, site.named = Roster(), ()
    one, two = site.nodes
    async with site.node(one) as system, site.node(two):
        status = await system.ask(Address(one, PATH), DescribeElection(), timeout_s=WITHIN_S)
        assert status.why.startswith("no roster of this site is known yet")
        status = await system.ask(Address(one, PATH), ReformSite("a person says so"), timeout_s=WITHIN_S)
        assert status.voters == (one,)
        elected = await site.wait_supernode()
        assert elected.node == one
        with pytest.raises(AskDeclined, match="nothing needs to be reformed"):
            await site.systems[two].ask(Address(two, PATH), ReformSite("again"), timeout_s=WITHIN_S)


async def test_neighbours_do_not_vote(tmp_path):
    site = Site(tmp_path, 3, ElectionSettings(provisional_after_s=0.3))
    site.standing = Standing.NEIGHBOUR
    async with site.node(site.nodes[0]), site.node(site.nodes[1]):
        # Each hears only itself: no majority, so each serves the soft duties of its own side, and says so.
        await site.wait_until(lambda: all(site.latest()))
        for node in site.systems:
            assert site.heard[node][-1].node == node
            assert site.heard[node][-1].confirmed is False

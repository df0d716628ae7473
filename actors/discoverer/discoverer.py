"""The Discoverer of a node: the shell of the membership machine, and the owner of the node's beacons.

What it hears are hints; the Router is told whom to dial (`DialWanted`), and what the Router says of links decides.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, ClassVar

import anyio

from atoll.actors.discoverer.membership import Membership
from atoll.actors.discoverer.messages import LinkComing, LinkWanted, ListSeen, Seed, Wanted
from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import (
    DescribeElection,
    ElectionStatus,
    RosterInForce,
    SupernodeElected,
    SupernodeLost,
)
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, PeerDown, PeerUp, RoutesDescribed
from atoll.actors.runtime import AskFailed, Declined, Delivery, MachineActor
from atoll.actors.runtime.machine import Input, Told
from atoll.transport.base import DialFailed, Standing
from atoll.transport.beacon import Beacon
from atoll.transport.dnssd import DnsSd
from atoll.transport.errors import Congested, Unreachable
from atoll.transport.identity import NodeId
from atoll.transport.network_watch import NetworkChanged, NetworkWatch

log = logging.getLogger("atoll.actors")

LEARN_S = 2.0
"""What the Router has to say which links are up, before the Discoverer begins without that."""


HINTS_S = 4.0
"""How often what DNS-SD knows is told again; an address that nobody tells for 10 s is forgotten."""
DNSSD_AGAIN_S = 60.0
"""Between two tries while port 5353 cannot be had."""


class Discoverer(MachineActor):
    """Finds nodes on the networks of this host; answers `ListSeen`, to its own node and to members.

    It announces `DialWanted`, `NodeSeen` and `NodeLost`; it hears of links, dials, wishes for links, and the election.
    """

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER, Standing.NEIGHBOUR})

    def __init__(
        self,
        own: NodeId,
        beacon: Callable[[], Beacon] | None,
        *,
        seeds: Iterable[Seed] = (),
        rng: Random | None = None,
        watch: Callable[[Callable[[NetworkChanged], None]], NetworkWatch] = NetworkWatch,
        dnssd: Callable[[], DnsSd] | None = None,
    ) -> None:
        """Take what makes the node's beacon, or None where there shall be none, and nodes whose address is known."""
        self._watch = watch
        self._make_dnssd = dnssd
        self._dnssd: DnsSd | None = None
        self._dnssd_note = ""
        self._moved = anyio.Event()
        self._changes = 0
        self._voters: frozenset[NodeId] = frozenset()
        self._supernode: NodeId | None = None
        self.membership = Membership(own, rng=rng or Random(), seeds=seeds)
        self._make_beacon = beacon
        self._beacon: Beacon | None = None
        super().__init__(self.membership)

    async def started(self) -> None:
        """Begin to say and to hear beacons."""
        for fact in (PeerUp, PeerDown, DialFailed, LinkWanted, SupernodeElected, SupernodeLost, RosterInForce):
            self.system.subscribe(fact, self.ref)
        await super().started()
        await self._learn_links()
        await self._learn_election()
        self.tasks.start_soon(self._watch(self._network_changed).run, name="watching the network")
        if self._make_beacon is not None:
            self.tasks.start_soon(self._listen, self._make_beacon, name="hearing beacons")
        if self._make_dnssd is not None:
            self.tasks.start_soon(self._browse, self._make_dnssd, name="DNS-SD")

    def input_of(self, delivery: Delivery) -> Input | None:
        """Turn what the election says into what it means for links."""
        match event := super().input_of(delivery):
            case Told(SupernodeElected(node=node)):
                self._supernode = node
            case Told(SupernodeLost()):
                self._supernode = None
            case Told(RosterInForce(voters=voters)):
                self._voters = frozenset(voters)
            case _:
                return event
        return Told(self._wanted())

    async def receive(self, delivery: Delivery) -> Any:
        """Hand it to the machine; who is near here is nobody's business beyond the site."""
        if isinstance(delivery.message, ListSeen):
            if delivery.standing not in (None, Standing.MEMBER):
                raise Declined("the nodes seen here are told to members of the site only")
            notes = self._beacon.notes if self._beacon is not None else ()
            self.membership.notes = (*notes, self._dnssd_note) if self._dnssd_note else notes
        if isinstance(delivery.message, LinkWanted) and delivery.reply_to is not None:
            self.handle(Told(delivery.message))
            return LinkComing(self.membership.is_coming(delivery.message.peer))
        return await super().receive(delivery)

    def statistics(self) -> dict[str, int]:
        """Count what the beacon and the machine have done."""
        beacon = self._beacon.statistics() if self._beacon is not None else {}
        return {
            **{f"beacon {name}": count for name, count in beacon.items()},
            "network_changes": self._changes,
            **{f"dnssd {name}": count for name, count in (self._dnssd.statistics() if self._dnssd else {}).items()},
            **self.membership.statistics(self.system.clock()),
        }

    async def _learn_links(self) -> None:
        """Ask the Router which links are up already: this actor may have crashed and begun anew.

        No fact is handled before the answer is there, so that none of them is older than what it is put upon.
        """
        router = self.system.find(ROUTER)
        if router is None:
            return
        try:
            described: RoutesDescribed = await router.ask(DescribeRoutes(), timeout_s=LEARN_S)
        except AskFailed as error:
            log.warning("the Router does not say which links are up; some nodes may be dialled in vain: %s", error)
            return
        for link in described.links:
            self.handle(Told(PeerUp(link.peer, link.standing, link.label, link.host)))

    async def _learn_election(self) -> None:
        """Ask the Elector who votes, and who leads: on a large site that decides to whom links are kept."""
        elector = self.system.find(ELECTOR)
        if elector is None:
            return
        with contextlib.suppress(AskFailed):
            status: ElectionStatus = await elector.ask(DescribeElection(), timeout_s=LEARN_S)
            self._voters, self._supernode = frozenset(status.voters), status.supernode
            self.handle(Told(self._wanted()))

    def _wanted(self) -> Wanted:
        """Name those with whom a link is wanted however large the site is.

        Voters need each other, everybody the supernode, and who does not know it the voters, who do.
        """
        own, supernode = self.system.node_id, self._supernode
        leader = frozenset(() if supernode is None else (supernode,))
        others = self._voters if own in self._voters or supernode is None else frozenset()
        return Wanted((others | leader) - {own}, everybody=supernode == own)

    def _network_changed(self, change: NetworkChanged) -> None:
        """Say where we are now, and let links over lost addresses be dialled again."""
        if change.gone:
            log.info("this host has lost %s (%s)", ", ".join(sorted(change.gone)), change.why)
        self._changes += 1
        self.system.announce(change)
        self.ref.tell(change)
        if self._beacon is not None:
            self._beacon.hurry()
        self._moved.set()

    async def _browse(self, make_dnssd: Callable[[], DnsSd]) -> None:
        """Say and hear DNS-SD, anew after each change of the network, because its sockets belong to addresses."""
        while True:
            self._moved = anyio.Event()
            dnssd = make_dnssd()
            try:
                await dnssd.open()
                self._note_dnssd("")
                self._dnssd = dnssd
                while not self._moved.is_set():
                    for hint in dnssd.hints():
                        self.ref.tell(hint)
                    with anyio.move_on_after(HINTS_S):
                        await self._moved.wait()
            except Unreachable as error:
                self._note_dnssd(str(error))
                with anyio.move_on_after(DNSSD_AGAIN_S):
                    await self._moved.wait()
            except Congested:
                self.system.count("hints_lost")
                await anyio.sleep(HINTS_S)
            finally:
                self._dnssd = None
                await dnssd.close()

    def _note_dnssd(self, text: str) -> None:
        if text and text != self._dnssd_note:
            log.info("%s", text)
        self._dnssd_note = text

    async def _listen(self, make_beacon: Callable[[], Beacon]) -> None:
        async with make_beacon() as beacon:
            self._beacon = beacon
            while True:
                heard = await beacon.receive()
                beacon.slow_down(crowded=self.membership.crowded)
                try:
                    self.ref.tell(heard)
                except Congested:
                    # The next beacon, a second later, says it again.
                    self.system.count("hints_lost")

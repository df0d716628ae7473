"""The Discoverer of a node: the shell of the membership machine, and the owner of the node's beacons.

What it hears are hints; the Router is told whom to dial (`DialWanted`), and what the Router says of links decides.
"""

import logging
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, ClassVar

from atoll.actors.discoverer.membership import Membership
from atoll.actors.discoverer.messages import ListSeen, Seed, Wanted
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, PeerDown, PeerUp, RoutesDescribed
from atoll.actors.runtime import AskFailed, Declined, Delivery, MachineActor
from atoll.actors.runtime.machine import Told
from atoll.transport.base import DialFailed, Standing
from atoll.transport.beacon import Beacon
from atoll.transport.errors import Congested
from atoll.transport.identity import NodeId
from atoll.transport.network_watch import NetworkChanged, NetworkWatch

log = logging.getLogger("atoll.actors")

LEARN_S = 2.0
"""What the Router has to say which links are up, before the Discoverer begins without that."""


class Discoverer(MachineActor):
    """Finds nodes on the networks of this host; answers `ListSeen`, to its own node and to members.

    It announces `DialWanted`, `NodeSeen` and `NodeLost`, and listens to `PeerUp`, `PeerDown`, `DialFailed`, `Wanted`.
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
    ) -> None:
        """Take what makes the node's beacon, or None where there shall be none, and nodes whose address is known."""
        self._watch = watch
        self._changes = 0
        self.membership = Membership(own, rng=rng or Random(), seeds=seeds)
        self._make_beacon = beacon
        self._beacon: Beacon | None = None
        super().__init__(self.membership)

    async def started(self) -> None:
        """Begin to say and to hear beacons."""
        for fact in (PeerUp, PeerDown, DialFailed, Wanted):
            self.system.subscribe(fact, self.ref)
        await super().started()
        await self._learn_links()
        self.tasks.start_soon(self._watch(self._network_changed).run, name="watching the network")
        if self._make_beacon is not None:
            self.tasks.start_soon(self._listen, self._make_beacon, name="hearing beacons")

    async def receive(self, delivery: Delivery) -> Any:
        """Hand it to the machine; who is near here is nobody's business beyond the site."""
        if isinstance(delivery.message, ListSeen):
            if delivery.standing not in (None, Standing.MEMBER):
                raise Declined("the nodes seen here are told to members of the site only")
            self.membership.notes = self._beacon.notes if self._beacon is not None else ()
        return await super().receive(delivery)

    def statistics(self) -> dict[str, int]:
        """Count what the beacon and the machine have done."""
        beacon = self._beacon.statistics() if self._beacon is not None else {}
        return {
            **{f"beacon {name}": count for name, count in beacon.items()},
            "network_changes": self._changes,
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

    def _network_changed(self, change: NetworkChanged) -> None:
        """Say where we are now, and let links over lost addresses be dialled again."""
        if change.gone:
            log.info("this host has lost %s (%s)", ", ".join(sorted(change.gone)), change.why)
        self._changes += 1
        self.system.announce(change)
        self.ref.tell(change)
        if self._beacon is not None:
            self._beacon.hurry()

    async def _listen(self, make_beacon: Callable[[], Beacon]) -> None:
        async with make_beacon() as beacon:
            self._beacon = beacon
            while True:
                heard = await beacon.receive()
                try:
                    self.ref.tell(heard)
                except Congested:
                    # The next beacon, a second later, says it again.
                    self.system.count("hints_lost")

"""The shell of the suspicion machine: probes go over links between members, and nobody else is listened to."""

import logging
import time
from random import Random
from typing import Any, ClassVar

from atoll.actors.discoverer.messages import DescribeMembers, Leaving
from atoll.actors.discoverer.suspicion import Suspicion
from atoll.actors.discoverer.suspicion_settings import SuspicionSettings
from atoll.actors.elector.messages import SupernodeElected, SupernodeLost
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import DescribeRoutes, PeerDown, PeerUp, RoutesDescribed
from atoll.actors.runtime import AskFailed, Delivery, MachineActor
from atoll.actors.runtime.machine import Input, Told
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.actors")

LEARN_S = 2.0
"""What the Router has to say which links are up; later ones are heard of as facts."""


class FailureDetector(MachineActor):
    """Finds members that died; announces `MemberSuspected`, `MemberDied`, `MemberAlive` and `MemberLeft`.

    It hears of links through `PeerUp` and `PeerDown`, and of who is supernode; it is asked to take leave of all with
    `Leaving`.
    """

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, own: NodeId, *, rng: Random | None = None, settings: SuspicionSettings | None = None) -> None:
        """Begin a new incarnation; a clock that was set back is made up for by the first refutation."""
        self.suspicion = Suspicion(own, incarnation=time.time_ns() // 1_000_000, rng=rng or Random(), settings=settings)
        super().__init__(self.suspicion)

    async def started(self) -> None:
        """Begin to probe, those first to whom links are up already: this actor may have crashed and begun anew."""
        for fact in (PeerUp, PeerDown, SupernodeElected, SupernodeLost):
            self.system.subscribe(fact, self.ref)
        await super().started()
        router = self.system.find(ROUTER)
        if router is None:
            return
        try:
            described: RoutesDescribed = await router.ask(DescribeRoutes(), timeout_s=LEARN_S)
        except AskFailed as error:
            log.warning(
                "the Router does not say which links are up; members are probed as they are heard of: %s", error
            )
            return
        for link in described.links:
            if link.standing is Standing.MEMBER:
                self.handle(Told(PeerUp(link.peer, link.standing, link.label, link.host)))

    async def receive(self, delivery: Delivery) -> Any:
        """Say what is believed of members, to those who ask on this node; everything else is the machine's."""
        if isinstance(delivery.message, DescribeMembers) and delivery.standing is None:
            return self.suspicion.described(self.system.clock())
        if isinstance(delivery.message, Leaving) and delivery.standing is None:
            self.handle(Told(delivery.message))
            return True
        return await super().receive(delivery)

    def input_of(self, delivery: Delivery) -> Input | None:
        """Leave links to neighbours out: nobody of another site is probed."""
        event = super().input_of(delivery)
        if isinstance(event, Told) and isinstance(event.fact, PeerUp) and event.fact.standing is not Standing.MEMBER:
            return None
        return event

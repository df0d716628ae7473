"""The placement of a node: the shell of the placement machine.

Members only: a neighbour can neither ask nor pose as a supernode.
"""

import contextlib
import logging
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import (
    DescribeElection,
    ElectionStatus,
    LeaseEnded,
    LeaseRenewed,
    RosterInForce,
    SupernodeElected,
    SupernodeLost,
)
from atoll.actors.placement.messages import PATH, Accepted, Amnesia, DescribePlacement, Promised
from atoll.actors.placement.placement import Placement
from atoll.actors.runtime import AskFailed, Delivery, Journal, MachineActor
from atoll.actors.runtime.machine import Address, Input, Told
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

__all__ = ["PATH", "PlacementActor"]

log = logging.getLogger("atoll.placement")

ELECTION_S = 2.0
"""What the Elector may take to say how the election stands; it says so again whenever something changes."""


class PlacementActor(MachineActor):
    """Keeps this node's copy of the placement, and serves it while this node is supernode.

    Start it behind the Elector: it lives by what that announces. What it promised and took is in the journal at
    `journal` before anybody hears of it; while that is damaged, its copy counts for nothing.
    """

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, own: NodeId, *, journal: Path, rng: Random | None = None) -> None:
        self.placement = Placement(own, rng=rng or Random())
        super().__init__(self.placement, Journal(journal, [Accepted, Promised, Amnesia], loss=Amnesia))

    async def started(self) -> None:
        """Restore the copy, listen to the election, and ask how it stands."""
        await super().started()
        if self.placement.register.forgetful:
            log.warning("the copy of the placement is damaged (%s): it counts for nothing", self._damage())
        for fact in (LeaseRenewed, LeaseEnded, SupernodeElected, SupernodeLost, RosterInForce):
            self.system.subscribe(fact, self.ref)
        # Elected before this began to listen, perhaps.
        election = Address(self.placement.own, ELECTOR)
        with contextlib.suppress(AskFailed):
            status: ElectionStatus = await self.system.ask(election, DescribeElection(), timeout_s=ELECTION_S)
            self.handle(Told(status))

    async def receive(self, delivery: Delivery) -> Any:
        """Describe the placement to those who ask on this node; everything else is the machine's."""
        if isinstance(delivery.message, DescribePlacement) and delivery.standing is None:
            return self.placement.status(self.system.clock())
        return await super().receive(delivery)

    def handle(self, event: Input) -> None:
        """Let the machine take one input; say it when a supernode has filled a damaged copy."""
        forgetful = self.placement.register.forgetful
        super().handle(event)
        if forgetful and not self.placement.register.forgetful:
            log.info("the supernode has filled the copy of the placement again")

    def statistics(self) -> dict[str, int]:
        """Count what was refused."""
        return dict(sorted(self.placement.counts.items()))

    def _damage(self) -> str:
        return self.placement.register.damage

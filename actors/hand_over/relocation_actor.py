"""Looks after the site's migratable actors whose host is gone: the shell of the relocation machine. Members only."""

import contextlib
import logging
from typing import Any, ClassVar

from atoll.actors.discoverer.messages import MemberAlive, MemberDied, MemberLeft
from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import (
    DescribeElection,
    DrainWanted,
    RosterInForce,
    ScoreChanged,
    SupernodeElected,
    SupernodeLost,
)
from atoll.actors.hand_over.messages import HOSTING
from atoll.actors.hand_over.orders import DescribeOffers
from atoll.actors.hand_over.relocation import Relocation
from atoll.actors.hand_over.shell import SiteShell
from atoll.actors.hand_over.site_messages import RELOCATION, HostOffers, Relocated
from atoll.actors.runtime import AskFailed
from atoll.actors.runtime.machine import Told
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

__all__ = ["RELOCATION", "RelocationActor"]

log = logging.getLogger("atoll.hosting")


class RelocationActor(SiteShell):
    """Says what this node hosts, and places the actors of dead hosts elsewhere while this node is supernode."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, own: NodeId) -> None:
        self.relocation = Relocation(own)
        super().__init__(self.relocation)

    async def started(self) -> None:
        """Listen to the election, to who lives, and to what this node hosts; ask how the election stands."""
        facts = (
            SupernodeElected,
            SupernodeLost,
            RosterInForce,
            MemberAlive,
            MemberDied,
            MemberLeft,
            HostOffers,
            ScoreChanged,
            DrainWanted,
        )
        for fact in facts:
            self.system.subscribe(fact, self.ref)
        await super().started()
        # Said before this began to listen, perhaps.
        for path, question in ((ELECTOR, DescribeElection()), (HOSTING, DescribeOffers())):
            with contextlib.suppress(AskFailed):
                self.handle(Told(await self._ask_here(path, question)))

    def announce(self, fact: Any) -> None:
        """Say what was placed elsewhere, and why."""
        if isinstance(fact, Relocated):
            log.info("%s is placed on %s, generation %d: %s", fact.actor, fact.host.short, fact.generation, fact.why)
        super().announce(fact)

    def statistics(self) -> dict[str, int]:
        """Count what was ignored."""
        return {"ignored": self.relocation.ignored}

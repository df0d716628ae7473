"""The Elector of a node: the shell of the election machine.

It votes with members only: a link's standing decides who is within reach, and a neighbour never is.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from atoll.actors.elector.election import Election
from atoll.actors.elector.messages import (
    PATH,
    Amnesia,
    Ballot,
    DescribeElection,
    DrainWanted,
    ElectionStatus,
    Leave,
    MemberReachable,
    MemberUnreachable,
    PlacementSettled,
    Reform,
    ReformSite,
    Resign,
    RosterChain,
    ScoreChanged,
    Signing,
)
from atoll.actors.elector.roster import Notary, Roster
from atoll.actors.elector.score import Score
from atoll.actors.elector.settings import ElectionSettings
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime import Declined, Delivery, Journal, MachineActor
from atoll.actors.runtime.machine import Input, Told
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId
from atoll.transport.keys import SiteKeys

__all__ = ["PATH", "Elector"]

log = logging.getLogger("atoll.elector")


class Elector(MachineActor):
    """Takes part in the election of a site's supernode; announces `SupernodeElected` and `SupernodeLost`.

    It hears of links through announced `PeerUp` and `PeerDown`, and takes `ScoreChanged` and `Resign` as facts. What
    it promised is in the journal at `journal` before anybody hears of it; while that is damaged, it has no vote.
    """

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(
        self,
        own: NodeId,
        site: SiteKeys,
        roster: Roster,
        *,
        sign: Callable[[bytes], bytes],
        journal: Path,
        score: Score | None = None,
        settings: ElectionSettings | None = None,
        named: Sequence[NodeId] = (),
        gated: bool = False,
        rng: Random | None = None,
    ) -> None:
        """Take the node's `sign`, which gives its Ed25519 signature; `named`: voters that a person chose.

        `gated`: a placement runs beside it, and the roster waits for its `PlacementSettled`.
        """
        self.election = Election(
            own,
            roster,
            rng=rng or Random(),
            notary=Notary(roster_key=site.roster_key, site_tag=site.tag, sign=sign),
            score=score,
            settings=settings,
            named=named,
            gated=gated,
        )
        self._draining = False
        """While it does it calls itself as unfit as can be, so that nobody hands the lead to it."""
        self._score = score or Score()
        super().__init__(self.election, Journal(journal, [Ballot, RosterChain, Signing, Amnesia], loss=Amnesia))

    async def started(self) -> None:
        """Restore what was promised, then listen to what happens on this node."""
        await super().started()
        if (recollection := self.election.recollection) is not None:
            log.warning("%s", recollection.because(self.election.roster))
        for fact in (PeerUp, PeerDown, ScoreChanged, Resign, Leave, DrainWanted, PlacementSettled):
            self.system.subscribe(fact, self.ref)

    async def receive(self, delivery: Delivery) -> Any:
        """Say how the election stands, to those who ask on this node; everything else is the machine's."""
        if isinstance(delivery.message, DescribeElection) and delivery.standing is None:
            return self.election.status(self.system.clock())
        if isinstance(delivery.message, ReformSite) and delivery.standing is None:
            return self._reform(delivery.message)
        return await super().receive(delivery)

    def _reform(self, asked: ReformSite) -> ElectionStatus:
        why_not = self.election.reform_refusal()
        if why_not and not asked.force:
            raise Declined(why_not)
        log.warning("the site is reformed, with this node as its only voter: %s", asked.reason)
        self.handle(Told(Reform(asked.reason)))
        return self.election.status(self.system.clock())

    def handle(self, event: Input) -> None:
        """Let the machine take one input; say it when a voter has its vote back."""
        forgetful = self.election.recollection is not None
        super().handle(event)
        if forgetful and self.election.recollection is None:
            log.info("enough voters told their epochs: this node votes again, above epoch %d", self.election.epoch)

    def input_of(self, delivery: Delivery) -> Input | None:
        """Turn links into reach: a member's link counts, a neighbour's does not."""
        event = super().input_of(delivery)
        match event:
            case Told(PeerUp(peer=peer, standing=Standing.MEMBER)):
                return Told(MemberReachable(peer))
            case Told(PeerUp()):
                return None
            case Told(PeerDown(peer=peer)):
                return Told(MemberUnreachable(peer))
            case Told(DrainWanted(draining=draining)):
                self._draining = draining
                return Told(ScoreChanged(Score() if draining else self._score))
            case Told(ScoreChanged(score=score)):
                self._score = score
                return None if self._draining else event
        return event

"""Who does the site's soft duties, and what every member knows of the site.

    member     --SupernodeElected(another)--> reports to it, learns the roll from it
    supernode  --SupernodeElected(this one)--> keeps the roll, starts registrar and proxy
               --SupernodeElected(another), SupernodeLost--> stops them

Soft duties may be held twice for a moment, on two sides of a cut: nothing they do harms anybody then. The supernode's
own record goes through the same roll as everybody's.
"""

import contextlib
import logging
from collections import Counter
from functools import partial
from typing import Any, ClassVar

import anyio

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.discoverer.messages import MemberDied, MemberLeft
from atoll.actors.duties.messages import (
    DUTIES,
    PATH,
    PROXY,
    REGISTRAR,
    DescribeSite,
    MemberHere,
    OwnRecordChanged,
    SiteDescribed,
    SiteKnown,
    SiteRoll,
)
from atoll.actors.duties.proxy import Proxy
from atoll.actors.duties.registrar import Registrar
from atoll.actors.duties.roll import Roll, sane
from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import DescribeElection, ElectionStatus, SupernodeElected, SupernodeLost
from atoll.actors.router.messages import PeerDown, PeerUp
from atoll.actors.runtime.actor import LATER, Actor, Delivery
from atoll.actors.runtime.errors import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.transport.base import Standing
from atoll.transport.errors import Congested
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.duties")

HELD = "duties_held"
"""The supervisor of the duties that this node holds."""
ELECTION_S = 2.0
REPORT_S = 5.0
"""A record lives for three of these."""


class Duties(Actor):
    """Holds this node's share of the site's duties."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, own: NodeRecord, *, has_cloud: bool) -> None:
        self._own = own
        self._has_cloud = has_cloud
        self._roll = Roll()
        self._members: set[NodeId] = set()
        self._supernode: NodeId | None = None
        self._known: tuple[NodeRecord, ...] = (own,)
        self._held: tuple[str, ...] = ()
        self._holder: NodeId | None = None
        self._serving = False
        self._soon = anyio.Event()
        self._counts: Counter[str] = Counter()

    async def started(self) -> None:
        """Listen to the election, to links, and to what this node offers."""
        for fact in (SupernodeElected, SupernodeLost, PeerUp, PeerDown, MemberDied, MemberLeft, OwnRecordChanged):
            self.system.subscribe(fact, self.ref)
        # Elected before this began to listen, perhaps: a fresh Duties after a crash has missed it.
        election = Address(self._own.node, ELECTOR)
        with contextlib.suppress(AskFailed):
            status: ElectionStatus = await self.system.ask(election, DescribeElection(), timeout_s=ELECTION_S)
            if status.supernode is not None:
                self.ref.tell(SupernodeElected(status.supernode, status.epoch, status.confirmed, status.why))
        self.tasks.start_soon(self._report)

    async def receive(self, delivery: Delivery) -> Any:  # noqa: C901, PLR0912 - one case a message
        """Take facts, members' records and the supernode's roll."""
        sender = delivery.sender.address.node if delivery.sender is not None else self._own.node
        match delivery.message:
            case MemberHere(record=record):
                self._take_record(sender, record)
            case SiteRoll() as roll if sender == self._supernode:
                self._learn(roll.records, sender, roll.held)
            case SiteRoll():
                self._counts["rolls_of_others"] += 1
            case SupernodeElected(node=node):
                await self._follow(node)
            case SupernodeLost():
                await self._follow(None)
            case PeerUp(peer=peer, standing=Standing.MEMBER):
                self._members.add(peer)
                self._soon.set()
            case PeerDown(peer=peer):
                # No more than suspected: others may reach it, and a link comes again.
                self._members.discard(peer)
            case MemberDied(node=node) | MemberLeft(node=node):
                if self._roll.lost(node) and self._serving:
                    self._tell_roll()
            case OwnRecordChanged(services=services, actors=actors):
                own = self._own
                self._own = NodeRecord(own.node, own.name, own.site, own.version, services, actors)
                self._soon.set()
            case DescribeSite() if delivery.standing is None:
                return SiteDescribed(self._known, self._holder, self._held)
            case PeerUp():
                pass
            case _:
                return await super().receive(delivery)
        return LATER

    def _take_record(self, sender: NodeId, record: NodeRecord) -> None:
        if record.node != sender or record.site != self._own.site or not sane(record):
            self._counts["records_refused"] += 1
            return
        if self._roll.take(record, self.system.clock()) and self._serving:
            self._tell_roll()

    async def _follow(self, supernode: NodeId | None) -> None:
        if supernode == self._supernode:
            return
        self._supernode = supernode
        if supernode == self._own.node:
            await self._begin_to_serve()
        elif self._serving:
            await self._stop_to_serve()
        if supernode is None:
            self._learn((self._own,), None, ())
        self._soon.set()

    async def _begin_to_serve(self) -> None:
        self._serving = True
        self._roll.take(self._own, self.system.clock())
        if self._has_cloud:
            own, site = self._own.node, self._own.site
            # Each may crash and start again without the other; both end with the duty.
            for name, factory in ((PROXY, partial(Proxy, own, site)), (REGISTRAR, partial(Registrar, site))):
                if self.system.find(name) is None:
                    await self.system.spawn(factory, name, under=HELD)
        log.info(
            "this node is supernode and holds the duties %s",
            ", ".join(DUTIES) if self._has_cloud else "of none: no cloud",
        )
        self._tell_roll()

    async def _stop_to_serve(self) -> None:
        self._serving = False
        for name in (REGISTRAR, PROXY):
            ref = self.system.find(name)
            if ref is not None:
                await self.system.stop(ref)
        log.info("this node gives its duties up")

    def _tell_roll(self) -> None:
        """Tell every member what the roll says now."""
        records = self._roll.records()
        held = DUTIES if self._has_cloud else ()
        self._learn(records, self._own.node, held)
        for member in sorted(self._members):
            self._tell(member, SiteRoll(records, held))

    def _learn(self, records: tuple[NodeRecord, ...], holder: NodeId | None, held: tuple[str, ...]) -> None:
        self._known, self._holder, self._held = records, holder, held
        self.system.announce(SiteKnown(records, holder, held))

    async def _report(self) -> None:
        """Say again what must not be forgotten: to the supernode, or as it."""
        while True:
            self._soon = anyio.Event()
            if self._serving:
                self._roll.take(self._own, self.system.clock())
                self._roll.sweep(self.system.clock())
                self._tell_roll()
            elif self._supernode is not None:
                self._tell(self._supernode, MemberHere(self._own))
            with anyio.move_on_after(REPORT_S):
                await self._soon.wait()

    def _tell(self, node: NodeId, message: MemberHere | SiteRoll) -> None:
        try:
            self.system.tell(Address(node, PATH), message, sender=self.ref)
        except Congested:
            # It is said again in a few seconds.
            self._counts["congested"] += 1

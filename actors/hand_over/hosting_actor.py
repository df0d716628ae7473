"""Hosts migratable actors on a node: the shell of the hosting machine, and what moves actors on a person's order.

    HostActor  --the voters are known, for one that has a log-->  Found: here, unless the placement has it elsewhere
    Serving    --a soft one-->  its actor begins, under the supervisor of `applications.py`; it ends with its tenure
    MoveWanted --Moved--> MoveEnded
    RemovalWanted --Removed--> RemovalEnded; a removed one is begun by the next HostActor only
    DrainHosted --each is moved to the next member that takes it--> HostedDrained; offers are declined meanwhile

Members only: whoever belongs to the site may call an actor, offer one, and order a move.
"""

import contextlib
import logging
import zlib
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import anyio

from atoll.actors.duties.messages import SiteKnown
from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import DescribeElection, DrainWanted, ElectionStatus, RosterInForce
from atoll.actors.hand_over.application import Application
from atoll.actors.hand_over.applications import DurableApplication, SoftApplication
from atoll.actors.hand_over.durable import DurableOwner
from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.messages import (
    HOST_RECORDS,
    HOSTING,
    PAUSE_MS_MAX,
    WHY_CHARACTERS_MAX,
    MoveEnded,
    MoveWanted,
    OfferState,
    RemovalEnded,
    RemovalWanted,
    StateDeclined,
)
from atoll.actors.hand_over.orders import (
    Ceased,
    DescribeOffers,
    DrainHosted,
    Found,
    GivenAway,
    HostActor,
    HostedDrained,
    Move,
    Moved,
    Remove,
    Removed,
    Serving,
)
from atoll.actors.hand_over.repertoire import Repertoire
from atoll.actors.hand_over.shell import SiteShell
from atoll.actors.hand_over.site_messages import (
    KINDS_MAX,
    DescribeHosting,
    HostedActor,
    HostedState,
    HostingDescribed,
    HostOffers,
)
from atoll.actors.placement.messages import ACTORS_MAX
from atoll.actors.runtime import LATER, AskDeclined, AskFailed, Declined, Delivery, KeyedJournal
from atoll.actors.runtime.actor import ReplyTo
from atoll.actors.runtime.machine import Input, Received, Send, Told
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

__all__ = ["HOSTING", "HostingActor"]

log = logging.getLogger("atoll.hosting")

STORES = 3
"""Logs of a durable actor: once all have it, the loss of any one neither loses nor stops anything."""
MOVES_MAX = 8
"""Moves at once when a node is drained: each has a whole state in memory."""
WAITING_MAX = 64
"""Who waits for the end of a move at once."""
SETTLE_S = 0.05
"""Until a drained node looks again at an actor that has only begun here."""


def stores_among(voters: tuple[NodeId, ...], own: NodeId, preferred: frozenset[NodeId]) -> tuple[NodeId, ...]:
    """Choose who keeps an actor's log: this node first, then voters in reach, then others."""
    order = sorted(voters, key=lambda node: (node != own, node not in preferred, node))
    return tuple(sorted(order[:STORES]))


class _Waiting:
    """Somebody who waits for the end of a move."""

    def __init__(self, target: NodeId) -> None:
        self.target = target
        self.over = anyio.Event()
        self.moved: Moved | None = None


class HostingActor(SiteShell):
    """Runs the migratable actors that are placed on this node; see the module."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, own: NodeId, repertoire: Repertoire, *, journal: Path, rng: Random | None = None) -> None:
        """`repertoire`: what this node can run and was told to host; it outlives this actor."""
        self.hosting = Hosting(own, rng=rng or Random(), make=self._make)
        self._repertoire = repertoire
        self._voters: tuple[NodeId, ...] = ()
        self._members: tuple[NodeId, ...] = ()
        self._told: set[str] = set()
        """Actors that the machine was told to host."""
        self._tenures = 0
        self._draining = False
        self._waiting: dict[str, list[_Waiting]] = {}
        self._removing: dict[str, list[ReplyTo]] = {}
        """Who waits for the end of a removal."""
        super().__init__(self.hosting, KeyedJournal(journal, HOST_RECORDS))

    async def started(self) -> None:
        """Take up what was offered, and what this node was told to host."""
        for fact in (RosterInForce, SiteKnown, DrainWanted):
            self.system.subscribe(fact, self.ref)
        await super().started()
        with contextlib.suppress(AskFailed):
            status = await self._ask_here(ELECTOR, DescribeElection())
            if isinstance(status, ElectionStatus):
                self._voters = status.voters
        self._find_places()
        self._tell_offers()

    async def receive(self, delivery: Delivery) -> Any:
        """Take orders of this node and of members; everything else is the machine's."""
        match delivery.message:
            case MoveWanted() | RemovalWanted() as wanted if delivery.reply_to is not None:
                self._take_order(wanted, delivery.reply_to)
                return LATER
            case HostActor(actor) if delivery.standing is None:
                # Once more, perhaps: it may have been removed since.
                self._told.discard(actor)
                self._find_places()
                self._tell_offers()
                return None
            case DrainHosted(within_s=within_s) if delivery.standing is None:
                self.tasks.start_soon(self._drain, delivery.reply_to, within_s)
                return LATER
            case DescribeOffers() if delivery.standing is None:
                return self._offers()
            case DescribeHosting() if delivery.reply_to is not None:
                return HostingDescribed(tuple(map(self._describe, sorted(self.hosting.owners)[:ACTORS_MAX])))
        return await super().receive(delivery)

    def _take_order(self, wanted: MoveWanted | RemovalWanted, asked: ReplyTo) -> None:
        if isinstance(wanted, MoveWanted):
            self.tasks.start_soon(self._obey, wanted, asked)
        else:
            self._remove(wanted, asked)

    def input_of(self, delivery: Delivery) -> Input | None:
        """Note what concerns this shell alone, and decline offers to a node that is drained."""
        event = super().input_of(delivery)
        match event:
            case Told(RosterInForce(voters=voters)):
                self._voters = voters
                self._find_places()
                return None
            case Told(SiteKnown(records=records)):
                self._members = tuple(each.node for each in records if each.node != self.hosting.own)
                return None
            case Told(DrainWanted(draining=draining)):
                self._draining = draining
                return None
            case Received(sender=sender, message=OfferState(actor=actor, move=move)) if self._draining:
                self._send(Send(sender, StateDeclined(actor, move, "this node is drained"), HOSTING))
                return None
        return event

    def announce(self, fact: Any) -> None:
        """Begin and end what is hosted; tell who waits for a move."""
        match fact:
            case Serving(actor, generation, _):
                log.info("this node hosts %s, generation %d", actor, generation)
                application = self.hosting.owners[actor].application if actor in self.hosting.owners else None
                if isinstance(application, SoftApplication):
                    self.tasks.start_soon(application.run, self.system)
            case Ceased(actor, generation, why):
                log.info("this node hosts %s, generation %d, no longer: %s", actor, generation, why)
            case Moved(actor=actor, target=target):
                waiting = self._waiting.pop(actor, [])
                others = [each for each in waiting if each.target != target]
                if others:
                    self._waiting[actor] = others
                for each in waiting:
                    if each.target == target:
                        each.moved = fact
                        each.over.set()
            case Removed(actor, why):
                self._removed(actor, why)
        super().announce(fact)
        if isinstance(fact, Serving | Ceased):
            self._tell_offers()

    def _tell_offers(self) -> None:
        """Tell this node what it can run, and what it owns now."""
        self.system.announce(self._offers())

    def _offers(self) -> HostOffers:
        return HostOffers(tuple(sorted(self._repertoire.kinds))[:KINDS_MAX], self.hosting.owned())

    def statistics(self) -> dict[str, int]:
        """Count what is here, and what was ignored."""
        hosting = self.hosting
        owners = hosting.owners.values()
        return {
            "arriving": len(hosting.arrivals.here),
            "diverged": sum(each.diverged for each in owners if isinstance(each, DurableOwner)),
            "hosted": len(hosting.owners),
            "ignored": hosting.ignored,
        }

    def _describe(self, actor: str) -> HostedActor:
        owner = self.hosting.owners[actor]
        state: HostedState = "running" if owner.serving else "waiting"
        if actor in self.hosting.departures:
            state = "moving"
        elif owner.frozen:
            state = "frozen"
        why = owner.why if state == "waiting" else ""
        paused_ms = self.hosting.paused_ms.get(actor)
        behind = owner.behind if isinstance(owner, DurableOwner) else ()
        return HostedActor(actor, owner.kind, owner.placed, state, why[:WHY_CHARACTERS_MAX], paused_ms, behind)

    def _make(self, actor: str, kind: str) -> Application | None:
        found = self._repertoire.kinds.get(kind)
        if found is None:
            return None
        if found.durable:
            return DurableApplication(found)
        if isinstance(self.hosting.owners.get(actor), DurableOwner):
            # Placed with a log by mistake: its operations could not be applied again.
            return None
        self._tenures += 1
        return SoftApplication(found, actor, f"hosted/{actor}/{self._tenures}", self._applied)

    def _applied(self, fact: Any) -> None:
        self.handle(Told(fact))

    def _find_places(self) -> None:
        """Tell the machine what to host, as soon as it is known where logs can be kept."""
        for actor, kind in sorted(self._repertoire.hosted.items()):
            if actor in self._told or (kind.durable and not self._voters):
                continue
            self._told.add(actor)
            reached = frozenset(self._linked or ())
            stores = stores_among(self._voters, self.hosting.own, reached) if kind.durable else ()
            self.handle(Told(Found(actor, kind.name, stores)))

    # Moves on order

    async def _move(self, actor: str, target: NodeId) -> Moved:
        """Move an actor that is owned here, and wait until that is over.

        Raises:
            Declined: It is not served here, or is moving elsewhere already.
        """
        owner = self.hosting.owners.get(actor)
        if owner is None or not owner.serving:
            raise Declined(f"{actor} is not served here" + (f": {owner.why}" if owner is not None else ""))
        if sum(map(len, self._waiting.values())) >= WAITING_MAX:
            raise Declined(f"{WAITING_MAX} wait for the end of a move already: ask again later")
        waiting = self._waiting.setdefault(actor, [])
        if any(each.target != target for each in waiting):
            raise Declined(f"{actor} is moving elsewhere already")
        mine = _Waiting(target)
        waiting.append(mine)
        if len(waiting) == 1:
            self.handle(Told(Move(actor, target)))
        await mine.over.wait()
        assert mine.moved is not None  # noqa: S101 - for mypy: it is set before the event
        return mine.moved

    async def _obey(self, wanted: MoveWanted, asked: ReplyTo) -> None:
        try:
            moved = await self._move(wanted.actor, wanted.target)
        except Declined as error:
            asked.fail(AskDeclined(str(error)))
            return
        paused_ms = min(PAUSE_MS_MAX, max(0.0, moved.paused_s * 1000))
        asked.answer(MoveEnded(wanted.actor, wanted.target, paused_ms, moved.why))

    # Removals on order

    def _remove(self, wanted: RemovalWanted, asked: ReplyTo) -> None:
        if sum(map(len, self._removing.values())) >= WAITING_MAX:
            asked.fail(AskDeclined(f"{WAITING_MAX} wait for the end of a removal already: ask again later"))
            return
        self._removing.setdefault(wanted.actor, []).append(asked)
        self.handle(Told(Remove(wanted.actor, wanted.founded)))

    def _removed(self, actor: str, why: str) -> None:
        """Tell who waits, and host it no more: only a program that says so again begins it anew."""
        if not why:
            log.info("%s was removed from this site", actor)
            self._repertoire.hosted.pop(actor, None)
            self._told.discard(actor)
        for asked in self._removing.pop(actor, []):
            asked.answer(RemovalEnded(actor, why[:WHY_CHARACTERS_MAX]))

    async def _drain(self, asked: ReplyTo | None, within_s: float) -> None:
        moved: list[GivenAway] = []
        whys: dict[str, str] = {}
        room = anyio.Semaphore(MOVES_MAX)
        with anyio.move_on_after(within_s):
            async with anyio.create_task_group() as tasks:
                for actor in sorted(self.hosting.owners):
                    whys[actor] = f"it did not get away within {within_s:g} s"
                    tasks.start_soon(self._give_away, actor, room, moved, whys)
        if asked is not None:
            stayed = tuple((actor, why) for actor, why in sorted(whys.items()) if actor in self.hosting.owners)
            asked.answer(HostedDrained(tuple(sorted(moved, key=lambda each: each.actor)), stayed))

    async def _give_away(self, actor: str, room: anyio.Semaphore, moved: list[GivenAway], whys: dict[str, str]) -> None:
        began = self.system.clock()
        async with room:
            for target in self._takers(actor):
                while actor in self.hosting.owners:
                    try:
                        ended = await self._move(actor, target)
                    except Declined as error:
                        whys[actor] = str(error)
                        await anyio.sleep(SETTLE_S)
                        continue
                    if not ended.why:
                        moved.append(GivenAway(actor, target, self.system.clock() - began, ended.paused_s))
                        return
                    whys[actor] = ended.why
                    break
            if actor in self.hosting.owners and not self._members:
                whys[actor] = "no other member could take it"

    def _takers(self, actor: str) -> list[NodeId]:
        """Give the members that may take an actor, those in reach first; another order for each actor."""
        linked = self._linked or frozenset(self._members)
        return sorted(self._members, key=lambda node: (node not in linked, zlib.crc32(actor.encode() + bytes(node))))

"""The migratable actors of a site, as a program sees them: host, find, move, remove one. `Node` is their door."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio

from atoll.actors.duties.messages import PATH as DUTIES
from atoll.actors.duties.messages import DescribeSite, SiteDescribed
from atoll.actors.hand_over.callers_actor import MigratableRef
from atoll.actors.hand_over.client import PlaceKnown, PlaceUnknown
from atoll.actors.hand_over.messages import (
    CALLERS,
    HOSTING,
    LOG_STORE,
    LogDoubted,
    MoveEnded,
    MoveWanted,
    RemovalEnded,
    RemovalWanted,
)
from atoll.actors.hand_over.migratable import MigratableActor
from atoll.actors.hand_over.orders import HostActor
from atoll.actors.hand_over.repertoire import Repertoire
from atoll.actors.placement.messages import PATH as PLACEMENT
from atoll.actors.placement.messages import (
    FindPlace,
    ListPlaces,
    Placed,
    PlaceFound,
    PlacesListed,
    PlaceSwapped,
    RemovePlace,
)
from atoll.actors.router.messages import PATH as ROUTER
from atoll.actors.router.messages import Reach
from atoll.actors.runtime import ActorSystem, Address, AskFailed
from atoll.transport.codec import Message
from atoll.transport.errors import Refused, Unreachable, UsageError
from atoll.transport.identity import NodeId

A = TypeVar("A", bound=Message)
LOOK_AGAIN_S = 0.05
ASK_S = 2.0
MOVE_S = 10.0
HOST_S = 5.0
"""For the host of an actor to end it: what is in hand there, and one write of the placement."""
REFUSED_S = 2.0
"""For which a move that is refused is tried again: an actor whose generation is about to change can leave soon."""
LABEL_S = 3.0
"""For a member to come up on the roll: it is told anew by each supernode."""


@dataclass(slots=True)
class _Removal:
    """What one removal has found out; the actor of that name that is founded next is none of its business."""

    name: str
    meant: int
    """In which generation the one that is meant was founded; 0 until that is known."""
    was_there: bool = field(init=False)
    """When it is there no more, then that is what was wanted."""
    why: str = "no answer"

    def __post_init__(self) -> None:
        self.was_there = self.meant > 0

    def over(self, found: PlaceFound) -> int | None:
        """Tell from a look at the placement whether there is nothing to do any more: what `SiteActors.remove` gives."""
        name = self.name
        if found.placed is None and not self.was_there:
            raise UsageError(f"no migratable actor of this site is called {name}")
        if found.placed is None:
            return 0
        if 0 < found.founded < self.meant:
            raise UsageError(f"{name} was founded in generation {found.founded}, and none in {self.meant} yet")
        if 0 < self.meant < found.founded:
            return found.founded
        self.meant, self.was_there = self.meant or found.founded, True
        return None

    def unfinished(self, timeout_s: float) -> str:
        """Say what is known when the time is over."""
        if not self.was_there:
            return f"{self.name} was not removed within {timeout_s:g} s: {self.why}"
        which = f" (the one that was founded in generation {self.meant})" if self.meant else ""
        return f"whether {self.name}{which} is removed is not known after {timeout_s:g} s: {self.why}"


class SiteActors:
    """Hosts, finds, moves and removes migratable actors from one node."""

    def __init__(self, system: ActorSystem, repertoire: Repertoire) -> None:
        self._system = system
        self._repertoire = repertoire

    def hosts(self, name: str) -> bool:
        """Tell whether this node was told to host an actor of that name."""
        return name in self._repertoire.hosted

    def host(self, make: Callable[[], MigratableActor], name: str) -> MigratableRef:
        """Host an actor of that name, unless the site has it already; see `Node.host`."""
        self._repertoire.host(name, self._repertoire.learn(make))
        self._system.tell(Address(self._system.node_id, HOSTING), HostActor(name))
        self._system.tell(Address(self._system.node_id, CALLERS), PlaceUnknown(name))
        return MigratableRef(self._system, name)

    async def find(self, name: str) -> MigratableRef:
        """Find an actor in the placement.

        Raises:
            Unreachable: It has no place there, or nobody can say so now.
        """
        if not self.hosts(name):
            try:
                placed = (await self._place(name)).placed
            except Unreachable as error:
                raise Unreachable(f"no node of this site offers an actor {name}; {error}") from error
            if placed is None:
                raise Unreachable(f"no node of this site offers an actor {name}")
            self._system.tell(Address(self._system.node_id, CALLERS), PlaceKnown(name, placed))
        return MigratableRef(self._system, name)

    async def _place(self, name: str, *, certain: bool = False) -> PlaceFound:
        """Ask this node's placement, and the supernode where that one names it."""
        why = "no member of this site answers"
        node = self._system.node_id
        for _ in range(3):
            try:
                found: PlaceFound = await self._system.ask(
                    Address(node, PLACEMENT), FindPlace(name), timeout_s=ASK_S, reply_type=PlaceFound
                )
            except AskFailed as error:
                why = str(error)
                node = self._system.node_id
                continue
            if not found.why or (found.placed is not None and not certain):
                return found
            why = found.why
            if found.supernode is None or found.supernode == node:
                break
            node = found.supernode
        raise Unreachable(f"where one that moves is cannot be told now: {why}")

    async def places(self) -> PlacesListed:
        """List all places, as certain as can be had: `why` says why they are only what was heard last.

        Raises:
            AskFailed: Not even this node's placement answers.
        """
        here = self._system.node_id
        listed: PlacesListed = await self._ask_here(PLACEMENT, ListPlaces())
        if listed.why and listed.supernode not in (None, here):
            supernode = Address(listed.supernode, PLACEMENT)
            with suppress(AskFailed):
                listed = await self._system.ask(supernode, ListPlaces(), timeout_s=ASK_S, reply_type=PlacesListed)
        return listed

    async def move(self, name: str, to: NodeId | str, timeout_s: float) -> MoveEnded:
        """Move an actor, wherever it is; see `Node.move`."""
        target = to if isinstance(to, NodeId) else await self._member(to, min(timeout_s, LABEL_S))
        why, refused_at = "no answer", math.inf
        with anyio.move_on_after(timeout_s):
            while anyio.current_time() < refused_at + REFUSED_S:
                try:
                    ended = await self._try_to_move(name, target, timeout_s)
                except (AskFailed, Unreachable) as error:
                    # It is on its way already, or its host has just gone: the placement will say.
                    why, refused_at = str(error), math.inf
                else:
                    if not ended.why:
                        return ended
                    why, refused_at = ended.why, min(refused_at, anyio.current_time())
                await anyio.sleep(LOOK_AGAIN_S)
        if refused_at < math.inf:
            raise Refused(f"{name} stays where it is: {why}")
        raise Unreachable(f"{name} was not moved within {timeout_s:g} s: {why}")

    async def remove(self, name: str, timeout_s: float, *, force: bool = False, founded: int = 0) -> int:
        """End an actor for good, wherever it is; see `Node.remove`.

        Gives 0, or in which generation another one of that name was founded since, which stays.
        """
        removal = _Removal(name, founded)
        with anyio.move_on_after(timeout_s):
            while True:
                try:
                    found = await self._place(name, certain=True)
                except Unreachable as error:
                    # The site elects a supernode, perhaps.
                    removal.why = str(error)
                else:
                    if (over := removal.over(found)) is not None:
                        return over
                    removal.why = await self._end(removal, found.placed, timeout_s, force=force)
                    if not removal.why:
                        return 0
                await anyio.sleep(LOOK_AGAIN_S)
        raise Unreachable(removal.unfinished(timeout_s))

    async def _end(self, removal: _Removal, placed: Placed | None, timeout_s: float, *, force: bool) -> str:
        """Have the host end the actor, or do without it; gives why it may be there still, or an empty string."""
        assert placed is not None  # noqa: S101 - or the removal would be over
        order = RemovalWanted(removal.name, removal.meant)
        try:
            return (await self.ask_host(placed.host, order, RemovalEnded, min(timeout_s, HOST_S))).why
        except AskFailed as error:
            return (
                await self._take_out(removal.name, placed)
                if force
                else f"its host {placed.host.short} says nothing: {error}"
            )

    async def _take_out(self, name: str, placed: Placed) -> str:
        """Remove the place of an actor whose host says nothing; gives why it is there still, or an empty string."""
        try:
            found: PlaceFound = await self._ask_here(PLACEMENT, FindPlace(name))
            asked = found.supernode or self._system.node_id
            swapped: PlaceSwapped = await self._system.ask(
                Address(asked, PLACEMENT), RemovePlace(name, placed), timeout_s=ASK_S, reply_type=PlaceSwapped
            )
        except AskFailed as error:
            return str(error)
        if swapped.done or swapped.first > placed.generation:
            for store in placed.stores:
                # They find out by themselves, too.
                self._system.tell(Address(store, LOG_STORE), LogDoubted(name))
            return ""
        return swapped.why or "the placement says no"

    async def _try_to_move(self, name: str, target: NodeId, timeout_s: float) -> MoveEnded:
        placed = (await self._place(name, certain=True)).placed
        if placed is None:
            raise UsageError(f"no migratable actor of this site is called {name}")
        if placed.host == target:
            return MoveEnded(name, target, 0.0, "")
        return await self.ask_host(placed.host, MoveWanted(name, target), MoveEnded, timeout_s)

    async def ask_host(self, host: NodeId, question: Message, answer: type[A], timeout_s: float) -> A:
        """Ask the hosting of a member, for which a way is opened.

        Raises:
            AskFailed: There is no way to it, or no answer.
        """
        if host != self._system.node_id:
            await self._ask_here(ROUTER, Reach(host))
        told = await self._system.ask(Address(host, HOSTING), question, timeout_s=timeout_s, reply_type=answer)
        assert isinstance(told, answer)  # noqa: S101 - for mypy
        return told

    async def _member(self, label: str, within_s: float) -> NodeId:
        """Give the member of that label; a supernode that has just been elected may not know it yet."""
        deadline = anyio.current_time() + within_s
        while True:
            site: SiteDescribed = await self._ask_here(DUTIES, DescribeSite())
            found = [each.node for each in site.records if label in (each.name, str(each.node), each.node.short)]
            if len(found) == 1:
                return found[0]
            if anyio.current_time() >= deadline:
                names = ", ".join(sorted(each.name for each in site.records))
                raise UsageError(f"{len(found)} members of this site are called {label}; there are {names}")
            await anyio.sleep(LOOK_AGAIN_S)

    async def _ask_here(self, path: str, message: Any) -> Any:
        return await self._system.ask(Address(self._system.node_id, path), message, timeout_s=ASK_S)

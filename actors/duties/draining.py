"""A node gives away all that it holds: users' actors and duties side by side, the supernode's place last.

draining --others hold it, or the time is over--> what moved where, and what stayed and why
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import anyio

from atoll.actors.duties.board import DutyBoard
from atoll.actors.duties.messages import Drained, Moved, Stayed
from atoll.actors.elector.messages import Resign
from atoll.actors.hand_over.messages import HOSTING
from atoll.actors.hand_over.orders import DrainHosted, HostedDrained
from atoll.actors.runtime import AskFailed
from atoll.actors.runtime.machine import Address
from atoll.actors.runtime.system import ActorSystem

HOSTED_RATIO = 0.8
"""Of the time for a drain, for users' actors: the rest is for saying what became of them."""


@dataclass(slots=True)
class Draining:
    """One drain of this node, for the Duties."""

    system: ActorSystem
    board: DutyBoard
    wait: Callable[[Callable[[], bool]], Awaitable[None]]
    """Waits until something is so that the board knows."""
    _moved: list[Moved] = field(default_factory=list)
    _last: list[Moved] = field(default_factory=list)
    _stayed: list[Stayed] = field(default_factory=list)
    _unheard: str = ""
    """Why it is not known what became of hosted actors; empty where it is, and where there are none."""

    async def run(self, within_s: float) -> Drained:
        """Wait until what is held and hosted here is elsewhere, then give the supernode's place up too."""
        began = self.system.clock()
        with anyio.move_on_after(within_s):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._give_hosted, within_s * HOSTED_RATIO)
                for duty in self.board.describe().held:
                    tasks.start_soon(self._give_duty, duty, began)
            # Last: what is exclusive moves by the word of a supernode.
            if self._presides() and not self.board.alone:
                await self._resign(began)
        if self._unheard:
            # Some may have moved: nobody must end this node in the belief that all have.
            self._stayed.append(Stayed("hosted actors", f"what became of them is not known: {self._unheard}"))
        why = "no other member could take it" if self.board.alone else f"no other member took it within {within_s:g} s"
        left = [*self.board.describe().held, *(["supernode"] if self._presides() else [])]
        self._stayed += [Stayed(each, why) for each in left]
        moved = [*sorted(self._moved, key=lambda each: each.what), *self._last]
        return Drained(True, tuple(moved), tuple(self._stayed))

    async def _give_duty(self, duty: str, began: float) -> None:
        await self.wait(partial(self._given, duty))
        to = self.board.holder(duty)
        if to is not None and to != self.board.own.node:
            self._moved.append(Moved(duty, to, self.system.clock() - began, 0.0))

    async def _resign(self, began: float) -> None:
        resigned = self.system.clock()
        self.system.announce(Resign("it drains"))
        await self.wait(self._another_presides)
        now, to = self.system.clock(), self.board.describe().supernode
        if to is not None:
            self._last.append(Moved("supernode", to, now - began, now - resigned))

    async def _give_hosted(self, within_s: float) -> None:
        """Have users' migratable actors moved away, where this node hosts any."""
        if self.system.find(HOSTING) is None:
            return
        hosting = Address(self.board.own.node, HOSTING)
        self._unheard = "they have not answered in time"
        try:
            drained: HostedDrained = await self.system.ask(hosting, DrainHosted(within_s), timeout_s=2 * within_s)
        except AskFailed as error:
            self._unheard = str(error)
            return
        self._unheard = ""
        self._moved += [Moved(each.actor, each.target, each.took_s, each.paused_s) for each in drained.moved]
        self._stayed += [Stayed(actor, why) for actor, why in drained.stayed]

    def _given(self, duty: str) -> bool:
        ended = duty not in self.board.describe().held and self.system.find(duty) is None
        return ended or self.board.alone

    def _another_presides(self) -> bool:
        return self.board.describe().supernode not in (None, self.board.own.node)

    def _presides(self) -> bool:
        return self.board.describe().supernode == self.board.own.node

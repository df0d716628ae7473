"""The Duties of a node: the shell of the board, and what begins and ends the duties that are placed here.

    wanted  --asks the source for its state, spawns the duty under HELD-->  begun
    begun   --DropDuty-->                                                   ended

What is wanted may change while a duty begins: each duty has one task that follows the last order.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import anyio

from atoll.actors.cloud.messages import NodeRecord
from atoll.actors.duties.board import DutyBoard
from atoll.actors.duties.draining import Draining
from atoll.actors.duties.duty import Duty, Snapshot, TakeSnapshot
from atoll.actors.duties.messages import (
    PATH,
    STATE_BYTES_MAX,
    DescribeSite,
    Drain,
    Drained,
    DropDuty,
    DutyFailed,
    HoldDuty,
    StateGiven,
    StateWanted,
)
from atoll.actors.elector.messages import PATH as ELECTOR
from atoll.actors.elector.messages import (
    DescribeElection,
    DrainWanted,
    ElectionStatus,
    SupernodeElected,
)
from atoll.actors.runtime import LATER, AskDeclined, AskFailed, Declined, Delivery, MachineActor, StartFailed
from atoll.actors.runtime.actor import ReplyTo
from atoll.actors.runtime.machine import Address
from atoll.transport.base import Standing
from atoll.transport.errors import MalformedFrame

log = logging.getLogger("atoll.duties")

HELD = "duties_held"
"""The supervisor of the duties that this node holds."""
ELECTION_S = 2.0
STATE_S = 1.0
"""How long the holder before may take to give its state; then the duty begins afresh."""
STATE_AGAIN_S = 0.05


class Duties(MachineActor):
    """Holds this node's share of the site's duties; tells the node who belongs to its site (`SiteKnown`)."""

    open_to: ClassVar[frozenset[Standing]] = frozenset({Standing.MEMBER})

    def __init__(self, own: NodeRecord, duties: Mapping[str, Callable[[], Duty]]) -> None:
        """Take this node's record, and what makes each duty that it is able to hold."""
        self.board = DutyBoard(own, duties)
        self._makers = dict(duties)
        self._wanted: dict[str, HoldDuty] = {}
        self._ordered: dict[str, anyio.Event] = {}
        self._changed = anyio.Event()
        """Set when the board says anything."""
        super().__init__(self.board)

    async def started(self) -> None:
        """Listen to the election, to links, and to what this node offers."""
        for duty in sorted(self._makers):
            self._ordered[duty] = anyio.Event()
            self.tasks.start_soon(self._follow_orders, duty)
        for fact in self.board.fact_handlers:
            self.system.subscribe(fact, self.ref)
        await super().started()
        # Elected before this began to listen, perhaps: a fresh Duties after a crash has missed it.
        election = Address(self.board.own.node, ELECTOR)
        with contextlib.suppress(AskFailed):
            status: ElectionStatus = await self.system.ask(election, DescribeElection(), timeout_s=ELECTION_S)
            if status.supernode is not None:
                self.ref.tell(SupernodeElected(status.supernode, status.epoch, status.confirmed, status.why))

    async def receive(self, delivery: Delivery) -> Any:
        """Describe the site to this node, give a duty's state to its next holder; the rest is the board's."""
        match delivery.message:
            case Drain() as wanted if delivery.standing is None:
                self.system.announce(DrainWanted(wanted.draining))
                if not wanted.draining:
                    return Drained(draining=False)
                self.tasks.start_soon(self._drain, delivery.reply_to, wanted.within_s)
                return LATER
            case DescribeSite() if delivery.standing is None:
                return self.board.describe()
            case StateWanted(duty=duty):
                sender = delivery.sender.address.node if delivery.sender is not None else self.board.own.node
                if not self.board.may_give(duty, sender):
                    raise Declined(f"the duty {duty} does not move from here to {sender.short}")
                return StateGiven(await self._snapshot(duty))
            case _:
                return await super().receive(delivery)

    def announce(self, fact: Any) -> None:
        """Begin and end duties as the board says; everything else is for the node."""
        match fact:
            case HoldDuty(duty=duty):
                self._wanted[duty] = fact
                self._ordered[duty].set()
            case DropDuty(duty=duty):
                self._wanted.pop(duty, None)
                self._ordered[duty].set()
            case _:
                super().announce(fact)
        self._note_change()

    def statistics(self) -> dict[str, int]:
        """Count what was refused."""
        return dict(sorted(self.board.counts.items()))

    async def _drain(self, asked: ReplyTo | None, within_s: float) -> None:
        drained = await Draining(self.system, self.board, self._wait).run(within_s)
        if asked is not None:
            asked.answer(drained)

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    async def _snapshot(self, duty: str) -> bytes:
        held = self.system.find(duty)
        if held is None:
            return b""
        try:
            snapshot: Snapshot = await held.ask(TakeSnapshot(), timeout_s=STATE_S)
        except AskFailed as error:
            raise Declined(f"the duty {duty} does not tell its state: {error}") from error
        if len(snapshot.state) > STATE_BYTES_MAX:
            raise Declined(f"the state of {duty} has {len(snapshot.state)} bytes, {STATE_BYTES_MAX} can be sent")
        return snapshot.state

    async def _follow_orders(self, duty: str) -> None:
        while True:
            await self._ordered[duty].wait()
            self._ordered[duty] = anyio.Event()
            order = self._wanted.get(duty)
            running = self.system.find(duty)
            if order is not None and running is None:
                await self._begin(order)
            elif order is None and running is not None:
                log.info("this node gives the duty %s up", duty)
                await self.system.stop(running)
                self._note_change()

    async def _begin(self, order: HoldDuty) -> None:
        state = await self._fetch_state(order)
        try:
            await self.system.spawn(lambda: self._made(order.duty, state), order.duty, under=HELD)
        except StartFailed as error:
            log.warning("the duty %s cannot be done here: %s", order.duty, error)
            self.ref.tell(DutyFailed(order.duty))
            return
        log.info("this node holds the duty %s%s", order.duty, ", with the state it had" if state else "")
        for fact in self.board.recent():
            self.system.announce(fact)

    def _made(self, duty: str, state: bytes) -> Duty:
        made = self._makers[duty]()
        if state:
            try:
                made.restore(state)
            except MalformedFrame as error:
                log.warning("the duty %s begins afresh: its state cannot be read: %s", duty, error)
                return self._makers[duty]()
        return made

    async def _fetch_state(self, order: HoldDuty) -> bytes:
        if order.source is None:
            return b""
        source = Address(order.source, PATH)
        why: Exception | None = None
        with anyio.move_on_after(STATE_S):
            while True:
                try:
                    given: StateGiven = await self.system.ask(source, StateWanted(order.duty), timeout_s=STATE_S)
                except AskDeclined as error:
                    # The roll that tells it who comes next may still be on its way there.
                    why = error
                    await anyio.sleep(STATE_AGAIN_S)
                except AskFailed as error:
                    why = error
                    break
                else:
                    return given.state
        log.info("the duty %s begins afresh: %s", order.duty, why or f"no answer within {STATE_S:g} s")
        return b""

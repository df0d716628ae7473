"""The shell of a machine: turns deliveries into inputs and carries out effects, in order.

    started:   journal.open -> machine.start -> effects
    delivery:  a wire message -> Received, a fact -> Told, a timer -> TimerFired -> machine.handle -> effects

With `writes_aside`, once the disk was slow, a thread writes the journal and other actors of the node go on meanwhile:

    effects:  [Persist Persist] Send [Rewrite] Reply  -->  a thread, in order; then what stands behind each bracket

An effect that fails for the world's reasons (no way, no room) is lost like any message; one that fails to persist
crashes the actor before anything that depends on it is done. It never catches what a machine raises.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

import anyio.to_thread

from atoll.actors.runtime.actor import LATER, Actor, Delivery, NotUnderstood
from atoll.actors.runtime.alarms import Grain
from atoll.actors.runtime.journal import Journal
from atoll.actors.runtime.keyed_journal import KeyedJournal
from atoll.actors.runtime.machine import (
    Address,
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Machine,
    Persist,
    Received,
    Record,
    Reply,
    Rewrite,
    Seconds,
    Send,
    TimerFired,
    Told,
    insist,
)
from atoll.transport.codec import Message
from atoll.transport.errors import Congested, UsageError

SLOW_WRITE_S = 0.01
"""A write that takes longer is worth a thread: beside a busy event loop that costs some milliseconds by itself."""
ASIDE_S = 60.0
"""How long after a slow write threads write."""
FULL_PAUSE_S = 0.1
"""Until a timer tries again for which the mailbox had no room."""


class _Timer:
    """One armed timer: a bell that puts itself into the machine's mailbox."""

    __slots__ = ("_shell", "grain", "name")

    def __init__(self, shell: "MachineActor", name: str) -> None:
        self._shell = shell
        self.name = name
        self.grain: Grain = set()

    def ring(self) -> None:
        self._shell.timer_rang(self)


class MachineActor(Actor):
    """Drives one machine; make both anew in the factory given to `spawn`."""

    facts_are_told = True
    writes_aside: ClassVar[bool] = False
    """While the disk is slow a thread writes the journal, and nobody but this actor waits; for those that write much.

    The next message waits until the effects of the one before are carried out, so nothing may call `handle` but what
    takes messages.
    """

    def __init__(self, machine: Machine, journal: Journal | KeyedJournal | None = None, *, check: bool = False) -> None:
        self.machine = machine
        self._journal = journal
        self._check = check
        self._timers: dict[str, _Timer] = {}
        self._writer = anyio.CapacityLimiter(1)
        self._slow_until: Seconds = -math.inf

    async def started(self) -> None:
        """Restore and begin; override and call it to do more."""
        restored: Sequence[Record] = self._journal.open() if self._journal is not None else ()
        self._carry_out(self.machine.start(restored, self.system.clock()))

    async def stopped(self) -> None:
        """Disarm all timers and close the journal; override and call it to do more."""
        for name in tuple(self._timers):
            self._disarm(name)
        if self._journal is not None:
            self._journal.close()

    async def receive(self, delivery: Delivery) -> Any:
        """Hand one delivery to the machine; its answer to an ask is a `Reply`, now or later."""
        event = self.input_of(delivery)
        if event is None:
            return LATER
        if self.writes_aside:
            await self._carry_out_aside(self.machine.handle(event, self.system.clock()))
        else:
            self.handle(event)
        return LATER

    def input_of(self, delivery: Delivery) -> Input | None:
        """Translate a delivery; None for a timer that was disarmed after it rang. Override it to translate more."""
        message = delivery.message
        if isinstance(message, _Timer):
            # Disarmed, or armed anew, while it waited in the mailbox.
            if self._timers.get(message.name) is not message:
                return None
            del self._timers[message.name]
            return TimerFired(message.name)
        if isinstance(message, Message):
            own = self.ref.address
            sender = delivery.sender.address if delivery.sender is not None else own
            path = "" if sender.path == own.path else sender.path
            return Received(sender.node, message, path, delivery.reply_to)
        if delivery.reply_to is not None:
            raise NotUnderstood(f"{self.ref.address.path} answers wire messages, not {type(message).__name__}")
        return message if isinstance(message, Told) else Told(message)

    def handle(self, event: Input) -> None:
        """Let the machine take one input and do what it says; never of an actor that `writes_aside`."""
        insist(not self.writes_aside, f"{self.ref.address.path} is given an input beside its messages")
        self._carry_out(self.machine.handle(event, self.system.clock()))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case Reply(to, message):
                    to.answer(message)
                case Arm(name, after):
                    self._arm(name, after)
                case Disarm(name):
                    self._disarm(name)
                case Announce(fact):
                    self.announce(fact)
                case Persist() | Rewrite():
                    self._persist(effect)
        if __debug__ and self._check:
            self.machine.check()

    async def _carry_out_aside(self, effects: Sequence[Effect]) -> None:
        for durable, group in groupby(effects, key=lambda effect: isinstance(effect, Persist | Rewrite)):
            if not durable:
                self._carry_out(list(group))
                continue
            began = self.system.clock()
            if began < self._slow_until:
                # Not abandoned when the actor ends: whoever closes the journal waits for the write.
                await anyio.to_thread.run_sync(self._carry_out, list(group), limiter=self._writer)
            else:
                self._carry_out(list(group))
            if (ended := self.system.clock()) - began > SLOW_WRITE_S:
                self._slow_until = ended + ASIDE_S

    def announce(self, fact: Any) -> None:
        """Tell this node a fact of the machine; override it where some of them are orders to the shell."""
        self.system.announce(fact)

    def _persist(self, effect: Persist | Rewrite) -> None:
        journal = self._journal
        if isinstance(effect, Persist) and journal is not None:
            journal.append(effect.record)
        elif isinstance(effect, Rewrite) and isinstance(journal, KeyedJournal) and journal.keeps_no_other(effect.kinds):
            journal.rewrite(effect.key, effect.records)
        else:
            raise UsageError(f"the machine of {self.ref.address.path} persists, but has no journal for that")

    def _send(self, effect: Send) -> None:
        target = Address(effect.target, effect.path or self.ref.address.path)
        try:
            self.system.tell(target, effect.message, sender=self.ref)
        except Congested as error:
            self.system.count("congested")
            self.system.bury(target.path, effect.message, str(error))

    def _arm(self, name: str, after_s: float) -> None:
        self._disarm(name)
        timer = self._timers[name] = _Timer(self, name)
        timer.grain = self.system.alarms.set(self.system.clock() + after_s, timer)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.grain.discard(timer)

    def timer_rang(self, timer: _Timer) -> None:
        """Queue a timer that ran out, behind what arrived before it."""
        if not self._cell.mailbox.put_fact(timer) and not self._cell.mailbox.closed:
            # Many machines live by a timer that arms itself again: it must not be lost.
            self.system.count("timers_late")
            timer.grain = self.system.alarms.set(self.system.clock() + FULL_PAUSE_S, timer)

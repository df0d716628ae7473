"""Calls migratable actors wherever they are: sequence numbers, retries with the same one, redirects.

    idle --call--> asking --CallAnswered--> idle
                   asking --CallDeferred, or silence--> asks again, with the same sequence
                   asking --CallRedirected, or the placement says where--> asks there
                   asking --CallRefused, or GIVE_UP_S over--> failed: a new client number for the next call
                   asking --CallRefused: the client is unknown--> asks anew, under a new client number
                   asking --the placement has no such actor any more--> failed: it was removed

One client number has one operation outstanding at a time; calls at the same time get numbers of their own. A number is
never used again after a failure: nobody could say which operation its next sequence follows.

An actor that was removed, and began anew, knows nothing of the clients of the one before: for it, theirs is a new call.
Each number says in which generation the actor was known when it was taken, so that a late call of the one before is not
taken for a new one; nor is a number ever told to be of another generation than at first, for some copy may be applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from atoll.actors.hand_over.inquiry import Inquiry
from atoll.actors.hand_over.messages import (
    HOSTING,
    Call,
    CallAnswered,
    CallDeferred,
    CallRedirected,
    CallRefused,
    TakePlace,
)
from atoll.actors.hand_over.orders import CallEnded
from atoll.actors.placement.messages import Placed, PlaceFound
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
    Disarm,
    Effect,
    Input,
    Received,
    Record,
    Seconds,
    Send,
    TimerFired,
    Told,
    insist,
)
from atoll.transport.identity import NodeId

RETRY_S = 0.15
FIND_EVERY = 2
"""Retries in silence until the placement is asked where the actor is."""
GIVE_UP_S = 30.0
CALLS_MAX = 4096
"""Outstanding at once."""
PLACES_MAX = 1024
IDLE_MAX = 64
"""Client numbers kept for the next call to an actor; each costs its host a line in the table of answers."""


class PlaceCall(msgspec.Struct, frozen=True):
    """Fact in: call an actor; `key` comes back in `CallEnded`."""

    actor: str
    operation: bytes
    key: int


class PlaceKnown(msgspec.Struct, frozen=True):
    """Fact in: where an actor is, as far as somebody knows."""

    actor: str
    placed: Placed


class PlaceUnknown(msgspec.Struct, frozen=True):
    """Fact in: this node was told to host an actor, which may be a new one of that name."""

    actor: str


@dataclass(slots=True)
class Caller:
    """One client number of one actor."""

    actor: str
    client: int
    sequence: int = 0
    key: int = 0
    operation: bytes = b""
    begun: Seconds = 0.0
    """When it was asked what is asked now."""
    silent: int = 0
    asked: int = 0
    """In which generation the actor was asked last."""
    since: int = 0
    """In which generation the actor was known when this number was used first."""
    unknown: bool = False
    """It was told already that nothing is known of its client: once is enough, unless the actor began later still."""


class Callers:
    """The calling machine of one node."""

    def __init__(
        self, own: NodeId, *, rng: Random, placement: NodeId | None = None, give_up_s: Seconds = GIVE_UP_S
    ) -> None:
        """`placement`: where the register is asked; this node's own actor of that name by default."""
        self.own = own
        self.inquiry = Inquiry(placement or own)
        self.places: dict[str, Placed] = {}
        self.ignored = 0
        self._rng = rng
        self._give_up_s = give_up_s
        self._asking: dict[int, Caller] = {}
        self._idle: dict[str, list[Caller]] = {}

    def start(self, _restored: Sequence[Record], _now: Seconds) -> list[Effect]:
        return []

    def check(self) -> None:
        insist(all(each.sequence > 0 for each in self._asking.values()), "a call without a sequence")

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        if isinstance(event, Told):
            return self._told(event, now)
        if isinstance(event, TimerFired):
            caller = self._asking.get(int(event.name))
            return self._silence(caller, now) if caller is not None else []
        return self._receive(event, now)

    def _told(self, event: Told, now: Seconds) -> list[Effect]:
        match event.fact:
            case PlaceCall(actor, operation, key):
                return self._call(actor, operation, key, now)
            case PlaceKnown(actor, placed):
                self._learn(actor, placed)
            case PlaceUnknown(actor):
                self.places.pop(actor, None)
        return []

    def _call(self, actor: str, operation: bytes, key: int, now: Seconds) -> list[Effect]:
        if len(self._asking) >= CALLS_MAX:
            return [Announce(CallEnded(actor, key, 0, b"", f"{CALLS_MAX} calls wait for an answer already"))]
        idle = self._idle.get(actor)
        caller = idle.pop() if idle else Caller(actor, self._rng.randrange(1, 2**52))
        caller.sequence += 1
        caller.operation, caller.key, caller.begun, caller.silent = operation, key, now, 0
        self._asking[caller.client] = caller
        return self._ask(caller)

    def _ask(self, caller: Caller) -> list[Effect]:
        placed = self.places.get(caller.actor)
        arm = Arm(str(caller.client), RETRY_S)
        if placed is None:
            return [self.inquiry.find(caller.actor), arm]
        caller.asked = placed.generation
        caller.since = caller.since or placed.generation
        call = Call(caller.actor, caller.client, caller.sequence, caller.operation, caller.since)
        return [Send(placed.host, call, HOSTING), arm]

    def _silence(self, caller: Caller, now: Seconds) -> list[Effect]:
        if now - caller.begun >= self._give_up_s:
            waited = f"no answer within {self._give_up_s:g} s; whether it was applied is not known"
            return self._fail(caller, waited)
        caller.silent += 1
        effects = self._ask(caller)
        if caller.silent % FIND_EVERY == 0 and caller.actor in self.places:
            effects.append(self.inquiry.find(caller.actor))
        return effects

    def _receive(self, event: Received, now: Seconds) -> list[Effect]:
        message: Any = event.message
        if isinstance(message, PlaceFound):
            return self._on_place(message)
        caller = self._asking.get(getattr(message, "client", 0))
        if caller is None or (message.actor, message.sequence) != (caller.actor, caller.sequence):
            self.ignored += 1
            return []
        return self._hear(caller, event, now)

    def _hear(self, caller: Caller, event: Received, now: Seconds) -> list[Effect]:
        message: Any = event.message
        match message:
            case CallAnswered(reply=reply):
                return self._end(caller, reply)
            case CallDeferred(after_ms=after_ms) if now - caller.begun < self._give_up_s:
                return [Arm(str(caller.client), after_ms / 1000)]
            case CallRedirected(placed=placed):
                self._learn(caller.actor, placed)
                # Another call may have learned it before this one.
                news = self.places[caller.actor].generation > caller.asked
                return self._ask(caller) if news else self._hint(event.sender, caller)
            case CallRefused(unknown=True, began=began) if self._may_ask_anew(caller, began, now):
                return self._ask_anew(caller, began)
            case CallDeferred(why=why) | CallRefused(why=why):
                return self._fail(caller, why)
        self.ignored += 1
        return []

    def _may_ask_anew(self, caller: Caller, began: int, now: Seconds) -> bool:
        """Tell whether a new number may be known: each time that it is asked so the actor is a later one."""
        return (not caller.unknown or began > caller.since) and now - caller.begun < self._give_up_s

    def _ask_anew(self, caller: Caller, began: int) -> list[Effect]:
        """Ask under a new number, and find the actor first: it was removed, or another one has its name now."""
        del self._asking[caller.client]
        self._forget(caller.actor)
        fresh = Caller(caller.actor, self._rng.randrange(1, 2**52), 1, caller.key, caller.operation, caller.begun)
        fresh.since, fresh.unknown = began, True
        self._asking[fresh.client] = fresh
        return [Disarm(str(caller.client)), *self._ask(fresh)]

    def _forget(self, actor: str) -> None:
        """Forget where an actor is, and the numbers that it knew."""
        self.places.pop(actor, None)
        self._idle.pop(actor, None)

    def _nowhere(self, message: PlaceFound, asking: Sequence[Caller]) -> list[Effect]:
        """Hear for certain that an actor has no place: who has heard of it before knows that it was removed."""
        known = self.places.get(message.actor)
        removed = known is not None and message.first > known.generation
        if removed:
            self._forget(message.actor)
        # Who was told that its client is not known, and has found another actor of that name, asks that one.
        # Unless it began later than this was so: then the word is late, and that one is still to be found.
        lost = [each for each in asking if each.unknown and known is None and message.first > each.since]
        gone = lost or [each for each in asking if removed and each.asked]
        return [effect for each in gone for effect in self._fail(each, f"{message.actor} was removed")]

    def _hint(self, sender: NodeId, caller: Caller) -> list[Effect]:
        """Tell a host that sends us away what we know: it has not heard yet that it is the one.

        Two hosts that redirect to each other would go on for as long as the older of them remembers.
        """
        known = self.places[caller.actor]
        return [Send(sender, TakePlace(caller.actor, known), HOSTING)] if known.host == sender else []

    def _on_place(self, message: PlaceFound) -> list[Effect]:
        asks_elsewhere = self.inquiry.heard(message.supernode)
        asking = [each for each in self._asking.values() if each.actor == message.actor]
        if message.placed is None and not message.why:
            return self._nowhere(message, asking)
        if message.placed is None or not self._learn(message.actor, message.placed):
            return [self.inquiry.find(message.actor)] if asking and asks_elsewhere else []
        return [effect for each in asking for effect in self._ask(each)]

    def _learn(self, actor: str, placed: Placed) -> bool:
        """Note where an actor is; tell whether that is news."""
        known = self.places.pop(actor, None)
        news = known is None or placed.generation > known.generation
        self.places[actor] = placed if known is None or news else known
        if len(self.places) > PLACES_MAX:
            oldest = next(iter(self.places))
            del self.places[oldest]
            self._idle.pop(oldest, None)
        return news

    def _end(self, caller: Caller, reply: bytes) -> list[Effect]:
        del self._asking[caller.client]
        idle = self._idle.setdefault(caller.actor, [])
        if len(idle) < IDLE_MAX:
            idle.append(caller)
        ended = CallEnded(caller.actor, caller.key, caller.sequence, reply, "")
        return [Disarm(str(caller.client)), Announce(ended)]

    def _fail(self, caller: Caller, why: str) -> list[Effect]:
        del self._asking[caller.client]
        ended = CallEnded(caller.actor, caller.key, caller.sequence, b"", why)
        return [Disarm(str(caller.client)), Announce(ended)]

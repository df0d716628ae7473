"""Which owners need the next generation for themselves: to fill stores that lost their log, or to change the stores.

    wanted --the placement is asked, and answers--> frozen --nothing is in hand--> claims (g + 1, itself)
           --not all stores could be brought so far within CHANGE_S--> nothing
    frozen --not within FREEZE_S--> the stores of the change are enough: ends, and claims; else goes on

Without an answer of the placement the actor would be frozen for nothing. What is in hand and never settles must not be
acknowledged any more once other stores are claimed, for they may not have it: so the owner ends.
"""

import math
from dataclasses import dataclass

from atoll.actors.hand_over.application import OperationFailed
from atoll.actors.hand_over.claims import Claim
from atoll.actors.hand_over.durable import DurableOwner, Handed
from atoll.actors.hand_over.messages import StoresWanted
from atoll.actors.hand_over.move import FREEZE_S
from atoll.actors.hand_over.orders import StoresChanged
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Announce, Effect, Seconds
from atoll.transport.identity import NodeId

RENEW_S = 1.0
"""Between two renewals of a generation."""
CHANGE_S = 10.0
"""For how long it is tried to keep a log on other stores; whoever wants it says so again."""
CHANGE_AGAIN_S = 0.2
DOUBT_S = 5.0
"""How long an owner asks its stores in vain until it asks the placement whether it is still one, and between two."""
REMEMBERED_MAX = 1024
"""Actors of which it is remembered when they were renewed last."""


@dataclass(slots=True)
class Change:
    """The stores on which the log of an actor is to be kept next."""

    stores: tuple[NodeId, ...]
    until: Seconds


class Renewals:
    """Those of one host."""

    def __init__(self) -> None:
        self.changes: dict[str, Change] = {}
        self._frozen: dict[str, Seconds] = {}
        """Actors that take nothing more until nothing is in hand, and since when."""
        self._asked: dict[str, Seconds] = {}
        self._in_vain: dict[str, Seconds] = {}
        """Owners that cannot serve yet, and since when, or when they last asked why."""

    def frozen(self, actor: str) -> bool:
        """Tell whether an actor waits for what is in hand."""
        return actor in self._frozen

    def want(self, owner: DurableOwner, message: StoresWanted, now: Seconds) -> list[Effect]:
        """Begin to bring the log to other stores; nothing, where these cannot be, or are not about these."""
        stores, known = message.wanted, owner.placed.stores
        if message.known != known or not stores or len(set(stores)) != len(stores) or set(stores) == set(known):
            return []
        self.changes[owner.actor] = Change(stores, now + CHANGE_S)
        return owner.stores.teach(stores)

    def drop(self, actor: str, why: str) -> list[Effect]:
        """Forget everything about an owner that ends."""
        self._frozen.pop(actor, None)
        self._in_vain.pop(actor, None)
        change = self.changes.pop(actor, None)
        return [] if change is None else [Announce(StoresChanged(actor, change.stores, why))]

    def expired(self, owner: DurableOwner, now: Seconds) -> list[Effect]:
        """Give up a change for which not all stores could be had."""
        change = self.changes.get(owner.actor)
        if change is None or now < change.until:
            return []
        return [*owner.stores.teach(()), *self.drop(owner.actor, "not all of them could be brought so far")]

    def due(self, owner: DurableOwner, now: Seconds) -> bool:
        """Tell whether the placement should be asked now, because the next generation is wanted."""
        actor = owner.actor
        if not self._wanted(owner) or now - self._asked.get(actor, -math.inf) < RENEW_S:
            return False
        self._asked.pop(actor, None)
        self._asked[actor] = now
        if len(self._asked) > REMEMBERED_MAX:
            del self._asked[next(iter(self._asked))]
        return True

    def doubtful(self, owner: DurableOwner, now: Seconds) -> bool:
        """Tell whether an owner may be over that gets nowhere: stores that have dropped its log cannot say so."""
        if owner.serving:
            self._in_vain.pop(owner.actor, None)
            return False
        if now - self._in_vain.setdefault(owner.actor, now) < DOUBT_S:
            return False
        self._in_vain[owner.actor] = now
        return True

    def _wanted(self, owner: DurableOwner) -> bool:
        change = self.changes.get(owner.actor)
        if change is not None and owner.fits(change.stores):
            return True
        return bool(owner.renewal()) and (owner.serving or owner.stuck)

    def freeze(self, owner: DurableOwner, now: Seconds) -> None:
        """Take nothing more: the placement is there."""
        if self._wanted(owner):
            owner.frozen = True
            self._frozen[owner.actor] = now

    def claim_of(self, owner: DurableOwner, now: Seconds) -> Claim | None:
        """Give what a frozen owner should claim; None while something is in hand, or where it goes on as it was."""
        actor, change = owner.actor, self.changes.get(owner.actor)
        overdue = now - self._frozen[actor] >= FREEZE_S
        changes = change is not None and owner.fits(change.stores)
        if owner.serving and not overdue and not (owner.settled and (changes or change is None)):
            return None
        del self._frozen[actor]
        if not changes and not (owner.renewal() and (owner.settled or owner.stuck)):
            owner.frozen = False
            return None
        stores = self.changes.pop(actor).stores if changes else owner.placed.stores
        return Claim(
            owner.placed,
            Placed(owner.placed.generation + 1, owner.placed.host, stores),
            handed=_state_of(owner) if owner.settled else None,
            heard=owner.stores.voiceless(stores),
            kind=owner.kind,
            changes=changes,
        )


def _state_of(owner: DurableOwner) -> Handed | None:
    """Give the state, where it can be had: it can be read from the stores, too."""
    try:
        return owner.state()
    except OperationFailed:
        return None

"""The moves of one host as the source: what `move.py` tells of each, from the wish to the word of the placement.

    wanted --the placement and the target answer--> frozen, and offered --the target has the state--> committing
           --one does not within WISH_S, or declines--> given up

An actor that is frozen before both are known to be there waits for an election, or for a host that is just starting,
and its callers wait with it.
"""

from dataclasses import dataclass

from atoll.actors.hand_over.application import OperationFailed
from atoll.actors.hand_over.claims import Claim, Claims
from atoll.actors.hand_over.messages import (
    HOSTING,
    WHY_CHARACTERS_MAX,
    MayMove,
    MoveWelcome,
    StateDeclined,
    StatePartTaken,
)
from atoll.actors.hand_over.move import Departure, Owner, Step
from atoll.actors.hand_over.orders import Moved
from atoll.actors.runtime.machine import Announce, Effect, Seconds, Send
from atoll.transport.identity import NodeId

WISH_S = 5.0
"""For how long the placement and the target are asked."""


@dataclass(slots=True)
class Wish:
    """A move that has not begun."""

    target: NodeId
    kind: str
    until: Seconds
    placement_there: bool = False
    welcome: bool = False


class Departures:
    """Those of one host; one at most for each actor."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._wanted: dict[str, Wish] = {}
        self._begun: dict[str, Departure] = {}
        self._last_move = 0

    def __contains__(self, actor: str) -> bool:
        return actor in self._begun

    def get(self, actor: str) -> Departure | None:
        """Give the one of an actor, once it has begun."""
        return self._begun.get(actor)

    def all(self) -> list[tuple[str, Departure]]:
        """Give those that have begun."""
        return list(self._begun.items())

    def want(self, owner: Owner, target: NodeId, now: Seconds) -> list[Effect]:
        """Ask the placement and the target whether they are there."""
        wish = self._wanted[owner.actor] = Wish(target, owner.kind, now + WISH_S)
        return [self._ask_target(owner.actor, wish), *self._claims.look(owner.actor, now)]

    def wanted(self, actor: str) -> bool:
        """Tell whether a move has not begun yet."""
        return actor in self._wanted

    def ask_again(self, actor: str, now: Seconds) -> list[Effect]:
        """Ask who has not answered, or give it up."""
        wish = self._wanted.get(actor)
        if wish is None:
            return []
        if now >= wish.until:
            who = "the placement" if not wish.placement_there else "the target"
            return self.give_up(actor, f"{who} does not answer")
        effects: list[Effect] = [] if wish.welcome else [self._ask_target(actor, wish)]
        return effects if wish.placement_there else [*effects, *self._claims.look(actor, now)]

    def _ask_target(self, actor: str, wish: Wish) -> Send:
        return Send(wish.target, MayMove(actor, wish.kind), HOSTING)

    def placement_there(self, owner: Owner, now: Seconds) -> list[Effect]:
        """Hear from the placement that the actor is here."""
        self._wanted[owner.actor].placement_there = True
        return self._begin_if_all_there(owner, now)

    def welcome(self, sender: NodeId, owner: Owner, message: MoveWelcome, now: Seconds) -> list[Effect]:
        """Hear from the target."""
        wish = self._wanted.get(message.actor)
        if wish is None or wish.target != sender:
            return []
        if message.why:
            return self.give_up(message.actor, f"the target declines: {message.why}"[:WHY_CHARACTERS_MAX])
        wish.welcome = True
        return self._begin_if_all_there(owner, now)

    def give_up(self, actor: str, why: str) -> list[Effect]:
        """Drop a move that has not begun."""
        wish = self._wanted.pop(actor, None)
        return [] if wish is None else [Announce(Moved(actor, wish.target, 0.0, why))]

    def _begin_if_all_there(self, owner: Owner, now: Seconds) -> list[Effect]:
        """Freeze the actor; what is in hand is done first."""
        wish = self._wanted[owner.actor]
        if not (wish.placement_there and wish.welcome):
            return []
        if not owner.serving:
            return self.give_up(owner.actor, f"it is not served now: {owner.why}"[:WHY_CHARACTERS_MAX])
        del self._wanted[owner.actor]
        owner.frozen = True
        self._last_move = max(self._last_move + 1, int(now * 1e6))
        self._begun[owner.actor] = Departure(owner, owner.placed.next_at(wish.target), self._last_move, now)
        return []

    def offer(self, departure: Departure, now: Seconds) -> list[Effect]:
        """Send the state to the target."""
        try:
            return departure.offer(now)
        except OperationFailed as error:
            return self.stay(departure, str(error)[:WHY_CHARACTERS_MAX], now)

    def press(self, departure: Departure, now: Seconds) -> list[Effect]:
        """Say again what a move waits for, or give it up."""
        if not departure.overdue(now):
            if departure.step is Step.OFFERING:
                return departure.resend()
            return [] if departure.step is Step.FREEZING else [self.swap(departure)]
        if departure.step is Step.COMMITTING:
            return self.take_back(departure, now)
        return self.stay(departure, f"it took too long ({departure.step.value})", now)

    def stay(self, departure: Departure, why: str, now: Seconds) -> list[Effect]:
        """Go on as before: the placement was never asked to name anybody else."""
        departure.owner.frozen = False
        return self.over(departure, why, now)

    def take_back(self, departure: Departure, now: Seconds) -> list[Effect]:
        """Claim the next generation: whether the target has it already is not known, and only this tells."""
        owner, placed = departure.owner, departure.owner.placed
        moved = self.over(departure, "the placement did not answer", now)
        claim = Claim(placed, placed.next_at(placed.host), handed=departure.handed, kind=owner.kind)
        return [*moved, *self._claims.open(owner.actor, claim)]

    def over(self, departure: Departure, why: str, now: Seconds) -> list[Effect]:
        """Forget a move and say how it ended; `why` is empty where the actor is gone."""
        actor = departure.owner.actor
        del self._begun[actor]
        return [Announce(Moved(actor, departure.target, now - departure.frozen_at, why))]

    def swap(self, departure: Departure) -> Send:
        """Ask the placement for the target in the source's place."""
        owner = departure.owner
        return self._claims.inquiry.swap(owner.actor, owner.placed, departure.wanted)

    def part_taken(self, sender: NodeId, message: StatePartTaken, now: Seconds) -> list[Effect]:
        """Send what the target lacks; ask the placement once it has all."""
        departure = self._offered(sender, message)
        if departure is None:
            return []
        effects = departure.more(message, now)
        if message.whole:
            departure.step, departure.since = Step.COMMITTING, now
            return [self.swap(departure)]
        return effects

    def declined(self, sender: NodeId, message: StateDeclined, now: Seconds) -> list[Effect]:
        """Stay, because the target does not want the actor."""
        departure = self._offered(sender, message)
        return [] if departure is None else self.stay(departure, f"the target declines: {message.why}", now)

    def _offered(self, sender: NodeId, message: StatePartTaken | StateDeclined) -> Departure | None:
        """Give the move that an answer is about, if it waits for one of this target."""
        departure = self._begun.get(message.actor)
        ours = departure is not None and departure.move == message.move and departure.target == sender
        return departure if ours and departure is not None and departure.step is Step.OFFERING else None

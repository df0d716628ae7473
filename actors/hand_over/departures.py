"""The moves of one host as the source: what `move.py` tells of each, from the wish to the word of the placement.

    wanted --the placement answers--> frozen, and offered --the target has the state--> the placement is asked
           --it does not, or the owner is not served--> given up

An actor that is frozen before the placement is known to be there waits for an election, and its callers with it.
"""

from atoll.actors.hand_over.application import OperationFailed
from atoll.actors.hand_over.claims import Claim, Claims
from atoll.actors.hand_over.messages import WHY_CHARACTERS_MAX, Moved, StateDeclined, StatePartTaken
from atoll.actors.hand_over.move import Departure, Owner, Step
from atoll.actors.runtime.machine import Announce, Effect, Seconds, Send
from atoll.transport.identity import NodeId


class Departures:
    """Those of one host; one at most for each actor."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._wanted: dict[str, NodeId] = {}
        """Where actors are to move once the placement answers."""
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

    def want(self, actor: str, target: NodeId, now: Seconds) -> list[Effect]:
        """Ask the placement whether it is there."""
        self._wanted[actor] = target
        effects = self._claims.look(actor, now)
        return effects or self.give_up(actor, "too much is asked of the placement at once")

    def wanted(self, actor: str) -> bool:
        """Tell whether a move waits for the placement."""
        return actor in self._wanted

    def give_up(self, actor: str, why: str) -> list[Effect]:
        """Drop a move that has not begun."""
        target = self._wanted.pop(actor, None)
        return [] if target is None else [Announce(Moved(actor, target, 0.0, why))]

    def begin(self, owner: Owner, now: Seconds) -> list[Effect]:
        """Freeze the actor; what is in hand is done first."""
        if not owner.serving:
            return self.give_up(owner.actor, f"it is not served now: {owner.why}"[:WHY_CHARACTERS_MAX])
        owner.frozen = True
        self._last_move = max(self._last_move + 1, int(now * 1e6))
        wanted = owner.placed.next_at(self._wanted.pop(owner.actor))
        self._begun[owner.actor] = Departure(owner, wanted, self._last_move, now)
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

"""Runs the migratable actors of one node: who owns what, claims, moves, redirects.

    nothing   --Found, or the placement names this node-->    owner
    owner     --Move, and the placement answers-->            owner that leaves (`move.py`) --committed--> tombstone
    owner     --a store knows a higher generation-->          asks the placement
    owner     --a store needs this generation renewed-->      claims (g + 1, itself), with its own state
    owner     --StoresWanted, and these are fit-->            claims (g + 1, itself) with other stores
    claim     --the placement agrees-->                       owner in that generation
    nothing   --Call-->                                       asks the placement; then owner, or tombstone
    nothing   --a soft actor is here, and no state of it-->   claims (g + 1, itself), and begins it empty
    tombstone --TOMBSTONE_S-->                                nothing
    owner     --Remove, and the placement has it no more-->   nothing

All that is heard of the placement, whatever the question was, is one fact: at some moment it said so. Generations only
rise, over removals too, so the highest heard is the newest, and every step waits for the generation it needs and for no
message.

It must never let an owner serve whose generation it knows to be over, and never begin one that nobody committed.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from atoll.actors.hand_over.application import Applications
from atoll.actors.hand_over.arrivals import Arrivals
from atoll.actors.hand_over.claims import Claim, Claims
from atoll.actors.hand_over.departures import Departures
from atoll.actors.hand_over.durable import DurableOwner, Phase
from atoll.actors.hand_over.messages import (
    CALLERS,
    HOSTING,
    LOG_STORE,
    Appended,
    Call,
    Fenced,
    Forget,
    Installed,
    LogPart,
    MayForget,
    MayMove,
    MoveWelcome,
    NotSealed,
    OfferState,
    Sealed,
    StateDeclined,
    StatePart,
    StatePartTaken,
    StoreFull,
    StoresWanted,
    TakePlace,
)
from atoll.actors.hand_over.move import ARRIVAL_S, POLL_S, RESEND_S, Arrival, Departure, Owner, Step
from atoll.actors.hand_over.orders import Applied, Ceased, Found, Move, Moved, Remove, Removed, StoresChanged
from atoll.actors.hand_over.reception import Reception
from atoll.actors.hand_over.removals import Removals
from atoll.actors.hand_over.renewals import CHANGE_AGAIN_S, RENEW_S, Renewals
from atoll.actors.hand_over.site_messages import ActorOwned, MoveAdvised, OwnerDoubted
from atoll.actors.hand_over.soft import SoftOwner
from atoll.actors.hand_over.tenures import Tenures
from atoll.actors.hand_over.tombstones import Tombstones
from atoll.actors.placement.messages import Placed, PlaceFound, PlaceSwapped
from atoll.actors.runtime.machine import (
    Announce,
    Arm,
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

ASK_S = 0.1
"""Until the placement is asked again."""


class Hosting:
    """The hosting machine of one node; the module tells its states."""

    durable_kind = DurableOwner
    soft_kind = SoftOwner
    arrival_kind = Arrival
    claims_kind = Claims
    renewals_kind = Renewals
    departures_kind = Departures
    removals_kind = Removals

    def __init__(
        self, own: NodeId, *, rng: Random, make: Applications, placement: NodeId | None = None, **limits: Any
    ) -> None:
        """`placement`: where the register is asked; this node's own actor of that name by default."""
        self.own = own
        self.tenures = Tenures((self.durable_kind, self.soft_kind), rng=rng, make=make, limits=limits)
        self.owners = self.tenures.owners
        self.claims = self.claims_kind(own, placement)
        self.departures = self.departures_kind(self.claims)
        self.removals = self.removals_kind(self.claims)
        self.arrivals = Arrivals(own, make, self.arrival_kind)
        self.tombstones = Tombstones()
        self.renewals = self.renewals_kind()
        self.paused_ms = self.arrivals.paused_ms
        self.ignored = 0
        self._armed: dict[str, Seconds] = {}
        self._reception = Reception(self.tenures, self.tombstones, self.claims)
        self._takes: dict[type, Any] = {
            Call: self._reception.call,
            PlaceFound: self._on_place_found,
            PlaceSwapped: self._on_place_swapped,
            TakePlace: self._on_take_place,
            StoresWanted: self._on_stores_wanted,
            MayForget: self._on_may_forget,
            MoveAdvised: self._on_move_advised,
            OwnerDoubted: self._on_owner_doubted,
            MayMove: self._on_may_move,
            MoveWelcome: self._on_welcome,
            OfferState: self._on_offer,
            StatePart: self.arrivals.take_part,
            StatePartTaken: self.departures.part_taken,
            StateDeclined: self.departures.declined,
            **dict.fromkeys((Sealed, LogPart, Appended, Installed, Fenced, NotSealed, StoreFull), self._on_store),
        }

    def start(self, restored: Sequence[Record], now: Seconds) -> list[Effect]:
        self.arrivals.restore(restored, now)
        return [effect for actor in self.arrivals.here for effect in self.claims.look(actor, now)]

    def handle(self, event: Input, now: Seconds) -> list[Effect]:
        if isinstance(event, Received):
            take = self._takes.get(type(event.message))
            if take is None:
                self.ignored += 1
                return []
            actor: str = event.message.actor  # type: ignore[attr-defined]
            effects = take(event.sender, event.message, now)
        elif isinstance(event, TimerFired):
            actor = event.name
            self._armed.pop(actor, None)
            effects = self._tick(actor, now)
        else:
            actor = getattr(event.fact, "actor", "")
            effects = self._told(event, now)
        return [*effects, *self._follow_up(actor, now)] if actor else effects

    def owned(self) -> tuple[ActorOwned, ...]:
        """Give what this node owns, ready or not, for its `HostOffers`."""
        return tuple(ActorOwned(actor, each.placed.generation, each.kind) for actor, each in self.owners.items())

    def check(self) -> None:
        for actor, owner in self.owners.items():
            owner.check()
            insist(owner.phase is not Phase.ENDED, f"the owner of {actor} has ended and is still here")
            insist(actor not in self.tombstones, f"{actor} has an owner and a tombstone here")
        for actor, departure in self.departures.all():
            insist(departure.owner is self.owners.get(actor) and departure.owner.frozen, f"{actor} leaves and serves")

    def _told(self, event: Told, now: Seconds) -> list[Effect]:
        match event.fact:
            case Found(actor, kind, stores):
                return self._found(actor, kind, stores, now)
            case Move(actor, target):
                return self._begin_move(actor, target, now)
            case Remove(actor, founded):
                return self._begin_removal(actor, founded, now)
            case Applied(actor, number, reply):
                owner = self.owners.get(actor)
                return owner.applied(number, reply, now) if isinstance(owner, SoftOwner) else []
        return []

    def _follow_up(self, actor: str, now: Seconds) -> list[Effect]:
        """Do what an owner's new state calls for, and arm the next look at it."""
        owner = self.owners.get(actor)
        effects = self.removals.go_on(actor, owner, now)
        if owner is not None and owner.phase is Phase.ENDED:
            effects += self._ended(owner, now)
        elif owner is not None and actor not in self.removals:
            departure = self.departures.get(actor)
            if departure is not None and departure.step is Step.FREEZING and owner.settled:
                effects += self.departures.offer(departure, now)
            elif departure is None and actor not in self.claims and isinstance(owner, DurableOwner):
                effects += self._renew(owner, now)
        after = self._due(actor)
        if after is not None and (actor not in self._armed or now + after < self._armed[actor] - 1e-9):
            self._armed[actor] = now + after
            effects.append(Arm(actor, after))
        return effects

    def _due(self, actor: str) -> Seconds | None:
        """Say when to look after an actor again."""
        dues = [ASK_S] if actor in self.claims or self.departures.wanted(actor) else []
        if actor in self.departures or actor in self.removals:
            dues.append(RESEND_S)
        if actor in self.arrivals.here:
            dues.append(POLL_S)
        if actor in self.renewals.changes:
            dues.append(CHANGE_AGAIN_S)
        owner = self.owners.get(actor)
        if owner is not None:
            after = owner.retry_after()
            if after is not None:
                dues.append(after)
            elif owner.renewal():
                dues.append(RENEW_S)
        return min(dues, default=None)

    def _tick(self, actor: str, now: Seconds) -> list[Effect]:
        effects: list[Effect] = []
        if (owner := self.owners.get(actor)) is not None:
            effects += owner.retry(now)
        effects += self.claims.again(actor, now)
        effects += self.departures.ask_again(actor, now)
        effects += self.removals.ask_again(actor, now)
        if (departure := self.departures.get(actor)) is not None:
            effects += self.departures.press(departure, now)
        if (arrival := self.arrivals.here.get(actor)) is not None:
            if now - arrival.since >= ARRIVAL_S:
                effects += self.arrivals.drop(actor)
            elif actor not in self.claims:
                effects.append(self.claims.inquiry.find(actor))
        return effects

    def _ended(self, owner: Owner, now: Seconds) -> list[Effect]:
        """Let an owner go that has lost its generation, or cannot go on; the placement knows who is next."""
        actor, placed, lost_to = owner.actor, owner.placed, owner.lost_to
        effects = self._release(owner, owner.why, now)
        if lost_to is None:
            self.tenures.cannot(owner, now)
        if actor in self.claims or lost_to is None:
            return effects
        if lost_to == placed.generation:
            # Another life of this generation: this host's own, before it started again or gave up.
            return effects + self.claims.open(actor, Claim(placed, placed.next_at(self.own), kind=owner.kind))
        return effects + self.claims.look(actor, now)

    def _release(self, owner: Owner, why: str, now: Seconds) -> list[Effect]:
        """End an owner and what it had begun."""
        actor = owner.actor
        if owner.phase is not Phase.ENDED:
            owner.end(why)
        self.owners.pop(actor, None)
        effects: list[Effect] = [Announce(Ceased(actor, owner.placed.generation, why))]
        effects += self.renewals.drop(actor, why)
        effects += self.departures.give_up(actor, why)
        effects += self.removals.over(actor, why)
        if (departure := self.departures.get(actor)) is not None:
            effects += self.departures.over(departure, why, now)
        return effects

    def _on_place_found(self, _sender: NodeId, message: PlaceFound, now: Seconds) -> list[Effect]:
        asks_elsewhere = self.claims.inquiry.heard(message.supernode)
        if message.why:
            # A hint, or nothing: good for the next question only.
            return self._ask_again(message.actor) if asks_elsewhere else []
        if message.placed is None:
            return [*self._learn_removal(message.actor, message.first, now), *self.claims.nowhere(message)]
        return self._hear_place(message.actor, message.placed, now, message.founded)

    def _hear_place(self, actor: str, placed: Placed, now: Seconds, founded: int | None = None) -> list[Effect]:
        effects, here, owner = self._learn(actor, placed, now), placed.host == self.own, self.owners.get(actor)
        return [*effects, *self.removals.heard(actor, placed, owner, now, here=here, founded=founded)]

    def _on_place_swapped(self, _sender: NodeId, message: PlaceSwapped, now: Seconds) -> list[Effect]:
        actor = message.actor
        asks_elsewhere = self.claims.inquiry.heard(message.supernode)
        self.claims.answered(message)
        if message.decided and message.current is not None:
            return self._hear_place(actor, message.current, now)
        effects = self._learn_removal(actor, message.first, now)
        claim, departure = self.claims.get(actor), self.departures.get(actor)
        if asks_elsewhere or (claim is not None and claim.begins_later(message.first)):
            return [*effects, *self._ask_again(actor)]
        gone = departure is not None and message.current is not None
        if (claim is not None and claim.overtaken_by(message.current)) or gone:
            # Whether it was done cannot be told any more, and does not matter: what is there now does.
            effects.append(self.claims.inquiry.find(actor))
        return effects

    def _ask_again(self, actor: str) -> list[Effect]:
        """Ask whom the answer named, at once."""
        if (departure := self.departures.get(actor)) is not None and departure.step is Step.COMMITTING:
            return [self.departures.swap(departure)]
        claim = self.claims.get(actor)
        return [] if claim is None else self.claims.ask(actor, claim)

    def _learn_removal(self, actor: str, first: int, now: Seconds) -> list[Effect]:
        """Hear for certain that an actor has no place, and with which generation it would begin."""
        claim, owner = self.claims.get(actor), self.owners.get(actor)
        if claim is not None and claim.expected is not None and first > claim.expected.generation:
            self.claims.pop(actor)
        if not first:
            return []
        self.removals.note(actor, first)
        known = self.removals.expected(actor) if owner is None else owner.placed
        if known is not None and first <= known.generation:
            # So it was before the actor began.
            return []
        effects = self.removals.gone(actor, known)
        return effects if owner is None else effects + self._release(owner, "it was removed from the placement", now)

    def _learn(self, actor: str, placed: Placed, now: Seconds) -> list[Effect]:
        """Take what the placement said at some moment, newest generation first."""
        owner = self.owners.get(actor)
        older = owner is not None and placed.generation < owner.placed.generation
        if older or self.removals.is_over(actor, placed.generation):
            return []
        departure = self.departures.get(actor)
        if departure is not None and placed == departure.wanted and departure.step is Step.COMMITTING:
            return self._gone(departure, now)
        claim = self.claims.get(actor)
        if claim is not None and claim.still_open(placed):
            return []
        self.claims.pop(actor)
        effects: list[Effect] = []
        if claim is not None and claim.changes and claim.wanted is not None:
            why = "" if placed == claim.wanted else f"the placement says generation {placed.generation}"
            effects.append(Announce(StoresChanged(actor, claim.wanted.stores, why)))
        if claim is not None and placed == claim.wanted and claim.begins(placed):
            effects += self._release(owner, "its generation is renewed", now) if owner is not None else []
            return effects + self._begin(actor, placed, now, claim)
        if owner is None:
            return effects + self._place(actor, placed, now)
        return effects + self._learn_of(owner, placed, now, asked=claim is not None)

    def _learn_of(self, owner: Owner, placed: Placed, now: Seconds, *, asked: bool) -> list[Effect]:
        """Take what the placement said of an actor that is owned here, in that generation or before it."""
        if placed.generation > owner.placed.generation:
            effects = self._release(owner, f"the placement says generation {placed.generation}", now)
            return effects + self._place(owner.actor, placed, now)
        return self._probed(owner, now) if asked else []

    def _place(self, actor: str, placed: Placed, now: Seconds) -> list[Effect]:
        """Go by the placement, where this host owns nothing: begin, or know where to send others."""
        if self.tombstones.confirm(actor, placed, now):
            return []
        if placed.host == self.own:
            if not self.tenures.may_begin(actor, placed, now):
                return []
            if placed.stores or self.arrivals.brings(actor, placed):
                return self._begin(actor, placed, now, Claim())
            if self.tenures.cannot_make(actor, placed, now):
                return []
            # Begun by this host before a crash, perhaps, and a move of it may be on its way to the placement.
            return self.claims.open(actor, Claim(placed, placed.next_at(self.own)))
        arrival = self.arrivals.here.get(actor)
        overtaken = arrival is not None and placed.generation >= arrival.offer.wanted.generation
        self.tombstones.put(actor, placed, now)
        return self.arrivals.drop(actor) if overtaken else []

    def _begin(self, actor: str, placed: Placed, now: Seconds, claim: Claim) -> list[Effect]:
        """Own the actor in this generation, which the placement has committed to this host."""
        if self.tenures.full:
            self.ignored += 1
            return []
        self.tombstones.clear(actor)
        arrival = self.arrivals.here.get(actor)
        effects: list[Effect] = []
        handed, kind = claim.handed, self.tenures.kind_of(actor, claim)
        if arrival is not None:
            if handed is None and arrival.kept and arrival.offer.wanted == placed:
                handed, kind = arrival.handed, arrival.offer.kind
            # Before anybody is served: after a crash this state would be an old one.
            effects += self.arrivals.drop(actor)
        return effects + self.tenures.begin(actor, placed, claim, now, handed=handed, kind=kind)

    # Stores that lost their log, and other stores: a new generation, committed after what is known of them.

    def _on_stores_wanted(self, _sender: NodeId, message: StoresWanted, now: Seconds) -> list[Effect]:
        actor = message.actor
        owner = self.owners.get(actor)
        leaves = actor in self.departures or actor in self.removals
        busy = leaves or actor in self.claims or self.renewals.frozen(actor)
        return self.renewals.want(owner, message, now) if isinstance(owner, DurableOwner) and not busy else []

    def _renew(self, owner: DurableOwner, now: Seconds) -> list[Effect]:
        """Claim the next generation for what only another one can do."""
        actor = owner.actor
        if not self.renewals.frozen(actor):
            if effects := self.renewals.expired(owner, now):
                return effects
            asks = self.renewals.due(owner, now) or self.renewals.doubtful(owner, now)
            return self.claims.look(actor, now) if asks else []
        claim = self.renewals.claim_of(owner, now)
        if claim is None:
            return []
        effects = [] if owner.settled else self._release(owner, "it goes on in the next generation", now)
        return effects + self.claims.open(actor, claim)

    def _probed(self, owner: Owner, now: Seconds) -> list[Effect]:
        """Do what was put off until the placement is known to be there."""
        if owner.actor in self.removals:
            return []
        if self.departures.wanted(owner.actor):
            return self.departures.placement_there(owner, now)
        if isinstance(owner, DurableOwner) and owner.actor not in self.departures:
            self.renewals.freeze(owner, now)
        return []

    # What stores say.

    def _on_store(self, sender: NodeId, message: Any, now: Seconds) -> list[Effect]:
        owner = self.owners.get(message.actor)
        if owner is None and isinstance(message, Sealed | Fenced):
            return self.claims.store_begun(sender, message)
        return owner.receive(sender, message, now) if isinstance(owner, DurableOwner) else []

    def _found(self, actor: str, kind: str, stores: tuple[NodeId, ...], _now: Seconds) -> list[Effect]:
        self.tenures.kinds[actor] = kind
        claim = self.claims.get(actor)
        if actor in self.owners or (claim is not None and not claim.only_asks):
            return []
        if stores:
            return self.claims.open(actor, Claim(kind=kind, founds=stores, life=self.tenures.new_life()))
        return self.claims.open(actor, Claim(None, Placed(1, self.own), kind=kind))

    # Moves: this host as the source.

    def _begin_move(self, actor: str, target: NodeId, now: Seconds) -> list[Effect]:
        owner = self.owners.get(actor)
        if owner is None or not owner.serving:
            return [Announce(Moved(actor, target, 0.0, "it is not served here"))]
        if target == self.own or self._is_about_to_change(actor) or actor in self.removals:
            return [Announce(Moved(actor, target, 0.0, "it is here already, or about to change"))]
        return self.departures.want(owner, target, now)

    def _begin_removal(self, actor: str, founded: int, now: Seconds) -> list[Effect]:
        if self._is_about_to_change(actor):
            return [Announce(Removed(actor, "it is about to change"))]
        return self.removals.want(actor, now, founded)

    def _is_about_to_change(self, actor: str) -> bool:
        claim = self.claims.get(actor)
        # One that only asks changes nothing; it may be left from a move that another target has declined.
        claims = claim is not None and not claim.only_asks
        leaves = actor in self.departures or self.departures.wanted(actor)
        return claims or leaves or self.renewals.frozen(actor)

    def _on_may_forget(self, sender: NodeId, message: MayForget, _now: Seconds) -> list[Effect]:
        owner = self.owners.get(message.actor)
        if not isinstance(owner, DurableOwner) or owner.placed.generation != message.generation:
            return []
        whole = owner.whole and owner.stores.find(sender) is None
        return [Send(sender, Forget(message.actor, message.generation), LOG_STORE)] if whole else []

    def _on_welcome(self, sender: NodeId, message: MoveWelcome, now: Seconds) -> list[Effect]:
        owner = self.owners.get(message.actor)
        return [] if owner is None else self.departures.welcome(sender, owner, message, now)

    def _on_move_advised(self, _sender: NodeId, message: MoveAdvised, now: Seconds) -> list[Effect]:
        owner = self.owners.get(message.actor)
        if owner is None or owner.placed.generation != message.generation:
            return []
        return self._begin_move(message.actor, message.target, now)

    def _on_owner_doubted(self, _sender: NodeId, message: OwnerDoubted, now: Seconds) -> list[Effect]:
        return self.claims.look(message.actor, now) if message.actor in self.owners else []

    def _gone(self, departure: Departure, now: Seconds) -> list[Effect]:
        """Leave a tombstone: the move is committed."""
        owner = departure.owner
        actor = owner.actor
        moved = self.departures.over(departure, "", now)
        effects = self._release(owner, f"it moved to {departure.target.short}", now)
        self.tombstones.put(actor, departure.wanted, now)
        self.paused_ms.pop(actor, None)
        return [Send(departure.target, departure.take_place(now)), *effects, *moved]

    # Moves: this host as the target.

    def _on_may_move(self, sender: NodeId, message: MayMove, _now: Seconds) -> list[Effect]:
        return self.arrivals.asked(sender, message, owned=self._has(message.actor))

    def _on_offer(self, sender: NodeId, offer: OfferState, now: Seconds) -> list[Effect]:
        return self.arrivals.offered(sender, offer, now, owned=self._has(offer.actor))

    def _has(self, actor: str) -> bool:
        """Tell whether this host owns an actor, or is about to."""
        claim = self.claims.get(actor)
        # One that expects nothing, or only asks, does not get an actor that somebody else has.
        return actor in self.owners or (claim is not None and claim.expected is not None)

    def _on_take_place(self, sender: NodeId, message: TakePlace, now: Seconds) -> list[Effect]:
        owner = self.owners.get(message.actor)
        effects: list[Effect] = []
        if message.placed.host == self.own and not (owner and owner.placed.generation >= message.placed.generation):
            promised = self.arrivals.promised_by(sender, message)
            take = self._learn(message.actor, message.placed, now) if promised else None
            effects = self.claims.look(message.actor, now) if take is None else take
        if message.placed.host == self.own and message.paused_ms is not None:
            self.arrivals.note_pause(message.actor, message.paused_ms)
        return effects


__all__ = ["CALLERS", "HOSTING", "Hosting"]

"""The owners of one host: begins them, and remembers which actors this host cannot run.

nothing --begin, in a generation that the placement has committed--> owner
owner   --it cannot go on here, and has lost nothing-->              unable, for UNABLE_S or up to a later generation
"""

from collections.abc import Mapping
from random import Random
from typing import Any

import msgspec

from atoll.actors.hand_over.application import Applications
from atoll.actors.hand_over.claims import Claim
from atoll.actors.hand_over.durable import DurableOwner, Handed
from atoll.actors.hand_over.move import Owner
from atoll.actors.hand_over.orders import Serving
from atoll.actors.hand_over.soft import SoftOwner
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Announce, Effect, Seconds

OWNERS_MAX = 1024
UNABLE_S = 30.0
"""Before an actor is begun again that this host could not run; another generation is tried at once."""


class Unable(msgspec.Struct, frozen=True):
    """Up to which generation, for how long, and why this host does not begin an actor again."""

    generation: int
    until: Seconds
    why: str


class Tenures:
    """Those of one host."""

    def __init__(
        self,
        kinds: tuple[type[DurableOwner], type[SoftOwner]],
        *,
        rng: Random,
        make: Applications,
        limits: Mapping[str, Any],
    ) -> None:
        """`kinds`: of the owners of durable and of soft actors."""
        self.owners: dict[str, Owner] = {}
        self.kinds: dict[str, str] = {}
        """What kind an actor is that this node was told to host."""
        self._durable_kind, self._soft_kind = kinds
        self._rng = rng
        self._make = make
        self._limits = limits
        self._unable: dict[str, Unable] = {}

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return len(self.owners) >= OWNERS_MAX

    def new_life(self) -> int:
        """Draw the number of another life of this host in a generation."""
        return self._rng.randrange(1, 2**52)

    def kind_of(self, actor: str, claim: Claim) -> str:
        """Give the kind of an actor that is claimed, as far as it is known here."""
        return claim.kind or self.kinds.get(actor, "")

    def begin(
        self, actor: str, placed: Placed, claim: Claim, now: Seconds, *, handed: Handed | None, kind: str
    ) -> list[Effect]:
        """Begin an owner."""
        self._unable.pop(actor, None)
        serving = Announce(Serving(actor, placed.generation, "begins"))
        if placed.stores:
            owner = self._durable_kind(
                actor,
                placed,
                life=claim.life or self.new_life(),
                make=self._make,
                kind=kind,
                handed=handed,
                heard=claim.heard,
                **self._limits,
            )
            self.owners[actor] = owner
            return [serving, *owner.begin()]
        soft = self.owners[actor] = self._soft_kind(actor, placed, make=self._make, kind=kind, handed=handed)
        return [serving, *soft.begin(now)]

    def cannot_make(self, actor: str, placed: Placed, now: Seconds) -> bool:
        """Tell, and note, that this host was not told how to make a soft actor, before it costs a generation."""
        kind = self.kinds.get(actor, "")
        if self._make(actor, kind) is not None:
            return False
        self._note(actor, placed, f"no actor of the kind {kind} is known here", now)
        return True

    def cannot(self, owner: Owner, now: Seconds) -> None:
        """Note that this host cannot run an actor: beginning once more would end alike, and cost a generation each."""
        self._note(owner.actor, owner.placed, owner.why, now)

    def _note(self, actor: str, placed: Placed, why: str, now: Seconds) -> None:
        self._unable[actor] = Unable(placed.generation, now + UNABLE_S, why)
        if len(self._unable) > OWNERS_MAX:
            del self._unable[next(iter(self._unable))]

    def may_begin(self, actor: str, placed: Placed, now: Seconds) -> bool:
        """Tell whether it is worth trying."""
        unable = self._unable.get(actor)
        return unable is None or placed.generation > unable.generation or now >= unable.until

    def why_not(self, actor: str, now: Seconds) -> str | None:
        """Say why this host does not run an actor that it could not; None where it may be tried."""
        unable = self._unable.get(actor)
        if unable is None:
            return None
        if now >= unable.until:
            del self._unable[actor]
            return None
        return unable.why

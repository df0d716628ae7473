"""What a host answers to calls: those that its owners take, and those that have to go elsewhere or to come again.

an owner serves    --> the owner answers
it is known where  --> redirected
anything else      --> deferred; where nothing is owned, the placement is asked
"""

from atoll.actors.hand_over.claims import Claims
from atoll.actors.hand_over.messages import CALLERS, WHY_CHARACTERS_MAX, Call, CallDeferred, CallRedirected
from atoll.actors.hand_over.tenures import Tenures
from atoll.actors.hand_over.tombstones import Tombstones
from atoll.actors.runtime.machine import Effect, Seconds, Send
from atoll.transport.identity import NodeId

UNABLE_MS = 500
SOON_MS = 50
BEGINS_MS = 5
"""For a call that comes while an owner begins: a round trip or two, and callers see all of it as the move's pause."""


class Reception:
    """That of one host."""

    def __init__(self, tenures: Tenures, tombstones: Tombstones, claims: Claims) -> None:
        self._tenures = tenures
        self._tombstones = tombstones
        self._claims = claims

    def call(self, sender: NodeId, call: Call, now: Seconds) -> list[Effect]:
        """Take a call."""
        owner = self._tenures.owners.get(call.actor)
        if owner is not None and owner.serving:
            return owner.call(sender, call, now)
        gone_to = self._tombstones.find(call.actor, now)
        if gone_to is not None:
            return [Send(sender, CallRedirected(call.actor, call.client, call.sequence, gone_to), CALLERS)]
        if owner is not None:
            return [self._later(sender, call, BEGINS_MS, owner.why)]
        why = self._tenures.why_not(call.actor, now)
        after_ms, why = (SOON_MS, "this host asks where the actor is") if why is None else (UNABLE_MS, why)
        return [self._later(sender, call, after_ms, why), *self._claims.look(call.actor, now)]

    def _later(self, sender: NodeId, call: Call, after_ms: int, why: str) -> Send:
        deferred = CallDeferred(call.actor, call.client, call.sequence, after_ms, why[:WHY_CHARACTERS_MAX])
        return Send(sender, deferred, CALLERS)

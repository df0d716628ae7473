"""Looks after the paths of sessions that this node has dialled: the next one is there before one ends.

It carries out what `lifetimes.py` decides. A relay that is drained is heard of from this node's own connections to it
(`RelayGoing`), or from the peer (`PathRetired`). Sessions that others have dialled are theirs to look after; only when
they do not, for they may not have heard of a drain, this end leaves the path, and so tells them.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.actors.router.conversation import Conversation, PathRetired
from atoll.actors.router.conversations import Conversations
from atoll.actors.router.lifetimes import Close, Leave, Lifetimes, Renew, Seen
from atoll.actors.router.paths import Path
from atoll.actors.router.routes import Way
from atoll.transport.identity import NodeId
from atoll.transport.path_set import Condition

log = logging.getLogger("atoll.router")

LOOK_S = 0.25
"""Between two looks at everything."""
PATIENCE_S = 3.0
"""How long who dialled a session may take to replace a bearer over a relay that is drained."""


@dataclass(slots=True)
class Upkeep:
    """The lifetimes of all paths of this node; see the module."""

    conversations: Conversations
    clock: Callable[[], float]
    renew: Callable[[NodeId, Renew], None]
    """Opens another path of a kind to a peer."""
    needless_for: Callable[[Conversation], str] = lambda _: ""
    """Says why a session needs no bearer any more; empty while it does."""
    _lifetimes: dict[Conversation, Lifetimes[Path]] = field(default_factory=dict)
    _ends: dict[Path, float] = field(default_factory=dict)
    """When tickets end, of bearers that are no path of a session yet."""
    _overdue: dict[tuple[Conversation, Path], float] = field(default_factory=dict)
    """Bearers that others should have replaced by then."""
    _look_at: float = 0.0

    def ends(self, path: Path, at: float) -> None:
        """Note when the ticket of a bearer ends, before it is used; some are not used at all."""
        now = self.clock()
        self._ends = {each: ends_at for each, ends_at in self._ends.items() if now < ends_at}
        self._ends[path] = at

    def is_fresh(self, conversation: Conversation, path: Path) -> bool:
        """Tell whether a path is one to stay with."""
        lifetimes = self._lifetimes.get(conversation)
        return path not in conversation.retired and (lifetimes is None or lifetimes.is_fresh(path, self.clock()))

    def relays_to(self, peer: NodeId) -> set[str]:
        """Name the relays that carry a bearer to a peer, but for those that are about to end."""
        return {
            path.relay
            for each in self.conversations.all_with(peer)
            for path in each.paths
            if path.way is Way.BEP and self.is_fresh(each, path)
        }

    def avoided(self, peer: NodeId) -> tuple[str, ...]:
        """Name the relays that no new path to a peer should lead over."""
        held = [each for conversation, each in self._lifetimes.items() if conversation.peer == peer]
        return tuple(sorted({relay for each in held for relay in each.avoided()}))

    def relay_going(self, relay: str) -> None:
        """Hear that a relay is being drained."""
        now = self.clock()
        self._take_new(now)
        for lifetimes in self._lifetimes.values():
            lifetimes.going(relay, now)
        for conversation in self.conversations.all():
            for path in conversation.numbers.values():
                if not conversation.dialled and path.way is Way.BEP and path.relay == relay:
                    self._overdue[conversation, path] = now + PATIENCE_S
        self._look_at = now

    def peer_retires(self, turn: PathRetired) -> None:
        """Hear that the peer will end a path."""
        now = self.clock()
        self._take_new(now)
        if (lifetimes := self._lifetimes.get(turn.conversation)) is not None:
            lifetimes.ending(turn.path, now)
            self._look_at = now

    def needless(self, conversation: Conversation, reason: str) -> None:
        """Let the bearers of a session go; signaling stays."""
        lifetimes = self._lifetimes.get(conversation)
        if lifetimes is None:
            return
        for path in conversation.paths:
            if path.way is Way.BEP:
                lifetimes.needless(path, self.clock(), reason)

    def look(self) -> None:
        """Do what time asks for, each `LOOK_S`."""
        now = self.clock()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        self._take_new(now)
        for conversation, lifetimes in tuple(self._lifetimes.items()):
            if conversation.ended:
                del self._lifetimes[conversation]
                continue
            if reason := self.needless_for(conversation):
                self.needless(conversation, reason)
            for effect in lifetimes.look(self._seen(conversation), now):
                self._carry_out(conversation, effect, now)
        for (conversation, path), at in tuple(self._overdue.items()):
            if conversation.ended or path not in conversation.paths or path in conversation.retired:
                del self._overdue[conversation, path]
            elif now >= at:
                self.conversations.retire(conversation, path, f"{path.relay} is being drained", now)

    def _take_new(self, now: float) -> None:
        """Begin to look after what has become a path of a session since the last look."""
        for conversation in self.conversations.all():
            if not conversation.dialled or not conversation.established:
                continue
            lifetimes = self._lifetimes.setdefault(conversation, Lifetimes())
            for path in conversation.numbers.values():
                if path.way in (Way.BEP, Way.SEP) and path not in lifetimes:
                    lifetimes.opened(path, path.way, path.relay, now, self._ends.pop(path, math.inf))

    @staticmethod
    def _seen(conversation: Conversation) -> dict[Path, Seen]:
        in_use = conversation.in_use
        return {
            path: Seen(
                conversation.condition(path) is Condition.USABLE, path is in_use, conversation.retired.get(path, 0.0)
            )
            for path in conversation.numbers.values()
        }

    def _carry_out(self, conversation: Conversation, effect: Renew | Leave[Path] | Close[Path], now: float) -> None:
        peer = conversation.peer
        match effect:
            case Renew(reason=reason) if peer is not None:
                log.info("another path to %s: %s", peer.short, reason)
                self.renew(peer, effect)
            case Leave(path, reason):
                self.conversations.retire(conversation, path, reason, now)
            case Close(path, reason):
                self.conversations.let_go(conversation, path, reason, now)
            case _:
                pass

"""What each turn of a session means to those around it: its route, its bearers, and who waits for an answer over it.

    opened         --> the route is known, what waited for a way goes on
    moved          --> the route follows; asks that the old path owed an answer are sent again
    a path gone    --> another one is looked for, of the same kind; a second bearer stands by where streams are carried
    orphaned       --> who dialled looks for any path at all
    ended          --> what waited goes over another way, or fails with the reason

It decides nothing about paths (`conversations.py`), and looks for none itself (`ways.py`, `bearers.py`, `punches.py`).
Envelopes and bytes of streams are no concern of it: the Router hands those on.
"""

import logging

import msgspec

from atoll.actors.router.bearers import Bearers
from atoll.actors.router.conversation import (
    Conversation,
    Ended,
    Moved,
    Opened,
    Orphaned,
    PathGone,
    PathRetired,
    Stalled,
    Turn,
)
from atoll.actors.router.conversations import Conversations
from atoll.actors.router.messages import LinkSeen
from atoll.actors.router.punches import Punches
from atoll.actors.router.routes import RouteTable, Way
from atoll.actors.router.streams import Streams
from atoll.actors.router.upkeep import Upkeep
from atoll.actors.router.ways import Ways
from atoll.actors.runtime.system import ActorSystem
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.router")


class SessionTurns(msgspec.Struct, frozen=True, kw_only=True):
    """Hands a turn of a session on to all whom it concerns; see the module."""

    system: ActorSystem
    links: dict[NodeId, LinkSeen]
    routes: RouteTable
    conversations: Conversations
    streams: Streams
    upkeep: Upkeep
    ways: Ways
    bearers: Bearers
    punches: Punches

    def take(self, turn: Turn) -> None:
        """Take any turn but those that bring something for a user: `Said` and `StreamTurn`."""
        conversation, peer = turn.conversation, turn.conversation.peer
        match turn:
            case Opened() if peer is not None:
                self._opened(conversation, peer)
            case Moved(reason=reason, lost=lost) if peer is not None:
                self._note_way(peer)
                if lost:
                    self._go_on(conversation, peer, f"the path to {peer.short} was lost: {reason}")
            case PathGone() if peer is not None:
                self._path_gone(peer, turn)
            case PathRetired():
                self.upkeep.peer_retires(turn)
            case Stalled() if peer is not None:
                if conversation.dialled:
                    self.ways.widen(peer, at_once=True)
            case Orphaned(reason=reason) if peer is not None:
                self._orphaned(conversation, peer, reason)
            case Ended():
                self.streams.ended(conversation, turn.reason)
                self._ended(conversation, peer, turn)
        self.ways.wake(conversation)

    def _opened(self, conversation: Conversation, peer: NodeId) -> None:
        link = self.links.get(peer)
        if link is not None and conversation.standing is not Standing.MEMBER:
            # Whom we have dialled has shown no grant; its link has proved what it is.
            conversation.standing = link.standing
        if conversation.way is Way.SEP and not conversation.dialled:
            self.routes.called_us(peer, conversation.relay)
        self._note_way(peer)
        self.ways.resume(peer)

    def _path_gone(self, peer: NodeId, turn: PathGone) -> None:
        self._note_way(peer)
        if turn.path.way is Way.SEP and turn.conversation.dialled:
            self.ways.widen(peer)
        if turn.path.way is Way.PUNCHED:
            self._note_punched_gone(peer, turn.reason)
        if turn.path.way is Way.BEP and not self.conversations.has_path(peer, Way.BEP):
            self.routes.bearer_lost(peer, turn.reason, self.system.clock())
            self.bearers.ended(peer, lost=not turn.in_order or turn.conversation.has_streams())
        elif turn.path.way is Way.BEP and turn.conversation.dialled:
            self.bearers.keep_two(peer)

    def _orphaned(self, conversation: Conversation, peer: NodeId, reason: str) -> None:
        """Look for another path: the streams wait for it, and whoever waits for an answer."""
        log.info("the session with %s has lost its last path: %s", peer.short, reason)
        self._note_way(peer)
        if conversation.dialled:
            self.routes.signaling_over(peer)
            self.ways.interrupted(peer, f"the session with {peer.short} has no path: {reason}")
            self.ways.restore(peer)
            self.ways.begin(peer)
        else:
            self.routes.caller_gone(peer)
            self.system.way_lost(peer, f"the session with {peer.short} has no path: {reason}")

    def _ended(self, conversation: Conversation, peer: NodeId | None, turn: Ended) -> None:
        reason = turn.reason
        log.info("the session with %s over %s ended: %s", peer.short if peer else "?", conversation.relay, reason)
        if peer is None:
            return
        self._note_punched_gone(peer, reason)
        if not self.conversations.has_path(peer, Way.BEP):
            if conversation.way is Way.BEP:
                self.routes.bearer_lost(peer, reason, self.system.clock())
            if conversation.dialled and not turn.lost:
                self.bearers.ended(peer, lost=False)
        others = [each for each in self.conversations.all_with(peer) if each.dialled == conversation.dialled]
        if conversation.dialled and not others:
            self.routes.signaling_over(peer)
        elif not others:
            self.routes.caller_gone(peer)
        self._note_way(peer)
        talks = self.ways.talks_with(peer)
        if conversation.round_trip_s is None and talks:
            return
        self._go_on(conversation, peer, f"the session with {peer.short} ended: {reason}", wanted=not turn.lost)

    def _go_on(self, conversation: Conversation, peer: NodeId, reason: str, *, wanted: bool = False) -> None:
        """Send what waits for an answer again over the way that is left.

        Where none is, and nobody `wanted` that, it waits for the next one instead of failing.
        """
        self.ways.interrupted(peer, reason)
        if conversation.dialled and not wanted and self.system.awaits(peer):
            self.ways.begin_again(peer, conversation)
        else:
            self.ways.resume(peer)

    def _note_way(self, peer: NodeId) -> None:
        """Let the route follow the path that the session uses; from a bearer, a punched one is worth a try."""
        conversation = self.conversations.with_peer(peer)
        if conversation is None or not conversation.established:
            self.routes.session_over(peer)
            return
        if conversation.way is Way.BEP:
            self.routes.bearer_open(peer, conversation.relay)
            self.punches.wanted(peer)
        paths = conversation.session.paths
        self.routes.uses(peer, conversation.way, conversation.relay, "" if paths.current is None else paths.reason)

    def _note_punched_gone(self, peer: NodeId, reason: str) -> None:
        """Note that the punched path to a peer is over, where it is."""
        if not self.conversations.has_path(peer, Way.PUNCHED):
            self.punches.lost(peer, reason)

"""The sessions of one node: with whom, over which paths, in which state. No I/O but `Path.send`.

    dialled:  paths to a peer --records--> established --MessageArrived--> its envelopes
    answered: a first record on any path --judge agrees--> established

A conversation is one session and the connections it may use, of all kinds. Until it is established its records go over
all of them, so that a relay that died unnoticed costs nothing. Then who dialled gives each connection a number of the
session's `PathSet` (`add`), and the other end learns it from the genuine record that holds the path's OPEN. From then
on the `PathSet` says which one is used, and why; streams and calls go over it. A forged record moves nothing, and
pushes no path out. The table is bounded: the oldest handshake of a stranger and the session used least recently give
way, and are counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from atoll.actors.router.conversation import (
    RANKS,
    Conversation,
    Ended,
    Moved,
    Opened,
    Orphaned,
    PathGone,
    PathRetired,
    Said,
    Stalled,
    StreamTurn,
    Turn,
    shown,
)
from atoll.actors.router.conversation_table import ConversationTable
from atoll.actors.router.paths import Path
from atoll.actors.router.routes import Way
from atoll.transport.base import SILENCE_S, Standing
from atoll.transport.errors import Congested, Expired, MalformedFrame, Unreachable
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.path_set import Condition, KnownPath, PathGivenUp, Switched
from atoll.transport.session import Judge, Session
from atoll.transport.session_events import Closed, Established, MessageArrived, SessionEvent, State
from atoll.transport.session_opening import opens_session, session_id_of
from atoll.transport.session_reset import Resets
from atoll.transport.stream_events import (
    PathOpened,
    PeerLeft,
    PeerRetires,
    Readable,
    StreamClosed,
    StreamOpened,
    Writable,
)

CONVERSATIONS_MAX = 1024
ANSWERING_MAX = 128
"""Handshakes of strangers under way at once; each costs two key agreements at most and five seconds of memory."""
UNBOUND_MAX = 4
"""Connections without a number that one conversation remembers; both relays of a site and one replaced each."""
BURST_RECORDS = 4
"""Records of bytes between two looks whether the path takes more: what it takes at once, and no more."""
SIGNALING_FLIGHT_BYTES = 256 * 1024
"""What streams may have on its way over signaling: proxies and relays between tell nobody when they are full."""
LAST_SILENCE_S = 30.0
"""How long streams wait for their last path when it is silent: a relay that hangs may go on."""
ORPHAN_S = 20.0
"""How long a session with streams waits for another path when it has lost its last one."""


@dataclass(slots=True)
class Conversations(ConversationTable):
    """All sessions of a node; times are monotonic seconds and come in."""

    key: NodeKey
    judge: Judge
    """Gives the `Standing` of a peer that shows a grant, or raises."""
    on_turn: Callable[[Turn], None]
    """Called for everything that happens, in order; it may send, and must not raise."""
    counts: Counter[str] = field(default_factory=Counter)
    _resets: Resets = field(init=False)

    def __post_init__(self) -> None:
        self._resets = Resets(self.key)

    def dial(self, peer: NodeId, paths: Iterable[Path], grant: bytes, now: float) -> Conversation:
        """Begin a session with `peer` over these paths, at least one."""
        listed = list(paths)[:UNBOUND_MAX]
        session = Session.dial(
            key=self.key,
            peer=peer,
            grant=grant,
            record_bytes_max=min(path.record_bytes_max for path in listed),
            now=now,
        )
        first = listed[0]
        conversation = Conversation(session, listed, first.way, first.relay, opened_at=now, dialled=True)
        self._enter(conversation, now)
        self.flush(conversation, now)
        return conversation

    def send(self, conversation: Conversation, message: bytes, now: float) -> None:
        """Queue a message.

        Raises:
            Congested: The session's queue is full.
            Unreachable: The conversation is over.
        """
        try:
            conversation.session.send(message)
        except Expired as error:
            raise Unreachable(str(error)) from error
        self.flush(conversation, now)

    def take(self, path: Path, record: bytes, now: float) -> None:
        """Take one record from a path."""
        try:
            session_id = session_id_of(record)
        except MalformedFrame:
            self.counts["malformed"] += 1
            return
        conversation = self._by_id.get(session_id)
        if conversation is None:
            conversation = self._answer(session_id, path, record, now)
            if conversation is None:
                return
        session = conversation.session
        before = (session.state, session.records_opened)
        events = session.receive(record, now, conversation.via(path))
        if (session.state, session.records_opened) != before:
            # Only a genuine record moves the answers to its path.
            self._prefer(conversation, path)
        elif not conversation.established:
            self._add(conversation, path)
        for event in tuple(events):
            if isinstance(event, PathOpened):
                events += self._bind(conversation, event.path, path, now)
        conversation.keep_via(path)
        if path in conversation.retired:
            conversation.retired[path] = now
        self._by_id.move_to_end(session_id)
        self._carry_on(conversation, events, now)

    def add(self, conversation: Conversation, path: Path, now: float) -> int:
        """Make another connection to the peer a path of a session that stands, and give its number.

        Raises:
            Congested: It has as many as it may.
        """
        number = conversation.session.add_path(RANKS[path.way], shown(path), now)
        conversation.numbers[number], conversation.orphaned_at = path, None
        conversation.session.narrow(path.record_bytes_max)
        if path not in conversation.paths:
            conversation.paths.append(path)
        self.flush(conversation, now)
        return number

    def path_found(self, beside: Path, path: Path, now: float) -> bool:
        """Let those who use `beside` use another path to the same peer, too; False when there are none."""
        using = [each for each in self._by_id.values() if beside in each.paths]
        for conversation in using:
            if conversation.established and conversation.dialled:
                self._add_or_count(conversation, path, now)
            else:
                self._add(conversation, path)
        return any(path in each.paths for each in using)

    def retire(self, conversation: Conversation, path: Path, reason: str, now: float) -> None:
        """Leave a path in good order: both ends go over to another as soon as that answers. `let_go` follows."""
        for number, each in conversation.numbers.items():
            if each is path and not conversation.session.paths.is_leaving(number):
                conversation.session.retire_path(number, reason, now)
                conversation.retired[path] = now
        self.flush(conversation, now)

    def let_go(self, conversation: Conversation, path: Path, reason: str, now: float) -> None:
        """Close a path that both ends have left, or that nobody needs."""
        if path in conversation.paths:
            conversation.retired.setdefault(path, now)
            self._lose(conversation, path, reason, now)

    def path_lost(self, path: Path, reason: str, now: float) -> None:
        """Forget a path; a conversation that has no other is over."""
        for conversation in self.all():
            conversation.closed.discard(path)
            if path in conversation.paths:
                self._lose(conversation, path, reason, now)
                conversation.closed.discard(path)

    def drained(self, path: Path, now: float) -> None:
        """Hear that a path that was full takes more."""
        for conversation in self.all():
            if conversation.in_use is path:
                self.flush(conversation, now)

    def end(self, conversation: Conversation, reason: str, now: float) -> None:
        """Close one, telling the peer why."""
        if conversation.session.state is not State.CLOSED:
            conversation.session.close(reason)
            self._carry_on(conversation, [Closed(reason, by_peer=False)], now)

    def end_all(self, reason: str, now: float) -> None:
        """Close them all, telling each peer why."""
        for conversation in self.all():
            self.end(conversation, reason, now)

    def tick(self, now: float) -> None:
        """Do what time asks for; call it at `deadline`."""
        for conversation in self.all():
            deadline = conversation.session.deadline
            if deadline is not None and now >= deadline:
                self._carry_on(conversation, conversation.session.tick(now), now)
            elif conversation.session.waits_to_send:
                self.flush(conversation, now)
            if conversation.orphaned_at is not None and now >= conversation.orphaned_at + ORPHAN_S:
                self._over(conversation, f"it had no path for {ORPHAN_S:g} s", lost=True)
            elif conversation.established:
                self._leave_silent(conversation, now)

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, at the latest; None while there is nothing to wait for."""
        deadlines = [each.session.deadline for each in self._by_id.values()]
        return min((each for each in deadlines if each is not None), default=None)

    def flush(self, conversation: Conversation, now: float) -> None:
        """Send what the session has to say, as far as the path in use takes it."""
        session = conversation.session
        while conversation.paths:
            path = conversation.in_use
            full = path is not None and not path.takes_more
            wide = path is not None and not full and self._is_wide(path, session)
            records = session.outgoing(now, BURST_RECORDS if wide else 0, full=full)
            for number, record in records:
                self._put(conversation, number, record)
            if not records or not wide:
                return

    # Sending

    def _is_wide(self, path: Path, session: Session) -> bool:
        """Tell whether bytes of streams may go out over a path now."""
        return path.way is not Way.SEP or session.streams.in_flight < SIGNALING_FLIGHT_BYTES

    def _put(self, conversation: Conversation, number: int | None, record: bytes) -> None:
        if number is None:
            for path in tuple(conversation.paths):
                self._sent(path, record)
            return
        bound = conversation.numbers.get(number)
        if bound is None or self._sent(bound, record) or number != conversation.session.paths.current:
            return
        # Its `PathLost` is on the way; until then another path may carry this.
        for other in tuple(conversation.numbers.values()):
            if other is not bound and self._sent(other, record):
                return

    def _sent(self, path: Path, record: bytes) -> bool:
        """Send a record; False when the path is over."""
        try:
            path.send(record)
        except Congested:
            self.counts["congested"] += 1
        except Unreachable:
            self.counts["unreachable"] += 1
            return False
        return True

    # Sessions

    def _answer(self, session_id: bytes, path: Path, record: bytes, now: float) -> Conversation | None:
        if not opens_session(record):
            self.counts["unknown_session"] += 1
            if (reset := self._resets.answer(record, now)) is not None:
                self.counts["resets"] += self._sent(path, reset)
            return None
        answering = [each for each in self._by_id.values() if each.session.state is State.ANSWERING]
        if len(answering) >= ANSWERING_MAX:
            # The oldest, because an honest one is through after a round trip.
            self.counts["handshakes_displaced"] += 1
            self.end(min(answering, key=lambda each: each.opened_at), "too many handshakes are under way", now)
        session = Session.answer(
            key=self.key,
            judge=self.judge,
            session_id=session_id,
            record_bytes_max=path.record_bytes_max,
            now=now,
            resets=self._resets.begins(session_id, now),
        )
        conversation = Conversation(session, [path], path.way, path.relay, opened_at=now)
        self._enter(conversation, now)
        return conversation

    def _enter(self, conversation: Conversation, now: float) -> None:
        if len(self._by_id) >= CONVERSATIONS_MAX:
            self.counts["displaced"] += 1
            self.end(next(iter(self._by_id.values())), "this node has too many sessions", now)
        self._by_id[conversation.session.session_id] = conversation

    def _over(self, conversation: Conversation, reason: str, *, lost: bool = False) -> None:
        self._by_id.pop(conversation.session.session_id, None)
        conversation.ended, conversation.lost = reason, lost
        for path in conversation.paths:
            if not self._in_use(path):
                path.close()
        self.on_turn(Ended(conversation, reason, lost))

    def _carry_on(self, conversation: Conversation, events: list[SessionEvent], now: float) -> None:
        """Send what the session has to say, then tell what happened."""
        if any(isinstance(each, Established) for each in events) and conversation.dialled:
            for path in tuple(conversation.paths):
                self._add_or_count(conversation, path, now)
        self._note_path(conversation)
        self.flush(conversation, now)
        for event in events:
            self._take_event(conversation, event, now)
            if conversation.ended:
                return

    def _take_event(self, conversation: Conversation, event: SessionEvent, now: float) -> None:
        match event:
            case MessageArrived(data):
                self.on_turn(Said(conversation, data))
            case Readable() | Writable() | StreamOpened() | StreamClosed():
                self.on_turn(StreamTurn(conversation, event))
            case Established(verdict=verdict):
                if isinstance(verdict, Standing):
                    conversation.standing = verdict
                conversation.round_trip_s = now - conversation.opened_at
                self.on_turn(Opened(conversation))
            case Switched(reason=reason, lost=lost) if event.path is not None:
                self.on_turn(Moved(conversation, reason, lost))
            case PeerLeft(reason=reason):
                # Its answers may be gone with the path: who asks again gets them from the table of answers.
                self.on_turn(Moved(conversation, reason))
            case PeerRetires(number) if number in conversation.numbers:
                path = conversation.numbers[number]
                conversation.retired.setdefault(path, now)
                self.on_turn(PathRetired(conversation, path))
            case PathGivenUp(number, reason):
                self._give_up(conversation, number, reason, now)
            case Closed(reason, broken=broken, forgotten=forgotten):
                self.counts["broken_by_peer"] += broken
                self.counts["forgotten"] += forgotten
                self._resets.ends(conversation.session.session_id, now)
                self._over(conversation, reason, lost=forgotten)

    # Paths

    def _in_use(self, path: Path) -> bool:
        return any(path in each.paths for each in self._by_id.values())

    def _note_path(self, conversation: Conversation) -> None:
        """Keep what the conversation uses, or used last."""
        path = conversation.in_use or next(iter(conversation.paths), None)
        if path is not None:
            conversation.way, conversation.relay = path.way, path.relay

    def _prefer(self, conversation: Conversation, path: Path) -> None:
        if path in conversation.closed:
            return
        conversation.orphaned_at = None
        if conversation.paths and conversation.paths[0] is path:
            return
        if path in conversation.paths:
            conversation.paths.remove(path)
        conversation.paths.insert(0, path)
        for extra in conversation.unbound()[UNBOUND_MAX:]:
            conversation.forget(extra)

    def _add(self, conversation: Conversation, path: Path) -> None:
        """Use a path that nothing genuine has come over yet, if there is room."""
        if path not in conversation.paths and len(conversation.unbound()) < UNBOUND_MAX:
            conversation.paths.append(path)

    def _add_or_count(self, conversation: Conversation, path: Path, now: float) -> None:
        try:
            self.add(conversation, path, now)
        except Congested:
            self.counts["paths_refused"] += 1

    def _bind(self, conversation: Conversation, number: int, path: Path, now: float) -> list[SessionEvent]:
        """Take what the peer says: this connection is the path of that number."""
        before = conversation.numbers.get(number)
        if before is path:
            return []
        events: list[SessionEvent] = []
        if path in conversation.closed:
            # It was on its way when the connection was let go here, which leads nowhere any more.
            conversation.numbers.pop(number, None)
            events = conversation.session.path_lost(number, "its connection was let go", now)
        else:
            conversation.numbers[number] = path
            conversation.session.narrow(path.record_bytes_max)
        if before is not None and before not in conversation.numbers.values():
            conversation.forget(before)
            if not self._in_use(before):
                before.close()
        return events

    def _lose(self, conversation: Conversation, path: Path, reason: str, now: float) -> None:
        in_order = path in conversation.retired
        conversation.forget(path)
        if in_order and not self._in_use(path):
            # Whoever holds it hears that this was no loss, and puts nothing in its place.
            path.close()
            conversation.closed.add(path)
        events: list[SessionEvent] = []
        for number in [number for number, each in conversation.numbers.items() if each is path]:
            del conversation.numbers[number]
            events += conversation.session.path_lost(number, reason, now)
        if conversation.established:
            self.on_turn(PathGone(conversation, path, reason, in_order))
        if not conversation.paths and conversation.established and conversation.has_streams():
            conversation.orphaned_at = now
            self.on_turn(Orphaned(conversation, reason))
            return
        if not conversation.paths:
            conversation.session.close(reason)
            self._over(conversation, reason, lost=True)
            return
        self._carry_on(conversation, events, now)

    def _give_up(self, conversation: Conversation, number: int, reason: str, now: float) -> None:
        """Let go of a path that leads nowhere, as of one that is lost."""
        path = conversation.numbers.get(number)
        if path is None:
            return
        self.counts["given_up"] += 1
        in_order = path in conversation.retired
        self._lose(conversation, path, reason, now)
        if not in_order and not self._in_use(path):
            path.abandon()

    def _leave_silent(self, conversation: Conversation, now: float) -> None:
        """Give up a path that takes what we send, while nothing comes back, not even a sign of life."""
        session = conversation.session
        self._note_stall(conversation)
        conversation.note_silence()
        since = conversation.unanswered_since
        for number, path in tuple(conversation.numbers.items()):
            known = session.paths.get(number)
            if known is None or known.condition is not Condition.SILENT or not self._may_leave(conversation, number):
                continue
            limit_s = LAST_SILENCE_S if self._is_last_hope(conversation, known) else SILENCE_S
            if now >= known.silent_since + limit_s:
                self.counts["silent"] += 1
                self._give_up(conversation, number, f"nothing came back through {path.relay} for {limit_s:g} s", now)
        if conversation.ended or not conversation.dialled:
            return
        limit_s = LAST_SILENCE_S if conversation.has_streams() else SILENCE_S
        if since is not None and now >= since + limit_s:
            # Not because of the paths, then: the peer is gone, or lost its link to its proxy for a moment. Streams
            # would be gone with the session, so they have more time; no more, though, for each path that is opened.
            self.counts["silent_sessions"] += 1
            reason = f"nothing came back over any path for {limit_s:g} s"
            conversation.session.close(reason)
            self.flush(conversation, now)
            self._over(conversation, reason, lost=True)

    def _note_stall(self, conversation: Conversation) -> None:
        """Tell once when a session finds no living path among those it has."""
        paths = conversation.session.paths
        current = None if paths.current is None else paths.get(paths.current)
        before, conversation.stalled = (
            conversation.stalled,
            current is not None and current.condition is Condition.SILENT,
        )
        if conversation.stalled and not before:
            self.on_turn(Stalled(conversation))

    def _may_leave(self, conversation: Conversation, number: int) -> bool:
        """Tell whether the peer will know: circuits back to a caller are the caller's to give up."""
        return number % 2 != conversation.dialled or conversation.numbers[number].way is not Way.SEP

    def _is_last_hope(self, conversation: Conversation, known: KnownPath) -> bool:
        """Tell whether streams would end with the path."""
        others = [each for each in conversation.session.paths.all() if each is not known]
        return conversation.has_streams() and not any(each.condition is Condition.USABLE for each in others)

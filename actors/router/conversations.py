"""The sessions of one node: with whom, over which paths, in which state. No I/O but `Path.send`.

    dialled:  paths to a peer --records--> established --MessageArrived--> its envelopes
    answered: a first record on any path --judge agrees--> established

A conversation is one session and the paths it may use. Until it is established its records go over all of them, so
that a relay that died unnoticed costs nothing; afterwards over the one that a genuine record came in on last. A forged
record moves nothing, and pushes no path out. The table is bounded: the oldest handshake of a stranger and the session
used least recently give way, and are counted.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from atoll.actors.router.paths import Path
from atoll.actors.router.routes import Way
from atoll.transport.base import SILENCE_S, Standing
from atoll.transport.errors import Congested, Expired, MalformedFrame, Unreachable
from atoll.transport.identity import NodeId
from atoll.transport.keys import NodeKey
from atoll.transport.session import (
    Closed,
    Established,
    Judge,
    MessageArrived,
    Session,
    SessionEvent,
    State,
    opens_session,
    session_id_of,
)

CONVERSATIONS_MAX = 1024
ANSWERING_MAX = 128
"""Handshakes of strangers under way at once; each costs two key agreements at most and five seconds of memory."""
PATHS_MAX = 4
"""Paths that one conversation remembers; both relays of a site and one replaced each."""


@dataclass(slots=True, eq=False)
class Conversation:
    """One session and the paths it may use."""

    session: Session
    paths: list[Path]
    """The one in use first."""
    way: Way
    """`SEP` or `BEP`: a conversation stays what it was begun as."""
    relay: str
    """The relay in use, or used last."""
    opened_at: float
    dialled: bool = False
    standing: Standing = Standing.NEIGHBOUR
    """What the peer has proved: its grant, where it was the one to dial."""
    round_trip_s: float | None = None
    """What the handshake took."""
    ended: str = ""
    """Why it is over; empty while it is not."""

    @property
    def peer(self) -> NodeId | None:
        """Who is at the other end; not known before it has proved it."""
        return self.session.peer

    @property
    def established(self) -> bool:
        """Both ends have proved themselves."""
        return self.session.state is State.OPEN


@dataclass(frozen=True, slots=True)
class Opened:
    """A conversation is established."""

    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Ended:
    """A conversation is over."""

    conversation: Conversation
    reason: str
    lost: bool = False
    """Its last path was lost; nobody wanted it to end."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The path in use was lost and the conversation goes on over another; what was on its way may be gone."""

    conversation: Conversation
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """One message came in."""

    conversation: Conversation
    data: bytes


Turn: TypeAlias = Opened | Moved | Ended | Said


@dataclass(slots=True)
class Conversations:
    """All sessions of a node; times are monotonic seconds and come in."""

    key: NodeKey
    judge: Judge
    """Gives the `Standing` of a peer that shows a grant, or raises."""
    on_turn: Callable[[Turn], None]
    """Called for everything that happens, in order; it may send, and must not raise."""
    _by_id: OrderedDict[bytes, Conversation] = field(default_factory=OrderedDict)
    counts: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Conversation]:
        """Give them all, those used last behind."""
        return list(self._by_id.values())

    def with_peer(self, peer: NodeId, way: Way | None = None) -> Conversation | None:
        """Give the best conversation with a peer: established before under way, bearer before SEP, newest first."""
        found = [
            each
            for each in reversed(self._by_id.values())
            if each.peer == peer and each.paths and (way is None or each.way is way)
        ]
        return max(found, key=lambda each: (each.established, each.way is Way.BEP), default=None)

    def dial(self, peer: NodeId, paths: Iterable[Path], grant: bytes, now: float) -> Conversation:
        """Begin a session with `peer` over these paths, at least one."""
        listed = list(paths)[:PATHS_MAX]
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
        self._flush(conversation)
        return conversation

    def send(self, conversation: Conversation, message: bytes) -> None:
        """Queue a message.

        Raises:
            Congested: The session's queue is full.
            Unreachable: The conversation is over.
        """
        try:
            conversation.session.send(message)
        except Expired as error:
            raise Unreachable(str(error)) from error
        self._flush(conversation)

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
        before = (conversation.session.state, conversation.session.records_opened)
        events = conversation.session.receive(record, now)
        if (conversation.session.state, conversation.session.records_opened) != before:
            # Only a genuine record moves the answers to its path.
            self._prefer(conversation, path)
        elif not conversation.established:
            self._add(conversation, path)
        self._by_id.move_to_end(session_id)
        self._carry_on(conversation, events, now)

    def path_found(self, beside: Path, path: Path) -> bool:
        """Let those who use `beside` use another path to the same peer, too; False when there are none."""
        using = [each for each in self._by_id.values() if beside in each.paths]
        for conversation in using:
            self._add(conversation, path)
        return any(path in each.paths for each in using)

    def path_lost(self, path: Path, reason: str) -> None:
        """Forget a path; a conversation that has no other is over."""
        for conversation in self.all():
            if path in conversation.paths:
                self._lose(conversation, path, reason)

    def _lose(self, conversation: Conversation, path: Path, reason: str) -> None:
        in_use = conversation.paths[0] is path
        conversation.paths.remove(path)
        if not conversation.paths:
            conversation.session.close(reason)
            self._over(conversation, reason, lost=True)
        elif in_use:
            conversation.relay = conversation.paths[0].relay
            if conversation.established:
                self.on_turn(Moved(conversation, reason))

    def end(self, conversation: Conversation, reason: str, now: float) -> None:
        """Close one, telling the peer why."""
        if conversation.session.state is not State.CLOSED:
            conversation.session.close(reason)
            self._carry_on(conversation, [Closed(reason, by_peer=False)], now)

    def tick(self, now: float) -> None:
        """Do what time asks for; call it at `deadline`."""
        for conversation in self.all():
            deadline = conversation.session.deadline
            if deadline is not None and now >= deadline:
                self._carry_on(conversation, conversation.session.tick(now), now)
            if conversation.established and conversation.session.unheard_s(now) >= SILENCE_S:
                self._leave_silent(conversation, now)

    def _leave_silent(self, conversation: Conversation, now: float) -> None:
        """Give up the path in use: it takes what we send, and nothing comes back, not even a sign of life."""
        self.counts["silent"] += 1
        path = conversation.paths[0]
        conversation.session.moved(now)
        self._lose(conversation, path, f"nothing came back through {path.relay} for {SILENCE_S:g} s")
        if not any(path in each.paths for each in self._by_id.values()):
            path.abandon()

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, at the latest; None while there is nothing to wait for."""
        deadlines = [each.session.deadline for each in self._by_id.values()]
        return min((each for each in deadlines if each is not None), default=None)

    def _answer(self, session_id: bytes, path: Path, record: bytes, now: float) -> Conversation | None:
        if not opens_session(record):
            self.counts["unknown_session"] += 1
            return None
        answering = [each for each in self._by_id.values() if each.session.state is State.ANSWERING]
        if len(answering) >= ANSWERING_MAX:
            # The oldest, because an honest one is through after a round trip.
            self.counts["handshakes_displaced"] += 1
            self.end(min(answering, key=lambda each: each.opened_at), "too many handshakes are under way", now)
        session = Session.answer(
            key=self.key, judge=self.judge, session_id=session_id, record_bytes_max=path.record_bytes_max, now=now
        )
        conversation = Conversation(session, [path], path.way, path.relay, opened_at=now)
        self._enter(conversation, now)
        return conversation

    def _enter(self, conversation: Conversation, now: float) -> None:
        if len(self._by_id) >= CONVERSATIONS_MAX:
            self.counts["displaced"] += 1
            self.end(next(iter(self._by_id.values())), "this node has too many sessions", now)
        self._by_id[conversation.session.session_id] = conversation

    def _prefer(self, conversation: Conversation, path: Path) -> None:
        if conversation.paths and conversation.paths[0] is path:
            return
        kept = [each for each in conversation.paths if each is not path]
        conversation.paths = [path, *kept][:PATHS_MAX]
        conversation.relay = path.relay

    def _add(self, conversation: Conversation, path: Path) -> None:
        """Use a path that nothing genuine has come over yet, if there is room."""
        if path not in conversation.paths and len(conversation.paths) < PATHS_MAX:
            conversation.paths.append(path)

    def _over(self, conversation: Conversation, reason: str, *, lost: bool = False) -> None:
        self._by_id.pop(conversation.session.session_id, None)
        conversation.ended = reason
        for path in conversation.paths:
            if not any(path in other.paths for other in self._by_id.values()):
                path.close()
        self.on_turn(Ended(conversation, reason, lost))

    def _carry_on(self, conversation: Conversation, events: list[SessionEvent], now: float) -> None:
        """Send what the session has to say, then tell what happened."""
        self._flush(conversation)
        for event in events:
            match event:
                case Established(verdict=verdict):
                    if isinstance(verdict, Standing):
                        conversation.standing = verdict
                    conversation.round_trip_s = now - conversation.opened_at
                    self.on_turn(Opened(conversation))
                case MessageArrived(data):
                    self.on_turn(Said(conversation, data))
                case Closed(reason):
                    self._over(conversation, reason)

    def _flush(self, conversation: Conversation) -> None:
        everywhere = not conversation.established
        for record in conversation.session.outgoing():
            for path in tuple(conversation.paths):
                try:
                    path.send(record)
                except Congested:
                    self.counts["congested"] += 1
                except Unreachable:
                    # Its `PathLost` is on the way; until then another path may carry this.
                    self.counts["unreachable"] += 1
                    continue
                if not everywhere:
                    break

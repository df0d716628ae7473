"""One session, the connections that it may use, and what can happen to it.

    dialled, or answered --both ends have proved themselves--> established --Ended--> over
    established --its last path is lost, streams are open--> orphaned --a path within `ORPHAN_S`--> established

It decides nothing: `conversations.py` does.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from atoll.actors.router.paths import Path
from atoll.actors.router.routes import Way
from atoll.transport.base import Standing
from atoll.transport.identity import NodeId
from atoll.transport.multipath import Via
from atoll.transport.path_set import Condition, Rank
from atoll.transport.session import Session
from atoll.transport.session_events import State
from atoll.transport.stream_events import StreamEvent

RANKS = {Way.DIRECT: Rank.DIRECT, Way.PUNCHED: Rank.DIRECT, Way.BEP: Rank.BEARER, Way.SEP: Rank.SIGNALING}


def shown(path: Path) -> str:
    """Name a connection as the reasons of a session do."""
    return f"{path.relay} ({path.through})" if path.through else path.relay


@dataclass(slots=True, eq=False)
class Conversation:
    """One session and the connections it may use."""

    session: Session
    paths: list[Path]
    """All of them, with a number or without; the one that a genuine record came over last first."""
    way: Way
    """`DIRECT`, `PUNCHED`, `BEP` or `SEP`: of the path in use, or used last."""
    relay: str
    """The relay in use, or used last."""
    opened_at: float
    dialled: bool = False
    standing: Standing = Standing.NEIGHBOUR
    """What the peer has proved: its grant, or its link, where it was the one to dial."""
    round_trip_s: float | None = None
    """What the handshake took."""
    ended: str = ""
    """Why it is over; empty while it is not."""
    lost: bool = False
    """It is over because its last path was lost; nobody wanted it to end."""
    stalled: bool = False
    """Its path in use is silent, and it has no other."""
    orphaned_at: float | None = None
    """When it lost its last path, if it waits for another."""
    numbers: dict[int, Path] = field(default_factory=dict)
    """The connections that are paths of the session."""
    retired: dict[Path, float] = field(default_factory=dict)
    """Paths that are being left in good order, and when something came over each last."""
    unanswered_since: float | None = None
    """Since when nothing has come back over any path though something waits for it; None while a path lives."""
    closed: set[Path] = field(default_factory=set)
    """Paths that were let go here; what still comes over one is read, and does not make it a path again."""
    _vias: dict[Path, Via] = field(default_factory=dict)

    @property
    def peer(self) -> NodeId | None:
        """Who is at the other end; not known before it has proved it."""
        return self.session.peer

    @property
    def established(self) -> bool:
        """Both ends have proved themselves."""
        return self.session.state is State.OPEN

    @property
    def in_use(self) -> Path | None:
        """The path that what is sent goes over; None: over all."""
        current = self.session.paths.current
        return None if current is None else self.numbers.get(current)

    def note_silence(self) -> None:
        """Bring `unanswered_since` up to date; paths that are given up, or opened, do not begin it anew."""
        paths, heard_at = self.session.paths.all(), self.session.heard_at
        if any(each.condition is Condition.USABLE for each in paths):
            self.unanswered_since = None
            return
        if self.unanswered_since is not None and self.unanswered_since < heard_at:
            self.unanswered_since = None
        silent = [each.silent_since for each in paths if each.condition is Condition.SILENT]
        before = [] if self.unanswered_since is None else [self.unanswered_since]
        self.unanswered_since = min((each for each in silent + before if each >= heard_at), default=None)

    def has_streams(self) -> bool:
        """Tell whether any stream is open."""
        return bool(self.session.streams.numbers())

    def via(self, path: Path) -> Via:
        """Give what the session calls a connection."""
        found = self._vias.get(path)
        if found is None:
            found = self._vias[path] = Via(RANKS[path.way], shown(path))
        return found

    def keep_via(self, path: Path) -> None:
        """Forget what the session called a connection that is none of this conversation's: anybody can bring those."""
        if path not in self.paths:
            self._vias.pop(path, None)

    def unbound(self) -> list[Path]:
        """Give the connections that are no path of the session."""
        return [each for each in self.paths if each not in self.numbers.values()]

    def forget(self, path: Path) -> None:
        """Use a connection no more."""
        self.paths.remove(path)
        self.retired.pop(path, None)
        self._vias.pop(path, None)

    def condition(self, path: Path) -> Condition | None:
        """Tell where a connection stands as a path of the session; None: it is none."""
        known = (self.session.paths.get(number) for number, each in self.numbers.items() if each is path)
        return next((each.condition for each in known if each is not None), None)


class Opened(msgspec.Struct, frozen=True):
    """A conversation is established."""

    conversation: Conversation


class Ended(msgspec.Struct, frozen=True):
    """A conversation is over."""

    conversation: Conversation
    reason: str
    lost: bool = False
    """Its last path was lost; nobody wanted it to end."""


class Moved(msgspec.Struct, frozen=True):
    """The conversation goes on over another path."""

    conversation: Conversation
    reason: str
    lost: bool = True
    """The one before is lost or silent; what was on its way may be gone."""


class PathGone(msgspec.Struct, frozen=True):
    """A path of an established conversation was lost or given up."""

    conversation: Conversation
    path: Path
    reason: str
    in_order: bool = False
    """Both ends had left it before."""


class PathRetired(msgspec.Struct, frozen=True):
    """The peer will end a path in good order; another one should take its place."""

    conversation: Conversation
    path: Path


class Orphaned(msgspec.Struct, frozen=True):
    """A conversation has lost its last path, and waits for another for the sake of its streams."""

    conversation: Conversation
    reason: str


class Stalled(msgspec.Struct, frozen=True):
    """Nothing comes back through the path in use, and there is no other that is known to be alive."""

    conversation: Conversation


class Said(msgspec.Struct, frozen=True):
    """One message came in."""

    conversation: Conversation
    data: bytes


class StreamTurn(msgspec.Struct, frozen=True):
    """Something happened to a stream of a conversation."""

    conversation: Conversation
    event: StreamEvent


Turn: TypeAlias = Opened | Moved | PathGone | PathRetired | Stalled | Orphaned | Ended | Said | StreamTurn

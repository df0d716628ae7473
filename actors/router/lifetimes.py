"""When the paths of one session end, and what is done about it before they do. Pure: no I/O, time comes in.

    fresh   --a quarter of its life or `RENEW_BEFORE_S` is left, its relay is drained, the peer ends it--> due
    due     --a fresh one of its kind has answered, or it has `LAST_S` left-->                             left
    left    --both ends have gone over: nothing came over it for `QUIET_S`-->                              closed
    fresh   --nobody needs it any more-->                                                                  left

A path that is due is used as before: the next one is there before it is left, and it is closed when nothing is on its
way over it any more. So who dialled a session decides for both ends; the other end is told (LEAVING) and follows.
Signaling has no end of its own here, because its tickets are renewed where they are; it is replaced when its relay is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

import msgspec

from atoll.actors.router.routes import Way

RENEW_BEFORE_S = 60.0
"""Before its ticket ends a bearer is replaced; a question, two dials and a handshake of the path take a second."""
RENEW_BEFORE_PART = 0.25
"""Of its life at most, so that short tickets are not renewed all the time."""
LAST_S = 1.0
"""A path that has so long to live is left for whatever there is, signaling too: it would take what it holds with it."""
QUIET_S = 1.0
"""So long nothing comes over a path that both ends have left."""
LEAVING_S_MAX = 10.0
"""Then it is closed in any case: what it still holds is sent again over another."""
ASK_AGAIN_S = 2.0
"""Between the first two attempts to replace a path; then twice as long each time."""
DOUBLINGS_MAX = 4

P = TypeVar("P")


class Renew(msgspec.Struct, frozen=True):
    """Open another path of this kind, but not over these relays."""

    way: Way
    avoid: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Leave(Generic[P]):
    """Leave a path in good order, at both ends."""

    path: P
    reason: str


@dataclass(frozen=True, slots=True)
class Close(Generic[P]):
    """End a path that is left."""

    path: P
    reason: str


class Seen(msgspec.Struct, frozen=True):
    """What the session knows about one of its paths."""

    usable: bool
    """It has answered."""
    in_use: bool
    """What is sent here goes over it."""
    heard_at: float
    """When something came over it last; of paths that are left."""


@dataclass(slots=True)
class _Life:
    way: Way
    relay: str
    ends_at: float
    due_at: float
    why: str
    left_at: float | None = None
    needless: bool = False


@dataclass(slots=True)
class _Unreplaced:
    why: str
    ask_at: float
    asked: int = 0


Effect: TypeAlias = Renew | Leave[P] | Close[P]


@dataclass(slots=True)
class Lifetimes(Generic[P]):
    """The paths that this end has opened to one peer; times are seconds of one clock."""

    _lives: dict[P, _Life] = field(default_factory=dict)
    _unreplaced: dict[Way, "_Unreplaced"] = field(default_factory=dict)
    """Kinds of which there is no fresh one, though there should be."""
    _going: set[str] = field(default_factory=set)
    """Relays that are being drained, as long as a path leads over them."""

    def __contains__(self, path: object) -> bool:
        return path in self._lives

    def opened(self, path: P, way: Way, relay: str, now: float, ends_at: float = math.inf) -> None:
        """Take a path, and when its ticket ends."""
        before_s = min(RENEW_BEFORE_S, (ends_at - now) * RENEW_BEFORE_PART)
        due_at = math.inf if math.isinf(ends_at) else ends_at - before_s
        self._lives[path] = _Life(way, relay, ends_at, due_at, f"the ticket for {relay} expires")
        if relay in self._going:
            # It was asked for before the relay said so.
            self._make_due(self._lives[path], now, f"{relay} is being drained")

    def gone(self, path: P) -> None:
        """Forget a path that is over."""
        self._lives.pop(path, None)
        self._going &= {each.relay for each in self._lives.values()}

    def going(self, relay: str, now: float) -> bool:
        """Hear that a relay is being drained; True when a path leads over it."""
        over = [each for each in self._lives.values() if each.relay == relay]
        for each in over:
            self._make_due(each, now, f"{relay} is being drained")
        if over:
            self._going.add(relay)
        return bool(over)

    def ending(self, path: P, now: float) -> None:
        """Hear that the peer will end a path: at its relay, which we may not hear of, something is going on."""
        life = self._lives.get(path)
        if life is not None:
            self._make_due(life, now, f"the peer leaves {life.relay}")
            self._going.add(life.relay)

    def needless(self, path: P, now: float, reason: str) -> None:
        """Let a path go, without another in its place."""
        life = self._lives.get(path)
        if life is not None and life.left_at is None:
            life.due_at, life.why, life.needless = min(life.due_at, now), reason, True
            self._unreplaced.pop(life.way, None)

    def is_fresh(self, path: P, now: float) -> bool:
        """Tell whether a path is one to stay with; one that is not known here has no end that is known."""
        life = self._lives.get(path)
        return life is None or now < life.due_at

    def avoided(self) -> tuple[str, ...]:
        """Name the relays that no new path should lead over."""
        return tuple(sorted(self._going))

    def look(self, seen: Mapping[P, Seen], now: float) -> list[Effect[P]]:
        """Say what is to be done now; `seen` are the paths of the session, others are forgotten."""
        for path in [each for each in self._lives if each not in seen]:
            self.gone(path)
        effects: list[Effect[P]] = []
        for way in (Way.BEP, Way.SEP):
            lives = {path: each for path, each in self._lives.items() if each.way is way}
            effects += self._look(way, lives, seen, now)
        for path, life in self._lives.items():
            if life.left_at is not None and self._may_end(life, seen[path], now):
                effects.append(Close(path, life.why))
        return effects

    @staticmethod
    def _make_due(life: _Life, now: float, why: str) -> None:
        if now < life.due_at:
            life.due_at, life.why = now, why

    def _look(self, way: Way, lives: Mapping[P, _Life], seen: Mapping[P, Seen], now: float) -> list[Effect[P]]:
        """Look after the paths of one kind."""
        due = {path: each for path, each in lives.items() if now >= each.due_at and each.left_at is None}
        fresh = [path for path, each in lives.items() if now < each.due_at]
        effects: list[Effect[P]] = []
        wanted = [each for each in due.values() if not each.needless]
        if fresh:
            self._unreplaced.pop(way, None)
        elif wanted:
            self._unreplaced.setdefault(way, _Unreplaced(wanted[0].why, now))
        missing = self._unreplaced.get(way)
        if missing is not None and now >= missing.ask_at:
            missing.ask_at = now + ASK_AGAIN_S * 2 ** min(missing.asked, DOUBLINGS_MAX)
            missing.asked += 1
            effects.append(Renew(way, self.avoided(), missing.why))
        ready = any(seen[path].usable for path in fresh)
        others = any(each.usable for path, each in seen.items() if path not in due)
        for path, life in due.items():
            if others and (ready or life.needless or now >= life.ends_at - LAST_S):
                life.left_at = now
                effects.append(Leave(path, life.why))
        return effects

    @staticmethod
    def _may_end(life: _Life, seen: Seen, now: float) -> bool:
        """Tell whether nothing is on its way over a path that is left, or that there is no time to wait for it."""
        if seen.in_use or life.left_at is None:
            return False
        quiet = now >= max(life.left_at, seen.heard_at) + QUIET_S
        return quiet or now >= life.left_at + LEAVING_S_MAX

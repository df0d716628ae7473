"""The paths of one session, from the view of one end: which one its bytes go over, and why. Without I/O.

    opening --OPENED, or the echo of a probe--> usable --1 s without a sign, though bytes wait--> silent
    silent  --the echo of a probe--> usable;   any --lost--> gone, and its number is free again
    any     --`retire`, the peer's LEAVING--> leaving: as before, until any other has answered

One path carries what this end sends; each end chooses for itself. While bytes are unacknowledged the path in use is
probed every 250 ms, and after a loss until it has shown itself alive; after 1 s without an echo or an acknowledgement
over it another is used. From the second missing echo on the others are probed too, so that one that is known to be
alive is there when it is needed. A silent path that answers again is trusted after it has gone on answering for 3 s.

A path that is about to end (its ticket expires, its relay is drained) is left in good order: both ends are told, and go
over to another as soon as that has answered. Nothing is lost then, and what was sent is sent again all the same.

A path counts by its own echoes only: what comes in over another says nothing about it, and a frozen relay keeps its
connections open.
"""

import enum
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from atoll.transport.errors import Congested, MalformedFrame
from atoll.transport.records import EVERYWHERE, PATHS_MAX
from atoll.transport.stream_frames import PathVerb

PROBE_S = 0.25
"""Between two probes of the path in use while bytes are unacknowledged, and of a path that is being opened."""
SILENCE_S = 1.0
"""A path that shows no sign for so long, though bytes wait, is left."""
OTHERS_S = 0.5
"""After so much silence the other paths are asked whether they are alive; and the peer is followed to another."""
SILENT_PROBE_S = 1.0
"""Between two probes of a path that is silent, or is better and not trusted yet."""
LISTENING_PROBE_S = 5.0
"""Between two probes of the path in use while a stream is open and nothing is sent: who only receives does not notice
otherwise that the peer was started again."""
IDLE_PROBE_S = 20.0
"""Between two probes of a path that nothing goes over: under the 30 s of the most impatient NATs."""
TRUST_S = 3.0
"""How long a path that was silent must answer before it is preferred again."""
OPENING_S = 10.0
"""A path that does not open for so long is given up."""
PROBES_MAX = 16
"""Probes of one path whose echo is waited for; 4 s of them."""
FRAMES_MAX = 64
"""Frames that wait to be said; who probes faster than it is answered is not answered."""
OWN_PATHS_MAX = PATHS_MAX // 2 - 1
"""Paths that one end may have opened: its numbers are even, or odd. Two over signaling, two bearers, what replaces
those, and one more; an even number means something else (`EVERYWHERE`)."""


class Rank(enum.IntEnum):
    """What kind of path it is, best first."""

    DIRECT = 0
    BEARER = 1
    SIGNALING = 2


class Condition(enum.Enum):
    """Where a path stands; see the diagram above."""

    OPENING = "opening"
    USABLE = "usable"
    SILENT = "silent"


class PathFrame(msgspec.Struct, frozen=True):
    """Something to be said over a path; the caller adds the positions to OPEN and OPENED."""

    path: int
    verb: PathVerb
    probe: int = 0


@dataclass(frozen=True, slots=True)
class Switched:
    """Another path is in use now (None: there is none); resend what is not acknowledged over it."""

    path: int | None
    reason: str
    lost: bool = field(default=False, compare=False)
    """The one before is lost or silent, and with it, perhaps, what was on its way."""


class PathGivenUp(msgspec.Struct, frozen=True):
    """A path did not open; let go of it."""

    path: int
    reason: str


@dataclass(slots=True)
class KnownPath:
    """One path, and what is known about it."""

    number: int
    rank: Rank
    name: str
    """The relay in between, as people call it; or `direct`."""
    condition: Condition
    added_at: float
    probed_at: float
    """When it was probed last, or bytes began to wait on it."""
    probe_at: float
    """When it is probed next, at the latest."""
    waits_since: float | None = None
    """Since when bytes have waited on it without a sign; None: nothing waits."""
    heard_at: float | None = None
    answers_since: float | None = None
    """Since when it has answered without falling silent."""
    silent_since: float = 0.0
    """Since when nothing has come back, if it is silent."""
    round_trip_s: float | None = None
    probes: dict[int, float] = field(default_factory=dict)
    """Probes under way, and when they were sent."""
    leaving: str = ""
    """Why it is to be left in good order; empty while it is not."""
    leaving_since: float = 0.0


@dataclass(slots=True)
class PathSet:
    """All paths of one end of a session. `initiator`: this end opened the session, and numbers its paths evenly."""

    initiator: bool
    current: int | None = None
    reason: str = "no path is open"
    """Why the path in use is in use."""
    listens: bool = False
    """What `tick` was told last."""
    counts: Counter[str] = field(default_factory=Counter)
    _paths: dict[int, KnownPath] = field(default_factory=dict)
    _frames: list[PathFrame] = field(default_factory=list)
    next_probe: int = 0
    """What the next probe is called."""
    _used_since: float = 0.0
    _freed: list[int] = field(default_factory=list)
    """Numbers that were lost before, in that order."""
    _to_tell: dict[int, PathVerb] = field(default_factory=dict)
    """Paths lost or left here that the peer may still believe in."""
    _lost: bool = False
    """The path in use was lost, and none has taken its place yet."""
    _after_loss: bool = False
    """The path in use took the place of one that was lost, or had fallen silent."""

    def add(self, rank: Rank, name: str, now: float) -> int:
        """Open a path that leads to the peer; gives its number.

        Raises:
            Congested: This end has opened as many as it may.
        """
        own = (number for number in range(not self.initiator, PATHS_MAX, 2) if number != EVERYWHERE)
        free = [number for number in own if number not in self._paths]
        if sum(map(self._is_own, self._paths)) >= OWN_PATHS_MAX:
            raise Congested(f"this session has {OWN_PATHS_MAX} paths of ours already")
        # The one that was lost first: what is still on its way about the others must not hit a new path.
        number = min(free, key=lambda each: self._freed.index(each) if each in self._freed else -1)
        self._paths[number] = KnownPath(number, rank, name, Condition.OPENING, now, now, now + PROBE_S)
        self._frames.append(PathFrame(number, PathVerb.OPEN))
        self._send_probe(self._paths[number], now)
        return number

    def opened(self, number: int, rank: Rank, name: str, now: float) -> None:
        """Take a path that the peer opens, whenever its OPEN comes; the number is the one in the record.

        Raises:
            MalformedFrame: The number is one of ours, or beyond all numbers.
        """
        if not 0 <= number < PATHS_MAX or number == EVERYWHERE or self._is_own(number):
            raise MalformedFrame(f"the peer opened path {number}, which is not its to open")
        if number not in self._paths:
            self._paths[number] = KnownPath(number, rank, name, Condition.OPENING, now, now, now + PROBE_S)
            # That it leads to us is shown; that it leads back is not.
            self._send_probe(self._paths[number], now)
        if (opened := PathFrame(number, PathVerb.OPENED)) not in self._frames:
            self._frames.append(opened)

    def answered(self, number: int, now: float) -> list[Switched]:
        """Take the OPENED of a path."""
        path = self._paths.get(number)
        if path is None or path.condition is not Condition.OPENING:
            return []
        return self._alive(path, now)

    def probed(self, number: int, probe: int) -> bool:
        """Take a PROBE: it is echoed over the same path, which this confirms; not one of too many."""
        if number not in self._paths:
            return False
        if len(self._frames) >= FRAMES_MAX:
            self.counts["probes_ignored"] += 1
            return False
        self._frames.append(PathFrame(number, PathVerb.ECHO, probe))
        return True

    def echoed(self, number: int, probe: int, now: float) -> tuple[bool, list[Switched]]:
        """Take an ECHO; says whether it is the answer to a probe of ours over that path.

        Raises:
            MalformedFrame: No such probe was ever sent.
        """
        if probe >= self.next_probe:
            raise MalformedFrame("the peer echoed a probe that was never sent")
        path = self._paths.get(number)
        sent_at = None if path is None else path.probes.get(probe)
        if path is None or sent_at is None:
            self.counts["echoes_late"] += 1
            return False, []
        path.probes = {each: at for each, at in path.probes.items() if each > probe}
        taken = now - sent_at
        path.round_trip_s = taken if path.round_trip_s is None else path.round_trip_s + (taken - path.round_trip_s) / 8
        return True, self._alive(path, now)

    def progressed(self, number: int, now: float) -> None:
        """Note that an acknowledgement of something new came in over a path."""
        path = self._paths.get(number)
        if path is not None and path.condition is Condition.USABLE:
            path.heard_at = now
            if path.waits_since is not None:
                # The next probe is not put off: what one stream has lost shows in it, while another goes on.
                path.waits_since = now

    def bytes_wait(self, now: float) -> None:
        """Start the clock of the path in use, if it does not run: bytes go out over it."""
        if self.current is not None:
            self._watch(self._paths[self.current], now, waiting=True)

    def rest(self) -> None:
        """Stop the clock of the path in use: nothing waits on it."""
        if self.current is not None:
            self._paths[self.current].waits_since = None

    def bytes_came(self, number: int, now: float) -> list[Switched]:
        """Note that the peer sends its bytes over a path; follow it there, if ours has shown no sign lately.

        Only who waits for an acknowledgement notices that a path is dead. Without this an answer would be sent into the
        path that the question has just left, and wait for another second.
        """
        path = self._paths.get(number)
        if path is None or self.current is None or number == self.current or path.condition is not Condition.USABLE:
            return []
        current = self._paths[self.current]
        if current.heard_at is not None and now < current.heard_at + OTHERS_S:
            return []
        current.condition, current.answers_since, current.silent_since = Condition.SILENT, None, now
        # Whether anything is lost says the peer (LEFT, GONE): it may have gone over to a better path in good order.
        return self._use(path, f"{path.name}: the peer has left {current.name}", now, followed=True)

    def lost(self, number: int, reason: str, now: float) -> list[Switched]:
        """Forget a path: its connection is over."""
        path = self._paths.pop(number, None)
        self._frames = [each for each in self._frames if each.path != number]
        if path is None:
            return []
        self._freed = [*(each for each in self._freed if each != number), number]
        self._to_tell[number] = PathVerb.GONE
        if number != self.current:
            return []
        self.current, self._lost = None, True
        return self._leave(path, f"{path.name} was lost: {reason}", now - SILENCE_S, now)

    def retire(self, number: int, reason: str, now: float) -> None:
        """Leave a path in good order: as soon as another has answered; the peer is told to do the same.

        `lost` follows when both ends have gone over, or have had the time to.
        """
        if self._begin_leaving(number, reason, now):
            self._to_tell[number] = PathVerb.LEAVING

    def peer_retires(self, number: int, now: float) -> bool:
        """Take a LEAVING: the peer will end a path; False when that is known."""
        path = self._paths.get(number)
        return path is not None and self._begin_leaving(number, f"the peer leaves {path.name}", now)

    def is_leaving(self, number: int) -> bool:
        """Tell whether a path is being left in good order."""
        path = self._paths.get(number)
        return path is not None and bool(path.leaving)

    def _begin_leaving(self, number: int, reason: str, now: float) -> bool:
        path = self._paths.get(number)
        if path is None or path.leaving:
            return False
        path.leaving, path.leaving_since = reason, now
        if number == self.current:
            # Whoever is asked now answers after a round trip, and not at its next turn.
            for other in self._paths.values():
                if other.condition is Condition.USABLE and not other.leaving:
                    self._send_probe(other, now)
        return True

    def peer_lost(self, number: int, now: float) -> list[Switched | PathGivenUp]:
        """Take a GONE: the peer has lost a path, which may look whole from here."""
        path = self._paths.get(number)
        if path is None:
            return []
        reason = f"the peer has lost {path.name}"
        events = self.lost(number, "the peer has lost it", now)
        self._to_tell.pop(number, None)
        return [PathGivenUp(number, reason), *events]

    def tick(self, now: float, *, waiting: bool, listens: bool = False) -> list[Switched | PathGivenUp]:
        """Do what time asks for; call it at `deadline`, and when bytes begin to wait.

        `waiting`: something was sent and is not acknowledged; `listens`: somebody may wait for what the peer sends.
        """
        events: list[Switched | PathGivenUp] = []
        for path in list(self._paths.values()):
            if path.condition is Condition.OPENING and now >= path.added_at + OPENING_S:
                del self._paths[path.number]
                events.append(PathGivenUp(path.number, f"{path.name} did not open within {OPENING_S:g} s"))
        current = None if self.current is None else self._paths[self.current]
        self.listens = listens
        if current is not None:
            self._watch(current, now, waiting=waiting or self._is_doubtful(current, now))
            if current.waits_since is not None and now >= current.waits_since + SILENCE_S:
                events += self._fall_silent(current, now)
        for path in self._paths.values():
            path.probe_at = self._due(path, now)
            if now >= path.probe_at:
                if path.condition is Condition.OPENING and self._is_own(path.number):
                    self._frames.append(PathFrame(path.number, PathVerb.OPEN))
                self._send_probe(path, now)
        return events + self._prefer_better(now)

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, at the latest."""
        return min((each.probe_at for each in self._paths.values()), default=None)

    def outgoing(self) -> list[PathFrame]:
        """Give what is to be said now, each with its path."""
        frames, self._frames = self._frames, []
        if self.current is not None and self._to_tell:
            frames += [PathFrame(self.current, verb, number) for number, verb in sorted(self._to_tell.items())]
            self._to_tell.clear()
        return frames

    def all(self) -> list[KnownPath]:
        """Give all paths, for `status`."""
        return list(self._paths.values())

    def get(self, number: int) -> KnownPath | None:
        """Give what is known about a path."""
        return self._paths.get(number)

    def check(self) -> None:
        """Assert what must hold between any two calls."""
        assert len(self._paths) <= PATHS_MAX  # noqa: S101
        assert self.current is None or self.current in self._paths  # noqa: S101
        assert all(len(each.probes) <= PROBES_MAX for each in self._paths.values())  # noqa: S101

    def _is_own(self, number: int) -> bool:
        return (number % 2 == 0) == self.initiator

    def _is_doubtful(self, current: KnownPath, now: float) -> bool:
        """Tell whether an end that only listens has reason to ask: the peer may be gone, or a sign of life is due."""
        overdue = self.listens and any(now >= sent_at + SILENCE_S for sent_at in current.probes.values())
        return overdue or self._is_unproved(current)

    def _is_unproved(self, current: KnownPath) -> bool:
        """Tell whether the path in use took over from a lost one, and has shown no sign since."""
        return self._after_loss and (current.heard_at or 0.0) < self._used_since

    def _watch(self, path: KnownPath, now: float, *, waiting: bool) -> None:
        """Start the clock of the path in use when bytes begin to wait on it, and stop it when none do."""
        if not waiting:
            path.waits_since = None
        elif path.waits_since is None:
            path.waits_since = path.probed_at = now
            path.probe_at = now + PROBE_S

    def _due(self, path: KnownPath, now: float) -> float:
        """Tell when a path is to be probed."""
        return path.probed_at + self._pause(path, now)

    def _pause(self, path: KnownPath, now: float) -> float:
        """Tell how long a path goes without a probe."""
        current = None if self.current is None else self._paths[self.current]
        in_doubt = current is None or (current.waits_since is not None and now >= current.waits_since + OTHERS_S)
        if path.condition is Condition.OPENING:
            return PROBE_S
        if path is current:
            return PROBE_S if path.waits_since is not None else self._pause_in_rest(path)
        if in_doubt:
            return PROBE_S if path.condition is Condition.USABLE else SILENT_PROBE_S
        if current is not None and current.leaving and not path.leaving and path.condition is Condition.USABLE:
            return PROBE_S
        if path.condition is Condition.SILENT or current is None or path.rank < current.rank:
            return SILENT_PROBE_S
        return IDLE_PROBE_S

    def _pause_in_rest(self, path: KnownPath) -> float:
        if not self.listens:
            return IDLE_PROBE_S
        return SILENCE_S if path.probes else LISTENING_PROBE_S

    def _send_probe(self, path: KnownPath, now: float) -> None:
        self._frames.append(PathFrame(path.number, PathVerb.PROBE, self.next_probe))
        path.probes[self.next_probe] = now
        self.next_probe += 1
        if len(path.probes) > PROBES_MAX:
            del path.probes[next(iter(path.probes))]
        path.probed_at = now
        path.probe_at = self._due(path, now)

    def _alive(self, path: KnownPath, now: float) -> list[Switched]:
        """Note that a path has answered."""
        path.heard_at = now
        if path.condition is not Condition.USABLE:
            was_silent = path.condition is Condition.SILENT
            path.condition = Condition.USABLE
            path.answers_since = now if was_silent else now - TRUST_S
        if path.waits_since is not None:
            path.waits_since = now
        if self.current is None:
            return self._use(path, f"{path.name} answers", now)
        current = self._paths[self.current]
        if current.condition is Condition.SILENT and path is not current:
            return self._use(path, f"{path.name} was the first to answer after {current.name} fell silent", now)
        if path is not current and self._is_unproved(current) and now >= self._used_since + OTHERS_S:
            # It has shown no sign since it took over; to wait until it is silent, too, would add a second one.
            current.condition, current.answers_since, current.silent_since = Condition.SILENT, None, self._used_since
            return self._use(path, f"{path.name} answers, and {current.name}, which took over, does not", now)
        return []

    def _fall_silent(self, path: KnownPath, now: float) -> list[Switched]:
        self.counts["silent"] += path.condition is Condition.USABLE
        # What died together with it gave its last sign together with it.
        alive_since = now - SILENCE_S + PROBE_S
        if path.condition is not Condition.SILENT:
            path.silent_since = now if path.waits_since is None else path.waits_since
        path.condition, path.answers_since = Condition.SILENT, None
        return self._leave(path, f"nothing came back through {path.name} for {SILENCE_S:g} s", alive_since, now)

    def _leave(self, left: KnownPath, reason: str, alive_since: float, now: float) -> list[Switched]:
        """Go on over the best path that remains, if one does.

        Those that have answered since then come before others; of the rest, those over another relay.
        """

        def order(path: KnownPath) -> tuple[bool, bool, bool, Rank, int]:
            unheard = (path.heard_at or 0.0) < alive_since
            return bool(path.leaving), unheard, unheard and path.name == left.name, path.rank, path.number

        usable = [each for each in self._paths.values() if each.condition is Condition.USABLE]
        if usable:
            best = min(usable, key=order)
            return self._use(best, f"{best.name}, because {reason}", now)
        self.reason = reason
        return [] if self.current is not None else [Switched(None, reason)]

    def _prefer_better(self, now: float) -> list[Switched]:
        """Go over to a better kind of path that has proved itself, and from one that is left to any."""
        if self.current is None:
            return []
        current = self._paths[self.current]
        better = [
            each
            for each in self._paths.values()
            if each.condition is Condition.USABLE
            and not each.leaving
            and (each.rank < current.rank or current.leaving)
            and each.answers_since is not None
            and now >= each.answers_since + TRUST_S
            and each.heard_at is not None
            # An older sign says nothing: what the last path died of may have hit this one too.
            and each.heard_at > (current.leaving_since if current.leaving else self._used_since)
        ]
        if not better:
            return []
        best = min(better, key=lambda each: (each.rank, each.number))
        if current.leaving and best.rank > current.rank and now < current.leaving_since + OTHERS_S:
            # One of its own kind may be a moment slower with its answer.
            return []
        if current.leaving:
            return self._use(best, f"{best.name}, because {current.leaving}", now)
        return self._use(best, f"{best.name}: a {best.rank.name.lower()} path is better", now)

    def _use(self, path: KnownPath, reason: str, now: float, *, followed: bool = False) -> list[Switched]:
        lost, self._lost = self._lost, False
        self._to_tell.pop(path.number, None)
        if self.current is not None:
            lost = self._paths[self.current].condition is Condition.SILENT and not followed
            if lost:
                self._to_tell[self.current] = PathVerb.LEFT
            self._paths[self.current].waits_since = None
        waited = self.current is not None
        self.current, self.reason, self._used_since = path.number, reason, now
        path.waits_since = None
        self._after_loss = lost
        # So that `tick` comes in time to doubt it.
        path.probe_at = min(path.probe_at, now + PROBE_S)
        self.counts["switches"] += waited
        return [Switched(path.number, reason, lost)]

"""What a session carries beside calls: its streams, over its paths. Frames in, frames out, no I/O, no keys.

    streams.py  what to send, and how far it has come     path_set.py  where to send it
    a path is left --> everything unacknowledged is sent again over the next;   a probe is echoed --> what was sent
    before it and is still not acknowledged is lost

Each end chooses its path for itself, and sends bytes and answers over it; only the echo of a probe goes back over the
path that brought it. Only who sends bytes notices that a path is dead: the other follows (`PathSet.bytes_came`).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from atoll.transport.errors import MalformedFrame
from atoll.transport.fragments import Channel
from atoll.transport.path_set import PathFrame, PathGivenUp, PathSet, Rank, Switched
from atoll.transport.stream_events import PathOpened, PeerLeft, PeerRetires, StreamEvent
from atoll.transport.stream_frames import (
    HEAD_BYTES,
    POSITION_BYTES,
    Buffer,
    PathVerb,
    StreamVerb,
    path_frame,
    probe_frame,
    read_positions,
    read_probe,
)
from atoll.transport.streams import StreamSet

RECORDS_MAX = 16
"""Records of bytes that one call of `outgoing` gives: 1 MiB, so that calls and answers come in between."""
_BEARS_BYTES = (StreamVerb.OPEN, StreamVerb.DATA, StreamVerb.LAST, StreamVerb.RESET)

Frame: TypeAlias = tuple[int, int, int, int, memoryview]
MultipathEvent: TypeAlias = StreamEvent | Switched | PathGivenUp | PathOpened | PeerLeft | PeerRetires


@dataclass(frozen=True, slots=True, eq=False)
class Via:
    """The connection that a record came over, and what is between its two ends; each connection has one of its own."""

    rank: Rank
    name: str


class _Records:
    """Frames on their way into records, path by path; none holds more than `room` bytes."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.full: list[tuple[int, list[Buffer]]] = []
        self._open: dict[int, tuple[list[Buffer], int]] = {}

    def left(self, path: int) -> int:
        return self._room - self._open[path][1] if path in self._open else self._room

    def put(self, path: int, frames: Iterable[Buffer]) -> None:
        parts, size = self._open.get(path, ([], 0))
        for each in frames:
            parts.append(each)
            size += len(each)
        self._open[path] = (parts, size)

    def end(self, path: int) -> None:
        if path in self._open:
            self.full.append((path, self._open.pop(path)[0]))

    def all(self) -> list[tuple[int, list[Buffer]]]:
        for path in tuple(self._open):
            self.end(path)
        return self.full


@dataclass(slots=True)
class Multipath:
    """One end; `initiator` as in the session. Times are monotonic seconds and come in."""

    streams_kind: ClassVar[type[StreamSet]] = StreamSet
    paths_kind: ClassVar[type[PathSet]] = PathSet

    initiator: bool
    streams: StreamSet = field(init=False)
    paths: PathSet = field(init=False)
    _marked_by: int | None = None
    """The probe behind which everything that was sent is marked."""
    _called_before: int | None = None
    """The first probe behind a call that has got no sign of life yet."""
    _vias: dict[int, Via] = field(default_factory=dict)
    """The connection that the peer opened each of its paths over."""

    def __post_init__(self) -> None:
        self.streams, self.paths = self.streams_kind(self.initiator), self.paths_kind(self.initiator)

    def path_lost(self, path: int, reason: str, now: float) -> list[MultipathEvent]:
        """Forget a path whose connection is over."""
        self._vias.pop(path, None)
        return self._moved(self.paths.lost(path, reason, now))

    def receive(self, frame: Frame, path: int, via: Via, now: float) -> list[MultipathEvent]:
        """Take one frame of channel STREAMS or PATHS, as `frames_of` gives it, out of a record of `path`.

        Raises:
            MalformedFrame: The peer breaks the rules; the session must end.
        """
        channel, verb, number, _, piece = frame
        if channel == Channel.PATHS:
            if number != path:
                raise MalformedFrame(f"a frame about path {number} came over path {path}")
            return self._take_path_frame(verb, piece, path, via, now)
        before = self.streams.progress
        events: list[MultipathEvent] = [*self.streams.receive(verb, number, piece, now)]
        if self.streams.progress != before:
            self.paths.progressed(path, now)
            self._rest()
        if path != self.paths.current and verb in _BEARS_BYTES:
            events += self._moved(self.paths.bytes_came(path, now))
        return events

    def tick(self, now: float) -> list[MultipathEvent]:
        """Do what time asks for; call it at `deadline`, and before `outgoing`."""
        self.streams.tick(now)
        waiting = self._called_before is not None or self.streams.unacknowledged
        return self._moved(self.paths.tick(now, waiting=waiting, listens=bool(self.streams.numbers())))

    def called(self, now: float) -> None:
        """Note that a call, or an answer to one, goes out over the path in use: a sign of life is due."""
        if self.paths.current is not None and self._called_before is None:
            self._called_before = self.paths.next_probe
            self.paths.bytes_wait(now)

    def calls_came(self, path: int, now: float) -> list[MultipathEvent]:
        """Note that calls, or answers, came in over a path: answers to them belong there, too."""
        if path == self.paths.current:
            # That it leads to us says nothing about its other direction, nor whether the last call has come through.
            return []
        return self._moved(self.paths.bytes_came(path, now))

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, at the latest."""
        if self.paths.listens != bool(self.streams.numbers()):
            return -math.inf
        times = [each for each in (self.streams.deadline, self.paths.deadline) if each is not None]
        return min(times, default=None)

    def outgoing(self, room: int, now: float, records_max: int = RECORDS_MAX) -> list[tuple[int, list[Buffer]]]:
        """Give what is to be sealed now: for each record its path and its parts, together at most `room` bytes.

        Call it again while it gives something and the path takes it: `records_max` records of bytes at a time.
        """
        records = _Records(room)
        for each in self.paths.outgoing():
            self._put_path_frame(records, each)
        current = self.paths.current
        while current is not None and self.streams.answering:
            frames = self.streams.answers(records.left(current))
            if not frames:
                records.end(current)
            records.put(current, frames)
        given = 0
        while current is not None and self.streams.sending and given < records_max:
            frames = self.streams.outgoing(records.left(current))
            if frames:
                records.put(current, frames)
                given += 1
            records.end(current)
        if given:
            self.paths.bytes_wait(now)
        return records.all()

    def _rest(self) -> None:
        """Stop the clock of the path in use at once when nothing waits any more: the next tick may be late."""
        if self._called_before is None and not self.streams.unacknowledged:
            self.paths.rest()

    def _put_path_frame(self, records: _Records, each: PathFrame) -> None:
        if records.left(each.path) < records.left(-1) // 2:
            records.end(each.path)
        if each.verb is PathVerb.ECHO:
            # In front of it, so that whoever hears the echo knows what has come.
            records.put(each.path, self.streams.answers(records.left(each.path) - 2 * HEAD_BYTES))
        if each.verb in (PathVerb.OPEN, PathVerb.OPENED):
            fitting = (records.left(each.path) - HEAD_BYTES) // POSITION_BYTES
            records.put(each.path, [path_frame(each.verb, each.path, self.streams.positions()[:fitting])])
            return
        if each.verb is PathVerb.PROBE and each.path == self.paths.current and self._marked_by is None:
            self.streams.mark()
            self._marked_by = each.probe
        records.put(each.path, [probe_frame(each.verb, each.path, each.probe)])

    def _take_path_frame(self, verb: int, piece: memoryview, path: int, via: Via, now: float) -> list[MultipathEvent]:
        if verb in (PathVerb.OPEN, PathVerb.OPENED):
            events: list[MultipathEvent] = [*self.streams.acknowledged(read_positions(piece))]
            if verb == PathVerb.OPEN:
                return events + self._take_open(path, via, now)
            return events + self._moved(self.paths.answered(path, now))
        if verb == PathVerb.PROBE and self.paths.probed(path, read_probe(piece)):
            self.streams.answer_all()
        if verb == PathVerb.ECHO:
            return self._take_echo(read_probe(piece), path, now)
        if verb in (PathVerb.GONE, PathVerb.LEFT) and (left := read_probe(piece)) != path:
            return self._take_left(left, path, now, gone=verb == PathVerb.GONE)
        if verb == PathVerb.LEAVING and self.paths.peer_retires(left := read_probe(piece), now):
            return [PeerRetires(left)]
        return []

    def _take_echo(self, probe: int, path: int, now: float) -> list[MultipathEvent]:
        genuine, switched = self.paths.echoed(path, probe, now)
        if genuine and path == self.paths.current:
            if self._called_before is not None and probe >= self._called_before:
                self._called_before = None
            if self._marked_by is not None and probe >= self._marked_by:
                self._marked_by = None
                self.streams.echoed()
        return self._moved(switched)

    def _take_left(self, left: int, path: int, now: float, *, gone: bool) -> list[MultipathEvent]:
        """Hear over one path that the peer has left or lost another."""
        if gone:
            events = self._moved(self.paths.peer_lost(left, now))
        else:
            events = self._moved(self.paths.bytes_came(path, now)) if path != self.paths.current else []
        return [*events, PeerLeft(left, f"the peer has left path {left}: nothing came back through it")]

    def _take_open(self, path: int, via: Via, now: float) -> list[MultipathEvent]:
        """Take a path that the peer opens, and let go of the one that had its number over another connection."""
        events: list[MultipathEvent] = []
        if self._vias.get(path, via) is not via:
            events += self.path_lost(path, "its number was given to another connection", now)
        self.paths.opened(path, via.rank, via.name, now)
        self._vias[path] = via
        return [*events, PathOpened(path)]

    def _moved(self, events: Iterable[Switched | PathGivenUp]) -> list[MultipathEvent]:
        """Send again what the path that was left may have kept."""
        moved = list(events)
        if any(isinstance(each, Switched) and each.path is not None for each in moved):
            self._marked_by = self._called_before = None
            self.streams.resend()
        for each in moved:
            if isinstance(each, PathGivenUp):
                self._vias.pop(each.path, None)
        return [*moved]

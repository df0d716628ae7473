"""What a session carries beside calls: its streams, over its paths. Frames in, frames out, no I/O, no keys.

    streams.py  what to send, and how far it has come     path_set.py  where to send it
    a path is left --> everything unacknowledged is sent again over the next;   a probe is echoed --> what was sent
    before it and is still not acknowledged is lost

Each end chooses its path for itself, and sends bytes and answers over it; only the echo of a probe goes back over the
path that brought it. Only who sends bytes notices that a path is dead: the other follows (`PathSet.bytes_came`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from atoll.transport.errors import MalformedFrame
from atoll.transport.fragments import Channel
from atoll.transport.path_set import PathFrame, PathGivenUp, PathSet, Rank, Switched
from atoll.transport.stream_events import StreamEvent
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
MultipathEvent: TypeAlias = StreamEvent | Switched | PathGivenUp


@dataclass(frozen=True, slots=True)
class Via:
    """What is between the two ends on the path that a record came over."""

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

    def __post_init__(self) -> None:
        self.streams, self.paths = self.streams_kind(self.initiator), self.paths_kind(self.initiator)

    def path_lost(self, path: int, reason: str, now: float) -> list[MultipathEvent]:
        """Forget a path whose connection is over."""
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
        if path != self.paths.current and verb in _BEARS_BYTES:
            events += self._moved(self.paths.bytes_came(path, now))
        return events

    def tick(self, now: float) -> list[MultipathEvent]:
        """Do what time asks for; call it at `deadline`, and before `outgoing`."""
        self.streams.tick(now)
        return self._moved(self.paths.tick(now, waiting=self.streams.unacknowledged))

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called, at the latest."""
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
        events: list[MultipathEvent] = []
        if verb in (PathVerb.OPEN, PathVerb.OPENED):
            events += self.streams.acknowledged(read_positions(piece))
            if verb == PathVerb.OPEN:
                self.paths.opened(path, via.rank, via.name, now)
            else:
                events += self._moved(self.paths.answered(path, now))
        elif verb == PathVerb.PROBE:
            if self.paths.probed(path, read_probe(piece)):
                self.streams.answer_all()
        elif verb == PathVerb.ECHO:
            probe = read_probe(piece)
            genuine, switched = self.paths.echoed(path, probe, now)
            if genuine and self._marked_by is not None and probe >= self._marked_by and path == self.paths.current:
                self._marked_by = None
                self.streams.echoed()
            events += self._moved(switched)
        return events

    def _moved(self, events: Iterable[Switched | PathGivenUp]) -> list[MultipathEvent]:
        """Send again what the path that was left may have kept."""
        moved = list(events)
        if any(isinstance(each, Switched) and each.path is not None for each in moved):
            self._marked_by = None
            self.streams.resend()
        return [*moved]

"""What a stream set tells its user."""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer has opened a stream to a service of ours; read and write, or reset it."""

    stream: int
    service: str


@dataclass(frozen=True, slots=True)
class Readable:
    """There is something to read, or the end."""

    stream: int


@dataclass(frozen=True, slots=True)
class Writable:
    """A stream that took less than it was given takes more."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamClosed:
    """The last event of a stream: all was sent and read, or `reason` says why not."""

    stream: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PathOpened:
    """The peer has opened a path, or says so once more; the record that this came in is of its connection."""

    path: int


@dataclass(frozen=True, slots=True)
class PeerRetires:
    """The peer will end a path in good order; nothing is lost, and another one should take its place."""

    path: int


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The peer has left or lost a path; what it had sent over it may be gone."""

    path: int
    reason: str


StreamEvent: TypeAlias = StreamOpened | Readable | Writable | StreamClosed

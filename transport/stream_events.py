"""What a stream set tells its user."""

from typing import TypeAlias

import msgspec


class StreamOpened(msgspec.Struct, frozen=True):
    """The peer has opened a stream to a service of ours; read and write, or reset it."""

    stream: int
    service: str


class Readable(msgspec.Struct, frozen=True):
    """There is something to read, or the end."""

    stream: int


class Writable(msgspec.Struct, frozen=True):
    """A stream that took less than it was given takes more."""

    stream: int


class StreamClosed(msgspec.Struct, frozen=True):
    """The last event of a stream: all was sent and read, or `reason` says why not."""

    stream: int
    reason: str = ""


class PathOpened(msgspec.Struct, frozen=True):
    """The peer has opened a path, or says so once more; the record that this came in is of its connection."""

    path: int


class PeerRetires(msgspec.Struct, frozen=True):
    """The peer will end a path in good order; nothing is lost, and another one should take its place."""

    path: int


class PeerLeft(msgspec.Struct, frozen=True):
    """The peer has left or lost a path; what it had sent over it may be gone."""

    path: int
    reason: str


StreamEvent: TypeAlias = StreamOpened | Readable | Writable | StreamClosed

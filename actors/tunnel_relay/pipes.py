"""Kernel pipes for splicing: a few are shared by many flows, because an ordinary user may not have many.

A pipe is taken for one move, socket to pipe to socket, and is empty again when it comes back. Only a flow whose target
takes no more keeps one, with what is stuck inside. The last free pipe is never kept, so that there is always one to
work with: see `PipePool.last`.
"""

import contextlib
import fcntl
import os
from dataclasses import dataclass, field

import msgspec

from atoll.transport.errors import UsageError

PIPES_MAX = 256
"""Two descriptors and at most 64 KiB of kernel memory each."""
PIPES_IDLE_MAX = 32
"""Free pipes kept for later; the rest is closed. One is enough when nobody is slow."""
PIPE_BYTES = 65_536
"""The kernel's default. An ordinary user has 16,384 pages for all pipes together, so 1,024 of these."""


class Pipe(msgspec.Struct, frozen=True):
    """One kernel pipe, non-blocking at both ends."""

    reader: int
    writer: int
    capacity_bytes: int

    def close(self) -> None:
        """Give it back to the kernel with whatever is inside."""
        os.close(self.reader)
        os.close(self.writer)


@dataclass(slots=True, kw_only=True)
class PipePool:
    """Lends pipes; `pipes_max` bounds those lent and free together."""

    pipes_max: int = PIPES_MAX
    pipe_bytes: int = PIPE_BYTES
    made: int = 0
    _free: list[Pipe] = field(default_factory=list)

    def __post_init__(self) -> None:
        pipe = self._make() if self.pipes_max >= 1 else None
        if pipe is None:
            raise UsageError("a relay needs at least one pipe; raise the limit of open files (`ulimit -n`)")
        self._free.append(pipe)

    def take(self) -> Pipe:
        """Lend a free pipe; there always is one, because the last is never kept."""
        return self._free.pop()

    def last(self) -> bool:
        """Tell whether nothing would be left to work with if the pipe just taken were kept."""
        if self._free:
            return False
        pipe = self._make() if self.made < self.pipes_max else None
        if pipe is None:
            return True
        self._free.append(pipe)
        return False

    def give(self, pipe: Pipe) -> None:
        """Take back an *empty* pipe."""
        # Past the user's soft limit the kernel hands out pipes of a page or two; those are not worth keeping.
        dwarf = pipe.capacity_bytes < self.pipe_bytes
        if self._free and (dwarf or len(self._free) >= PIPES_IDLE_MAX):
            self.discard(pipe)
        else:
            self._free.append(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Close a lent pipe that may hold bytes nobody wants any more."""
        self.made -= 1
        pipe.close()

    def close(self) -> None:
        """Close the free pipes."""
        while self._free:
            self.discard(self._free.pop())

    def _make(self) -> Pipe | None:
        try:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            # No descriptors left: the flows go on with the pipes there are.
            return None
        if fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) != self.pipe_bytes:
            # Growing may be forbidden to this user; then a small pipe it is.
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, self.pipe_bytes)
        self.made += 1
        return Pipe(reader, writer, fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ))

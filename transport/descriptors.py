"""Whether this process has open files to spare: it looks before there are none, because then it is too late for much.

The kernel gives the lowest free number. So a number close to the limit says that nearly all below it are taken. The
limit may be changed while the process runs (prlimit(1)), so nobody keeps a copy of it.
"""

import contextlib
import os
import sys

SPARE_FILES = 64
"""Kept free of connections: pipes, logs, name look-ups, and the descriptors by which connections are cut."""


def files_max() -> int:
    """Give how many files this process may have open; a very large number where nothing limits them."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource  # noqa: PLC0415 - there is none on Windows

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def files_left_at_most(count: int) -> bool:
    """Tell whether this process can open no more than about `count` files."""
    try:
        descriptor = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return True
    os.close(descriptor)
    return descriptor >= files_max() - count


class SpareDescriptor:
    """A descriptor that is held to be given up when there are no others: whoever waits in a queue is let in by it."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self.take()

    @property
    def held(self) -> bool:
        """Whether it is there to be given up."""
        return self._descriptor is not None

    def take(self) -> bool:
        """Take it again where it was given up; False while there is none to be had."""
        if self._descriptor is None:
            with contextlib.suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY)
        return self.held

    def give_up(self) -> None:
        """Let the next who opens something have it: any thread of this process."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

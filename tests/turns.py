"""Tests run side by side, in several processes; one that says that it needs the host for itself runs alone.

    side by side     door shut and opened, then the room shared
    alone            door shut and kept, so that nobody else comes in; then the room for itself, once all have left

Both are locks of files (flock(2)), so those of a process that ends are free.
"""

import contextlib
import fcntl
import tempfile
from pathlib import Path

import pytest


class Turns:
    """The plugin, with the two locks, for one process; those that are given the same name share them."""

    def __init__(self, name):
        folder = Path(tempfile.gettempdir())
        self.files = [folder / f"atoll-tests-{name}-{part}" for part in ("door", "room")]
        self.door, self.room = (file.open("w") for file in self.files)
        self.is_alone = False

    def close(self):
        self.door.close()
        self.room.close()

    def remove(self):
        """Remove the files, once nobody needs them any more."""
        for file in self.files:
            file.unlink(missing_ok=True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self):
        """Wait until nobody wants to be alone; around the limit of time of a test, which does not count it."""
        if self.is_alone:
            return (yield)
        with self.beside_others():
            return (yield)

    @contextlib.contextmanager
    def beside_others(self):
        with locked(self.door, fcntl.LOCK_EX):
            fcntl.flock(self.room, fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(self.room, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def alone(self):
        """Leave the room, come back when it is empty; it is left in the end, and not shared again."""
        if self.is_alone:
            yield
            return
        fcntl.flock(self.room, fcntl.LOCK_UN)
        with locked(self.door, fcntl.LOCK_EX), locked(self.room, fcntl.LOCK_EX):
            self.is_alone = True
            try:
                yield
            finally:
                self.is_alone = False


@contextlib.contextmanager
def locked(file, how):
    fcntl.flock(file, how)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)

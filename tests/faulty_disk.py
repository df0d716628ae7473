"""A disk that loses its power at a chosen step: what was synced stays, of the rest anything may or may not be there.

While it is `used`, calls that change files below `folder` are counted; call number `steps` raises `PowerCut`, and so
does every one after it. `lose` then leaves the folder as a disk might: each name is what it was at the last sync of the
folder, or what it is; each file has what it had at its own last sync, or more, or the rest as zeros.
"""

import contextlib
import os
import pathlib
from unittest import mock

BLOCK_BYTES = 32
"""What a disk writes at once, small as the files of these tests."""


class PowerCut(BaseException):
    """Not an `Exception`: nothing must be done about it any more."""


class FaultyDisk:
    def __init__(self, folder, steps=None):
        self.folder = folder
        self.steps = steps
        self.step = 0
        self._link = os.link
        self.synced = {}
        """Inode to what is surely in the file."""
        self.names = {}
        """Folder to the names that are surely in it, and their inodes."""
        self.kept = {}
        """Inode to what was in a file when it was looked at last."""
        self._graves = folder.with_name(f"{folder.name}.graves")
        """A second name for every file that was synced: no other must get its inode."""
        self._graves.mkdir(exist_ok=True)
        self._look(folder, synced=True)

    def _look(self, folder, *, synced=False):
        names = {}
        for path in folder.iterdir():
            if path.is_dir():
                self._look(path, synced=synced)
                names[path.name] = None
            else:
                inode = path.stat().st_ino
                names[path.name] = inode
                self.kept[inode] = path.read_bytes()
                if synced:
                    self.synced[inode] = self.kept[inode]
        if synced:
            self.names[folder] = names
        return names

    def _cut(self):
        self.step += 1
        if self.steps is not None and self.step > self.steps:
            raise PowerCut

    def _fsync(self, descriptor):
        self._cut()
        path = pathlib.Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self.names[path] = {each.name: None if each.is_dir() else each.stat().st_ino for each in path.iterdir()}
        else:
            inode = os.fstat(descriptor).st_ino
            self.synced[inode] = pathlib.Path(f"/proc/self/fd/{descriptor}").read_bytes()
            with contextlib.suppress(FileExistsError):
                self._link(path, self._graves / str(inode))

    @contextlib.contextmanager
    def used(self):
        real_write, real_pwrite = os.write, os.pwrite

        def part_of(data):
            self._cut()
            # In two calls, so that the power can go in between.
            return data[: len(data) // 2 + 1] if len(data) > 3 else data

        def write(descriptor, data):
            return real_write(descriptor, part_of(data))

        def pwrite(descriptor, data, offset):
            return real_pwrite(descriptor, part_of(data), offset)

        with contextlib.ExitStack() as stack:
            for owner, name in (
                (os, "link"),
                (os, "replace"),
                (os, "unlink"),
                (os, "truncate"),
                (os, "ftruncate"),
                (pathlib.Path, "replace"),
                (pathlib.Path, "unlink"),
            ):
                real = getattr(owner, name)
                counted = self._counted(real)
                stack.enter_context(mock.patch.object(owner, name, counted))
            stack.enter_context(mock.patch.object(os, "write", write))
            stack.enter_context(mock.patch.object(os, "pwrite", pwrite))
            stack.enter_context(mock.patch.object(os, "fsync", self._fsync))
            yield

    def _counted(self, real):
        def call(*arguments, **more):
            self._cut()
            return real(*arguments, **more)

        return call

    def lose(self, rng):
        """Leave the folders as they may be found after the cut."""
        self._look(self.folder)
        for folder in [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]:
            before = self.names.get(folder, {})
            now = self._look(folder)
            for path in folder.iterdir():
                if not path.is_dir():
                    path.unlink()
            for name in sorted({*before, *now}):
                inode = rng.choice([before.get(name), now.get(name)])
                if inode is not None:
                    (folder / name).write_bytes(self._content(inode, rng))

    def _content(self, inode, rng):
        surely = self.synced.get(inode, b"")
        perhaps = self.kept.get(inode, surely)
        if not perhaps.startswith(surely):  # Truncated, or written in its middle: then each block is old or new.
            blocks = range(0, min(len(surely), len(perhaps)), BLOCK_BYTES)
            mixed = b"".join(rng.choice([surely, perhaps])[at : at + BLOCK_BYTES] for at in blocks)
            return rng.choice([surely, perhaps, mixed + max(surely, perhaps, key=len)[len(mixed) :]])
        length = rng.randint(len(surely), len(perhaps))
        return perhaps[:length] + bytes(rng.choice([0, len(perhaps) - length]))

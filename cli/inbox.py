"""A user's folder that gets blobs: verified once more, named only when whole; nothing there is overwritten.

    absent --begin--> `.atoll-<digest>.part`, locked, append --place, if it is the blob--> NAME, or NAME-2, ...

It must never take a name from a node that it has not checked itself.
"""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from atoll.actors.blobs.manifest import Manifest, chunk_bytes_of, chunk_count, chunk_digest
from atoll.actors.blobs.names import NAME_BYTES_MAX, check_name
from atoll.cli.output import Failed
from atoll.transport.errors import Refused

PIECE_BYTES = 1024 * 1024
NAMES_MAX = 1000
"""Tried beside the one that is taken."""


class Inbox:
    """One blob on its way into a folder; a context manager. What is left in the end without `place` is removed."""

    def __init__(self, folder: Path, name: str, digest: bytes, size_bytes: int) -> None:
        """Begin with a file of its own.

        Raises:
            Failed: The name may not be, the folder cannot be written, or another command writes the same blob there.
        """
        try:
            self.name = check_name(name)
        except Refused as error:
            raise Failed(str(error), "have it sent under another name") from error
        self._folder = folder
        self._digest = digest
        self._size_bytes = size_bytes
        self._part = folder / f".atoll-{digest.hex()[:32]}.part"
        self._file = self._open()
        self._whole = self._part
        """Where the bytes are."""
        self._written = 0
        self._digests: list[bytes] = []
        self._pending = bytearray()
        self._chunk_bytes = chunk_bytes_of(size_bytes)

    def _open(self) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | os.O_CLOEXEC
        try:
            file = os.fdopen(os.open(self._part, flags, 0o666), "r+b")
        except OSError as error:
            raise _disk(self._folder, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
        except BlockingIOError as error:
            file.close()
            raise Failed(
                f"another command writes this blob to {self._folder}", "wait for it, or name another folder with --to"
            ) from error
        except OSError as error:
            file.close()
            raise _disk(self._folder, error) from error
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._part.unlink(missing_ok=True)
        self._whole.unlink(missing_ok=True)
        self._file.close()

    def append(self, data: bytes) -> None:
        """Write what came next.

        Raises:
            Failed: The disk refuses.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise _disk(self._folder, error) from error
        self._look_at(data)

    def _look_at(self, data: bytes) -> None:
        self._written += len(data)
        self._pending += data
        while len(self._pending) > self._chunk_bytes:
            self._digests.append(self._leaf(bytes(self._pending[: self._chunk_bytes]), len(self._digests)))
            del self._pending[: self._chunk_bytes]

    def adopt(self, source: Path) -> bool:
        """Take a file of this host instead of bytes, by a second name where that can be, else by a copy.

        False when it cannot be read from here, or is not the blob: a node may see another disk than its user.

        Raises:
            Failed: The disk refuses.
        """
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            found = source.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != self._size_bytes:
                return False
            file = os.fdopen(os.open(source, flags), "rb")
        except OSError:
            return False
        with file:
            linked = self._link(source, file)
            while data := file.read(PIECE_BYTES):
                if linked:
                    self._look_at(data)
                else:
                    self.append(data)
        if self._is_whole():
            return True
        self._begin_anew()
        return False

    def _link(self, source: Path, file: BinaryIO) -> bool:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid():
            return False
        second = self._part.with_suffix(".whole")
        try:
            second.unlink(missing_ok=True)
            os.link(source, second, follow_symlinks=False)
            if second.stat().st_ino != found.st_ino:
                second.unlink()
                return False
        except OSError:
            return False
        self._whole = second
        return True

    def _begin_anew(self) -> None:
        if self._whole != self._part:
            self._whole.unlink(missing_ok=True)
            self._whole = self._part
        self._written = 0
        self._digests.clear()
        self._pending.clear()
        self._file.seek(0)
        self._file.truncate()

    def _leaf(self, chunk: bytes, index: int) -> bytes:
        return chunk_digest(chunk, index, self._size_bytes)

    def place(self) -> Path:
        """Give it its name, and say which.

        Raises:
            Failed: It is not the blob, or the disk refuses.
        """
        if not self._is_whole():
            raise Failed(f"what the node gave is not {self.name}: its digest is another", "run the same command again")
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._whole != self._part:
                # It was the node's alone, and is the user's as if it had been written here.
                os.umask(umask := os.umask(0))
                self._whole.chmod(0o666 & ~umask)
            return self._named()
        except OSError as error:
            raise _disk(self._folder, error) from error

    def _is_whole(self) -> bool:
        digests = [*self._digests, self._leaf(bytes(self._pending), len(self._digests))]
        if self._written != self._size_bytes or len(digests) != chunk_count(self._size_bytes):
            return False
        return Manifest.of(self._size_bytes, digests).digest == self._digest

    def _named(self) -> Path:
        for name in _names(self.name):
            target = self._folder / name
            try:
                # Unlike a rename a link overwrites nothing, whoever was quicker.
                os.link(self._whole, target, follow_symlinks=False)
            except FileExistsError:
                if self._same(target):
                    return target
            except OSError as error:
                if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
                    raise
                if self._renamed(target):
                    return target
            else:
                self._sync_folder()
                return target
        raise Failed(f"{self._folder} has {NAMES_MAX} files called {self.name}", "name another folder with --to")

    def _renamed(self, target: Path) -> bool:
        """Do without links: take the name first, then put the file in its place."""
        try:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        self._whole.replace(target)
        self._sync_folder()
        return True

    def _same(self, target: Path) -> bool:
        """Tell whether that file is the blob: a command before this one was killed after it had named it."""
        if not target.is_file() or target.is_symlink() or target.stat().st_size != self._size_bytes:
            return False
        with target.open("rb") as file, self._whole.open("rb") as part:
            return _digest(file) == _digest(part)

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(file: BinaryIO) -> bytes:
    return hashlib.file_digest(file, "blake2b").digest()  # type: ignore[arg-type]


def _names(name: str) -> Iterator[str]:
    """Give the name, and others like it that fit into a folder."""
    yield name
    stem, dot, suffix = name.rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (name, "")
    for number in range(2, NAMES_MAX + 1):
        room = NAME_BYTES_MAX - len(f"-{number}{suffix}".encode())
        yield f"{stem.encode()[: max(1, room)].decode(errors='ignore')}-{number}{suffix}"


def _disk(folder: Path, error: OSError) -> Failed:
    return Failed(
        f"{folder} cannot be written: {error.strerror}", "see its rights and space, or name another with --to"
    )

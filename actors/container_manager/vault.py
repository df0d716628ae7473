"""A flat folder of files under names that cannot lead anywhere else.

    absent --write (to a temporary name, fsync, rename, fsync of the folder)--> there --remove--> absent

Every access goes through the folder's own descriptor and refuses symbolic links, so neither a name nor a link that
somebody planted leads out of it. It must never take a name from an archive: names are made here, from digests.
"""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from atoll.actors.container_manager.errors import StorageFault

NAME = re.compile(r"[0-9a-z][0-9a-z._-]{0,199}")
TEMPORARY = ".incoming"
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_DIR_FD = os.open in os.supports_dir_fd


class Vault:
    """A folder, opened once; close it with `close`."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if need be, readable by its owner only.

        Raises:
            StorageFault: It is a link or cannot be made (the host's fault).
        """
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.is_symlink():
                raise StorageFault(f"{folder} is a symbolic link; put a real folder there")
            # Without dir_fd (Windows) the folder's path stands in; there no unprivileged user plants links either.
            self._fd = os.open(folder, os.O_RDONLY | _NOFOLLOW | _CLOEXEC) if _DIR_FD else None
        except OSError as error:
            raise StorageFault(f"{folder} cannot be opened: {error.strerror}; check its owner and the disk") from error
        for name in self.names(TEMPORARY):
            self._unlink(name)

    def close(self) -> None:
        """Give the descriptor back; harmless when done twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self, suffix: str = "") -> list[str]:
        """List what is there, sorted."""
        found = os.listdir(self._fd if self._fd is not None else self.folder)  # noqa: PTH208 - by descriptor
        return sorted(name for name in found if name.endswith(suffix))

    def size(self, name: str) -> int | None:
        """Give a file's size in bytes, or None when it is not there."""
        try:
            return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def total_bytes(self) -> int:
        """Give the size of everything in it."""
        return sum(self.size(name) or 0 for name in self.names())

    def read(self, name: str, *, bytes_max: int) -> bytes:
        """Read a whole file.

        Raises:
            StorageFault: It is not there, longer than it may be, or no regular file.
        """
        try:
            with self.open(name) as file:
                data = file.read(bytes_max + 1)
        except OSError as error:
            raise StorageFault(f"{name} in {self.folder} cannot be read: {error.strerror}") from error
        if len(data) > bytes_max:
            raise StorageFault(f"{name} in {self.folder} is longer than the {bytes_max} bytes it may have")
        return data

    def read_part(self, name: str, offset: int, bytes_max: int) -> tuple[bytes, bool]:
        """Read at most so many bytes from `offset` on; the second value says whether they are the last.

        Raises:
            StorageFault: It is not there, or no regular file.
        """
        try:
            with self.open(name) as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(offset)
                data = file.read(bytes_max)
        except OSError as error:
            raise StorageFault(f"{name} in {self.folder} cannot be read: {error.strerror}") from error
        return data, offset + len(data) >= size

    def open(self, name: str) -> BinaryIO:
        """Open a regular file to read it."""
        fd = os.open(self._at(name), os.O_RDONLY | _NOFOLLOW | _CLOEXEC, dir_fd=self._fd)
        file = os.fdopen(fd, "rb")
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            file.close()
            raise OSError(22, "not a regular file")
        return file

    @contextlib.contextmanager
    def writing(self, name: str = "") -> Iterator["Writing"]:
        """Give a new file to write; leaving the block without `keep` throws it away."""
        temporary = f"{secrets.token_hex(8)}{TEMPORARY}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC
        fd = os.open(self._at(temporary), flags, 0o600, dir_fd=self._fd)
        writing = Writing(self, temporary, os.fdopen(fd, "w+b"), name)
        try:
            yield writing
        finally:
            writing.file.close()
            if not writing.kept:
                self._unlink(temporary)

    def write(self, name: str, data: bytes) -> None:
        """Put a whole file in place of an older one, durably: after a crash there is the old one or the new one.

        Raises:
            StorageFault: The disk refuses; the old one is untouched.
        """
        try:
            with self.writing(name) as writing:
                writing.file.write(data)
                writing.keep()
        except OSError as error:
            raise StorageFault(f"{name} cannot be written to {self.folder}: {error.strerror}") from error

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a file, made if need be; not durable, for logs.

        Raises:
            StorageFault: The disk refuses.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NOFOLLOW | _CLOEXEC
        try:
            fd = os.open(self._at(name), flags, 0o600, dir_fd=self._fd)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
        except OSError as error:
            raise StorageFault(f"{name} in {self.folder} cannot be written: {error.strerror}") from error

    def open_to_change(self, name: str) -> int:
        """Open a file to read and write it at any place, made if need be, and give its descriptor.

        Raises:
            StorageFault: The disk refuses.
        """
        flags = os.O_RDWR | os.O_CREAT | _NOFOLLOW | _CLOEXEC
        try:
            return os.open(self._at(name), flags, 0o600, dir_fd=self._fd)
        except OSError as error:
            raise StorageFault(f"{name} in {self.folder} cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        """Make the names in the folder durable."""
        self._sync()

    def rename(self, name: str, new: str) -> None:
        """Rename a file, over an older one of the new name."""
        os.replace(self._at(name), self._at(new), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Remove a file; harmless when it is not there."""
        self._unlink(name)
        self._sync()

    def _put(self, temporary: str, name: str) -> None:
        os.replace(self._at(temporary), self._at(name), src_dir_fd=self._fd, dst_dir_fd=self._fd)
        self._sync()

    def _sync(self) -> None:
        if self._fd is not None:
            os.fsync(self._fd)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._fd)

    def _at(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise StorageFault(f"{name!r} cannot name a file here")
        return name if self._fd is not None else str(self.folder / name)


class Writing:
    """A file that is being written."""

    def __init__(self, vault: Vault, temporary: str, file: BinaryIO, name: str) -> None:
        self._vault = vault
        self._temporary = temporary
        self.file = file
        self.name = name
        self.kept = False

    def keep(self, name: str = "") -> None:
        """Make it durable under its name (or the one given now); the block may still read it."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self._vault._put(self._temporary, name or self.name)  # noqa: SLF001 - two halves of one thing
        self.kept = True

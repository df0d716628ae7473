"""A file that is sent: opened once, read through for its list, and then chunk by chunk. It blocks."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from atoll.actors.blobs.errors import BadFile
from atoll.actors.blobs.manifest import BLOB_BYTES_MAX, Manifest, chunk_bytes_of, chunk_count, chunk_digest


class FileMark(NamedTuple):
    """What a file is known by without reading it; another one means that it was written, or put in its place."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int
    """Nobody can set it back, as copies do with the other."""


def mark_of(path: str) -> FileMark | None:
    """Look at a file; None where there is none that can be looked at."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a path that cannot be one raises ValueError in all versions
    except (OSError, ValueError):
        return None
    return FileMark(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Source:
    """One file, held open: what happens to its name meanwhile is of no matter. Close it with `close`."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            BadFile: It cannot be sent; the text says why.
        """
        try:
            # A pipe would let the open wait for its other end.
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        except (OSError, ValueError) as error:
            raise BadFile(f"{path} cannot be read by the node: {getattr(error, 'strerror', error)}") from error
        found = os.fstat(self._descriptor)
        self.size_bytes = found.st_size
        if not stat.S_ISREG(found.st_mode) or self.size_bytes > BLOB_BYTES_MAX:
            self.close()
            raise BadFile(
                f"{path} has {self.size_bytes} bytes, and a blob at most {BLOB_BYTES_MAX}"
                if stat.S_ISREG(found.st_mode)
                else f"{path} is no file"
            )

    def digests(self, chunks: int, read: Callable[[int], None]) -> Iterator[list[bytes]]:
        """Give the digests of its chunks, so many at a time; `read` is told how many bytes were read."""
        count, step = chunk_count(self.size_bytes), chunk_bytes_of(self.size_bytes)
        for start in range(0, count, chunks):
            found = []
            for index in range(start, min(start + chunks, count)):
                data = self._read(index * step, min(step, self.size_bytes - index * step))
                read(len(data))
                found.append(chunk_digest(data, index, self.size_bytes))
            yield found

    def chunk(self, manifest: Manifest, index: int) -> bytes:
        """Read a chunk as it is now; the caller looks whether it is what it was."""
        return self._read(manifest.offset(index), manifest.length(index))

    def _read(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0:
            try:
                data = os.pread(self._descriptor, length, offset)
            except OSError:
                break
            if not data:
                break
            parts.append(data)
            offset, length = offset + len(data), length - len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

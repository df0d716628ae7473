"""The archives that a node keeps for others, by digest: the cache's disk.

    incoming --append, bounded--> keep: read as a pushed one is --> `<digest>.tar`, index --room is needed--> gone
                                        refused --> nothing is left

The index is one file, replaced whole. A damaged one empties the folder: everything here can be fetched again. What was
found there at a start is compared with its digest before the first byte of it is given away. Everything here blocks;
actors call it in threads, and a lock keeps them apart.
"""

import contextlib
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import msgspec

from atoll.actors.container_manager.archive import ARCHIVE_BYTES_MAX, read_program
from atoll.actors.container_manager.errors import ImageRefused, StorageFault
from atoll.actors.container_manager.vault import Vault, Writing
from atoll.actors.image_exchange.messages import CHUNK_BYTES, DIGEST_BYTES, HeldImage
from atoll.actors.image_exchange.shelf import IMAGES_MAX, QUOTA_BYTES, Shelf, Shelved

log = logging.getLogger("atoll.images")

INDEX = "index.json"
INDEX_BYTES_MAX = 256 * 1024
INDEX_VERSION = 1


class _Index(msgspec.Struct, frozen=True):
    version: int
    images: tuple[Shelved, ...]


class BlobStore:
    """The folder, opened once; close it with `close`."""

    def __init__(self, folder: Path, *, quota_bytes: int = QUOTA_BYTES, images_max: int = IMAGES_MAX) -> None:
        """Open the folder, and let go of what the index does not name.

        Raises:
            StorageFault: The folder cannot be used; the text says why.
        """
        self.counts: Counter[str] = Counter()
        self.shelf = Shelf(quota_bytes=quota_bytes, images_max=images_max)
        self._vault = Vault(folder)
        self._lock = threading.Lock()
        self._sound: set[bytes] = set()
        for image in self._read_index():
            if self._vault.size(_file(image.digest)) == image.size_bytes <= quota_bytes:
                self.shelf.put(image)
        known = {INDEX, *(_file(each.digest) for each in self.shelf.images())}
        for name in self._vault.names():
            if name not in known:
                self._vault.remove(name)

    def _read_index(self) -> tuple[Shelved, ...]:
        if self._vault.size(INDEX) is None:
            return ()
        try:
            index = msgspec.json.decode(self._vault.read(INDEX, bytes_max=INDEX_BYTES_MAX), type=_Index)
            good = index.version == INDEX_VERSION and all(
                len(each.digest) == DIGEST_BYTES and 0 < each.size_bytes <= ARCHIVE_BYTES_MAX for each in index.images
            )
        except (msgspec.MsgspecError, ValueError, StorageFault) as error:
            log.warning("the cache begins empty: %s is damaged (%s)", self._vault.folder / INDEX, error)
            return ()
        return index.images if good else ()

    def close(self) -> None:
        """Give the folder back."""
        self._vault.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def find(self, name: str, version: str = "") -> tuple[HeldImage, ...]:
        """List what it holds of that name; any version where none is named."""
        with self._lock:
            return tuple(
                HeldImage("", each.name, each.version, each.digest, each.size_bytes)
                for each in self.shelf.images()
                if each.name == name and version in ("", each.version)
            )

    def holds(self, digest: bytes) -> bool:
        """Tell whether it has that archive, sound."""
        with self._lock:
            return self._is_sound(digest)

    def read(self, digest: bytes, offset: int) -> tuple[bytes, bool] | None:
        """Read one chunk, and whether it is the last; None when it is not there."""
        with self._lock:
            if not self._is_sound(digest):
                return None
            self.shelf.use(digest)
            try:
                data, last = self._vault.read_part(_file(digest), offset, CHUNK_BYTES)
            except StorageFault as error:
                self._lose(digest, str(error))
                return None
        return (data, last) if data else None

    def _is_sound(self, digest: bytes) -> bool:
        if self.shelf.get(digest) is None:
            return False
        if digest in self._sound:
            return True
        try:
            data = self._vault.read(_file(digest), bytes_max=ARCHIVE_BYTES_MAX)
        except StorageFault as error:
            self._lose(digest, str(error))
            return False
        if hashlib.sha256(data).digest() != digest:
            self._lose(digest, "its bytes are not what they were")
            return False
        self._sound.add(digest)
        return True

    def _lose(self, digest: bytes, why: str) -> None:
        log.warning("the cache lets go of the image sha256:%s: %s", digest.hex(), why)
        self.counts["damaged"] += 1
        self.shelf.drop(digest)
        self._remove((digest,))
        self._write_index()

    @contextlib.contextmanager
    def incoming(self, digest: bytes) -> Iterator["Incoming"]:
        """Give a place to write an archive to; leaving the block without `keep` throws it away."""
        with self._vault.writing(_file(digest)) as writing:
            try:
                yield Incoming(writing, digest, self._grow, self._keep)
            finally:
                with self._lock:
                    self.shelf.stop_growing(digest)

    def _grow(self, digest: bytes, to_bytes: int) -> None:
        with self._lock:
            self._evict(self.shelf.grow(digest, to_bytes))

    def _keep(self, image: Shelved, writing: Writing) -> None:
        with self._lock:
            writing.keep()
            self._evict(self.shelf.put(image))
            self._sound.add(image.digest)
            self._write_index()

    def _evict(self, digests: tuple[bytes, ...]) -> None:
        self.counts["evicted"] += len(digests)
        self._remove(digests)
        if digests:
            self._write_index()

    def _remove(self, digests: tuple[bytes, ...]) -> None:
        for digest in digests:
            self._sound.discard(digest)
            self._vault.remove(_file(digest))

    def _write_index(self) -> None:
        self._vault.write(INDEX, msgspec.json.encode(_Index(INDEX_VERSION, self.shelf.images())))


class Incoming:
    """An archive on its way into the store."""

    def __init__(
        self,
        writing: Writing,
        digest: bytes,
        grow: Callable[[bytes, int], None],
        keep: Callable[[Shelved, Writing], None],
    ) -> None:
        self._writing = writing
        self._digest = digest
        self._grow = grow
        self._keep = keep
        self.size_bytes = 0

    def append(self, data: bytes) -> None:
        """Write a chunk.

        Raises:
            ShelfFull: There is no room for it.
            StorageFault: The disk refuses.
        """
        self._grow(self._digest, self.size_bytes + len(data))
        try:
            self._writing.file.write(data)
        except OSError as error:
            raise StorageFault(f"the image cannot be stored: {error.strerror}; is the disk full?") from error
        self.size_bytes += len(data)

    def start_over(self) -> None:
        """Throw away what was written."""
        self._writing.file.seek(0)
        self._writing.file.truncate()
        self.size_bytes = 0

    def keep(self) -> None:
        """Take it in, if it is an archive that a node takes.

        Raises:
            ImageRefused: It is broken or hostile, though its digest is right.
            StorageFault: The disk refuses, or the digest is wrong: whoever wrote it has not looked.
        """
        try:
            self._writing.file.flush()
            program = read_program(self._writing.file, self.size_bytes)
            self._writing.file.seek(0)
            if hashlib.sha256(self._writing.file.read()).digest() != self._digest:
                raise ImageRefused("its bytes have another digest")
            self._keep(Shelved(self._digest, self.size_bytes, program.name, program.version), self._writing)
        except OSError as error:
            raise StorageFault(f"the image cannot be stored: {error.strerror}; is the disk full?") from error


def _file(digest: bytes) -> str:
    return f"{digest.hex()}.tar"

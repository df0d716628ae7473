"""The blobs that other nodes sent to this one, on its disk; and those that are on their way.

    absent --note--> `.entry` --part, write, write--> `.part` --seal--> `.blob` --collect--> a note that it was taken
                     expire, drop --> absent

Nothing here says how much of a `.part` is there: `verified` reads it through, and a chunk counts whose digest is right.
File names are made of digests and node ids, never of what a peer says. It blocks; actors call it in threads, one call
at a time for each blob. It must never give a chunk away that is not the list's.
"""

import contextlib
import errno
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec

from atoll.actors.blobs.errors import BlobDamaged, NoRoom, UnknownBlob
from atoll.actors.blobs.manifest import BLOB_BYTES_MAX, DIGEST_BYTES, Manifest, address_of, chunk_count
from atoll.actors.blobs.messages import NAME_CHARACTERS_MAX, ORDER_BYTES
from atoll.actors.container_manager.errors import StorageFault
from atoll.actors.container_manager.vault import Vault
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.blobs")

QUOTA_BYTES = 16 * 1024**3
"""Blobs of others, whole or on their way."""
FREE_BYTES_MIN = 64 * 1024**2
"""What the disk must have left beside a blob."""
ENTRIES_MAX = 512
"""Blobs; beyond, none is taken."""
NOTES_MAX = 256
"""Orders remembered after their blob was fetched."""
UNFINISHED_KEPT_S = 7 * 86_400.0
"""How long what has not come whole waits for the rest."""
SYNC_BYTES = 64 * 1024**2
"""After so many bytes a `.part` is synced: the last sync must not take minutes."""
ENTRY_BYTES_MAX = 65_536 * DIGEST_BYTES + 4096
_VERSION = 1
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

Key: TypeAlias = tuple[NodeId, bytes]
"""Who sent it, and its address."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one blob, whole or not; in the file as msgpack."""

    peer: bytes
    digest: bytes
    order: bytes
    name: str
    size_bytes: int
    at_s: float
    """When it was accepted last, in seconds since 1970."""
    digests: bytes = b""
    """Its list, empty before that has come."""
    taken: bool = False
    """It was whole, and fetched; only the order is remembered."""
    version: int = _VERSION

    @property
    def key(self) -> Key:
        """Give who sent it, and its address."""
        return NodeId(self.peer), self.digest

    @property
    def manifest(self) -> Manifest | None:
        """Give its list, if it has come."""
        return Manifest(self.size_bytes, self.digests) if self.digests else None

    def sound(self) -> bool:
        """Tell whether it is what this program writes."""
        return (
            self.version == _VERSION
            and len(self.peer) == len(self.digest) == DIGEST_BYTES
            and len(self.order) == ORDER_BYTES
            and len(self.name) <= NAME_CHARACTERS_MAX
            and 0 <= self.size_bytes <= BLOB_BYTES_MAX
            and (not self.digests or self._listed())
        )

    def _listed(self) -> bool:
        manifest = Manifest(self.size_bytes, self.digests)
        return len(self.digests) == chunk_count(self.size_bytes) * DIGEST_BYTES and manifest.digest == self.digest


class BlobFolder:
    """The folder, opened once; close it with `close`."""

    def __init__(self, folder: Path, *, quota_bytes: int = QUOTA_BYTES, now: Callable[[], float] = time.time) -> None:
        """Open it, and remove what no entry names.

        Raises:
            StorageFault: The folder cannot be used; the text says why.
        """
        self.quota_bytes = quota_bytes
        self.counts: Counter[str] = Counter()
        self._now = now
        self._vault = Vault(folder)
        self._lock = threading.Lock()
        self._entries: dict[Key, Entry] = {}
        self._whole: set[Key] = set()
        self._restore()

    def _restore(self) -> None:
        known = set()
        for name in self._vault.names(".entry"):
            entry = self._read_entry(name)
            if entry is None or name != f"{_stem(entry.key)}.entry":
                continue
            self._entries[entry.key] = entry
            known.add(name)
            if not entry.taken:
                known |= {f"{_stem(entry.key)}.part", f"{_stem(entry.key)}.blob"}
                if self._vault.size(f"{_stem(entry.key)}.blob") == entry.size_bytes and entry.digests:
                    self._whole.add(entry.key)
        for name in self._vault.names():
            if name not in known:
                self._vault.remove(name)
        self.expire()

    def _read_entry(self, name: str) -> Entry | None:
        try:
            entry = msgspec.msgpack.decode(self._vault.read(name, bytes_max=ENTRY_BYTES_MAX), type=Entry)
        except (msgspec.MsgspecError, ValueError, StorageFault) as error:
            log.warning("%s is damaged (%s): that blob has to be sent again", self._vault.folder / name, error)
            return None
        return entry if entry.sound() else None

    def close(self) -> None:
        """Give the folder back."""
        self._vault.close()

    # What there is

    def entries(self) -> tuple[Entry, ...]:
        """Give all blobs, and what is remembered of those that were fetched."""
        with self._lock:
            return tuple(self._entries.values())

    def find(self, key: Key) -> Entry | None:
        """Give what is known of a blob."""
        with self._lock:
            return self._entries.get(key)

    def is_whole(self, key: Key) -> bool:
        """Tell whether it is all there."""
        with self._lock:
            return key in self._whole

    def path(self, key: Key) -> Path:
        """Say where a whole blob lies."""
        return self._vault.folder / f"{_stem(key)}.blob"

    @property
    def used_bytes(self) -> int:
        """Give what the blobs take, those on their way as if they were whole."""
        with self._lock:
            return self._used_bytes()

    def _used_bytes(self) -> int:
        return sum(each.size_bytes for each in self._entries.values() if not each.taken)

    # Coming

    def note(self, entry: Entry) -> None:
        """Make it durable that a blob is to come, or what has become known of it.

        Raises:
            NoRoom: There is none for its size.
            StorageFault: The disk refuses.
        """
        with self._lock:
            known = self._entries.get(entry.key)
            if known is None or known.taken:
                self._find_room(entry)
            self._write_entry(entry)

    def _find_room(self, entry: Entry) -> None:
        live = sum(not each.taken for each in self._entries.values())
        used, size = self._used_bytes(), entry.size_bytes
        if live >= ENTRIES_MAX:
            raise NoRoom(f"{live} blobs lie here already, and no more are kept")
        if used + size > self.quota_bytes:
            raise NoRoom(f"it has {size} bytes, and {max(0, self.quota_bytes - used)} of {self.quota_bytes} are free")
        if shutil.disk_usage(self._vault.folder).free < size + FREE_BYTES_MIN:
            raise NoRoom(f"the disk has no room for {size} bytes")

    def _write_entry(self, entry: Entry) -> None:
        self._vault.write(f"{_stem(entry.key)}.entry", msgspec.msgpack.encode(entry))
        self._entries[entry.key] = entry

    def part(self, key: Key) -> "Part":
        """Open what has come of a blob whose list is known, to go on; close it with `close`.

        Raises:
            StorageFault: The disk refuses.
        """
        entry = self.find(key)
        manifest = None if entry is None else entry.manifest
        if manifest is None:
            raise UnknownBlob("no list of such a blob has come")
        return Part(self, key, manifest, self._vault.open_to_change(f"{_stem(key)}.part"))

    def _sealed(self, key: Key) -> None:
        with self._lock:
            self._vault.rename(f"{_stem(key)}.part", f"{_stem(key)}.blob")
            self._vault.sync()
            self._whole.add(key)

    # Going

    def read(self, key: Key, index: int) -> bytes:
        """Read a chunk of a whole blob.

        Raises:
            UnknownBlob: It is not here.
            BlobDamaged: It is not what it was; it is let go.
        """
        with self._lock:
            entry = self._entries.get(key)
            manifest = entry.manifest if entry is not None and key in self._whole else None
            if manifest is None or index >= manifest.count:
                raise UnknownBlob(f"{address_of(key[1])} is not here, or not whole")
            with contextlib.suppress(StorageFault):
                data, _ = self._vault.read_part(f"{_stem(key)}.blob", manifest.offset(index), manifest.length(index))
                if manifest.fits(index, data):
                    return data
        log.warning("the blob %s is damaged on the disk: it is let go, and has to be sent again", address_of(key[1]))
        self.counts["damaged"] += 1
        self.drop(key)
        raise BlobDamaged(f"{address_of(key[1])} is damaged on this node's disk: have it sent again")

    def collect(self, key: Key) -> None:
        """Let go of a blob that was fetched, and remember its order.

        Raises:
            UnknownBlob: It is not here.
            StorageFault: The disk refuses.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.taken:
                raise UnknownBlob(f"{address_of(key[1])} is not here")
            # In this order: what is gone and not remembered would be taken a second time.
            self._write_entry(msgspec.structs.replace(entry, taken=True, digests=b"", at_s=self._now()))
            self._whole.discard(key)
            self._remove_bytes(key)
            notes = [each for each in self._entries.values() if each.taken]
            for old in sorted(notes, key=lambda each: each.at_s)[: max(0, len(notes) - NOTES_MAX)]:
                self._drop(old.key)

    def drop(self, key: Key) -> None:
        """Forget a blob, whatever there is of it; harmless when there is nothing."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._entries.pop(key, None)
        self._whole.discard(key)
        self._vault.remove(f"{_stem(key)}.entry")
        self._remove_bytes(key)

    def _remove_bytes(self, key: Key) -> None:
        for suffix in ("part", "blob"):
            self._vault.remove(f"{_stem(key)}.{suffix}")

    def expire(self, in_use: frozenset[Key] = frozenset()) -> None:
        """Let go of what nobody has gone on with for too long."""
        with self._lock:
            now = self._now()
            for key, entry in tuple(self._entries.items()):
                # A clock that was far ahead when it was written must not keep it for ever.
                if key not in self._whole | in_use and abs(now - entry.at_s) > UNFINISHED_KEPT_S:
                    self.counts["expired"] += 1
                    self._drop(key)


class Part:
    """A blob on its way in."""

    def __init__(self, folder: BlobFolder, key: Key, manifest: Manifest, descriptor: int) -> None:
        self._folder = folder
        self._key = key
        self._manifest = manifest
        self._descriptor = descriptor
        self._unsynced = 0

    def verified(self) -> Iterator[bool]:
        """Say of one chunk after the other whether it is there, by reading it."""
        for index in range(self._manifest.count):
            length = self._manifest.length(index)
            try:
                data = os.pread(self._descriptor, length, self._manifest.offset(index))
            except OSError:
                # A sector that cannot be read is one that has to be written again.
                data = b""
            yield len(data) == length and self._manifest.fits(index, data)

    def write(self, index: int, data: bytes) -> None:
        """Write a chunk that was verified.

        Raises:
            NoRoom: The disk is full.
            StorageFault: The disk refuses.
        """
        view, at = memoryview(data), self._manifest.offset(index)
        with _disk_says():
            while view:
                done = os.pwrite(self._descriptor, view, at)
                view, at = view[done:], at + done
            self._unsynced += len(data)
            if self._unsynced >= SYNC_BYTES:
                os.fsync(self._descriptor)
                self._unsynced = 0

    def seal(self) -> None:
        """Make it durable, and whole for all who ask; the caller has verified every chunk.

        Raises:
            NoRoom: The disk is full.
            StorageFault: The disk refuses.
        """
        with _disk_says():
            os.ftruncate(self._descriptor, self._manifest.size_bytes)
            os.fsync(self._descriptor)
            self._folder._sealed(self._key)  # noqa: SLF001 - two halves of one thing

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def _disk_says() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoRoom("the disk is full") from error
        raise StorageFault(f"the blob cannot be stored: {error.strerror}") from error


def _stem(key: Key) -> str:
    return f"{key[1].hex()}-{bytes(key[0]).hex()}"

"""Keeps a machine's records durably by key: a folder with one append-only file for each, rewritten whole when told to.

    closed --open--> open --append, rewrite (fsync)--> open --one fails--> failed, until it is opened again

The key of a record is its first field. A rewrite writes a new file, syncs it, renames it over the old one and syncs the
folder: after a crash at any moment there is the one or the other. Beside the folder a journal keeps the list of the
keys (`<folder>.index`), for owners that give `loss`; a key enters it behind its first record, before anybody hears.

What may be found at `open`:
- A last record that is torn: cut off, and said.
- A file with anything else wrong, or gone though its key is in the list: it is set aside as `<name>.corrupt-<n>`, and
  `loss(key, what)` takes its place. It costs that key alone.
- A damaged list: `loss("", what)` says so first of all, at this start and at every later one; whole files stay.

It blocks the loop for as long as the disk takes; see `journal.py`.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import msgspec

from atoll.actors.runtime.errors import JournalFailed
from atoll.actors.runtime.journal import Journal
from atoll.actors.runtime.machine import Record
from atoll.actors.runtime.records import (
    RECORD_BYTES_MAX,
    frame,
    is_torn,
    payloads,
    read_all,
    set_aside,
    sync_folder,
    write_all,
)
from atoll.transport.codec import decode_special, encode_special
from atoll.transport.errors import MalformedFrame, UsageError

log = logging.getLogger("atoll.actors")

ENDING, FRESH = ".log", ".new"
FILE_NAME_CHARACTERS_MAX = 200
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


class KeysKept(msgspec.Struct, frozen=True, array_like=True, tag="runtime.keys_kept"):
    """On disk: for which keys there are files."""

    keys: tuple[str, ...]


def file_name(key: str) -> str:
    """Name the file of a key; safe on every file system, whoever chose the key, and another one for each key."""
    name = "".join(each if each in _PLAIN else "".join(f"%{byte:02x}" for byte in each.encode()) for each in key)
    if len(name) > FILE_NAME_CHARACTERS_MAX:
        name = f"~{hashlib.sha256(key.encode()).hexdigest()}"
    return name + ENDING


class KeyedJournal:
    """Durable records of the given types, in one folder, by key; opened by one owner at a time."""

    def __init__(
        self, folder: Path, records: Iterable[type[Record]], *, loss: Callable[[str, str], Record] | None = None
    ) -> None:
        """Name the folder and what it keeps; `loss` makes the record that says of a key what was lost of it."""
        self.folder = folder
        self._kinds = tuple(records)
        if not self._kinds:
            raise UsageError(f"the journal {folder} needs at least one type of record")
        self._loss = loss
        self._index: Journal | None = None
        if loss is not None:
            of_list: list[type[Record]] = [KeysKept, type(loss("", ""))]
            self._index = Journal(
                folder.with_name(f"{folder.name}.index"), of_list, loss=lambda damage: self._lost("", damage)
            )
        self._encoder = msgspec.msgpack.Encoder(enc_hook=encode_special)
        union: Any = reduce(or_, self._kinds)
        self._decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(union, dec_hook=decode_special)
        self._keys: dict[str, None] | None = None
        """Those with a file; None while it is not open."""
        self.damage: dict[str, str] = {}
        """What `open` found lost that had been durable, by key; "" for the list."""

    def open(self) -> Sequence[Record]:
        """Open or make the folder and give its records: what concerns all keys, then key by key, oldest first.

        Raises:
            JournalFailed: The disk says no, or another process has the journal open.
        """
        if self._keys is not None:
            raise UsageError(f"the journal {self.folder} is open already")
        self.damage = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_folder(self.folder.parent)
            return self._restore()
        except OSError as error:
            self.close()
            raise JournalFailed(f"the journal {self.folder} cannot be opened: {error}") from error
        except BaseException:
            self.close()
            raise

    def _restore(self) -> list[Record]:
        restored: list[Record] = []
        listed: tuple[str, ...] = ()
        if self._index is not None:
            for record in self._index.open():
                if isinstance(record, KeysKept):
                    listed = record.keys
                else:
                    restored = [record]
            if self._index.damage is not None:
                self.damage[""] = self._index.damage
        names = {file_name(key): key for key in listed}
        self._keys = {}
        for path in self.folder.glob(f"*{ENDING}{FRESH}"):
            path.unlink()
        for path in sorted(self.folder.glob(f"*{ENDING}")):
            restored += self._restore_file(path, names.pop(path.name, None))
        for key in sorted(names.values()):
            restored.append(self._replace_lost(self.folder / file_name(key), key, "its file is gone"))
        self._list_keys(listed)
        return restored

    def _restore_file(self, path: Path, listed: str | None) -> list[Record]:
        """Read one file; `listed` is its key as the list has it, None where it is not in there, or there is no list."""
        data = self._read(path)
        restored, offset, wrong = self._decode(data)
        key = _key_of(restored[0]) if restored else listed
        if not wrong and any(_key_of(each) != key or file_name(key) != path.name for each in restored):
            wrong = f"it holds records of something else than {key!r}"
        if wrong and is_torn(data, offset):
            os.truncate(path, offset)
            self._sync(path)
            log.warning("journal %s: cut %d bytes of a write that did not finish", path, len(data) - offset)
            wrong = ""
        if not wrong and not restored and listed is not None:
            wrong = "it had records once, and none is left"
        if wrong:
            aside = set_aside(path)
            return self._mourn(path, listed, f"{wrong}; the file was kept as {aside.name}")
        if restored:
            assert self._keys is not None and key is not None  # noqa: S101, PT018 - for mypy
            self._keys[key] = None
        else:
            # Made for a first record that never came.
            path.unlink()
        return restored

    def _read(self, path: Path) -> bytes:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return read_all(descriptor)
        finally:
            os.close(descriptor)

    def _decode(self, data: bytes) -> tuple[list[Record], int, str]:
        """Give the good records at the beginning, the offset behind them, and what is wrong there, if anything."""
        restored: list[Record] = []
        offset = 0
        for payload, end in payloads(data):
            try:
                restored.append(self._decoder.decode(payload))
            except (msgspec.MsgspecError, MalformedFrame, ValueError, RecursionError) as error:
                kinds = [kind.__name__ for kind in self._kinds]
                return restored, offset, f"the record at byte {offset} is none of {kinds}: {error}"
            offset = end
        return restored, offset, "" if offset == len(data) else f"no record at byte {offset} of {len(data)}"

    def _mourn(self, path: Path, key: str | None, what: str) -> list[Record]:
        if key is not None:
            return [self._replace_lost(path, key, what)]
        # What it held can be done without, or is mourned with the list.
        log.error("journal %s is corrupt: %s", path, what)
        self.damage[path.name] = what
        path.unlink()
        sync_folder(self.folder)
        return []

    def _replace_lost(self, path: Path, key: str, what: str) -> Record:
        log.error("journal %s of %s is corrupt: %s", path, key, what)
        self.damage[key] = what
        lost = self._lost(key, what)
        self._replace(path, [lost])
        assert self._keys is not None  # noqa: S101 - for mypy
        self._keys[key] = None
        return lost

    def _lost(self, key: str, what: str) -> Record:
        assert self._loss is not None  # noqa: S101 - for mypy
        return self._loss(key, what)

    def _list_keys(self, listed: Sequence[str] | None = None) -> None:
        assert self._keys is not None  # noqa: S101 - for mypy
        keys = tuple(sorted(self._keys))
        if self._index is not None and keys != listed:
            self._index.append(KeysKept(keys))

    def _payload(self, record: Record) -> bytes:
        if type(record) not in self._kinds:
            raise UsageError(f"the journal {self.folder} does not keep {type(record).__name__}")
        payload = self._encoder.encode(record)
        if len(payload) > RECORD_BYTES_MAX:
            raise UsageError(f"a record of {len(payload)} bytes is longer than {RECORD_BYTES_MAX}")
        return payload

    def _opened(self) -> dict[str, None]:
        if self._keys is None:
            raise UsageError(f"the journal {self.folder} is not open")
        return self._keys

    def append(self, record: Record) -> None:
        """Make one record durable before returning.

        Raises:
            JournalFailed: It is not, and the journal takes nothing more until it is opened again.
            UsageError: The journal is not open, or the record is none of its types or too long.
        """
        keys, key = self._opened(), _key_of(record)
        data = frame(self._payload(record))
        try:
            self._write(self.folder / file_name(key), data, os.O_APPEND)
            if key not in keys:
                sync_folder(self.folder)
                keys[key] = None
                self._list_keys()
        except (OSError, JournalFailed) as error:
            # After a failed fsync nobody knows what is on the disk; only reading it again tells.
            self.close()
            raise JournalFailed(f"the journal {self.folder} could not be written: {error}") from error

    def rewrite(self, key: str, records: Sequence[Record]) -> None:
        """Put these records in the place of all of that key, at once or not at all; durable before returning.

        Raises:
            JournalFailed: It may be done or not, and the journal takes nothing more until it is opened again.
            UsageError: The journal is not open, or a record is not of that key or none of its types or too long.
        """
        keys = self._opened()
        if any(_key_of(each) != key for each in records):
            raise UsageError(f"records of another key than {key!r} cannot take the place of those of {key!r}")
        path = self.folder / file_name(key)
        try:
            if records:
                self._replace(path, records)
                keys[key] = None
                self._list_keys()
            elif key in keys:
                # In this order: a file that is not in the list is found again, a listed one without a file is a loss.
                del keys[key]
                self._list_keys()
                path.unlink()
                sync_folder(self.folder)
        except (OSError, JournalFailed) as error:
            self.close()
            raise JournalFailed(f"the journal {self.folder} could not be written: {error}") from error

    def keeps_no_other(self, kinds: Sequence[type[Record]]) -> bool:
        """Tell whether a rewrite of records of these types is one of everything that is kept."""
        return set(self._kinds) <= set(kinds)

    def _replace(self, path: Path, records: Sequence[Record]) -> None:
        fresh = path.with_name(f"{path.name}{FRESH}")
        self._write(fresh, b"".join(frame(self._payload(each)) for each in records), os.O_TRUNC)
        fresh.replace(path)
        sync_folder(self.folder)

    @staticmethod
    def _write(path: Path, data: bytes, how: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Take nothing more; harmless when it is closed."""
        self._keys = None
        if self._index is not None:
            self._index.close()


def _key_of(record: Record) -> str:
    """Give the first field."""
    return str(getattr(record, record.__struct_fields__[0]))

"""Keeps a machine's records durably: an append-only file that is compacted to the newest record of each type.

    closed --open--> open --append (fsync)--> open --an append fails--> failed, until it is opened again

What may be found at `open` (`records.py` says how records are framed):
- A last record that is torn: cut off, and said.
- Anything else wrong: the file is set aside as `<name>.corrupt-<n>`, its good beginning goes on in a new file, and
  `damage` says so: something that was durable is lost, and only the machine's owner can know whether it may go on.
- No record at all, where there was one once: that is damage too. `<name>.begun`, made with the first record, tells; it
  is kept only for an owner that gives `loss`.

What was lost must not be forgotten at the next start, when the file is in order again: with `loss` a record that says
so is written before `open` returns, and stands last among what it gives.

It blocks the loop for as long as the disk takes, and on purpose: nothing may happen between a vote and its record.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import msgspec

from atoll.actors.runtime.errors import JournalFailed
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

try:
    import fcntl
except ImportError:  # Windows: two nodes on one state directory go unnoticed there.
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("atoll.actors")

SIZE_BYTES_MAX = 1024 * 1024
"""A longer file is compacted; read whole at each start, it should stay short."""


class Journal:
    """Durable records of the given types, in one file; opened by one owner at a time."""

    def __init__(
        self,
        path: Path,
        records: Iterable[type[Record]],
        *,
        size_bytes_max: int = SIZE_BYTES_MAX,
        loss: Callable[[str], Record] | None = None,
    ) -> None:
        """Name the file and what it keeps; `loss` makes the record that says in words what was lost."""
        self.path = path
        self._begun = path.with_name(f"{path.name}.begun")
        self._loss = loss
        kinds = tuple(records)
        if not kinds:
            raise UsageError(f"the journal {path} needs at least one type of record")
        self._size_bytes_max = size_bytes_max
        self._encoder = msgspec.msgpack.Encoder(enc_hook=encode_special)
        self._kinds = kinds
        union: Any = reduce(or_, kinds)
        self._decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(union, dec_hook=decode_special)
        self._descriptor: int | None = None
        self._size = 0
        self._compacted_size = 0
        self._newest: dict[type[Record], bytes] = {}
        self.damage: str | None = None
        """What `open` found lost that had been durable; None when all is well."""

    def open(self) -> Sequence[Record]:
        """Open or make the file and give its records, oldest first.

        Raises:
            JournalFailed: The disk says no, or another process has the journal open.
        """
        if self._descriptor is not None:
            raise UsageError(f"the journal {self.path} is open already")
        self.damage = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            self._lock(self._descriptor)
            sync_folder(self.path.parent)
            return self._restore(read_all(self._descriptor))
        except OSError as error:
            self.close()
            raise JournalFailed(f"the journal {self.path} cannot be opened: {error}") from error
        except BaseException:
            self.close()
            raise

    def _lock(self, descriptor: int) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise JournalFailed(
                    f"the journal {self.path} is open elsewhere: does a node run on this state directory already?"
                ) from error

    def _restore(self, data: bytes) -> list[Record]:
        restored: list[Record] = []
        self._newest = {}
        offset, wrong = 0, ""
        for payload, end in payloads(data):
            try:
                record = self._decoder.decode(payload)
            except (msgspec.MsgspecError, MalformedFrame, ValueError, RecursionError) as error:
                wrong = f"the record at byte {offset} is none of {[kind.__name__ for kind in self._kinds]}: {error}"
                break
            restored.append(record)
            self._note(record, payload)
            offset = end
        if not wrong and offset < len(data):
            wrong = f"no record at byte {offset} of {len(data)}"
        self._size = offset
        if wrong and not self._cut(data, offset):
            aside = set_aside(self.path)
            self.damage = f"{wrong}; the whole file was kept as {aside.name}, and what stood before goes on"
        elif self._loss is not None and not restored and self._begun.exists():
            self.damage = "it had records once, and none is left"
        if self.damage is not None:
            log.error("journal %s is corrupt: %s", self.path, self.damage)
            restored += self._go_on(data[:offset], self.damage)
        elif self._loss is not None and restored:
            self._mark_begun()
        return restored

    def _cut(self, data: bytes, offset: int) -> bool:
        """Cut off what can only be a torn write; tell whether it was one."""
        if not is_torn(data, offset):
            return False
        assert self._descriptor is not None  # noqa: S101 - for mypy
        os.ftruncate(self._descriptor, offset)
        os.fsync(self._descriptor)
        log.warning("journal %s: cut %d bytes of a write that did not finish", self.path, len(data) - offset)
        return True

    def _go_on(self, good: bytes, damage: str) -> list[Record]:
        """Put the good beginning in the file's place, with what says that more was lost; gives the latter."""
        if self._loss is None:
            self._replace(good)
            return []
        lost = self._loss(damage)
        payload = self._encoder.encode(lost)
        # At once: a crash in between would leave a file in order, and nobody who knows of the loss.
        self._replace(good + frame(payload))
        self._note(lost, payload)
        self._mark_begun()
        return [lost]

    def _replace(self, data: bytes) -> None:
        """Put a file with that content in the journal's place, at once or not at all."""
        fresh = self.path.with_name(f"{self.path.name}.new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._lock(descriptor)
            write_all(descriptor, data)
            os.fsync(descriptor)
            fresh.replace(self.path)
            sync_folder(self.path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        assert self._descriptor is not None  # noqa: S101 - for mypy
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, len(data)

    def _note(self, record: Record, payload: bytes) -> None:
        self._newest.pop(type(record), None)
        self._newest[type(record)] = payload

    def append(self, record: Record) -> None:
        """Make one record durable before returning.

        Raises:
            JournalFailed: It is not, and the journal takes nothing more until it is opened again.
            UsageError: The journal is not open, or the record is none of its types or too long.
        """
        if self._descriptor is None:
            raise UsageError(f"the journal {self.path} is not open")
        if type(record) not in self._kinds:
            raise UsageError(f"the journal {self.path} does not keep {type(record).__name__}")
        payload = self._encoder.encode(record)
        if len(payload) > RECORD_BYTES_MAX:
            raise UsageError(f"a record of {len(payload)} bytes is longer than {RECORD_BYTES_MAX}")
        data = frame(payload)
        try:
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            write_all(self._descriptor, data)
            os.fsync(self._descriptor)
            self._size += len(data)
            if self._loss is not None and not self._newest:
                self._mark_begun()
            self._note(record, payload)
            if self._size > max(self._size_bytes_max, 2 * self._compacted_size):
                self._compact()
        except OSError as error:
            # After a failed fsync nobody knows what is on the disk; only reading it again tells.
            self.close()
            raise JournalFailed(f"the journal {self.path} could not be written: {error}") from error

    def _mark_begun(self) -> None:
        """Leave a sign beside the journal that it is not new; after the first record, for without one it still is."""
        if self._begun.exists():
            return
        os.close(os.open(self._begun, os.O_RDWR | os.O_CREAT, 0o600))
        sync_folder(self.path.parent)

    def _compact(self) -> None:
        self._replace(b"".join(frame(payload) for payload in self._newest.values()))
        self._compacted_size = self._size

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

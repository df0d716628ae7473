"""An operation log: a snapshot at a position, and the entries after it; the same at its owner and in its stores.

Two logs that hold the same (generation, index) agree in everything before it: one owner alone writes in a generation,
and nothing is put behind an entry that is not the one its owner had there (Raft's log matching, Ongaro 2014, 3.5).
"""

import hashlib
from collections.abc import Sequence

from atoll.actors.hand_over.messages import ENTRIES_MAX, PART_BYTES_MAX, PARTS_MAX, Entry, Position
from atoll.actors.runtime.machine import insist

ENTRY_OVERHEAD_BYTES = 64
"""What an entry costs beside its operation and reply."""
STATE_BYTES_MAX = PART_BYTES_MAX * PARTS_MAX
NOWHERE = Position()


def size_of(entry: Entry) -> int:
    """Give what an entry costs, in bytes."""
    return ENTRY_OVERHEAD_BYTES + len(entry.operation) + len(entry.reply)


def parts_of(state: bytes) -> list[bytes]:
    """Cut a state into the parts that messages carry; at least one."""
    return [state[at : at + PART_BYTES_MAX] for at in range(0, len(state), PART_BYTES_MAX)] or [b""]


def digest_of(state: bytes) -> bytes:
    """Hash a state."""
    return hashlib.sha256(state).digest()


class OperationLog:
    """A snapshot and the entries behind it."""

    __slots__ = ("base", "entries", "entry_bytes", "snapshot")

    def __init__(self, base: Position = NOWHERE, snapshot: bytes = b"", entries: Sequence[Entry] = ()) -> None:
        self.base = base
        self.snapshot = snapshot
        self.entries = list(entries)
        self.entry_bytes = sum(map(size_of, self.entries))

    @property
    def last(self) -> Position:
        """Where the log ends."""
        if not self.entries:
            return self.base
        entry = self.entries[-1]
        return Position(entry.generation, entry.index)

    @property
    def size_bytes(self) -> int:
        """What the log costs."""
        return len(self.snapshot) + self.entry_bytes

    def has(self, position: Position) -> bool:
        """Tell whether this log has what stands at that position, and so everything before it."""
        if position.index == self.base.index:
            return position == self.base
        at = position.index - self.base.index - 1
        return 0 <= at < len(self.entries) and self.entries[at].generation == position.generation

    def behind(self, index: int, bytes_max: int = PART_BYTES_MAX) -> tuple[Entry, ...]:
        """Give the entries behind `index`, as many as a message carries."""
        found: list[Entry] = []
        size = 0
        for entry in self.entries[max(0, index - self.base.index) :]:
            size += size_of(entry)
            if len(found) >= ENTRIES_MAX or (found and size > bytes_max):
                break
            found.append(entry)
        return tuple(found)

    def position_at(self, index: int) -> Position:
        """Give the position of an index between the snapshot and the end."""
        if index == self.base.index:
            return self.base
        entry = self.entries[index - self.base.index - 1]
        return Position(entry.generation, entry.index)

    def fresh(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Give those entries, from the first on, that this log does not have yet."""
        for at, entry in enumerate(entries):
            if entry.index > self.base.index and not self.has(Position(entry.generation, entry.index)):
                return entries[at:]
        return ()

    def cut(self, index: int) -> None:
        """Drop what stands behind `index`."""
        keep = max(0, index - self.base.index)
        self.entry_bytes -= sum(map(size_of, self.entries[keep:]))
        del self.entries[keep:]

    def add(self, entry: Entry) -> None:
        """Put an entry at the end."""
        self.entries.append(entry)
        self.entry_bytes += size_of(entry)

    def compact(self, base: Position, snapshot: bytes) -> None:
        """Put a snapshot in the place of everything up to `base`; entries behind it stay if they follow it."""
        later = self.entries[base.index - self.base.index :] if self.has(base) else []
        self.base, self.snapshot, self.entries = base, snapshot, later
        self.entry_bytes = sum(map(size_of, later))

    def check(self) -> None:
        """Assert what always holds."""
        for at, entry in enumerate(self.entries):
            insist(entry.index == self.base.index + 1 + at, "a log has a hole")

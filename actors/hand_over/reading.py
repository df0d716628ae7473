"""Reads the log of one store, part by part: those of its snapshot first, then the entries behind it."""

from atoll.actors.hand_over.messages import Entry, LogPart
from atoll.actors.hand_over.replication import Replica

READ_TRIES_MAX = 5
"""Then the store is taken for gone, and what the others say decides."""


class Reading:
    """What is here of a log that an owner wants to adopt."""

    __slots__ = ("_tries", "entries", "parts", "source")

    def __init__(self, source: Replica) -> None:
        self.source = source
        self.parts: list[bytes] = []
        self.entries: list[Entry] = []
        self._tries = 0

    @property
    def next(self) -> tuple[int, int]:
        """Which part is wanted next, and behind which index entries are."""
        return len(self.parts), self.entries[-1].index if self.entries else 0

    @property
    def snapshot(self) -> bytes:
        """The snapshot, once it is whole."""
        return b"".join(self.parts)

    def given_up(self) -> bool:
        """Count a question without an answer; tell whether they were too many."""
        self._tries += 1
        return self._tries > READ_TRIES_MAX

    def take(self, message: LogPart) -> bool:
        """Take a part; False for one that does not come next."""
        if message.part < message.parts:
            if message.part != len(self.parts):
                return False
            self.parts.append(message.data)
        elif message.part == len(self.parts):
            index = self.entries[-1].index if self.entries else message.base.index
            if message.entries and message.entries[0].index != index + 1:
                return False
            self.entries += message.entries
        self._tries = 0
        return True

    def whole_with(self, message: LogPart) -> bool:
        """Tell whether nothing is missing of what the store has, by its own word."""
        end = self.entries[-1].index if self.entries else message.base.index
        return len(self.parts) >= message.parts and end >= message.last.index

"""The disk of a simulated host: what its machine persisted, as bytes, in the order of writing; and how it is damaged.

Persist --> behind all others, compacted as a journal is     Rewrite --> in place of those of the same kinds and key
a journal is damaged --> a beginning of it, and at its end a record that says so
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from atoll.actors.runtime.machine import Record, Rewrite
from atoll.transport.codec import decode_special, encode_special

DISK_RECORDS_MAX = 64
"""A longer disk is compacted to the newest record of each type, as a journal is."""
DAMAGED_RATIO = 0.6
"""How likely each of several journals is damaged when a disk is."""

_records = msgspec.msgpack.Encoder(enc_hook=encode_special)


@dataclass(frozen=True, slots=True)
class Lost:
    """A journal that a disk may forget the end of: what stands in it, and the record that says so afterwards."""

    kinds: tuple[type[Record], ...]
    """Empty: everything on the disk."""
    record: Callable[[str], Record]


class Disk:
    """The records of one host; what is written is given back as bytes, for the trace."""

    __slots__ = ("_held", "_records_max")

    def __init__(self, records_max: float) -> None:
        self._held: list[tuple[type[Record], bytes]] = []
        self._records_max = records_max

    def restored(self) -> list[Record]:
        """Read everything, oldest first."""
        return [msgspec.msgpack.decode(data, type=kind, dec_hook=decode_special) for kind, data in self._held]

    def persist(self, record: Record) -> bytes:
        """Write one more record."""
        data = self._append(record)
        if len(self._held) > self._records_max:
            newest = dict(self._held)
            self._held = [each for each in self._held if newest.get(each[0]) is each[1]]
        return data

    def rewrite(self, effect: Rewrite) -> list[bytes]:
        """Write records in place of those that have one of the effect's kinds and its key."""

        def replaced(kind: type[Record], data: bytes) -> bool:
            return kind in effect.kinds and msgspec.msgpack.decode(data)[1] == effect.key

        self._held = [each for each in self._held if not replaced(*each)]
        return [self._append(record) for record in effect.records]

    def damage(self, journals: Sequence[Lost], rng: Random) -> None:
        """Do what damaged journals do, one or several at once, and leave what opening such a journal leaves."""
        chosen = journals if len(journals) < 2 else [each for each in journals if rng.random() < DAMAGED_RATIO]
        for journal in chosen:
            own = [index for index, (kind, _) in enumerate(self._held) if not journal.kinds or kind in journal.kinds]
            if own:  # An empty one has nothing to lose, and nobody could tell.
                gone = set(own[rng.randrange(len(own)) :])
                self._held = [each for index, each in enumerate(self._held) if index not in gone]
                self._append(journal.record("as the simulation wants it"))

    def _append(self, record: Record) -> bytes:
        data = _records.encode(record)
        self._held.append((type(record), data))
        return data

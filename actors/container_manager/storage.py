"""What a service keeps between its calls: strings by name, with a tag where wanted, in one SQLite file, quota-bound.

    closed --first use--> open --the worker ends--> closed

One worker is the only user of the file at a time. WAL with `synchronous=NORMAL`: what is written survives the death of
the worker; the last writes before a power cut may be lost, which suits state that is eventually consistent anyway.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

STORAGE_BYTES_MAX = 16 * 1024 * 1024
"""Keys, values and tags of one service."""
KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1024 * 1024
ITEMS_MAX = 10_000
BATCH_ITEMS_MAX = 64
BATCH_BYTES_MAX = 1024 * 1024


class QuotaExceeded(Exception):
    """The service stores more than it may (its own fault); the text names the limit."""


class Storage:
    """The items of one service."""

    def __init__(self, path: Path, *, bytes_max: int = STORAGE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._base = sqlite3.connect(path, isolation_level=None)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.execute("PRAGMA journal_size_limit=1048576")
        # SQLite adds pages of its own; this is the fence behind the fence.
        self._base.execute(f"PRAGMA max_page_count={(bytes_max * 2) // 4096 + 256}")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, value TEXT NOT NULL, tag TEXT) WITHOUT ROWID"
        )
        self._base.execute("CREATE INDEX IF NOT EXISTS tags ON items (tag) WHERE tag IS NOT NULL")
        weight = "coalesce(sum(length(cast(key||value||coalesce(tag,'') AS BLOB))), 0)"
        self._count, self._bytes = self._base.execute(f"SELECT count(*), {weight} FROM items").fetchone()  # noqa: S608 - constants only

    def get(self, key: str) -> str | None:
        """Give the value under that key, or None."""
        row = self._base.execute("SELECT value FROM items WHERE key=?", (key,)).fetchone()
        return None if row is None else row[0]

    def put(self, key: str, value: str, tag: str | None = None) -> None:
        """Store a value in place of an older one.

        Raises:
            QuotaExceeded: Nothing was stored.
        """
        key_bytes, value_bytes = len(key.encode()), len(value.encode())
        if key_bytes > KEY_BYTES_MAX or len((tag or "").encode()) > KEY_BYTES_MAX:
            raise QuotaExceeded(f"a key or tag may have {KEY_BYTES_MAX} bytes")
        if value_bytes > VALUE_BYTES_MAX:
            raise QuotaExceeded(f"a value may have {VALUE_BYTES_MAX} bytes; this one has {value_bytes}")
        weight = key_bytes + value_bytes + len((tag or "").encode())
        old = self._weight(key)
        if self._bytes + weight - (old or 0) > self._bytes_max:
            raise QuotaExceeded(f"this service may store {self._bytes_max} bytes; {self._bytes} are used")
        if old is None and self._count >= ITEMS_MAX:
            raise QuotaExceeded(f"this service may store {ITEMS_MAX} items")
        self._base.execute("INSERT OR REPLACE INTO items VALUES (?,?,?)", (key, value, tag))
        self._bytes += weight - (old or 0)
        self._count += old is None

    def remove(self, key: str) -> None:
        """Remove a value; harmless when there is none."""
        if (old := self._weight(key)) is not None:
            self._base.execute("DELETE FROM items WHERE key=?", (key,))
            self._bytes -= old
            self._count -= 1

    def remove_tag(self, tag: str) -> None:
        """Remove everything that has the tag."""
        for (key,) in self._base.execute("SELECT key FROM items WHERE tag=?", (tag,)).fetchall():
            self.remove(key)

    def batch(self, after: str | None, tag: str | None = None) -> list[tuple[str, str]]:
        """Give the next items behind the key `after`, in the order of keys; none when there are no more."""
        found: list[tuple[str, str]] = []
        room = BATCH_BYTES_MAX
        for key, value in self._rows(after, tag):
            room -= len(value)
            if found and room < 0:
                break
            found.append((key, value))
        return found

    def _rows(self, after: str | None, tag: str | None) -> Iterator[tuple[str, str]]:
        where, values = ["1"], list[object]()
        if after is not None:
            where.append("key>?")
            values.append(after)
        if tag is not None:
            where.append("tag=?")
            values.append(tag)
        query = f"SELECT key, value FROM items WHERE {' AND '.join(where)} ORDER BY key LIMIT {BATCH_ITEMS_MAX}"  # noqa: S608 - ours
        yield from self._base.execute(query, values)

    def _weight(self, key: str) -> int | None:
        row = self._base.execute(
            "SELECT length(cast(key||value||coalesce(tag,'') AS BLOB)) FROM items WHERE key=?", (key,)
        ).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        """Close the file."""
        self._base.close()

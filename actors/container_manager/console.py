r"""What a container wrote: the newest lines in memory, more of them in a file of bounded size.

    line --> ring (LINES_MAX) and `<name>.log` --FILE_BYTES_MAX--> `<name>.old.log`, and a new file

A line in the file is `milliseconds stream text`, with line breaks inside the text as `\n`. Not fsynced: a log is for
people, and a service must not be able to keep the disk busy.
"""

import time
from collections import deque

from atoll.actors.container_manager.messages import LogEntry
from atoll.actors.container_manager.vault import Vault

LINES_MAX = 1000
FILE_BYTES_MAX = 1024 * 1024


class Console:
    """The log of one container."""

    def __init__(self, vault: Vault, name: str) -> None:
        """Open it; what was written before is there again."""
        self._vault = vault
        self._file, self._old = f"{name}.log", f"{name}.old.log"
        self._ring: deque[LogEntry] = deque(maxlen=LINES_MAX)
        if (size := vault.size(self._file)) is not None:
            text = vault.read(self._file, bytes_max=max(size, 2 * FILE_BYTES_MAX)).decode("utf-8", "replace")
            self._ring.extend(filter(None, map(_read_line, text.split("\n"))))

    def write(self, lines: tuple[tuple[str, str], ...]) -> None:
        """Add lines, each with its stream."""
        now = time.time_ns() // 1_000_000
        entries = [LogEntry(now, stream, text) for stream, text in lines]
        self._ring.extend(entries)
        if (self._vault.size(self._file) or 0) > FILE_BYTES_MAX:
            self._vault.rename(self._file, self._old)
        self._vault.append(self._file, "".join(map(_line, entries)).encode("utf-8", "replace"))

    def note(self, text: str) -> None:
        """Add a line of the node about the container."""
        self.write((("system", text),))

    def newest(self, lines_max: int) -> tuple[LogEntry, ...]:
        """Give the newest lines, oldest first."""
        return tuple(self._ring)[-lines_max:] if lines_max > 0 else ()

    def remove(self) -> None:
        """Remove the files."""
        self._vault.remove(self._file)
        self._vault.remove(self._old)


def _line(entry: LogEntry) -> str:
    text = entry.text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{entry.at_ms} {entry.stream} {text}\n"


def _read_line(line: str) -> LogEntry | None:
    at, _, rest = line.partition(" ")
    stream, _, text = rest.partition(" ")
    if not at.isdigit():
        return None
    plain = text.replace("\\\\", "\0").replace("\\n", "\n").replace("\\r", "\r").replace("\0", "\\")
    return LogEntry(int(at), stream, plain)

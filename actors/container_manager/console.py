r"""What a container wrote: the newest lines in memory, more of them in a file of bounded size.

    line --> ring (LINES_MAX) and `<name>.log` --FILE_BYTES_MAX--> `<name>.old.log`, and a new file

A line in the file is `milliseconds stream text`, with line breaks inside the text as `\n`. Not fsynced: a log is for
people, and a service must not be able to keep the disk busy. Nor may what it writes end anything: where the disk
refuses, the lines stay in memory only.
"""

import logging
import re
import time
from collections import deque

from atoll.actors.container_manager.errors import StorageFault
from atoll.actors.container_manager.messages import LogEntry
from atoll.actors.container_manager.runtimes.frames import Stream
from atoll.actors.container_manager.vault import Vault

log = logging.getLogger("atoll.containers")

LINES_MAX = 1000
FILE_BYTES_MAX = 1024 * 1024
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_ESCAPED = {written: plain for plain, written in _ESCAPES.items()}


class Console:
    """The log of one container."""

    def __init__(self, vault: Vault, name: str) -> None:
        """Open it; what was written before is there again."""
        self._vault = vault
        self._file, self._old = f"{name}.log", f"{name}.old.log"
        self._ring: deque[LogEntry] = deque(maxlen=LINES_MAX)
        self._refused = ""
        """Why the disk took no lines the last time; empty while it takes them."""
        if (size := vault.size(self._file)) is not None:
            text = vault.read(self._file, bytes_max=max(size, 2 * FILE_BYTES_MAX)).decode("utf-8", "replace")
            self._ring.extend(filter(None, map(_read_line, text.split("\n"))))

    def write(self, lines: tuple[tuple[Stream, str], ...]) -> None:
        """Add lines, each with its stream."""
        now = time.time_ns() // 1_000_000
        entries = [LogEntry(now, stream, text) for stream, text in lines]
        self._ring.extend(entries)
        try:
            if (self._vault.size(self._file) or 0) > FILE_BYTES_MAX:
                self._vault.rename(self._file, self._old)
            self._vault.append(self._file, "".join(map(_line, entries)).encode("utf-8", "replace"))
        except (OSError, StorageFault) as error:
            if not self._refused:
                log.warning("what containers write is not kept on the disk: %s", error)
            self._refused = str(error)
        else:
            self._refused = ""

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
    text = re.sub(r"[\\\n\r]", lambda found: _ESCAPES[found[0]], entry.text)
    return f"{entry.at_ms} {entry.stream} {text}\n"


def _read_line(line: str) -> LogEntry | None:
    at, _, rest = line.partition(" ")
    stream, _, text = rest.partition(" ")
    if not at.isdigit():
        return None
    return LogEntry(int(at), stream, re.sub(r"\\[\\nr]", lambda found: _ESCAPED[found[0]], text))

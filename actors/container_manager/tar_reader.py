"""Walks through a tar archive: which regular files are in it, and where their bytes lie.

    header --regular file--> Entry (name, offset, size)          --> next header
           --directory, macOS's `._x`-->  passed over            --> next header
           --PAX or GNU extension--> kept for the next header    --> next header
           --two empty blocks, or the end--> done
           --anything else--> refused, with the entry's name and the rule

It never writes, never follows a link and never believes a size that the file does not have. Python's `tarfile` is not
used on purpose: it takes the whole of a declared extension header into memory, its 3.11 has a parser that can be kept
busy for ever (CVE-2024-6232, CVE-2025-8194), and it offers to extract.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from atoll.actors.container_manager.errors import ImageRefused

BLOCK_BYTES = 512
ENTRIES_MAX = 4096
"""Headers of all kinds; an image of a light service has about ten."""
EXTENSION_BYTES_MAX = 64 * 1024
"""One PAX or GNU header; xattrs of macOS take a few hundred bytes."""
NAME_CHARACTERS_MAX = 512
DEPTH_MAX = 32

_LINKS = {b"1": "a hard link", b"2": "a symbolic link"}
_DEVICES = {b"3": "a character device", b"4": "a block device", b"6": "a pipe"}
_REGULAR = (b"0", b"\0", b"7")


class Part(msgspec.Struct, frozen=True):
    """A stretch of a file that can seek."""

    file: BinaryIO
    offset: int
    size: int

    def read(self, at: int = 0, length: int | None = None) -> bytes:
        """Read from `at` on, at most to the part's end."""
        self.file.seek(self.offset + at)
        left = max(0, self.size - at)
        return self.file.read(left if length is None else min(length, left))


class Entry(msgspec.Struct, frozen=True):
    """A regular file of an archive."""

    name: str
    part: Part


@dataclass(slots=True)
class _Extensions:
    """What extension headers say about the next entry."""

    path: str | None = None
    size: int | None = None


def read_entries(tar: Part, *, where: str) -> list[Entry]:
    """List the regular files of a tar; `where` names it in errors.

    Raises:
        ImageRefused: It is broken or holds what it must not; names the entry and the rule.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    for entry in _walk(tar, where):
        if entry.name in seen:
            raise ImageRefused(f"{where}: {entry.name!r} is there twice; each name may stand once")
        seen.add(entry.name)
        if not entry.name.rpartition("/")[2].startswith("._"):
            entries.append(entry)
    return entries


def _walk(tar: Part, where: str) -> Iterator[Entry]:
    extensions, offset, count = _Extensions(), 0, 0
    while offset + BLOCK_BYTES <= tar.size:
        block = tar.read(offset, BLOCK_BYTES)
        if block.count(0) == BLOCK_BYTES:
            return
        count += 1
        if count > ENTRIES_MAX:
            raise ImageRefused(f"{where}: it has more than {ENTRIES_MAX} entries")
        _check_sum(block, where, offset)
        kind, start = block[156:157], offset + BLOCK_BYTES
        length = _number(block[124:136], where, "size")
        if kind not in b"xgLK" and extensions.size is not None:
            length = extensions.size
        name = extensions.path or _header_name(block)
        if length > tar.size - start:
            raise ImageRefused(f"{where}: {name!r} says it has {length} bytes, and the archive ends before that")
        offset = start + -(-length // BLOCK_BYTES) * BLOCK_BYTES
        if kind in b"xgLK":
            if length > EXTENSION_BYTES_MAX:
                raise ImageRefused(
                    f"{where}: an extension header has {length} bytes; {EXTENSION_BYTES_MAX} is the limit"
                )
            _extend(extensions, kind, tar.read(start, length), where)
            continue
        extensions = _Extensions()
        if path := _file_path(kind, name, where):
            yield Entry(path, Part(tar.file, tar.offset + start, length))
    if count == 0 or tar.size % BLOCK_BYTES:
        raise ImageRefused(f"{where}: it is no tar archive, or it was cut off; write it with `docker save`")


def _file_path(kind: bytes, name: str, where: str) -> str:
    """Give the clean path of a regular file, or nothing for a directory."""
    if kind in _LINKS or kind in _DEVICES:
        what = _LINKS.get(kind) or _DEVICES[kind]
        raise ImageRefused(f"{where}: {name!r} is {what}; only files and directories are taken")
    if kind != b"5" and kind not in _REGULAR:
        raise ImageRefused(f"{where}: {name!r} is of the unknown kind {kind!r}; only files and directories are taken")
    path = clean_path(name, where)
    # Archives older than POSIX mark a directory by the slash at its end.
    if kind == b"5" or name.endswith("/"):
        return ""
    if not path:
        raise ImageRefused(f"{where}: {name!r} is a file without a name")
    return path


def clean_path(name: str, where: str) -> str:
    """Give the path without `.` and doubled slashes; empty for the archive's own root.

    Raises:
        ImageRefused: It is absolute, climbs, or is written for another system.
    """
    if not name or len(name) > NAME_CHARACTERS_MAX:
        raise ImageRefused(f"{where}: an entry's name has {len(name)} characters; 1 to {NAME_CHARACTERS_MAX} are taken")
    if "\0" in name or "\\" in name or any("\ud800" <= each <= "\udfff" for each in name):
        raise ImageRefused(f"{where}: {name!r} holds a zero, a backslash or bytes that are not UTF-8")
    if name.startswith("/") or name[1:2] == ":":
        raise ImageRefused(f"{where}: {name!r} is an absolute path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageRefused(f"{where}: {name!r} climbs out with `..`")
    if len(parts) > DEPTH_MAX:
        raise ImageRefused(f"{where}: {name[:80]!r}… is more than {DEPTH_MAX} folders deep")
    return "/".join(parts)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _header_name(block: bytes) -> str:
    name = _text(block[0:100])
    # GNU's old format keeps times where ustar keeps a prefix; only ustar's mark says which it is.
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        return f"{prefix}/{name}"
    return name


def _number(field: bytes, where: str, what: str) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
        if field[0] == 0x80:
            return value
        raise ImageRefused(f"{where}: an entry's {what} is negative")
    digits = field.strip(b" \0")
    if any(each not in b"01234567" for each in digits):
        raise ImageRefused(f"{where}: an entry's {what} {digits!r} is no octal number")
    return int(digits or b"0", 8)


def _check_sum(block: bytes, where: str, offset: int) -> None:
    stated = _number(block[148:156], where, "checksum")
    if stated != sum(block) - sum(block[148:156]) + 8 * 0x20:
        raise ImageRefused(f"{where}: the header at byte {offset} is damaged; is it a tar archive?")


def _extend(extensions: _Extensions, kind: bytes, data: bytes, where: str) -> None:
    if kind == b"K":
        return  # The target of a link; the link itself is refused.
    if kind == b"L":
        extensions.path = _text(data)
        return
    for key, value in _pax_records(data, where):
        if key.startswith("GNU.sparse."):
            raise ImageRefused(f"{where}: it holds a sparse file; write it with `docker save`")
        if key not in ("path", "size"):
            continue
        if kind == b"g":
            raise ImageRefused(f"{where}: a global header sets {key!r} for all entries")
        if key == "path":
            extensions.path = value.decode("utf-8", "surrogateescape")
        elif value.isdigit() and len(value) < 16:
            extensions.size = int(value)
        else:
            raise ImageRefused(f"{where}: the size {value[:20]!r} in a PAX header is no number")


def _pax_records(data: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    r"""Take `<length> <key>=<value>\\n` records apart, where length counts the whole record."""
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 8)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        equals = data.find(b"=", space, end)
        if not digits or end > len(data) or equals < 0 or data[end - 1 : end] != b"\n":
            raise ImageRefused(f"{where}: a PAX header is malformed")
        yield data[space + 1 : equals].decode("utf-8", "replace"), data[equals + 1 : end - 1]
        at = end

"""Records in a file: how they are framed, read back, and told from damage; for journals.

    record  "ATJ1" | u32 length | u32 crc32 of length and payload | payload (msgpack)      big-endian

What stands behind the last good record is either a torn write (the host died while it was written, so nothing depended
on it) or damage: something that was durable is lost. Torn means unfinished: it stops early, or ends in zeros that the
file system put there.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from atoll.actors.runtime.errors import JournalFailed

MARK = b"ATJ1"
RECORD_BYTES_MAX = 1024 * 1024
CORRUPT_FILES_MAX = 100
_HEAD = struct.Struct(">4sII")
_LENGTH = struct.Struct(">I")
_READ_BYTES = 1 << 20


def frame(payload: bytes) -> bytes:
    """Make a record of a payload."""
    return _HEAD.pack(MARK, len(payload), zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))) + payload


def payload_at(data: bytes, offset: int) -> bytes | None:
    """Give the payload of a whole, undamaged record at that place."""
    if len(data) - offset < _HEAD.size:
        return None
    mark, length, checksum = _HEAD.unpack_from(data, offset)
    start = offset + _HEAD.size
    if mark != MARK or length > RECORD_BYTES_MAX or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length))) == checksum else None


def payloads(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Give the payloads of the good records at the beginning, and the offset behind each."""
    offset = 0
    while offset < len(data) and (payload := payload_at(data, offset)) is not None:
        offset += _HEAD.size + len(payload)
        yield payload, offset


def is_torn(data: bytes, offset: int) -> bool:
    """Tell whether what stands at `offset`, where good records end, can only be a write that did not finish."""
    whole = offset == len(data) or payload_at(data, offset) is not None
    return not whole and not _record_follows(data, offset) and _unfinished(data[offset:])


def _record_follows(data: bytes, offset: int) -> bool:
    """Tell whether any good record stands behind the damage at `offset`: then it is no torn tail."""
    while (offset := data.find(MARK, offset + 1)) >= 0:
        if payload_at(data, offset) is not None:
            return True
    return False


def _unfinished(tail: bytes) -> bool:
    """Tell whether the writing of a record can have been cut short here: the rest never came, or as zeros.

    A whole record with a wrong checksum was written once, and has rotted since.
    """
    if len(tail) < _HEAD.size or not any(tail[len(MARK) :]):
        return MARK.startswith(tail[: len(MARK)].rstrip(b"\0"))
    mark, length, _ = _HEAD.unpack_from(tail)
    short = _HEAD.size + length > len(tail)
    return bool(mark == MARK and len(tail) <= _HEAD.size + RECORD_BYTES_MAX and (short or not tail[-1]))


def read_all(descriptor: int) -> bytes:
    """Read a file from where it stands to its end."""
    parts = []
    while part := os.read(descriptor, _READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, in as many calls as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(path: Path) -> None:
    """Make what was created, renamed and removed in a folder durable."""
    if os.name == "nt":  # A directory cannot be synced there; NTFS logs the rename itself.
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Keep a damaged file under another name as well, and give that name; the file itself stays.

    Raises:
        JournalFailed: There are too many already.
    """
    for number in range(1, CORRUPT_FILES_MAX + 1):
        aside = path.with_name(f"{path.name}.corrupt-{number}")
        with contextlib.suppress(FileExistsError):
            os.link(path, aside)
            return aside
    raise JournalFailed(f"{CORRUPT_FILES_MAX} corrupt journals lie beside {path}: look at the disk")

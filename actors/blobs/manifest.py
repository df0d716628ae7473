"""What a blob is: the digests of its chunks, and the one digest over them that is its address. Without I/O.

BLAKE2b in its tree mode (BLAKE2 specification, section 2.10): depth 2, leaves without number, inner digests of 32
bytes. The chunk size follows from the blob's size, so the same bytes have the same address everywhere.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from atoll.transport.errors import UsageError

DIGEST_BYTES = 32
CHUNK_BYTES_MIN = 256 * 1024
CHUNK_BYTES_MAX = 1024 * 1024
CHUNKS_MAX = 65_536
"""So a list has 2 MiB at most."""
BLOB_BYTES_MAX = CHUNKS_MAX * CHUNK_BYTES_MAX
"""64 GiB."""
SCHEME = "blake2b-tree"
"""Not `blake2b-256`: it is not what `b2sum -l 256` prints."""
_ADDRESS = re.compile(rf"{SCHEME}:([0-9a-f]{{64}})")


def chunk_bytes_of(size_bytes: int) -> int:
    """Give the chunk size of a blob: the smallest that makes no more than `CHUNKS_MAX`."""
    chunk = CHUNK_BYTES_MIN
    while chunk * CHUNKS_MAX < size_bytes:
        chunk *= 2
    return chunk


def chunk_count(size_bytes: int) -> int:
    """Give how many chunks a blob has; an empty one has one without bytes."""
    return max(1, -(-size_bytes // chunk_bytes_of(size_bytes)))


def chunk_digest(data: bytes, index: int, size_bytes: int) -> bytes:
    """Give the digest of a leaf; it binds the chunk to its place, and the last one to being the last."""
    last = index == chunk_count(size_bytes) - 1
    return _node(data, size_bytes, offset=index, depth=0, last=last)


def _node(data: bytes, size_bytes: int, *, offset: int, depth: int, last: bool) -> bytes:
    return hashlib.blake2b(
        data,
        digest_size=DIGEST_BYTES,
        fanout=0,
        depth=2,
        leaf_size=chunk_bytes_of(size_bytes),
        node_offset=offset,
        node_depth=depth,
        inner_size=DIGEST_BYTES,
        last_node=last,
    ).digest()


class Manifest(msgspec.Struct, frozen=True):
    """The list of a blob."""

    size_bytes: int
    digests: bytes
    """One after the other, 32 bytes each."""

    @classmethod
    def of(cls, size_bytes: int, digests: Iterable[bytes]) -> "Manifest":
        """Put a list together.

        Raises:
            UsageError: It has not as many digests as the size needs.
        """
        manifest = cls(size_bytes, b"".join(digests))
        if len(manifest.digests) != manifest.count * DIGEST_BYTES:
            raise UsageError(f"{len(manifest.digests) // DIGEST_BYTES} digests are no list of {manifest.count} chunks")
        return manifest

    @property
    def count(self) -> int:
        """Give how many chunks it has."""
        return chunk_count(self.size_bytes)

    @property
    def chunk_bytes(self) -> int:
        """Give how long every chunk but the last is."""
        return chunk_bytes_of(self.size_bytes)

    @property
    def digest(self) -> bytes:
        """Give the blob's address."""
        return _node(self.digests, self.size_bytes, offset=0, depth=1, last=True)

    def offset(self, index: int) -> int:
        """Give where a chunk begins."""
        return index * self.chunk_bytes

    def length(self, index: int) -> int:
        """Give how long a chunk is."""
        return min(self.chunk_bytes, self.size_bytes - self.offset(index))

    def fits(self, index: int, data: bytes) -> bool:
        """Tell whether these bytes are that chunk."""
        wanted = self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return len(data) == self.length(index) and chunk_digest(data, index, self.size_bytes) == wanted


def address_of(digest: bytes) -> str:
    """Write an address for people."""
    return f"{SCHEME}:{digest.hex()}"


def read_address(text: str) -> bytes:
    """Read an address.

    Raises:
        UsageError: It is none.
    """
    found: Any = _ADDRESS.fullmatch(text)
    if found is None:
        raise UsageError(f"{text[:100]!r} is no address of a blob: write it as {SCHEME}:<64 hexadecimal digits>")
    return bytes.fromhex(found[1])

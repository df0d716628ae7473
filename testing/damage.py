"""Damages a file as disks, file systems and people do; the process it belongs to must not run meanwhile."""

from collections.abc import Callable
from pathlib import Path
from random import Random

OVERSIZED_BYTES = 32 * 1024 * 1024
FLIPS = 8


def truncated(path: Path, rng: Random) -> None:
    """Lose the end, in the midst of what is there."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(1, max(2, len(data) - 1))])


def flipped(path: Path, rng: Random) -> None:
    """Rot: some bits are others than were written."""
    data = bytearray(path.read_bytes())
    for _ in range(FLIPS):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def zeroed(path: Path, _rng: Random) -> None:
    """Have zeros in place of all of it, as some file systems leave after a power cut."""
    path.write_bytes(bytes(path.stat().st_size))


def zeroed_end(path: Path, _rng: Random) -> None:
    """Have zeros in place of the second half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def emptied(path: Path, _rng: Random) -> None:
    """Be there, without a byte."""
    path.write_bytes(b"")


def deleted(path: Path, _rng: Random) -> None:
    """Be gone."""
    path.unlink()


def oversized(path: Path, rng: Random) -> None:
    """Go on with far more than was ever written."""
    with path.open("ab") as file:
        file.write(rng.randbytes(1024) * (OVERSIZED_BYTES // 1024))


def replaced(path: Path, rng: Random) -> None:
    """Be something else altogether."""
    path.write_bytes(rng.randbytes(4096))


DAMAGES: dict[str, Callable[[Path, Random], None]] = {
    each.__name__: each for each in (truncated, flipped, zeroed, zeroed_end, emptied, deleted, oversized, replaced)
}
"""By name: what is done to a file, given a source of chance."""

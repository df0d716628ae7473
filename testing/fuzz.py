"""Makes hostile bytes out of good ones: changed in their structure, flipped, cut, repeated, grown; all from a seed.

Changes within the structure get past a decoder's first look: a number at its limit, a wrong length, a list too deep,
one message's fields under another's tag. Every such case is a function of the seed, so that a finding can be repeated.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from atoll.testing.memory import PEAK

GROWN_BYTES = (1, 64, 1024, 70_000)
DEPTH = 200
"""Deeper than any decoder should follow, and cheap to make."""
NUMBERS = (-1, 0, 1, 2, 127, 128, 255, 2**16, 2**31, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = ("", "\x00", "a" * 300, "a" * 301, "a" * 5000, "\u202e", "😀" * 100)


@dataclass(slots=True)
class Mutator:
    """Draws hostile variants of good messages."""

    rng: Random

    # Lists of lists of lists, on the way to a few bytes: none of that is the memory of what is fuzzed.
    @PEAK.without
    def variant(self, good: Sequence[bytes]) -> bytes:
        """Give one of the good ones as it is (a replay), or changed in one to three ways."""
        data = self.rng.choice(good)
        if self.rng.random() < 0.2:
            return data
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            data = self._changed(data, good)
        return data

    def _changed(self, data: bytes, good: Sequence[bytes]) -> bytes:
        if self.rng.random() < 0.75:
            try:
                return self._within(data, good)
            except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
                pass  # It has no structure left to change.
        return self._bytes(data, good)

    def _within(self, data: bytes, good: Sequence[bytes]) -> bytes:
        plain = msgspec.msgpack.decode(data)
        lists = list(_lists(plain))
        if not lists:
            return msgspec.msgpack.encode(self._nasty(plain))
        place = self.rng.choice(lists)
        index = self.rng.randrange(len(place))
        match self.rng.randrange(8):
            case 0:
                del place[index]
            case 1:
                place.insert(index, copy.deepcopy(self.rng.choice(place)))
            case 2:
                other = self.rng.choice(list(_lists(msgspec.msgpack.decode(self.rng.choice(good)))) or [[0]])
                place[index] = self.rng.choice(other)
            case 3:
                place.extend([self._nasty(place[index])] * self.rng.choice((1, 3, 70)))
            case _:
                place[index] = self._nasty(place[index])
        return msgspec.msgpack.encode(plain)

    def _nasty(self, value: Any) -> Any:
        rng = self.rng
        if rng.random() < 0.1:
            return rng.choice((None, True, 1.5, float("nan"), [], {}, b"", "", 0, {1: 1}))
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return rng.choice((*NUMBERS, max(-(2**63), value - 1), min(2**64 - 1, value + 1)))
        if isinstance(value, bytes):
            return rng.choice((value[:-1], value + b"\0", rng.randbytes(len(value)), rng.randbytes(32), b"\0" * 5000))
        if isinstance(value, str):
            return rng.choice((*TEXTS, value + "x"))
        return [value] if rng.random() < 0.9 else _deep()

    def _bytes(self, data: bytes, good: Sequence[bytes]) -> bytes:
        rng, changed = self.rng, bytearray(data)
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0:
                del changed[at:]
            case 1:
                for _ in range(rng.randrange(1, 9)):
                    if changed:
                        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            case 2:
                changed[at:at] = rng.randbytes(rng.choice(GROWN_BYTES[:3]))
            case 3:
                changed += bytes([rng.randrange(256)]) * rng.choice(GROWN_BYTES)
            case 4:
                other = rng.choice(good)
                changed[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                return rng.randbytes(rng.randrange(80))
        return bytes(changed)


def _lists(plain: Any) -> Any:
    if isinstance(plain, list):
        if plain:
            yield plain
        for each in plain:
            yield from _lists(each)


def _deep() -> Any:
    nested: Any = 0
    for _ in range(DEPTH):
        nested = [nested]
    return nested

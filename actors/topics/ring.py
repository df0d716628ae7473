"""What waits for one reader: numbered, bounded by count and by bytes, the oldest lost first, and never silently.

    put --> waits --taken--> on its way --acknowledged--> forgotten
            waits --no room--> lost: a gap in the numbers, which the reader sees and counts
            on its way --the way is lost, `go_back`--> waits again, if it is still kept

Numbers go up by one for each message, and by as many as are lost for word of a loss (`weight`). So whoever reads them
knows of every loss, and how many, also where word of a loss was lost.
"""

from collections import deque
from typing import Generic, TypeVar

import msgspec

from atoll.actors.runtime.machine import insist

T = TypeVar("T")


class Missed(msgspec.Struct, frozen=True):
    """So many are lost, or nobody knows how many (None)."""

    count: int | None


class Ring(Generic[T]):
    """One reader's share; see the module."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._items: deque[tuple[int, T, int, int]] = deque()
        """Number, item, size, weight; the numbers rise."""
        self._taken = 0
        """How many of them, from the left, are on their way."""
        self.last = 0
        """The number of the newest, there or lost."""
        self.told = 0
        """The highest number that the reader was given, or knows to be lost."""
        self.bytes = 0
        self.lost = 0
        """How many of those that waited found no room."""
        self._unsure: set[int] = set()
        """Numbers of items that stand for nobody knows how many."""
        self._doubt = False
        """One of these found no room."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def waits(self) -> bool:
        """Tell whether `take` has something."""
        return self._doubt or self.told < self.last

    def put(self, item: T, size: int, weight: int = 1, *, sure: bool = True) -> int:
        """Add one, and give its number; the oldest go where there is no room."""
        self.last += weight
        if not sure:
            self._unsure.add(self.last)
        self._items.append((self.last, item, size, weight))
        self.bytes += size
        while len(self._items) > 1 and (len(self._items) > self._count_max or self.bytes > self._bytes_max):
            self._drop()
        return self.last

    def take(self) -> tuple[int, T] | Missed | None:
        """Give what comes next: an item with its number, or how many are lost before it."""
        if self._doubt:
            self._doubt = False
            return Missed(None)
        if self._taken == len(self._items):
            return None
        number, item, _, weight = self._items[self._taken]
        if number - weight > self.told:
            missed = Missed(number - weight - self.told)
            self.told = number - weight
            return missed
        self._taken += 1
        self.told = number
        return number, item

    def acknowledge(self, number: int) -> None:
        """Forget everything up to that number: it is where it should be."""
        while self._taken and self._items[0][0] <= number:
            self._drop()

    def go_back(self, number: int) -> None:
        """Begin again behind what the reader has: the way to it was lost."""
        insist(0 <= number <= self.told, "nobody has what was never on its way")
        self.told = number
        self._taken = 0
        while self._items and self._items[0][0] <= number:
            self._taken = 1
            self._drop()

    def _drop(self) -> None:
        number, _, size, weight = self._items.popleft()
        self.bytes -= size
        unsure = number in self._unsure
        self._unsure.discard(number)
        if self._taken:
            self._taken -= 1
        else:
            self.lost += weight
            self._doubt = self._doubt or unsure

    def check(self) -> None:
        """Assert what always holds."""
        numbers = [number for number, _, _, _ in self._items]
        insist(numbers == sorted(set(numbers)), "numbers rise")
        insist(not numbers or numbers[-1] <= self.last, "nothing is newer than the newest")
        insist(self.bytes == sum(size for _, _, size, _ in self._items), "bytes are counted")
        insist(len(self._items) <= self._count_max, "no more than may wait")
        insist(self.bytes <= self._bytes_max or len(self._items) == 1, "no more bytes than may wait")
        insist(self.told <= self.last, "nothing is told before it is there")
        insist(self._taken <= len(self._items), "only what is there is on its way")

"""Which messages were here already: a window of sequence numbers for each publisher, as IPsec has it (RFC 4303, 3.4.3).

    above the window --> new, and the window moves      in it --> new once      below it --> old: counted, not delivered

A message may come twice, through two joins, or when a gate starts anew; and a little later than its successor, when two
joins carry different topics. Bounded: publishers that were silent longest are forgotten first.
"""

from collections import OrderedDict
from collections.abc import Hashable

WINDOW = 4096
"""How far a message may be behind the newest of its publisher."""
PUBLISHERS_MAX = 4096


class Seen:
    """What was here; see the module."""

    def __init__(self) -> None:
        self._windows: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        """Publisher -> highest number, and a bit for each of the `WINDOW` up to it, the lowest bit for itself."""
        self.old = 0
        """How many came later than anybody remembers."""

    def __len__(self) -> int:
        return len(self._windows)

    def is_new(self, publisher: Hashable, number: int) -> bool:
        """Tell whether it was not here yet; it was from now on."""
        highest, bits = self._windows.get(publisher, (number - 1, 0))
        if number > highest:
            shift = number - highest
            bits = 1 if shift >= WINDOW else (bits << shift | 1) & ((1 << WINDOW) - 1)
            highest = number
        else:
            behind = highest - number
            if behind >= WINDOW:
                self.old += 1
                return False
            if bits >> behind & 1:
                return False
            bits |= 1 << behind
        self._windows[publisher] = highest, bits
        self._windows.move_to_end(publisher)
        if len(self._windows) > PUBLISHERS_MAX:
            self._windows.popitem(last=False)
        return True

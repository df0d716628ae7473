"""Credit: what may be on its way to a reader that is slower than its peers.

    the sender     has credit --a frame goes out--> less --CREDIT comes in--> more;  without enough, nothing goes out
    the receiver   lends a window --arrived--> held --read--> owed --a quarter is owed--> lent again (CREDIT)

So nobody has to stop reading a socket to slow a peer down: what arrives has room, or it breaks the protocol. Nothing
here sends, and nothing here believes what the other end says about itself.
"""

from collections.abc import Callable

from atoll.transport.base import MESSAGE_BYTES_MAX, Standing

WINDOW_BYTES = 8 * 1024 * 1024
"""What a peer that has proved more than its key may have on its way to our reader."""
NEIGHBOUR_WINDOW_BYTES = 512 * 1024
"""And who has not: anybody on the wire may be one. Above all it carries a full frame while a quarter is owed."""
WINDOW_BYTES_MAX = 1 << 31
"""No honest window is as long; what another end lends is never counted higher."""
MESSAGE_COST_BYTES = 128
"""What a message costs beside its data, so that empty ones are not free."""
RETURN_PARTS = 4
"""Credit is returned when this part of the window is owed: a few small frames for each window's worth of messages."""


def window_for(standing: Standing) -> int:
    """Give the window of a new link."""
    return NEIGHBOUR_WINDOW_BYTES if standing is Standing.NEIGHBOUR else WINDOW_BYTES


def message_bytes_max(window: int) -> int:
    """Tell how long a message may be that goes through this window also while a part of it is owed."""
    return min(MESSAGE_BYTES_MAX, window - window // RETURN_PARTS - MESSAGE_COST_BYTES)


class Grant:
    """What this end has lent to one peer; `lend` is asked to tell it of more, and says whether it could.

    window = left (it may send) + held (arrived, not read) + owed (read, not lent again)
    """

    __slots__ = ("_lend", "_step", "held", "left", "owed", "window")

    def __init__(self, window: int, lend: Callable[[int], bool]) -> None:
        self.window = self.left = window
        self.held = self.owed = 0
        self._lend, self._step = lend, window // RETURN_PARTS

    def spend(self, cost: int) -> bool:
        """Count what has arrived; False when the peer had no credit for it."""
        self.left -= cost
        self.held += cost
        return self.left >= 0

    def read(self, cost: int) -> None:
        """Count what the reader has taken."""
        self.held -= cost
        self.owed += cost
        if self.owed >= self._step:
            self.settle()

    def settle(self) -> None:
        """Lend again what is owed, if enough is and the peer can be told."""
        if (amount := self.owed) < self._step:
            return
        # First, because the peer may use it before `lend` returns.
        self.owed, self.left = 0, self.left + amount
        if not self._lend(amount):
            self.owed, self.left = self.owed + amount, self.left - amount

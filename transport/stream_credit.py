"""How much the other end may send: every stream its first window, and more of what the session's buffer still has.

    lent  --read--> used up by so much     lent  --a good part is used up--> lent anew, as far as the buffer goes

What was lent is never taken back. So all windows together stay within `BUFFER_BYTES`, whatever order they are asked in.
"""

from collections.abc import Iterable

from atoll.transport.stream_halves import ReceiveHalf

STREAMS_MAX = 64
"""Streams that one end has opened and that are not over; the session has twice that."""
FIRST_WINDOW_BYTES = 65_536
"""What either end may send before the other has answered; every stream has that at least."""
WINDOW_BYTES = 4 * 1024 * 1024
"""What one stream may have on its way: 100 ms at 40 MB/s."""
BUFFER_BYTES = 16 * 1024 * 1024
"""All windows of a session together."""
LEND_PARTS = 4
"""Credit is given anew when such a part of the window is used up: less would be a frame for little."""

_SHARED_BYTES = BUFFER_BYTES - 2 * STREAMS_MAX * FIRST_WINDOW_BYTES


def unread_or_lent(half: ReceiveHalf) -> int:
    """Give how many bytes a stream may hold here before anything more of it is read."""
    return half.limit - half.read_bytes


def is_low(half: ReceiveHalf) -> bool:
    """Tell whether so much of a stream's credit is used up that more is worth a frame."""
    return half.size is None and (half.lent - unread_or_lent(half)) * LEND_PARTS >= half.lent


def lend(half: ReceiveHalf, everybody: Iterable[ReceiveHalf]) -> bool:
    """Give a stream of `everybody` credit for what was read of it, where the buffer has room; True when it got some."""
    left = unread_or_lent(half)
    shared = sum(max(0, unread_or_lent(each) - FIRST_WINDOW_BYTES) for each in everybody)
    room = _SHARED_BYTES - shared + max(0, left - FIRST_WINDOW_BYTES)
    window = min(WINDOW_BYTES, FIRST_WINDOW_BYTES + room)
    if window <= left:
        return False
    half.limit, half.lent = half.read_bytes + window, window
    return True

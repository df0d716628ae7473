"""Which stream of a session sends next, answers aside. Without I/O.

    OPEN, RESET --in the order of their streams, before all bytes--> sent
    bytes       --streams take turns, record by record--> sent, and behind the others again while there is more

Bytes never overtake the OPEN they belong to, and whoever hears of a later stream first must wait for the earlier one.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.transport.stream_frames import DATA_HEAD_BYTES, Buffer, StreamVerb, data_head, text_frame
from atoll.transport.stream_halves import SendHalf

DATA_BYTES_MIN = 256
"""Less room than that in a record is left empty: a head of 22 bytes stands before each piece."""


@dataclass(slots=True)
class StreamTurns:
    """What one end of a session's streams wants to send."""

    _orders: dict[int, StreamVerb] = field(default_factory=dict)
    """OPENs and RESETs, in the order of their streams."""
    _sending: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Streams with something that may be sent, the next one first."""

    def __bool__(self) -> bool:
        return bool(self._orders or self._sending)

    def order(self, verb: StreamVerb, *streams: int) -> None:
        """Send OPENs or RESETs."""
        self._orders.update(dict.fromkeys(streams, verb))
        self._orders = dict(sorted(self._orders.items()))

    def is_ordered(self, stream: int) -> bool:
        """Tell whether an OPEN or a RESET of it has still to be sent."""
        return stream in self._orders

    def take_back(self, stream: int) -> None:
        """Send no OPEN or RESET of it: the other end has answered."""
        self._orders.pop(stream, None)

    def may_send(self, stream: int, half: SendHalf) -> None:
        """Give it its turn if it has something that may be sent, else none."""
        if half.sendable:
            self._sending[stream] = None
        else:
            self._sending.pop(stream, None)

    def forget(self, stream: int) -> None:
        """Send nothing of it any more."""
        self._orders.pop(stream, None)
        self._sending.pop(stream, None)

    def take(
        self, room: int, text_of: Callable[[StreamVerb, int], str], half_of: Callable[[int], SendHalf]
    ) -> list[Buffer]:
        """Give frames for at most `room` bytes of a record."""
        frames: list[Buffer] = []
        while self._orders:
            stream, verb = next(iter(self._orders.items()))
            frame = text_frame(verb, stream, text_of(verb, stream))
            if len(frame) > room:
                return frames
            del self._orders[stream]
            frames.append(frame)
            room -= len(frame)
        while self._sending and room >= DATA_BYTES_MIN:
            stream, _ = self._sending.popitem(last=False)
            half = half_of(stream)
            offset, parts, length, last = half.take(room - DATA_HEAD_BYTES)
            frames.append(data_head(stream, offset, length, last=last))
            frames += parts
            room -= DATA_HEAD_BYTES + length
            if half.sendable:
                self._sending[stream] = None
        return frames

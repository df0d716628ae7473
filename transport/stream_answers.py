"""What one end of a session owes the other: how far each stream has come, and which streams are gone. Without I/O.

    news     --the end, or a good part of the window-->      due
    news     --less, and nothing else within `ANSWER_S`-->   due
    a gap, a repetition, a probe, credit, a stray   -->      due     --`take`--> said, once

Nothing is kept of what was said. An answer that is lost is asked for by what comes again, or by the next probe.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from atoll.transport.stream_frames import ANSWER_BYTES, HEAD_BYTES, Buffer, StreamVerb, answer_frame, text_frame
from atoll.transport.stream_halves import ReceiveHalf

ANSWER_PARTS = 4
"""An acknowledgement follows such a part of the window, or `ANSWER_S`."""
ANSWER_S = 0.05
GONE_MAX = 256
"""Streams that the other end is told about once more; who is not told asks again."""


@dataclass(slots=True)
class StreamAnswers:
    """The answers of one end, by the numbers of the streams. Times are monotonic seconds and come in."""

    _due: OrderedDict[int, StreamVerb] = field(default_factory=OrderedDict)
    _gone: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _late: set[int] = field(default_factory=set)
    """Streams that brought something, but not enough for an answer at once."""
    deadline: float | None = None
    """When `tick` wants to be called, at the latest."""

    def __bool__(self) -> bool:
        return bool(self._due or self._gone)

    @property
    def within_limits(self) -> bool:
        """Not too many streams are told to be gone: an invariant."""
        return len(self._gone) <= GONE_MAX

    def news(self, stream: int, half: ReceiveHalf, now: float) -> None:
        """Note that a stream has come further, or to its end."""
        if half.size is not None or (half.position - half.answered) * ANSWER_PARTS >= half.lent:
            self._due[stream] = StreamVerb.ACK
        else:
            self._late.add(stream)
            if self.deadline is None:
                self.deadline = now + ANSWER_S

    def ack(self, stream: int) -> None:
        """Say how far a stream has come; a GAP that is due says it, too."""
        self._due.setdefault(stream, StreamVerb.ACK)

    def gap(self, stream: int) -> None:
        """Say that something is missing behind what has come."""
        self._due[stream] = StreamVerb.GAP

    def gone(self, stream: int) -> None:
        """Say that a stream is over here, and was known."""
        self._gone[stream] = None
        if len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)

    def forget(self, stream: int) -> None:
        """Owe nothing for a stream any more, but to say that it is gone."""
        self._due.pop(stream, None)
        self._late.discard(stream)

    def tick(self, now: float) -> None:
        """Let fall due what was put off; call it at `deadline`."""
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            for stream in sorted(self._late):
                self.ack(stream)
            self._late.clear()

    def take(self, room: int, half_of: Callable[[int], ReceiveHalf]) -> list[Buffer]:
        """Give the frames that fit into `room` bytes; `half_of` finds what a stream has received."""
        frames: list[Buffer] = []
        while self._due and room >= ANSWER_BYTES:
            stream, verb = self._due.popitem(last=False)
            half = half_of(stream)
            half.answered = half.position
            self._late.discard(stream)
            frames.append(answer_frame(verb, stream, half.position, half.limit))
            room -= ANSWER_BYTES
        while self._gone and room >= HEAD_BYTES:
            stream, _ = self._gone.popitem(last=False)
            frames.append(text_frame(StreamVerb.GONE, stream))
            room -= HEAD_BYTES
        return frames

"""Two stream sets in one process, and the records between them that a test holds, drops, repeats and swaps."""

from atoll.transport.fragments import Channel, frames_of
from atoll.transport.stream_events import Readable, StreamOpened
from atoll.transport.streams import StreamSet

ROOM = 1000


class Ends:
    """Both ends; `records[who]` are those that end `who` has sent and nobody has received."""

    def __init__(self, kind=StreamSet):
        self.ends = [kind(initiator=True), kind(initiator=False)]
        self.records = [[], []]
        self.events = [[], []]
        self.now = 0.0

    def pull(self, who):
        end = self.ends[who]
        while end.answering or end.sending:
            parts = end.answers(ROOM)
            parts += end.outgoing(ROOM - sum(map(len, parts)))
            record = b"".join(parts)
            assert 0 < len(record) <= ROOM
            self.records[who].append(record)
        end.check()

    def deliver(self, who, index=0, *, keep=False):
        """Give a record of end `who` to the other."""
        if self.records[who]:
            index %= len(self.records[who])
            record = self.records[who][index] if keep else self.records[who].pop(index)
            for channel, verb, stream, _, piece in frames_of(record):
                assert channel == Channel.STREAMS
                self.events[1 - who] += self.ends[1 - who].receive(verb, stream, piece, self.now)
            self.ends[1 - who].check()

    def carry(self):
        """Carry everything to and fro, in order, until there is nothing left."""
        for _ in range(10_000):
            self.now += 0.1
            for who in (0, 1):
                self.ends[who].tick(self.now)
                self.pull(who)
            if not any(self.records):
                return self
            for who in (0, 1):
                while self.records[who]:
                    self.deliver(who)
        raise AssertionError("the two ends never come to rest")

    def lose_all(self):
        self.records = [[], []]

    def read_all(self, who, stream):
        data = bytearray()
        while piece := self.ends[who].read(stream, 700):
            data += piece
        return bytes(data)

    def opened(self, service="echo"):
        stream = self.ends[0].open(service)
        self.carry()
        assert StreamOpened(stream, service) in self.events[1]
        return stream

    def readable(self, who):
        return {event.stream for event in self.events[who] if isinstance(event, Readable)}

"""Two ends of one session in one process, and what passes between them."""

from atoll.transport.errors import Refused
from atoll.transport.keys import NodeKey
from atoll.transport.session import Session
from atoll.transport.session_events import MessageArrived

RECORD_BYTES_MAX = 48 * 1024
CALLER, CALLEE = NodeKey.generate(), NodeKey.generate()


def accept(peer, grant):
    if grant == b"bad":
        raise Refused("this grant is bad")
    return ("verdict", grant)


class Pair:
    """Two ends and the path between them, in virtual time."""

    def __init__(self, *, grant=b"good", callee=CALLEE, target=CALLEE, record_bytes_max=RECORD_BYTES_MAX):
        self.now = 0.0
        self.caller = Session.dial(
            key=CALLER, peer=target.node_id, grant=grant, record_bytes_max=record_bytes_max, now=0.0
        )
        self.callee = Session.answer(
            key=callee,
            judge=accept,
            session_id=self.caller.session_id,
            record_bytes_max=record_bytes_max,
            now=0.0,
        )
        self.events = {self.caller: [], self.callee: []}

    def carry(self, alter=lambda records: records):
        """Carry records to and fro until nobody has any."""
        for _ in range(1000):
            moved = False
            for sender, receiver in ((self.caller, self.callee), (self.callee, self.caller)):
                records = self.outgoing(sender)
                moved = moved or bool(records)
                for record in alter(records):
                    self.events[receiver] += receiver.receive(record, self.now)
            if not moved:
                return self
        raise AssertionError("the two ends never come to rest")

    def outgoing(self, end):
        return [record for _, record in end.outgoing(self.now)]

    def wait(self, seconds, alter=lambda records: records):
        self.now += seconds
        for end in (self.caller, self.callee):
            self.events[end] += end.tick(self.now)
        return self.carry(alter)

    def messages(self, end):
        return [event.data for event in self.events[end] if isinstance(event, MessageArrived)]

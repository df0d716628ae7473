"""The switch of a relay on a bench, and tickets to show it."""

from relay_keys import ISSUER, RELAY

from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.circuit_events import Cut, Deliver
from atoll.actors.tunnel_relay.circuits import Circuits
from atoll.actors.tunnel_relay.tickets import SEP_ROLES, UNLIMITED, Role, issue, judge
from atoll.transport.arrivals import Arrived

NOW = 1_800_000_000.0
LABEL, OTHER_LABEL = b"l" * 16, b"o" * 16
OK_TICKET = frames.event_frame(frames.Accepted(frames.TICKET))
OK_LABELS = frames.event_frame(frames.Accepted(frames.LABELS))
ROLES = [Role.REGISTER, Role.REACH]


def key_of(name):
    return name.ljust(32, b"k")


def ticket_of(name, role, *, key=ISSUER, relay=RELAY, life_s=600, quota=UNLIMITED, subject=b"s" * 16, **fields):
    return issue(
        key,
        role=role,
        subject=subject,
        relay=relay.node_id,
        expires_at=int(NOW) + life_s,
        quota_bytes=quota,
        holder=key_of(name),
        **fields,
    )


def genuine(data, key, now):
    return judge(data, issuer=ISSUER.node_id, relay=RELAY.node_id, roles=SEP_ROLES, holder=key, now=now)


class Switch:
    """The machine, checked after every input, with the words that tests need."""

    def __init__(self, **limits):
        self.machine = Circuits(judge=genuine, **limits)
        self.now = NOW

    def handle(self, event):
        effects = self.machine.handle(event, self.now)
        self.machine.check()
        return effects

    def say(self, name, frame):
        return self.handle(Arrived(name, key_of(name), frame))

    def show(self, name, role, **fields):
        return self.say(name, frames.ticket_frame(ticket_of(name, role, **fields)))

    def register(self, name, *labels, **fields):
        assert self.show(name, Role.REGISTER, **fields) == [Deliver(name, OK_TICKET)]
        assert self.say(name, frames.labels_frame(labels)) == [Deliver(name, OK_LABELS)]

    def reach(self, name, **fields):
        assert self.show(name, Role.REACH, **fields) == [Deliver(name, OK_TICKET)]

    def call(self, name, label=LABEL, record=b"question"):
        """The delivery that a call leads to, and what it says."""
        [delivery] = self.say(name, frames.call_frame(label, record))
        return delivery.connection, frames.read_event(delivery.frame)

    def counted(self, name):
        return self.machine.statistics().get(name, 0)


def refused(name, reason):
    return [Deliver(name, frames.denial(reason)), Cut(name, reason)]


def undelivered(name, reason, address=LABEL):
    return name, frames.Undelivered(reason, address)

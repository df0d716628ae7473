"""The SEP switch: passes sealed records from callers to whoever holds a label, and answers back.

A connection, by what its tickets have given it:

    new         --a good ticket-->                   admitted (REGISTER, REACH or both)
    new         --anything else, or 1 s of silence-->  cut
    admitted    --LABELS (as REGISTER)-->            reachable under them while its link lives
    admitted    --CALL (as REACH)-->                 a circuit to the newest registration that has the label
    admitted    --records faster than its rate-->    each is UNDELIVERED, CONGESTED: it slows down and sends again
    admitted    --ticket expired or used up-->       the role is gone; with the last role the connection is cut
    any         --a malformed frame-->               cut

Pure, in the manner of `runtime/machine.py`: inputs in, effects out, no clock and no socket; only the words differ
(`circuit_events.py`), because connections are not nodes. It never looks into a record, never passes one on without a
ticket that pays for it (each sender pays for what it sends), and keeps nothing when a link is gone but what a ticket
has spent.

Labels live inside the registration that a ticket names, its subject: the newest of a registration's connections that
has a label is called under it, and only with a ticket for that registration. So nobody else can take a site's labels,
and both sides of a cut site, which have one registration, stay reachable.
"""

import heapq
from bisect import insort
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from atoll.actors.runtime.machine import insist
from atoll.actors.tunnel_relay import frames
from atoll.actors.tunnel_relay.bucket import Bucket
from atoll.actors.tunnel_relay.circuit_events import (
    Cut,
    Deliver,
    Draining,
    Effect,
    Elapsed,
    Input,
    Opened,
    Stuck,
)
from atoll.actors.tunnel_relay.frames import Accepted, Going, Pong, Undelivered, denial, event_frame
from atoll.actors.tunnel_relay.reasons import Reason
from atoll.actors.tunnel_relay.tickets import NO_RATE, Role, Ticket
from atoll.transport.arrivals import Arrived, ConnectionId, Gone

ADMISSION_S = 1.0
"""How long a connection may be without a ticket."""
CONNECTIONS_MAX = 10_000
NEW_MAX = 1_024
"""Connections without a ticket yet; when full the oldest goes, because an honest one shows its ticket at once."""
REGISTRATIONS_MAX = 4_096
LABEL_HOLDERS_MAX = 8
"""Live registrations with the same label: both sides of a cut site, and a few that wait for their link's time-out."""
CIRCUITS_PER_CONNECTION_MAX = 256
"""Ways back to one caller; its oldest goes when it calls one label more."""
CIRCUITS_MAX = 131_072
GRANTS_MAX = 65_536
"""Tickets whose spending is remembered until they expire."""
RECORD_COST_BYTES_MIN = 64
"""What the smallest frame costs, so that empty talk is not free."""

Judge: TypeAlias = Callable[[bytes, bytes, float], Ticket | Reason]
"""Judges a ticket, given the CURVE key that showed it and the time."""


@dataclass(slots=True, eq=False)
class _Grant:
    """A ticket that was good when it was shown, and what it has spent."""

    ticket: Ticket
    holder: ConnectionId | None
    bucket: Bucket | None
    """What its rate lets pass now; None where it has none. It stays with the ticket, whoever shows it again."""
    spent_bytes: int = 0


@dataclass(slots=True, eq=False)
class _Circuit:
    name: bytes
    caller: "_Connection"
    label: bytes
    registrant: "_Connection"


@dataclass(slots=True, eq=False)
class _Connection:
    name: ConnectionId
    key: bytes
    register: _Grant | None = None
    reach: _Grant | None = None
    registration: bytes = b""
    """The subject of its REGISTER ticket."""
    order: int = 0
    """Among registrations: a later one is newer."""
    labels: frozenset[bytes] = frozenset()
    calls: dict[bytes, _Circuit] = field(default_factory=dict)
    """Circuits of this caller, by label, the oldest first."""
    inbound: dict[bytes, _Circuit] = field(default_factory=dict)
    """Circuits that lead to this registrant, by name."""


_Name: TypeAlias = tuple[bytes, bytes]
"""A registration and a label of it."""


def _within_rate(bucket: Bucket, size: int, now: float) -> bool:
    cost = max(size, RECORD_COST_BYTES_MIN)
    if bucket.available(now) < cost:
        return False
    bucket.take(cost)
    return True


def _order(connection: _Connection) -> int:
    return connection.order


@dataclass(slots=True, kw_only=True)
class Circuits:
    """Switches frames between connections; see the module for the states.

    `now` is wall time in Unix seconds, because tickets are. `first_circuit` is best drawn at random.
    """

    judge: Judge
    first_circuit: int = 0
    connections_max: int = CONNECTIONS_MAX
    new_max: int = NEW_MAX
    registrations_max: int = REGISTRATIONS_MAX
    circuits_max: int = CIRCUITS_MAX
    circuits_per_connection_max: int = CIRCUITS_PER_CONNECTION_MAX
    grants_max: int = GRANTS_MAX
    rate_bytes_s_max: int = NO_RATE
    """What the relay lets one ticket send in a second, whatever the ticket says; `NO_RATE` for no limit of its own."""
    counters: Counter[str] = field(default_factory=Counter)
    going_at: float | None = None
    _connections: dict[ConnectionId, _Connection] = field(default_factory=dict)
    _new: dict[ConnectionId, float] = field(default_factory=dict)
    """Those without a ticket and when their patience ends, the oldest first."""
    _labels: dict[_Name, list[_Connection]] = field(default_factory=dict)
    """Who has a label in a registration, the newest last."""
    _grants: dict[bytes, _Grant] = field(default_factory=dict)
    _expiries: list[tuple[int, bytes]] = field(default_factory=list)
    _registrations: int = 0
    _orders: int = 0
    _circuits: int = 0

    def handle(self, event: Input, now: float) -> list[Effect]:
        """Take one input, give what is to be done, in this order."""
        match event:
            case Arrived(name, key, frame):
                return self._arrived(name, key, frame, now)
            case Stuck(delivery, gone):
                return self._stuck(delivery, gone=gone)
            case Opened(name, key):
                return [] if name in self._connections else self._open(name, key, now)[1]
            case Gone(name):
                return self._close(name)
            case Elapsed():
                return self._elapsed(now)
            case Draining(seconds):
                self.going_at = now + seconds
                notice = event_frame(Going(min(seconds, 65_535)))
                # Callers, too: a path that is going is replaced before it ends, by either end that knows.
                admitted = [each.name for each in self._connections.values() if each.register or each.reach]
                return [Deliver(name, notice) for name in admitted]

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and how many there are now."""
        return {
            **self.counters,
            "connections": len(self._connections),
            "new": len(self._new),
            "registrations": self._registrations,
            "labels": len(self._labels),
            "circuits": self._circuits,
            "grants": len(self._grants),
        }

    def _arrived(self, name: ConnectionId, key: bytes, frame: bytes, now: float) -> list[Effect]:
        connection = self._connections.get(name)
        effects: list[Effect] = []
        if connection is None:
            connection, effects = self._open(name, key, now)
        size = len(frame)
        kind = frame[0] if size else 0
        if kind == frames.CALL and connection.reach is not None:
            return self._call(connection, connection.reach, frame, now)
        if kind == frames.ANSWER and connection.register is not None:
            return self._answer(connection, connection.register, frame, now)
        if kind == frames.LABELS and connection.register is not None:
            effects = self._set_labels(connection, frame)
        elif kind == frames.TICKET and 2 < size <= 2 + frames.TICKET_BYTES_MAX and frame[1] == frames.VERSION:
            effects += self._ticket(connection, frame[2:], now)
        else:
            effects += self._arrived_oddly(connection, kind, size)
        return effects

    def _arrived_oddly(self, connection: _Connection, kind: int, size: int) -> list[Effect]:
        """Take a frame that is malformed, trivial or not for this connection's roles."""
        if kind not in (frames.CALL, frames.ANSWER, frames.LABELS) and not (kind == frames.PING and size == 1):
            return self._cut(connection, Reason.MALFORMED)
        if connection.name in self._new:
            return self._cut(connection, Reason.NO_TICKET)
        if kind == frames.PING:
            return [Deliver(connection.name, event_frame(Pong()))]
        # Not cut: the role may have ended while this was on its way, and the other role goes on.
        self.counters["refused_wrong_role"] += 1
        return [Deliver(connection.name, denial(Reason.WRONG_ROLE))]

    def _open(self, name: ConnectionId, key: bytes, now: float) -> tuple[_Connection, list[Effect]]:
        effects: list[Effect] = []
        if len(self._new) >= self.new_max:
            effects += self._cut(self._connections[next(iter(self._new))], Reason.TOO_SLOW)
        connection = self._connections[name] = _Connection(name, key)
        self._new[name] = now + ADMISSION_S
        return connection, effects

    def _ticket(self, connection: _Connection, data: bytes, now: float) -> list[Effect]:
        verdict = self.judge(data, connection.key, now)
        if isinstance(verdict, Reason):
            return self._cut(connection, verdict)
        grant = self._grants.get(verdict.digest)
        refusal = self._refusal(connection, verdict, grant)
        if refusal is not None:
            return self._cut(connection, refusal)
        effects: list[Effect] = []
        if grant is None:
            grant = self._grants[verdict.digest] = _Grant(verdict, None, self._bucket(verdict, now))
            heapq.heappush(self._expiries, (verdict.expires_at, verdict.digest))
        elif grant.holder not in (None, connection.name):
            effects += self._cut(self._connections[grant.holder], Reason.REPLACED)
        grant.holder = connection.name
        self._new.pop(connection.name, None)
        if verdict.role is Role.REACH:
            former, connection.reach = connection.reach, grant
        else:
            if connection.register is not None and connection.registration != verdict.subject:
                effects += self._unregister(connection)
                connection.register.holder = None
                connection.register = None
            former, connection.register = connection.register, grant
            if former is None:
                self._registrations += 1
                self._orders += 1
                connection.order, connection.registration = self._orders, verdict.subject
        if former is not None and former is not grant:
            former.holder = None
        self.counters["admitted"] += 1
        return [*effects, Deliver(connection.name, event_frame(Accepted(frames.TICKET)))]

    def _bucket(self, ticket: Ticket, now: float) -> Bucket | None:
        rates = [rate for rate in (ticket.rate_bytes_s, self.rate_bytes_s_max) if rate != NO_RATE]
        return Bucket(rate_bytes_s=min(rates), now=now) if rates else None

    def _refusal(self, connection: _Connection, ticket: Ticket, grant: _Grant | None) -> Reason | None:
        if self.going_at is not None:
            return Reason.DRAINING
        if ticket.quota_bytes <= (0 if grant is None else grant.spent_bytes):
            return Reason.OVER_QUOTA
        registers = ticket.role is Role.REGISTER and connection.register is None
        admitted = len(self._connections) - len(self._new)
        if (
            (grant is None and len(self._grants) >= self.grants_max)
            or (registers and self._registrations >= self.registrations_max)
            or (connection.name in self._new and admitted >= self.connections_max)
        ):
            return Reason.FULL
        return None

    def _set_labels(self, connection: _Connection, frame: bytes) -> list[Effect]:
        size = len(frame) - 1
        if size % frames.LABEL_BYTES or size > frames.LABELS_PER_REGISTRATION_MAX * frames.LABEL_BYTES:
            return self._cut(connection, Reason.MALFORMED)
        labels = frozenset(frame[start : start + 16] for start in range(1, len(frame), frames.LABEL_BYTES))
        registration = connection.registration
        for label in labels - connection.labels:
            if len(self._labels.get((registration, label), ())) >= LABEL_HOLDERS_MAX:
                return self._cut(connection, Reason.FULL)
        self._unlabel(connection, connection.labels - labels)
        for label in labels - connection.labels:
            insort(self._labels.setdefault((registration, label), []), connection, key=_order)
        connection.labels = labels
        return [Deliver(connection.name, event_frame(Accepted(frames.LABELS)))]

    def _unlabel(self, connection: _Connection, labels: frozenset[bytes]) -> None:
        for label in labels:
            name = (connection.registration, label)
            holders = self._labels[name]
            holders.remove(connection)
            if not holders:
                del self._labels[name]

    def _call(self, caller: _Connection, grant: _Grant, frame: bytes, now: float) -> list[Effect]:
        size = len(frame)
        if not 17 < size <= 17 + frames.RECORD_BYTES_MAX:
            return self._cut(caller, Reason.TOO_LONG if size > 17 else Reason.MALFORMED)
        if not self._pay(grant, size):
            return self._end_role(caller, grant, Reason.OVER_QUOTA)
        label = frame[1:17]
        if grant.bucket is not None and not _within_rate(grant.bucket, size, now):
            return self._undeliverable(caller.name, label, Reason.CONGESTED)
        holders = self._labels.get((grant.ticket.subject, label))
        if holders is None:
            return self._undeliverable(caller.name, label, Reason.UNKNOWN_LABEL)
        circuit = caller.calls.get(label)
        if circuit is None or circuit.registrant is not holders[-1]:
            circuit = self._new_circuit(caller, label, holders[-1])
            if circuit is None:
                return self._undeliverable(caller.name, label, Reason.FULL)
        self.counters["records_inbound"] += 1
        return [Deliver(circuit.registrant.name, b"\x83" + circuit.name + frame[1:], caller.name, label)]

    def _new_circuit(self, caller: _Connection, label: bytes, registrant: _Connection) -> _Circuit | None:
        old = caller.calls.get(label)
        if old is None and len(caller.calls) >= self.circuits_per_connection_max:
            old = next(iter(caller.calls.values()))
        if old is not None:
            self._drop_circuit(old)
        if self._circuits >= self.circuits_max:
            return None
        self.first_circuit = (self.first_circuit + 1) % 2**64
        circuit = _Circuit(self.first_circuit.to_bytes(frames.CIRCUIT_BYTES, "big"), caller, label, registrant)
        caller.calls[label] = registrant.inbound[circuit.name] = circuit
        self._circuits += 1
        return circuit

    def _drop_circuit(self, circuit: _Circuit) -> None:
        del circuit.caller.calls[circuit.label]
        del circuit.registrant.inbound[circuit.name]
        self._circuits -= 1

    def _answer(self, registrant: _Connection, grant: _Grant, frame: bytes, now: float) -> list[Effect]:
        size = len(frame)
        if not 9 < size <= 9 + frames.RECORD_BYTES_MAX:
            return self._cut(registrant, Reason.TOO_LONG if size > 9 else Reason.MALFORMED)
        if not self._pay(grant, size):
            return self._end_role(registrant, grant, Reason.OVER_QUOTA)
        name = frame[1:9]
        if grant.bucket is not None and not _within_rate(grant.bucket, size, now):
            return self._undeliverable(registrant.name, name, Reason.CONGESTED)
        circuit = registrant.inbound.get(name)
        if circuit is None:
            return self._undeliverable(registrant.name, name, Reason.UNKNOWN_CIRCUIT)
        self.counters["records_returned"] += 1
        return [Deliver(circuit.caller.name, b"\x84" + circuit.label + frame[9:], registrant.name, name)]

    def _pay(self, grant: _Grant, size: int) -> bool:
        spent_bytes = grant.spent_bytes + max(size, RECORD_COST_BYTES_MIN)
        if spent_bytes > grant.ticket.quota_bytes:
            # The rest is forfeit: whoever asks for more than is left gets no smaller record through either.
            grant.spent_bytes = grant.ticket.quota_bytes
            return False
        grant.spent_bytes = spent_bytes
        return True

    def _undeliverable(self, sender: ConnectionId, address: bytes, reason: Reason) -> list[Effect]:
        self.counters[f"undelivered_{reason.name.lower()}"] += 1
        return [Deliver(sender, event_frame(Undelivered(reason, address)))]

    def _stuck(self, delivery: Deliver, *, gone: bool) -> list[Effect]:
        if delivery.sender is None or delivery.sender not in self._connections:
            self.counters["notices_dropped"] += 1
            return []
        # Its `Gone` is on the way here and does the rest.
        lost = Reason.UNKNOWN_LABEL if len(delivery.address) == frames.LABEL_BYTES else Reason.UNKNOWN_CIRCUIT
        return self._undeliverable(delivery.sender, delivery.address, lost if gone else Reason.CONGESTED)

    def _elapsed(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self._new:
            name, deadline = next(iter(self._new.items()))
            if deadline > now:
                break
            effects += self._cut(self._connections[name], Reason.NO_TICKET)
        while self._expiries and self._expiries[0][0] <= now:
            _, digest = heapq.heappop(self._expiries)
            grant = self._grants.pop(digest)
            if grant.holder is not None:
                effects += self._end_role(self._connections[grant.holder], grant, Reason.EXPIRED)
        return effects

    def _end_role(self, connection: _Connection, grant: _Grant, reason: Reason) -> list[Effect]:
        """Take away what the grant gave; who has nothing left is cut."""
        other = connection.reach if grant is connection.register else connection.register
        if other is None:
            return self._cut(connection, reason)
        self.counters[f"refused_{reason.name.lower()}"] += 1
        grant.holder = None
        effects: list[Effect] = [Deliver(connection.name, denial(reason))]
        if grant is connection.register:
            connection.register = None
            return effects + self._unregister(connection)
        connection.reach = None
        for circuit in list(connection.calls.values()):
            self._drop_circuit(circuit)
        return effects

    def _unregister(self, connection: _Connection) -> list[Effect]:
        """Forget a registration, and tell its callers where nobody takes over."""
        self._registrations -= 1
        self._unlabel(connection, connection.labels)
        connection.labels = frozenset()
        effects: list[Effect] = []
        for circuit in list(connection.inbound.values()):
            self._drop_circuit(circuit)
            taken_over = (connection.registration, circuit.label) in self._labels
            if not taken_over and circuit.caller is not connection:
                notice = event_frame(Undelivered(Reason.UNKNOWN_LABEL, circuit.label))
                effects.append(Deliver(circuit.caller.name, notice))
        return effects

    def _cut(self, connection: _Connection, reason: Reason) -> list[Effect]:
        self.counters[f"refused_{reason.name.lower()}"] += 1
        return [Deliver(connection.name, denial(reason)), Cut(connection.name, reason), *self._close(connection.name)]

    def _close(self, name: ConnectionId) -> list[Effect]:
        connection = self._connections.pop(name, None)
        if connection is None:
            return []
        self._new.pop(name, None)
        for grant in (connection.register, connection.reach):
            if grant is not None:
                grant.holder = None
        for circuit in list(connection.calls.values()):
            self._drop_circuit(circuit)
        if connection.register is None:
            return []
        return self._unregister(connection)

    def check(self) -> None:
        """Assert the invariants; run after every input in tests."""
        everybody = list(self._connections.values())
        calls = [circuit for each in everybody for circuit in each.calls.values()]
        inbound = [circuit for each in everybody for circuit in each.inbound.values()]
        held = {id(grant): each.name for each in everybody for grant in (each.register, each.reach) if grant}
        labelled = {((each.registration, label), each.name) for each in everybody for label in each.labels}
        for holds, claim in (
            (len(calls) == len(inbound) == self._circuits, "every circuit hangs at both its ends"),
            (set(map(id, calls)) == set(map(id, inbound)), "and they are the same"),
            (self._circuits <= self.circuits_max, "circuits are bounded"),
            (all(len(each.calls) <= self.circuits_per_connection_max for each in everybody), "for each caller, too"),
            (self._registrations == sum(each.register is not None for each in everybody), "registrations are counted"),
            (self._registrations <= self.registrations_max, "and bounded"),
            (all(each.register for each in everybody if each.labels or each.inbound), "labels need a registration"),
            (all(each.reach for each in everybody if each.calls), "calls need a ticket to reach"),
            (all((each.name in self._new) == (not each.register and not each.reach) for each in everybody), "new"),
            (self._new.keys() <= self._connections.keys() and len(self._new) <= self.new_max, "the new are bounded"),
            (labelled == {(name, each.name) for name, those in self._labels.items() for each in those}, "labels"),
            (all(those == sorted(those, key=_order) for those in self._labels.values()), "the newest is last"),
            (held == {id(each): each.holder for each in self._grants.values() if each.holder}, "grants know holders"),
            (len(self._grants) <= self.grants_max, "grants are bounded"),
        ):
            insist(holds, claim)

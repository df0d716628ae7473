"""Two ends of an attempt to punch through NAT, behind simulated NATs, in virtual time.

    PunchWorld(seed, nats).run()  --> what each end found, and how long it took

TCP is as simple here as it may be: a SYN that finds a dial of the other way opens both, one that finds a port that
listens opens both later, one that meets a NAT is dropped or answered with a reset, and is sent again after one second.
The machines are the real ones (`punching.py`, `candidates.py`).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from atoll.actors.runtime.machine import insist
from atoll.actors.tunnel_relay.candidates import Policy, View
from atoll.actors.tunnel_relay.punching import Dial, Drop, Fail, Punch, PunchEffect, Role, Say, Use
from atoll.testing.agenda import Agenda
from atoll.transport.tcp_address import TcpAddress

RELAYS = (TcpAddress("192.0.2.1", 8089), TcpAddress("192.0.2.2", 8089))
RESEND_S = (1.0, 2.0)
"""After which a SYN without an answer is sent again (RFC 6298)."""
RUN_S = 20.0


@dataclass(frozen=True, slots=True)
class NatKind:
    """What one NAT does; RFC 5382 has the words."""

    dependent: bool = False
    """Each destination sees another port."""
    lenient: bool = False
    """Whoever finds a port that is mapped comes in."""
    rejects: bool = False
    """What was not asked for is answered with a reset."""
    changes: bool = True
    """It changes addresses; else it is a firewall."""


@dataclass(slots=True)
class _Nat:
    kind: NatKind
    inside: TcpAddress
    public: str
    rng: Random
    mapped: dict[TcpAddress, int] = field(default_factory=dict)
    """The port that each destination sees."""
    closed: set[TcpAddress] = field(default_factory=set)
    """Destinations that have answered with a reset since: nothing of theirs comes in, as with Linux's NAT."""

    def leaves(self, target: TcpAddress) -> TcpAddress:
        self.closed.discard(target)
        if not self.kind.changes:
            self.mapped[target] = self.inside.port
            return self.inside
        if target not in self.mapped:
            drawn = self.rng.randrange(1024, 65_536) if self.kind.dependent else self.inside.port
            self.mapped[target] = drawn
        return TcpAddress(self.public, self.mapped[target])

    def lets_in(self, source: TcpAddress, port: int) -> bool:
        if self.kind.lenient and port in self.mapped.values():
            return True
        return self.mapped.get(source) == port and source not in self.closed


@dataclass(slots=True)
class _Wire:
    """A connection: its number at each end, and when its last byte arrives there."""

    numbers: dict[Role, int] = field(default_factory=dict)
    arrives_at: dict[Role, float] = field(default_factory=dict)


@dataclass(slots=True)
class _End:
    role: Role
    nat: _Nat
    punch: Punch | None = None
    dialling: set[TcpAddress] = field(default_factory=set)
    wires: dict[int, _Wire] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    used: _Wire | None = None
    failed: str = ""
    over_at: float = 0.0


class PunchWorld:
    """One attempt; `punch` and `view` may be mutants."""

    def __init__(
        self,
        seed: int,
        nats: tuple[NatKind, NatKind],
        *,
        punch: type[Punch] = Punch,
        view: type[View] = View,
        loss: float = 0.0,
    ) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self._loss = loss
        self._agenda = Agenda()
        self._delay_s = self.rng.uniform(0.001, 0.15)
        sides = ((Role.INITIATOR, "10.0.0.5", "203.0.113.1"), (Role.RESPONDER, "10.0.0.7", "203.0.113.2"))
        self.ends: dict[Role, _End] = {}
        for (role, inside, public), kind in zip(sides, nats, strict=True):
            host = inside if kind.changes else public
            nat = _Nat(kind, TcpAddress(host, self.rng.randrange(32_768, 61_000)), public, self.rng)
            self.ends[role] = _End(role, nat)
        self._begin(punch, view)

    def _begin(self, punch: type[Punch], view: type[View]) -> None:
        """Let relays see both, and both know each other: the responder sooner, by the way back of its answer."""
        views: dict[Role, View] = {}
        policies: dict[Role, Policy] = {}
        for role, end in self.ends.items():
            seen = [end.nat.leaves(relay) for relay in RELAYS]
            views[role] = view.of(end.nat.inside, seen, show_private=False)
            policies[role] = Policy(frozenset({end.nat.inside, *seen}), frozenset(RELAYS))
        tickets = (self.rng.randbytes(16), self.rng.randbytes(16))
        answer_s = self.rng.uniform(0.005, 1.0)
        for role, end in self.ends.items():
            own, peer = views[role], views[role.other]
            targets = policies[role].admitted(peer, own)
            at = answer_s if role is Role.INITIATOR else 0.0
            end.punch = punch(role, tickets, own, peer, targets, began_at=at)
            self._agenda.at(at, lambda end=end: self._do(end, self._machine(end).start()))  # type: ignore[misc]

    def run(self) -> "PunchWorld":
        """Go on until both ends are over."""
        while self._agenda and self.now < RUN_S:
            self.now, do = self._agenda.next()
            do()
        insist(all(self._machine(end).over for end in self.ends.values()), "an attempt ends")
        return self

    @property
    def punched(self) -> bool:
        """Whether both use a connection; it is the same, or the world raises."""
        wires = [end.used for end in self.ends.values()]
        insist(None in wires or wires[0] is wires[1], "both ends use one connection")
        return None not in wires

    # Time and TCP

    def _machine(self, end: _End) -> Punch:
        if end.punch is None:
            raise RuntimeError("this end has not begun")
        return end.punch

    def _later(self, do: Callable[[], None]) -> None:
        self._agenda.at(self.now + self._delay_s * self.rng.uniform(0.9, 1.1), do)

    def _do(self, end: _End, effects: list[PunchEffect]) -> None:
        machine = self._machine(end)
        machine.check()
        for effect in effects:
            match effect:
                case Dial(address):
                    end.dialling.add(address)
                    self._syn(end, address, 0)
                case Say(connection, data):
                    self._carry(end, connection, data)
                case Drop(connection):
                    self._drop(end, connection)
                case Use(connection):
                    end.used, end.over_at = end.wires[connection], self.now
                case Fail(reason):
                    end.failed, end.over_at = reason, self.now
        if machine.over:
            end.dialling.clear()
            for number in [each for each, wire in end.wires.items() if wire is not end.used]:
                self._drop(end, number)
        elif (deadline := machine.deadline) is not None:
            self._agenda.at(max(deadline, self.now), lambda: self._tick(end))

    def _tick(self, end: _End) -> None:
        machine = self._machine(end)
        if machine.deadline is not None and self.now >= machine.deadline:
            self._do(end, machine.tick(self.now))

    def _syn(self, end: _End, address: TcpAddress, times: int) -> None:
        """Send a SYN, and again while it is not answered."""
        if address not in end.dialling:
            return
        source = end.nat.leaves(address)
        if self.rng.random() >= self._loss:
            self._later(lambda: self._syn_arrives(end, source, address))
        if times < len(RESEND_S):
            self._agenda.at(self.now + RESEND_S[times], lambda: self._syn(end, address, times + 1))

    def _syn_arrives(self, end: _End, source: TcpAddress, address: TcpAddress) -> None:
        other = self.ends[end.role.other]
        outside = other.nat.public if other.nat.kind.changes else other.nat.inside.host
        if address.host != outside:
            return
        if not other.nat.lets_in(source, address.port):
            if other.nat.kind.rejects:
                self._later(lambda: self._refused(end, address))
            return
        if address not in end.dialling:
            return
        if not self._machine(other).over:
            self._open(end, address, other, source)

    def _open(self, end: _End, address: TcpAddress, other: _End, source: TcpAddress) -> None:
        """Open both ends: at the one that hears the SYN first at once, at the other after the answer."""
        wire = _Wire()
        simultaneous = source in other.dialling
        end.dialling.discard(address)
        other.dialling.discard(source)
        self._join(other, wire, dialled=simultaneous)
        self._later(lambda: self._join(end, wire, dialled=True))

    def _join(self, end: _End, wire: _Wire, *, dialled: bool) -> None:
        number = wire.numbers[end.role] = next(end.numbers)
        end.wires[number] = wire
        self._do(end, self._machine(end).connected(number, dialled=dialled))

    def _refused(self, end: _End, address: TcpAddress) -> None:
        end.nat.closed.add(address)
        if address in end.dialling:
            end.dialling.discard(address)
            self._do(end, self._machine(end).refused(address, self.now))

    def _carry(self, end: _End, connection: int, data: bytes) -> None:
        wire, other = end.wires[connection], self.ends[end.role.other]
        at = max(self.now + self._delay_s * self.rng.uniform(0.9, 1.1), wire.arrives_at.get(other.role, 0.0))
        wire.arrives_at[other.role] = at
        self._agenda.at(at, lambda: self._heard(other, wire, data))

    def _heard(self, end: _End, wire: _Wire, data: bytes) -> None:
        number = wire.numbers.get(end.role)
        if number is None:
            self._later(lambda: self._heard(end, wire, data))
            return
        machine = self._machine(end)
        while data and number in end.wires and (wanted := machine.bytes_wanted(number)):
            piece, data = data[:wanted], data[wanted:]
            self._do(end, machine.heard(number, piece))

    def _drop(self, end: _End, number: int) -> None:
        wire, other = end.wires.pop(number), self.ends[end.role.other]
        self._later(lambda: self._ended(other, wire))

    def _ended(self, end: _End, wire: _Wire) -> None:
        number = wire.numbers.get(end.role)
        if number in end.wires and not self._machine(end).over:
            self._do(end, self._machine(end).heard(number, b""))

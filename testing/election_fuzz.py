"""Hostile messages to real election machines in every role: nothing raises, and nothing changes that should not.

    simulations --> machines in each role, and what they say --mutated (`fuzz.py`)--> codec --> machine --> judged

What is judged, whoever the sender is: the machine's own `check`; its ballot, roster and lease go only where they may;
whatever it sends or keeps can be read again; its memory is bounded. Of a sender who is no voter: what only voters may
say is refused, counted, and changes nothing; and no epoch rises but by what proves itself. A new kind of message is
tried as soon as it stands in `MESSAGES`, by its types alone if no simulation sends it.
"""

import copy
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec

from atoll.actors.elector.election import Election
from atoll.actors.elector.election_state import Role
from atoll.actors.elector.messages import (
    MESSAGES,
    HeartbeatAck,
    Recalled,
    Release,
    RosterChain,
    Vote,
)
from atoll.actors.runtime.machine import Effect, Persist, Received, Seconds, Send
from atoll.testing.elections import CODEC, election_simulation, simulated_node
from atoll.testing.faults import EVERYTHING, FaultPlan, Forget
from atoll.testing.fuzz import Mutator
from atoll.testing.hosts import Host
from atoll.testing.invariants import Invariant
from atoll.testing.simulator import Simulation
from atoll.transport.codec import Message, decode_special, encode_special
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

STATES_A_ROLE = 6
SAMPLES_A_KIND = 40
CASES_A_STATE = 48
"""Then a machine is put back: most messages should find it in its role."""
EFFECTS_MAX = 64
SENT_BYTES_MAX = 256 * 1024
FINDINGS_MAX = 20
EXCUSED: tuple[type[Message], ...] = (RosterChain, Recalled, Release)
"""May change an epoch or a promise though its sender has no vote: it carries its own proof, or answers a question."""
PROLONGING: tuple[type[Message], ...] = (HeartbeatAck, Vote)
"""May prolong a lease."""
STRANGER = simulated_node(999)


@dataclass(slots=True)
class State:
    """A machine as it was found in a simulation."""

    machine: Election
    now: Seconds
    peers: tuple[NodeId, ...]


@dataclass(slots=True)
class Harvest(Invariant):
    """What simulations gave: machines by role, and good messages by kind."""

    states: dict[Role, list[State]] = field(default_factory=lambda: defaultdict(list))
    messages: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))

    def handled(self, simulation: Simulation, host: Host) -> None:
        found = self.states[host.machine.role]
        if len(found) < STATES_A_ROLE and simulation.rng.random() < 0.2:
            peers = tuple(each.node for each in simulation.hosts)
            found.append(State(copy.deepcopy(host.machine), simulation.local(host), peers))

    def sent(self, _simulation: Simulation, _host: Host, effect: Send) -> None:
        samples = self.messages[type(effect.message).__name__]
        if len(samples) < SAMPLES_A_KIND:
            data = CODEC.encode(effect.message)
            if data not in samples:
                samples.append(data)

    @classmethod
    def reaped(cls, seed: int) -> "Harvest":
        """Simulate until every role was seen; messages that nobody sent are made up by their types."""
        harvest = cls()
        for number in range(40):
            script = [(2.0, Forget(0, 0.2))] if number % 4 == 3 else []
            plan = FaultPlan(every_s=(0.3, 3.0), weights={**EVERYTHING}, script=script)
            simulation = election_simulation(
                seed * 1000 + number, voters=3 + 2 * (number % 2), bystanders=2, faults=plan, chooses=number % 2 == 1
            )
            # Beside the invariants of every election, by the same doors.
            simulation.watch(harvest)
            simulation.run(5.0)
            if number >= 7 and all(len(harvest.states[role]) == STATES_A_ROLE for role in Role):
                break
        rng = Random(seed)
        for kind in MESSAGES:
            samples = harvest.messages[kind.__name__]
            samples += [CODEC.encode(made_up(kind, rng)) for _ in range(4)]
        return harvest


def made_up(kind: type[Message], rng: Random) -> Message:
    """Make a message of a kind out of the types of its fields, good in form and wrong in meaning."""
    made: Message = _made(msgspec.inspect.type_info(kind), rng)
    return made


def _made(info: Any, rng: Random) -> Any:
    if (simple := _MADE.get(type(info))) is not None:
        return simple(info, rng)
    match info:
        case msgspec.inspect.StructType():
            return info.cls(*(_made(each.type, rng) for each in info.fields))
        case msgspec.inspect.UnionType():
            return _made(rng.choice(info.types), rng)
        case msgspec.inspect.TupleType():
            return tuple(_made(each, rng) for each in info.item_types)
        case msgspec.inspect.VarTupleType():
            return tuple(_made(info.item_type, rng) for _ in range(rng.randrange(3)))
    raise TypeError(f"a message has a field that nobody here can make up: {info}")


def _number(info: Any, rng: Random) -> int:
    return int(rng.choice((info.ge or 0, 1, 2, 3, rng.randrange(100), 7 if info.le is None else info.le)))


_MADE: dict[type, Callable[[Any, Random], Any]] = {
    msgspec.inspect.IntType: _number,
    msgspec.inspect.StrType: lambda info, rng: "x" * rng.randrange(min(20, info.max_length or 20)),
    msgspec.inspect.BytesType: lambda info, rng: rng.randbytes(min(64, info.max_length or 64)),
    msgspec.inspect.BoolType: lambda _, rng: rng.random() < 0.5,
    msgspec.inspect.FloatType: lambda _, rng: rng.random(),
    msgspec.inspect.NoneType: lambda _info, _rng: None,
    msgspec.inspect.CustomType: lambda _, rng: simulated_node(rng.randrange(6)),
}


@dataclass(slots=True)
class ElectionFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    fates: Counter[str] = field(default_factory=Counter)
    """What became of the cases, by role and kind."""
    findings: list[str] = field(default_factory=list)
    cases: int = 0
    _harvest: Harvest = field(init=False)
    _mutator: Mutator = field(init=False)
    _all: list[bytes] = field(init=False)
    _records: dict[type, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._harvest = Harvest.reaped(self.seed)
        self._mutator = Mutator(Random(self.seed))
        self._all = [data for samples in self._harvest.messages.values() for data in samples]

    def run(self, cases: int) -> None:
        """Run so many cases, as many in each role."""
        roles = [role for role in Role if self._harvest.states[role]]
        until = self.cases + cases
        while self.cases < until and len(self.findings) < FINDINGS_MAX:
            role = roles[self.cases // CASES_A_STATE % len(roles)]
            self._stay(self._mutator.rng.choice(self._harvest.states[role]), role)

    def _stay(self, state: State, role: Role) -> None:
        machine, now, rng = copy.deepcopy(state.machine), state.now, self._mutator.rng
        for _ in range(CASES_A_STATE):
            self.cases += 1
            kind = rng.choice(MESSAGES).__name__
            good = self._harvest.messages[kind] if rng.random() < 0.9 else self._all
            data = self._mutator.variant(good)
            try:
                message = CODEC.decode(data)
            except MalformedFrame:
                self.fates[f"{role.value}: no message"] += 1
                continue
            now += rng.choice((0.0, 0.0, 0.001, 0.02))
            sender = rng.choice((*state.peers, STRANGER))
            try:
                self._judge(machine, sender, message, now, role)
            except Exception as error:  # noqa: BLE001 - whatever a machine raises is a finding
                self._find(machine, sender, message, f"raised {type(error).__name__}: {error}")
                return
            if machine.role is not role:
                machine, now = copy.deepcopy(state.machine), state.now

    def _judge(self, machine: Election, sender: NodeId, message: Message, now: Seconds, role: Role) -> None:
        votes = sender in machine.roster.voters and sender != machine.own
        special = machine.rosters.guest_of is not None or machine.rosters.change is not None
        refused = type(message) in machine._voter_handlers and not votes and not special  # noqa: SLF001
        if machine.reign is not None and now >= machine.reign.lease_until:
            refused = False  # Its lease ends with this input, whatever that is.
        before = Bounds.of(machine)
        whole = fingerprint(machine) if refused else None
        ignored = machine.ignored
        effects = machine.handle(Received(sender, message), now)
        machine.check()
        self.fates[f"{role.value}: {type(message).__name__}{' refused' if refused else ''}"] += 1
        faults = [*before.broken_by(machine, message, votes=votes or special, now=now), *self._unreadable(effects)]
        if refused and (fingerprint(machine) != whole or not all(isinstance(each, Send) for each in effects)):
            faults.append("changed something though only voters may say that")
        if refused and machine.ignored != ignored + 1:
            faults.append("refused and not counted")
        for fault in faults:
            self._find(machine, sender, message, fault)

    def _unreadable(self, effects: list[Effect]) -> list[str]:
        if len(effects) > EFFECTS_MAX:
            return [f"{len(effects)} effects"]
        faults = []
        for effect in effects:
            if isinstance(effect, Send):
                data = CODEC.encode(effect.message)
                if len(data) > SENT_BYTES_MAX:
                    faults.append(f"sends {len(data)} bytes")
                try:
                    CODEC.decode(data)
                except MalformedFrame as error:
                    faults.append(f"sends a {type(effect.message).__name__} that nobody can read: {error}")
            elif isinstance(effect, Persist):
                kind = type(effect.record)
                data = msgspec.msgpack.encode(effect.record, enc_hook=encode_special)
                try:
                    msgspec.msgpack.decode(data, type=kind, dec_hook=decode_special)
                except msgspec.MsgspecError as error:
                    faults.append(f"keeps a {kind.__name__} that it cannot read again: {error}")
        return faults

    def _find(self, machine: Election, sender: NodeId, message: Message, what: str) -> None:
        self.findings.append(
            f"case {self.cases} of seed {self.seed}: {machine.role.value} gets {message} from {sender.short}: {what}"
        )


@dataclass(frozen=True, slots=True)
class Bounds:
    """What of a machine may move in one direction only, or not at all."""

    epoch: int
    voted_for: NodeId | None
    promise: Any
    mark: tuple[int, int]
    lease_until: Seconds
    role: Role

    @classmethod
    def of(cls, machine: Election) -> "Bounds":
        """Note it."""
        voter, reign = machine.voter, machine.reign
        lease_until = reign.lease_until if reign else 0.0
        return cls(voter.epoch, voter.ballot.voted_for, voter.promise, machine.roster.mark, lease_until, machine.role)

    def broken_by(self, machine: Election, message: Message, *, votes: bool, now: Seconds) -> list[str]:
        """List what went where it may not."""
        after, faults = Bounds.of(machine), []
        if after.epoch < self.epoch:
            faults.append(f"its epoch fell from {self.epoch} to {after.epoch}")
        if after.epoch == self.epoch and self.voted_for not in (None, after.voted_for):
            faults.append(f"votes again in epoch {self.epoch}")
        if after.epoch > max(self.epoch, _highest(message)) + 1:
            faults.append(f"its epoch rose from {self.epoch} to {after.epoch}")
        if after.mark < self.mark or (after.mark != self.mark and machine.roster.fault(_key(machine))):
            faults.append(f"its roster went from {self.mark} to {after.mark}")
        if after.lease_until > self.lease_until and not (isinstance(message, PROLONGING) and votes):
            faults.append("a lease was prolonged")
        if after.lease_until > now + machine.settings.lease_s:
            faults.append("a lease is longer than leases are")
        unchanged = (after.epoch, after.voted_for, after.promise) == (self.epoch, self.voted_for, self.promise)
        if not votes and not isinstance(message, EXCUSED) and not unchanged and self.role is not Role.SUPERNODE:
            faults.append("who has no vote changed an epoch, a vote or a promise")
        return faults


def _key(machine: Election) -> bytes:
    return machine.rosters.book.notary.roster_key


def _highest(value: Any) -> int:
    """Give the highest number in a message."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return value
    if isinstance(value, msgspec.Struct):
        return max((_highest(getattr(value, name)) for name in value.__struct_fields__), default=0)
    return max(map(_highest, value), default=0) if isinstance(value, tuple) else 0


def fingerprint(value: Any) -> Any:
    """Give all that a machine holds in a form that can be compared; counters, randomness and functions left out."""
    if isinstance(value, Random) or callable(value):
        return None
    if isinstance(value, dict):
        return tuple((key, fingerprint(each)) for key, each in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(map(fingerprint, value))
    if isinstance(value, msgspec.Struct | bytes | str | int | float | NodeId) or value is None:
        return value
    names = [
        *getattr(value, "__dict__", ()),
        *(n for kind in type(value).__mro__ for n in getattr(kind, "__slots__", ())),
    ]
    return tuple((name, fingerprint(getattr(value, name, None))) for name in names if name != "ignored")

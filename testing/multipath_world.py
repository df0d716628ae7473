"""Two ends of a session in virtual time, over paths that are killed, frozen, swallow all, lose records, come back.

    writer --Multipath--> records --a path: delay, rate, order kept--> Multipath --> reader, who compares every byte

Sealing is left out: it decides nothing here. What it does for paths is kept: a record arrives whole and once, or not at
all, and never behind a later one of its path. At any time at least one open path is whole, so nothing may stall for
longer than `STALL_S_MAX` (R8).
"""

from dataclasses import dataclass, field
from functools import partial
from random import Random

from atoll.testing.agenda import Agenda
from atoll.transport.errors import MalformedFrame
from atoll.transport.fragments import frames_of
from atoll.transport.multipath import RECORDS_MAX, Multipath, Via
from atoll.transport.path_set import PathGivenUp, Rank
from atoll.transport.stream_events import Readable, StreamClosed, StreamOpened, Writable

ROOM = 8192
STALL_S_MAX = 2.0
GIVE_UP_S = 120.0
RATE = 1_000_000.0
"""Bytes a second of each path."""
QUEUE_S = 0.05
"""What may wait in front of a path, in seconds of its rate."""
FROZEN_BYTES_MAX = 262_144
"""What a frozen path takes; then its sender finds it full."""
WRITE_BYTES = (1, 300, 20_000, 120_000)
RETIRES_AFTER_S = 1.0
"""From the opening of what takes a path's place until the path is retired, and from there until it is cut."""


@dataclass(frozen=True, slots=True)
class MultipathFaults:
    """What happens to paths, and how often."""

    kinds: tuple[str, ...] = ("kill", "freeze", "swallow", "oneway")
    every_s: tuple[float, float] = (1.0, 4.0)
    lasts_s: tuple[float, float] = (0.2, 6.0)
    loss: float = 0.0
    """Of records on signaling paths."""
    loss_bytes_max: int = ROOM
    """Only records so long are lost: the short ones are answers."""
    bytes_max: int = 4_000_000
    streams: tuple[int, int] = (1, 3)
    reset_ratio: float = 0.1
    delay_s_max: float = 0.04
    ranks: tuple[Rank, ...] = (Rank.BEARER, Rank.SIGNALING)
    """The paths there are."""
    victims: int = 1
    """How many of them break at once; one more is always whole."""
    stall_s_max: float = STALL_S_MAX
    opens_within_s: float = 3.0
    """Streams are opened one after the other in this time."""
    resets_within_s: float = 3.0
    lazy_s: float = 0.0
    """Readers look at what has come so late, at most."""
    nothing_twice: bool = False
    """Nothing is lost, so nothing may come twice either."""


@dataclass(slots=True, eq=False)
class Wire:
    """One path of the world: two directions."""

    number: int
    rank: Rank
    delay_s: float
    condition: str = "whole"
    alive: bool = True
    busy_until: list[float] = field(default_factory=lambda: [0.0, 0.0])
    held: list[list[bytes]] = field(default_factory=lambda: [[], []])
    """What a frozen path holds, by direction."""
    arrives: list[float] = field(default_factory=lambda: [0.0, 0.0])
    via: Via = field(init=False)
    """What the ends know about it."""

    def __post_init__(self) -> None:
        self.via = Via(self.rank, f"relay-{self.number}")


@dataclass(slots=True)
class Flow:
    """One direction of a stream: what is to be said, and how much of it has been read."""

    data: bytes
    written: int = 0
    read: int = 0
    whole: bool = False
    aborted: bool = False


@dataclass(slots=True, eq=False)
class MultipathWorld:
    """Runs one seed; `violations` are what should not have been."""

    seed: int
    faults: MultipathFaults = field(default_factory=MultipathFaults)
    kind: type[Multipath] = Multipath
    violations: list[str] = field(default_factory=list)
    now: float = 0.0
    longest_stall_s: float = 0.0
    done_at: float | None = None
    trace: list[tuple[float, str]] = field(default_factory=list)
    ends: list[Multipath] = field(init=False)
    rng: Random = field(init=False)
    wires: dict[int, Wire] = field(default_factory=dict)
    flows: dict[tuple[int, int], Flow] = field(default_factory=dict)
    """By (who writes, stream)."""
    _agenda: Agenda = field(default_factory=Agenda)
    _to_open: int = 0
    _looking: set[tuple[int, int]] = field(default_factory=set)
    """Readers that will look soon."""
    _moved_at: list[float | None] = field(default_factory=lambda: [None, None])
    """When the reader of a direction got something last; None: nothing is to come."""
    _woken: list[float] = field(default_factory=lambda: [-1.0, -1.0])

    def __post_init__(self) -> None:
        self.rng = Random(f"atoll multipath {self.seed}")
        self.ends = [self.kind(initiator=True), self.kind(initiator=False)]

    def run(self) -> "MultipathWorld":
        """Run until everything is read, something is violated, or the time is over."""
        try:
            for rank in self.faults.ranks:
                self._open_path(rank)
            self._agenda.at(0.5, self._begin)
            self._agenda.at(self.rng.uniform(*self.faults.every_s), self._strike)
            while self._agenda and self.done_at is None and not self.violations:
                self.now, act = self._agenda.next()
                act()
                if self.now > GIVE_UP_S:
                    self._violated(f"not through after {GIVE_UP_S:g} s")
        except MalformedFrame as error:
            self._violated(f"an end accused the other: {error}")
        except (AssertionError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            self._violated(f"{type(error).__name__}: {error}")
        return self

    # The users of both ends

    def _begin(self) -> None:
        for who in (0, 1):
            for _ in range(self.rng.randint(*self.faults.streams)):
                self._to_open += 1
                self._agenda.at(self.now + self.rng.uniform(0.0, self.faults.opens_within_s), partial(self._open, who))

    def _open(self, who: int) -> None:
        stream = self.ends[who].streams.open("echo")
        self._to_open -= 1
        for writer in (who, 1 - who):
            size = self.rng.choice((0, 1, 1000, self.faults.bytes_max // 4, self.faults.bytes_max))
            self.flows[writer, stream] = Flow(self.rng.randbytes(size))
        if self.rng.random() < self.faults.reset_ratio:
            self._agenda.at(
                self.now + self.rng.uniform(0.0, self.faults.resets_within_s), partial(self._abort, who, stream)
            )
        self._write(who, stream)
        for reader in (0, 1):
            if self._moved_at[reader] is None:
                self._moved_at[reader] = self.now
        self._turn(who)

    def _write(self, who: int, stream: int) -> None:
        end, flow = self.ends[who], self.flows[who, stream]
        if stream not in end.streams.numbers() or flow.aborted:
            return
        while flow.written < len(flow.data):
            piece = flow.data[flow.written : flow.written + self.rng.choice(WRITE_BYTES)]
            taken = end.streams.write(stream, piece)
            flow.written += taken
            if taken < len(piece):
                return
        end.streams.finish(stream)

    def _abort(self, who: int, stream: int) -> None:
        for writer in (0, 1):
            self.flows[writer, stream].aborted = True
            if not self._awaits(1 - writer):
                self._moved_at[1 - writer] = None
        if stream in self.ends[who].streams.numbers():
            self.ends[who].streams.reset(stream, "the user has changed its mind")
            self._turn(who)

    def _read(self, who: int, stream: int) -> None:
        """Read all there is of what the other end writes, and compare."""
        streams, flow = self.ends[who].streams, self.flows[1 - who, stream]
        if stream not in streams.numbers():
            return
        while piece := streams.read(stream, self.rng.choice((1000, 65_536))):
            if flow.data[flow.read : flow.read + len(piece)] != piece:
                self._violated(f"stream {stream}: other bytes than were written at {flow.read}")
                return
            flow.read += len(piece)
        if streams.at_end(stream):
            flow.whole = True
            if flow.read != len(flow.data):
                self._violated(f"stream {stream} ended after {flow.read} of {len(flow.data)} bytes")
            self._take_events(who, list(streams.settle(stream)))

    def _take_events(self, who: int, events: list[object]) -> None:
        for event in events:
            match event:
                case StreamOpened(stream):
                    self._write(who, stream)
                case Readable(stream):
                    self._look(who, stream)
                case Writable(stream):
                    self._write(who, stream)
                case StreamClosed(stream, reason):
                    flows = (self.flows[0, stream], self.flows[1, stream])
                    if reason and not flows[0].aborted and not flows[1].aborted:
                        self._violated(f"stream {stream} was closed: {reason}")
                    heard = flows[1 - who]
                    heard.whole = heard.whole or (not reason and heard.read == len(heard.data))
                    if not reason and not (heard.whole and flows[who].written == len(flows[who].data)):
                        self._violated(f"stream {stream} was forgotten before its end")
                case PathGivenUp(path):
                    self.wires.pop(path, None)

    def _look(self, who: int, stream: int) -> None:
        """Read now, or later."""
        if not self.faults.lazy_s:
            self._read(who, stream)
            self._note_progress(who)
        elif (who, stream) not in self._looking:
            self._looking.add((who, stream))
            self._agenda.at(self.now + self.rng.uniform(0.0, self.faults.lazy_s), partial(self._look_late, who, stream))

    def _look_late(self, who: int, stream: int) -> None:
        self._looking.discard((who, stream))
        self._read(who, stream)
        self._note_progress(who)
        self._turn(who)

    def _note_progress(self, who: int) -> None:
        if (since := self._moved_at[who]) is not None:
            self.longest_stall_s = max(self.longest_stall_s, self.now - since)
            if self.now - since > self.faults.stall_s_max:
                self._violated(f"nothing came to end {who} for {self.now - since:.2f} s")
        self._moved_at[who] = self.now if self._awaits(who) else None

    def _awaits(self, who: int) -> bool:
        """Tell whether anything is still to come to an end: only that can stall."""
        return any(
            not flow.whole and not flow.aborted and flow.read < len(flow.data)
            for (writer, _), flow in self.flows.items()
            if writer != who
        )

    # The network

    def _open_path(self, rank: Rank) -> None:
        who = self.rng.randrange(2)
        number = self.ends[who].paths.add(rank, f"relay {rank.name}", self.now)
        self.wires[number] = Wire(number, rank, self.rng.uniform(0.001, self.faults.delay_s_max))
        self._turn(who)

    def _turn(self, who: int) -> None:
        """Let an end do what there is to do now, and wake it when it asks for it."""
        end = self.ends[who]
        self._take_events(who, list(end.tick(self.now)))
        while True:
            current = self.wires.get(-1 if end.paths.current is None else end.paths.current)
            free = current is not None and self._takes(current, who)
            records = end.outgoing(ROOM, self.now, RECORDS_MAX if free else 0)
            for path, parts in records:
                record = b"".join(parts)
                if len(record) > ROOM:
                    self._violated(f"a record of {len(record)} bytes")
                self._send(who, path, record)
            if not records or not free:
                break
        end.streams.check()
        end.paths.check()
        deadline = end.deadline
        if end.streams.sending:
            deadline = min(self.now + QUEUE_S / 2, self.now + QUEUE_S if deadline is None else deadline)
        if deadline is not None:
            self._wake(who, max(deadline, self.now + 0.001))
        if self.flows and not self._to_open and not end.streams.numbers() and not self.ends[1 - who].streams.numbers():
            self._finish()

    def _wake(self, who: int, at: float) -> None:
        if not self.now < self._woken[who] <= at:
            self._woken[who] = at

            def turn() -> None:
                if self._woken[who] == at:
                    self._turn(who)

            self._agenda.at(at, turn)

    def _finish(self) -> None:
        for (writer, stream), flow in self.flows.items():
            if not flow.aborted and not flow.whole:
                self._violated(f"stream {stream} of end {writer} is gone, after {flow.read} of {len(flow.data)} bytes")
        twice = sum(end.streams.counts["repeated"] + end.streams.counts["beyond_gap"] for end in self.ends)
        if twice and self.faults.nothing_twice:
            self._violated(f"{twice} pieces came twice or out of turn, though nothing was lost")
        self.done_at = self.now

    def _takes(self, wire: Wire, who: int) -> bool:
        held = sum(map(len, wire.held[who]))
        return wire.alive and wire.busy_until[who] < self.now + QUEUE_S and held < FROZEN_BYTES_MAX

    def _send(self, who: int, path: int, record: bytes) -> None:
        wire = self.wires.get(path)
        if wire is None or not wire.alive:
            return
        if wire.condition == "frozen":
            wire.held[who].append(record)
            return
        if wire.condition == "swallow" or (wire.condition == "oneway" and who == 0):
            return
        lossy = wire.rank is Rank.SIGNALING and len(record) <= self.faults.loss_bytes_max
        if lossy and self.rng.random() < self.faults.loss:
            return
        wire.busy_until[who] = max(self.now, wire.busy_until[who]) + len(record) / RATE
        jitter = self.rng.uniform(1.0, 1.5)
        wire.arrives[who] = max(wire.arrives[who], wire.busy_until[who] + wire.delay_s * jitter)
        self._agenda.at(wire.arrives[who], partial(self._arrive, who, wire, record))

    def _arrive(self, who: int, wire: Wire, record: bytes) -> None:
        if not wire.alive:
            return
        if wire.condition == "frozen":
            wire.held[who].append(record)
            return
        events: list[object] = []
        for frame in frames_of(record):
            events += self.ends[1 - who].receive(frame, wire.number, wire.via, self.now)
        self._take_events(1 - who, events)
        self._turn(1 - who)

    def _strike(self) -> None:
        """Break one path, if all are whole and another is open at both ends; mend it later."""
        open_paths = [
            each
            for each in self.wires.values()
            if all(each.number in {path.number for path in end.paths.all() if path.heard_at} for end in self.ends)
        ]
        whole = all(each.condition == "whole" for each in self.wires.values())
        settled = all(end.paths.current is not None for end in self.ends)
        aim = self.ends[self.rng.randrange(2)].paths.current
        # The one in use first, and beside it those that would be next.
        victims = sorted(open_paths, key=lambda each: (each.number != aim, each.rank))[: self.faults.victims]
        if whole and settled and len(open_paths) > self.faults.victims:
            kind = self.rng.choice(self.faults.kinds)
            for victim in victims:
                self._break(victim, kind)
        self._agenda.at(self.now + self.rng.uniform(*self.faults.every_s), self._strike)

    def _break(self, victim: Wire, kind: str) -> None:
        self.trace.append((self.now, f"{kind} {victim.number}"))
        if kind == "kill":
            self._kill(victim)
        elif kind == "retire":
            victim.condition = "ending"
            self._open_path(victim.rank)
            self._agenda.at(self.now + RETIRES_AFTER_S, partial(self._retire, victim))
        else:
            victim.condition = {"freeze": "frozen"}.get(kind, kind)
            self._agenda.at(self.now + self.rng.uniform(*self.faults.lasts_s), partial(self._mend, victim))

    def _retire(self, wire: Wire) -> None:
        who = self.rng.randrange(2)
        self.ends[who].paths.retire(wire.number, "its ticket expires", self.now)
        self._turn(who)
        self._agenda.at(self.now + RETIRES_AFTER_S, partial(self._cut, wire))

    def _cut(self, wire: Wire) -> None:
        """End a path that both ends have left by now."""
        for who, end in enumerate(self.ends):
            if end.paths.current == wire.number and len(self.wires) > 1:
                self._violated(f"end {who} still uses path {wire.number}, which was to be left")
        wire.alive = False
        del self.wires[wire.number]
        for who, end in enumerate(self.ends):
            self._hear_of_loss(who, end, wire)

    def _kill(self, wire: Wire) -> None:
        wire.alive = False
        del self.wires[wire.number]
        for who, end in enumerate(self.ends):
            self._agenda.at(self.now + self.rng.uniform(0.0, 0.2), partial(self._hear_of_loss, who, end, wire))
        self._agenda.at(self.now + self.rng.uniform(0.3, 1.5), partial(self._open_path, wire.rank))

    def _hear_of_loss(self, who: int, end: Multipath, wire: Wire) -> None:
        self._take_events(who, list(end.path_lost(wire.number, "the relay died", self.now)))
        self._turn(who)

    def _mend(self, wire: Wire) -> None:
        self.trace.append((self.now, f"mend {wire.number}"))
        wire.condition = "whole"
        for who in (0, 1):
            held, wire.held[who] = wire.held[who], []
            for record in held:
                self._send(who, wire.number, record)

    def _violated(self, what: str) -> None:
        self.violations.append(f"seed {self.seed}, {self.now:.3f} s: {what}; {self.trace[-4:]}")

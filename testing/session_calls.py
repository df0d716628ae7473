"""Questions and answers over one session with several paths that break, in virtual time; the records are really sealed.

    caller --question n--> session --a path: delay, order kept, killed, frozen, one way--> session --answer n--> caller

The caller asks again what is not answered when its session says that a path was lost or silent, as the Router does. A
path that swallows does so for long: one that loses a call and is whole again a moment later is not found out, then the
asker's own repetition helps. At any time one open path is whole. So every question is answered within `ANSWER_S_MAX`;
and without any fault, while better paths come, none is asked twice and no message is lost.
"""

from dataclasses import dataclass, field
from functools import partial
from random import Random

from atoll.testing.agenda import Agenda
from atoll.testing.two_ends import established
from atoll.transport.multipath import Via
from atoll.transport.path_set import Rank, Switched
from atoll.transport.session import Session
from atoll.transport.session_events import Closed, MessageArrived, SessionEvent
from atoll.transport.stream_events import PeerLeft

ANSWER_S_MAX = 2.5
"""A second of silence at either end, and some round trips."""
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class CallFaults:
    """What happens to paths."""

    kinds: tuple[str, ...] = ("kill", "freeze", "oneway")
    every_s: tuple[float, float] = (1.0, 4.0)
    lasts_s: tuple[float, float] = (1.5, 4.0)
    delays_s: tuple[float, ...] = (0.01, 0.15)
    """Of the bearer, and of signaling."""
    peer_notices: bool = False
    """Whether both ends see that a path was killed; a circuit through a proxy looks whole to one of them."""
    bearers_only: bool = False
    """Nothing breaks: a bearer comes, and the session goes over to it."""
    pauses_s: tuple[tuple[float, float], ...] = ((0.01, 0.5),)
    """Between two questions, in turns."""
    thinks_s: tuple[float, float] = (0.0, 0.0)
    """What an answer takes."""
    answer_s_max: float = ANSWER_S_MAX
    """Beside that; twice as much where a second path may break under the same question."""
    questions: int = 120


@dataclass(slots=True, eq=False)
class Wire:
    """One connection."""

    number: int
    via: Via
    delay_s: float
    condition: str = "whole"
    alive: bool = True
    arrives: list[float] = field(default_factory=lambda: [0.0, 0.0])
    held: list[list[bytes]] = field(default_factory=lambda: [[], []])


class CallWorld:
    """Runs one seed; `violations` are what should not have been."""

    def __init__(self, seed: int, faults: CallFaults, kind: type[Session] = Session) -> None:
        self.seed, self.faults, self.rng = seed, faults, Random(seed)
        self.now = 100.0
        self.violations: list[str] = []
        self.asked: dict[int, float] = {}
        self.answered: set[int] = set()
        self.again = 0
        self._heard: set[int] = set()
        self._thought: set[int] = set()
        self.longest_s = 0.0
        self.wires: dict[int, Wire] = {}
        self._agenda = Agenda()
        self.ends = list(established(kind, record_bytes_max=8192, now=self.now))

    def run(self) -> "CallWorld":
        """Ask all questions, and wait for the answers."""
        self._connect(Rank.SIGNALING, "relay-1")
        if not self.faults.bearers_only:
            self._connect(Rank.SIGNALING, "relay-2")
        self._agenda.at(self.now + 1.0, partial(self._ask, 0))
        self._agenda.at(self.now + self.rng.uniform(*self.faults.every_s), self._strike)
        self._agenda.at(self.now, self._look)
        until = self.now + self.faults.questions * 10.0
        while self._agenda and self.now < until and len(self.answered) < self.faults.questions and not self.violations:
            self.now, act = self._agenda.next()
            act()
        if len(self.answered) < self.faults.questions and not self.violations:
            self._violated(f"{self.faults.questions - len(self.answered)} questions were not answered")
        lost = sum(end.statistics()["messages_lost"] for end in self.ends)
        if self.faults.bearers_only and (self.again or lost):
            self._violated(f"nothing broke, and {self.again} questions were asked again, {lost} messages lost")
        return self

    # The two users

    def _ask(self, number: int) -> None:
        self.asked[number] = self.now
        self.ends[0].send(b"%d" % number)
        self._flush(0)
        if number + 1 < self.faults.questions:
            pauses_s = self.faults.pauses_s[number % len(self.faults.pauses_s)]
            self._agenda.at(self.now + self.rng.uniform(*pauses_s), partial(self._ask, number + 1))

    def _take(self, who: int, events: list[SessionEvent]) -> None:
        for event in events:
            if isinstance(event, MessageArrived):
                if who == 1:
                    self._hear(int(event.data))
                else:
                    self._note_answer(int(event.data))
            elif self._lost(event) and who == 0:
                for number in sorted(set(self.asked) - self.answered):
                    self.again += 1
                    self.ends[0].send(b"%d" % number)
            elif isinstance(event, Closed):
                self._violated(f"the session of end {who} ended: {event.reason}")
        self._flush(who)

    def _lost(self, event: SessionEvent) -> bool:
        """Tell whether what was on its way may be gone."""
        return isinstance(event, PeerLeft) or (isinstance(event, Switched) and event.lost and event.path is not None)

    def _hear(self, number: int) -> None:
        """Think about a question once, and answer it as often as it comes after that."""
        if number in self._thought:
            self._answer(number)
        elif number not in self._heard:
            self._heard.add(number)
            self._agenda.at(self.now + self.rng.uniform(*self.faults.thinks_s), partial(self._answer, number))

    def _answer(self, number: int) -> None:
        self._thought.add(number)
        self.ends[1].send(b"%d" % number)
        self._flush(1)

    def _note_answer(self, number: int) -> None:
        if number not in self.answered:
            self.answered.add(number)
            self.longest_s = max(self.longest_s, self.now - self.asked[number])

    def _look(self) -> None:
        for who, end in enumerate(self.ends):
            self._take(who, end.tick(self.now))
        limit_s = self.faults.answer_s_max + self.faults.thinks_s[1]
        late = [number for number in set(self.asked) - self.answered if self.now > self.asked[number] + limit_s]
        if late:
            self._violated(f"question {min(late)} has waited for {limit_s} s")
        self._agenda.at(self.now + LOOK_S, self._look)

    # The network

    def _connect(self, rank: Rank, name: str) -> None:
        number = self.ends[0].add_path(rank, name, self.now)
        delay_s = self.faults.delays_s[rank is Rank.SIGNALING]
        self.wires[number] = Wire(number, Via(rank, name), delay_s)
        self._flush(0)

    def _flush(self, who: int) -> None:
        for number, record in self.ends[who].outgoing(self.now):
            for wire in tuple(self.wires.values()) if number is None else (self.wires.get(number),):
                if wire is not None:
                    self._send(who, wire, record)

    def _send(self, who: int, wire: Wire, record: bytes) -> None:
        if not wire.alive or wire.condition == "swallow" or (wire.condition == "oneway" and who == 0):
            return
        if wire.condition == "freeze":
            wire.held[who].append(record)
            return
        wire.arrives[who] = max(wire.arrives[who], self.now + wire.delay_s)
        self._agenda.at(wire.arrives[who], partial(self._arrive, who, wire, record))

    def _arrive(self, who: int, wire: Wire, record: bytes) -> None:
        if wire.alive:
            self._take(1 - who, self.ends[1 - who].receive(record, self.now, wire.via))

    def _strike(self) -> None:
        self._agenda.at(self.now + self.rng.uniform(*self.faults.every_s), self._strike)
        current = self.ends[0].paths.current
        if self.faults.bearers_only:
            if len(self.wires) == 1:
                self._connect(Rank.BEARER, "relay-3")
            return
        whole = [each for each in self.wires.values() if each.condition == "whole" and each.alive]
        opened = all(
            known.heard_at is not None and known.condition.value == "usable" for known in self.ends[0].paths.all()
        )
        if current is None or len(whole) < 2 or len(whole) < len(self.wires) or not opened:
            return
        victim = self.wires[current]
        kind = self.rng.choice(self.faults.kinds)
        if kind == "kill":
            self._kill(victim)
            return
        victim.condition = kind
        self._agenda.at(self.now + self.rng.uniform(*self.faults.lasts_s), partial(self._mend, victim))

    def _kill(self, wire: Wire) -> None:
        wire.alive = False
        del self.wires[wire.number]
        self._agenda.at(self.now + 0.05, partial(self._lose, 0, wire))
        if self.faults.peer_notices:
            self._agenda.at(self.now + 0.05, partial(self._lose, 1, wire))
        self._agenda.at(self.now + self.rng.uniform(0.5, 1.5), partial(self._connect, wire.via.rank, wire.via.name))

    def _lose(self, who: int, wire: Wire) -> None:
        self._take(who, self.ends[who].path_lost(wire.number, "reset", self.now))

    def _mend(self, wire: Wire) -> None:
        wire.condition = "whole"
        for who in (0, 1):
            held, wire.held[who] = wire.held[who], []
            for record in held:
                self._send(who, wire, record)

    def _violated(self, what: str) -> None:
        self.violations.append(f"seed {self.seed}, {self.now:.2f} s: {what}")

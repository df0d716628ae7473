"""A hostile relay between the ends of several sessions: drops, replays, reorders, swaps, cuts and bends records.

    ends of three sessions --a bearer and a SEP of the hostile relay, a SEP of an honest one--> their peers

Whatever it does: an end gets only messages that its own peer said, each at most once and unaltered; the bytes of its
streams are those that were written, in order; no session ends; and what the hostile relay keeps comes over the honest
one. One deed is one case. The records are really sealed; time is virtual.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from atoll.testing.election_fuzz import FINDINGS_MAX
from atoll.testing.two_ends import opening
from atoll.transport.multipath import Via
from atoll.transport.path_set import Rank
from atoll.transport.records import HEADER
from atoll.transport.session import Session
from atoll.transport.session_events import Closed, MessageArrived, SessionEvent, State
from atoll.transport.session_opening import SESSION_ID_BYTES
from atoll.transport.stream_events import StreamClosed

SESSIONS = 3
STEP_S = 0.02
HOSTILE_STEPS = 150
"""Of a life; then the relay only drops, until everything has come."""
HONEST_STEPS = 600
RECORD_BYTES_MAX = 1200
STREAM_BYTES = 20_000
WRITE_BYTES = 1500
REMEMBERED = 60
"""Records of each direction that it can replay, or send elsewhere."""
DEEDS = ("drop", "replay", "hold", "swap", "readdress", "reflect", "cut", "lengthen", "bend", "renumber", "make up")
HOSTILE = (Via(Rank.BEARER, "relay-1"), Via(Rank.SIGNALING, "relay-1"))
HONEST = Via(Rank.SIGNALING, "relay-2")


@dataclass(slots=True, eq=False)
class _End:
    """One end of one session, and its user."""

    session: Session
    data: bytes
    """What it writes into the stream."""
    other: "_End | None" = None
    written: int = 0
    read: int = 0
    said: set[bytes] = field(default_factory=set)
    heard: set[bytes] = field(default_factory=set)
    paths: dict[int, Via] = field(default_factory=dict)
    passed: deque[bytes] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """What it sent through the hostile relay."""
    held: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class RelayFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    kind: type[Session] = Session
    fates: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cases: int = 0
    now: float = 0.0
    _rng: Random = field(init=False)
    _ends: list[_End] = field(default_factory=list)
    _busy: bool = True
    """The relay does more than drop."""

    def __post_init__(self) -> None:
        self._rng = Random(f"atoll hostile relay {self.seed}")

    def run(self, cases: int) -> None:
        """Do at least so many deeds."""
        while self.cases < cases and len(self.findings) < FINDINGS_MAX:
            self._live()

    def _live(self) -> None:
        """Open the sessions through the relays, talk for a while, and see that everything comes."""
        self._begin()
        found = len(self.findings)
        for step in range(HOSTILE_STEPS + HONEST_STEPS):
            self.now += STEP_S
            self._busy = step < HOSTILE_STEPS
            for end in self._ends:
                self._use(end)
                self._take(end, end.session.tick(self.now))
            for end in self._ends:
                self._pump(end)
            if len(self.findings) > found or (not self._busy and all(map(self._is_through, self._ends))):
                break
        for end in self._ends:
            if not self._is_through(end) and len(self.findings) == found:
                self._found(f"{end.read} bytes of a stream came, though one relay is honest")
            for name in ("records_opened", "forged", "replayed", "malformed", "early", "handshake_forged"):
                self.fates[name.replace("_", " ")] += end.session.statistics()[name]
        self.fates["sessions"] += len(self._ends)

    def _begin(self) -> None:
        self._ends = []
        for _ in range(SESSIONS):
            both = opening(self.kind, record_bytes_max=RECORD_BYTES_MAX, now=self.now)
            one, other = (_End(each, self._rng.randbytes(STREAM_BYTES)) for each in both)
            one.other, other.other = other, one
            self._ends += (one, other)

    # The users

    def _use(self, end: _End) -> None:
        session = end.session
        if session.state is not State.OPEN:
            return
        if not end.paths and session is self._ends[self._ends.index(end) // 2 * 2].session:
            for via in (*HOSTILE, HONEST):
                end.paths[session.add_path(via.rank, via.name, self.now)] = via
            session.streams.open("echo")
        if self._busy and self._rng.random() < 0.5:
            message = b"%d:" % len(end.said) + self._rng.randbytes(self._rng.choice((4, 40, 3000)))
            end.said.add(message)
            session.send(message)
        for stream in session.streams.numbers():
            if end.written < len(end.data):
                end.written += session.streams.write(stream, end.data[end.written : end.written + WRITE_BYTES])
            self._read(end, stream)

    def _read(self, end: _End, stream: int) -> None:
        if end.other is None:
            return
        while piece := end.session.streams.read(stream, 4096):
            if end.other.data[end.read : end.read + len(piece)] != piece:
                self._found(f"other bytes than were written came at {end.read}")
                return
            end.read += len(piece)

    def _take(self, end: _End, events: Sequence[SessionEvent]) -> None:
        for event in events:
            if isinstance(event, MessageArrived):
                if end.other is None or event.data not in end.other.said:
                    self._found(f"a message that its peer never said: {event.data[:40]!r}")
                elif event.data in end.heard:
                    self._found(f"a message came twice: {event.data[:40]!r}")
                end.heard.add(event.data)
                self.fates["messages"] += 1
            elif isinstance(event, Closed | StreamClosed):
                self._found(f"{type(event).__name__}: {event.reason}")

    def _is_through(self, end: _End) -> bool:
        return end.read == STREAM_BYTES

    # The relays

    def _pump(self, end: _End) -> None:
        other = end.other
        if other is None:
            return
        paths = end.paths or other.paths
        while sent := end.session.outgoing(self.now):
            for number, record in sent:
                for via in (*HOSTILE, HONEST) if number is None else (paths[number],):
                    if via is HONEST:
                        self._deliver(other, record, via)
                    else:
                        self._misuse(end, other, record, via)
        if end.held and self._rng.random() < 0.3:
            self._rng.shuffle(end.held)
            for record in end.held:
                self._deliver(other, record, self._rng.choice(HOSTILE))
            end.held.clear()

    def _deliver(self, end: _End, record: bytes, via: Via) -> None:
        self._take(end, end.session.receive(record, self.now, via))

    def _misuse(self, end: _End, other: _End, record: bytes, via: Via) -> None:
        """Do with a record what a hostile relay does; every second one also passes as it is."""
        end.passed.append(record)
        passes = self._busy and self._rng.random() < 0.5
        for _ in range(self._rng.randrange(1, 4) if self._busy else 1):
            deed = self._rng.choice(DEEDS) if self._busy else "drop"
            self.cases += 1
            self.fates[deed] += 1
            if deed == "drop":
                passes = False
            elif deed == "hold":
                end.held.append(record)
                passes = False
            elif deed == "reflect":
                self._deliver(end, record, via)
            elif deed in ("swap", "readdress"):
                victim = self._rng.choice(self._ends)
                taken = self._rng.choice(self._rng.choice(self._ends).passed or (record,))
                if deed == "readdress":
                    taken = victim.session.session_id + taken[SESSION_ID_BYTES:]
                self._deliver(victim, taken, self._rng.choice(HOSTILE))
            else:
                self._deliver(other, self._forged(deed, end, record), self._rng.choice(HOSTILE))
        if passes:
            self._deliver(other, record, via)

    def _forged(self, deed: str, end: _End, record: bytes) -> bytes:
        rng, data = self._rng, bytearray(record)
        if deed == "replay":
            return rng.choice(end.passed)
        if deed == "cut":
            return record[: rng.randrange(len(record))]
        if deed == "lengthen":
            return record + rng.randbytes(rng.randrange(1, 40))
        if deed == "bend":
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif deed == "renumber":
            # Epoch, phase, path or counter: the record before might be taken for one to come.
            data[SESSION_ID_BYTES : HEADER.size] = bytes(
                (rng.randrange(128), rng.randrange(16), *(rng.randrange(2**16)).to_bytes(8, "big"))
            )
            if data == record:
                return bytes(0)
        else:
            return end.session.session_id + rng.randbytes(rng.randrange(1, 200))
        return bytes(data)

    def _found(self, what: str) -> None:
        self.findings.append(f"seed {self.seed}, {self.now:.2f} s: {what}")

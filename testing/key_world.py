"""Two ends of a session that lives through many re-handshakes, over two paths that lose, double, hold back and alter.

    users --messages--> session --two paths: delays, faults, forgeries--> session --messages--> users
    a thief takes everything one end knows at some moment, and looks at all records when it is over

What must hold: no message comes twice, altered or to the wrong end; the session never ends; once the faults are over
both ends have the same keys, have renewed them about as often as time asks, and hold no old ones; the thief opens no
record of before his moment, and none from the first re-handshake on that begins behind it. Without faults no message is
lost, and none waits for a re-handshake.
"""

# ruff: noqa: SLF001  # whoever judges secrets must look at them

from collections import deque
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from atoll.testing.agenda import Agenda
from atoll.testing.key_thief import KeyThief, Recorded
from atoll.testing.two_ends import established
from atoll.transport.multipath import Via
from atoll.transport.path_set import Rank
from atoll.transport.records import OLD_KEY_S, PHASE_S
from atoll.transport.rehandshake import REPEAT_S_MAX, Step
from atoll.transport.session import Session
from atoll.transport.session_events import Closed, MessageArrived, SessionEvent, State

VIAS = {0: Via(Rank.BEARER, "relay-1"), 2: Via(Rank.SIGNALING, "relay-2")}
DELAYS_S = {0: 0.02, 2: 0.3}
CALM_S = 6 * REPEAT_S_MAX
"""Without faults at the end: a frame may just have been sent again, and the next time is half a minute away."""
WAIT_S_MAX = 1.0
"""A message needs no longer than that where nothing is lost, re-handshake or not."""
STOLEN_RECORDS = 400
"""The thief looks at so many records before and behind his moment."""


@dataclass(frozen=True, slots=True)
class KeyFaults:
    """What happens to records, each by chance."""

    loss: float = 0.0
    double: float = 0.0
    hold: float = 0.0
    """Come so late that others overtake them."""
    alter: float = 0.0
    """Are followed by a forgery made out of them."""
    swap: float = 0.0
    """Go back to who sent them, too."""
    hold_s: tuple[float, float] = (0.1, 20.0)
    cut_s: tuple[float, float] = (0.0, 0.0)
    """For so long, now and then, one path takes everything and gives nothing."""
    jump_s: float = 0.0
    """The clock jumps ahead by at most so much, now and then, and everything comes late."""
    phases: float = 4.5
    """How long it runs, in lives of a key."""
    pauses_s: tuple[float, float] = (2.0, 40.0)
    """Between two messages of an end."""

    @property
    def harmless(self) -> bool:
        """Nothing is lost, and nothing late."""
        return not (self.loss or self.hold or self.jump_s or self.cut_s[1])


class KeyWorld:
    """Runs one seed; `violations` are what should not have been."""

    def __init__(self, seed: int, faults: KeyFaults, kind: type[Session] = Session) -> None:
        self.seed, self.faults, self.rng = seed, faults, Random(f"atoll keys {seed}")
        self.now = 100.0
        self.violations: list[str] = []
        self.records: list[Recorded] = []
        self.sent: list[dict[bytes, float]] = [{}, {}]
        self.delivered: list[set[bytes]] = [set(), set()]
        self.calm = False
        self._dead: int | None = None
        self._agenda = Agenda()
        self._woken = [-1.0, -1.0]
        self._arrives: dict[tuple[int, int], float] = {}
        self._thief: tuple[KeyThief, Recorded | None, dict[bool, tuple[int, int]], int, float] | None = None
        self.ends: list[Any] = list(established(kind, record_bytes_max=2048, now=self.now))

    def run(self) -> "KeyWorld":
        """Live through it, calm down, and look what is left."""
        lasts_s = self.faults.phases * PHASE_S
        for via in VIAS.values():
            self.ends[0].add_path(via.rank, via.name, self.now)
        for who in (0, 1):
            self._turn(who)
            self._agenda.at(self.now + self.rng.uniform(*self.faults.pauses_s), partial(self._say, who))
        self._agenda.at(self.now + self.rng.uniform(0.1, 0.9) * lasts_s, self._steal)
        # Often just when the keys change.
        theft_s = self.rng.randrange(1, int(self.faults.phases)) * PHASE_S + self.rng.uniform(0.0, 1.0)
        self._agenda.at(self.now + theft_s, self._steal)
        if self.faults.cut_s[1]:
            self._agenda.at(self.now + self.rng.uniform(10.0, 100.0), self._cut)
        if self.faults.jump_s:
            self._agenda.at(self.now + self.rng.uniform(10.0, 500.0), self._jump)
        self._agenda.at(self.now + lasts_s, self._calm_down)
        self._until(self.now + lasts_s + CALM_S)
        if not self.violations:
            self._judge()
        return self

    # The two users

    def _say(self, who: int) -> None:
        message = b"%d:%d:" % (who, len(self.sent[who])) + self.rng.randbytes(self.rng.randrange(60))
        self.sent[who][message] = self.now
        self.ends[who].send(message)
        self._turn(who)
        self._agenda.at(self.now + self.rng.uniform(*self.faults.pauses_s), partial(self._say, who))

    def _take(self, who: int, events: list[SessionEvent]) -> None:
        for event in events:
            if isinstance(event, MessageArrived):
                said_at = self.sent[1 - who].get(event.data)
                if said_at is None or event.data in self.delivered[who]:
                    self._violated(f"end {who} got what was never said, or a second time: {event.data[:20]!r}")
                elif self.faults.harmless and self.now > said_at + WAIT_S_MAX:
                    self._violated(f"a message waited for {self.now - said_at:.2f} s")
                self.delivered[who].add(event.data)
            elif isinstance(event, Closed):
                self._violated(f"the session of end {who} ended: {event.reason}")

    # The network

    def _turn(self, who: int) -> None:
        end = self.ends[who]
        self._take(who, end.tick(self.now))
        if end.state is State.CLOSED:
            return
        sent = end.outgoing(self.now)
        epoch = end._keys.sealer.epoch
        for number, record in sent:
            self.records.append(Recorded(who == 0, epoch, record, self.now))
            for path in VIAS if number is None else (number,):
                self._send(who, path, record)
        if self._woken[who] != end.deadline:
            self._woken[who] = end.deadline
            self._agenda.at(max(end.deadline, self.now + 0.001), partial(self._wake, who, end.deadline))

    def _wake(self, who: int, at: float) -> None:
        if self._woken[who] == at:
            self._woken[who] = -1.0
            self._turn(who)

    def _send(self, who: int, path: int, record: bytes) -> None:
        faults, chance = self.faults, self.rng.random
        if self._dead == path or (not self.calm and chance() < faults.loss):
            return
        arrives = max(self._arrives.get((who, path), 0.0), self.now + DELAYS_S[path])
        if not self.calm and chance() < faults.hold:
            self._agenda.at(self.now + self.rng.uniform(*faults.hold_s), partial(self._arrive, 1 - who, path, record))
            return
        self._arrives[who, path] = arrives
        self._agenda.at(arrives, partial(self._arrive, 1 - who, path, record))
        if self.calm:
            return
        if chance() < faults.double:
            self._agenda.at(self.now + self.rng.uniform(*faults.hold_s), partial(self._arrive, 1 - who, path, record))
        if chance() < faults.alter:
            self._agenda.at(arrives, partial(self._arrive, 1 - who, path, self._altered(record)))
        if chance() < faults.swap:
            self._agenda.at(arrives, partial(self._arrive, who, path, record))

    def _altered(self, record: bytes) -> bytes:
        forged = bytearray(record)
        kind = self.rng.randrange(4)
        if kind == 0:
            forged[8] = self.rng.randrange(128)
        elif kind == 1:
            del forged[self.rng.randrange(9, len(forged)) :]
        elif kind == 2:
            forged[9:18] = bytes([self.rng.randrange(9)]) + self.rng.randbytes(8)
        else:
            forged[self.rng.randrange(8, len(forged))] ^= 1 << self.rng.randrange(8)
        return bytes(forged) if forged != record else record + b"x"

    def _arrive(self, who: int, path: int, record: bytes) -> None:
        if self.ends[who].state is not State.CLOSED:
            self._take(who, self.ends[who].receive(record, self.now, VIAS[path]))
            self._turn(who)

    def _cut(self) -> None:
        if self.calm:
            return
        self._dead = self.rng.choice(list(VIAS))
        lasts_s = self.rng.uniform(*self.faults.cut_s)
        self._agenda.at(self.now + lasts_s, self._mend)
        self._agenda.at(self.now + lasts_s + self.rng.uniform(5.0, 200.0), self._cut)

    def _mend(self) -> None:
        self._dead = None

    def _jump(self) -> None:
        if not self.calm:
            self.now += self.rng.uniform(0.0, self.faults.jump_s)
            self._agenda.at(self.now + self.rng.uniform(100.0, 900.0), self._jump)

    def _calm_down(self) -> None:
        self.calm, self._dead = True, None

    def _until(self, end: float) -> None:
        while self._agenda and self.now < end and not self.violations:
            at, act = self._agenda.next()
            self.now = max(self.now, at)
            act()

    # The thief, and the judgement

    def _steal(self) -> None:
        """Take everything of one end; the second time in place of the first, for one thief is enough for one seed."""
        if self._thief is not None and self.rng.random() < 0.5:
            return
        who = self.rng.randrange(2)
        end, mine = self.ends[who], who == 0
        end.tick(self.now)
        sealer, opener = end._keys.sealer, end._keys.opener
        reached = {mine: (sealer.epoch, sealer.phase), not mine: (opener.epoch, opener.phase)}
        under_way = end._keys.rehandshake.step in (Step.OFFERED, Step.AGREED)
        last = self.records[-1] if self.records else None
        self._thief = KeyThief.of(end), last, reached, sealer.epoch + under_way, self.now

    def _judge(self) -> None:
        caller, callee = self.ends
        until = self.now + 2 * OLD_KEY_S
        while self.now < until and not all(self._at_rest(end) for end in self.ends):
            # One more re-handshake may just be under way.
            self._until(self.now + 0.5)
        if self.violations:
            return
        if any(end._keys.opener._old is not None for end in self.ends):
            self._violated("a key of before is still there")
        epochs = {each.epoch for end in self.ends for each in (end._keys.sealer, end._keys.opener)}
        if len(epochs) > 1 or any(end._keys.rehandshake.step is not Step.RESTING for end in self.ends):
            self._violated(f"the two ends have not come to rest with the same keys: {epochs}")
        if bytes(caller._keys.rehandshake._bond.root) != bytes(callee._keys.rehandshake._bond.root):
            self._violated("the two ends have different roots")
        least = int(self.faults.phases) - 1 - bool(not self.faults.harmless)
        if min(epochs) < least:
            self._violated(f"only {min(epochs)} re-handshakes in {self.faults.phases} lives of a key")
        if self.faults.harmless:
            for who in (0, 1):
                lost = [each for each, at in self.sent[who].items() if at < self.now - WAIT_S_MAX]
                if set(lost) - self.delivered[1 - who]:
                    self._violated(f"{len(set(lost) - self.delivered[1 - who])} messages were lost, and nothing else")
        self._judge_thief()

    def _at_rest(self, end: Any) -> bool:
        return end._keys.rehandshake.step is Step.RESTING and end._keys.opener._old is None

    def _judge_thief(self) -> None:
        if self._thief is None:
            return
        thief, last, reached, epoch_max, at = self._thief
        if last is None:
            return
        kept = set(thief.ciphers)
        position = self.records.index(last)
        before = self.records[max(0, position - STOLEN_RECORDS) : position + 1]
        behind = self.records[position + 1 :]
        near = behind[:STOLEN_RECORDS] + [each for each in behind[STOLEN_RECORDS:] if each.epoch > epoch_max][:400]
        opened = thief.read(near + before)
        for each in opened:
            if each.epoch > epoch_max:
                self._violated(f"who stole at {at:.1f} s reads epoch {each.epoch}, sent at {each.sent_at:.1f} s")
                return
            older = (each.epoch, each.phase) < reached[each.by_initiator]
            if older and (each.by_initiator, each.tag) not in kept:
                self._violated(f"who stole at {at:.1f} s reads what was sealed before, at {each.sent_at:.1f} s")
                return
        soon = [each for each in behind if each.epoch == reached[each.by_initiator][0]]
        if soon and not opened:
            self._violated("the thief is no thief: he opens nothing")

    def _violated(self, what: str) -> None:
        self.violations.append(f"seed {self.seed}, {self.now:.2f} s: {what}")


def replay(world: KeyWorld) -> str:
    """Tell what was violated; the seed is in it."""
    return "; ".join(deque(world.violations, maxlen=3))

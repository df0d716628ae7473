"""Owns a durable actor in one generation: adopts its log from the stores, and puts every operation into it.

    sealing    --a majority of the stores sealed the generation-->  reading, or confirming: it has the state already
    reading    --the best log is here-->                            confirming
    confirming --a majority holds it, and the entry that begins this generation-->  serving
    any        --a store knows a higher generation, or another life of this one-->  ended, at once

Which log is adopted: the one with the highest (generation of its last entry, index) of a majority; what a majority
acknowledged is in it. The highest *sealed* generation says nothing: a store that sealed and never was written to would
win over one that has everything.

An operation is applied first and logged then, together with its reply; the caller hears of it when a majority has it on
disk. So an operation that fails is never logged, and one that is logged has had its reply fixed. The entry that begins
a generation is there because what an earlier owner wrote counts only when something of this generation lies on top of
it (Ongaro 2014, 3.6.2): a log of a generation in between would be adopted instead, later.

Up to PIPELINE_MAX operations of different clients are on their way to the stores at once; each store has up to
APPENDS_MAX messages unanswered, and what comes meanwhile goes into the next one (one fsync for all of it).

A store that lost its log is left alone until this owner's generation was committed knowing of it (`renewal`): then
nothing that the store may have sealed and forgotten can be as high, and it is filled again.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.actors.hand_over.application import Application, Applications, OperationFailed
from atoll.actors.hand_over.log import OperationLog, digest_of, parts_of
from atoll.actors.hand_over.messages import (
    CALLERS,
    LOG_STORE,
    Append,
    Appended,
    Call,
    CallAnswered,
    CallDeferred,
    CallRefused,
    Entry,
    Fenced,
    Install,
    Installed,
    LogPart,
    NotSealed,
    Position,
    ReadLog,
    Seal,
    Sealed,
    StoreFull,
)
from atoll.actors.hand_over.state import ActorState, Answers, decode_state, encode_state
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Effect, Seconds, Send, insist
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

PIPELINE_MAX = 16
"""Even the longest ones, above a log that is about to be compacted, must fit into a store: else nothing moves again."""
APPENDS_MAX = 4
RETRY_S = 0.1
"""Ten round trips of a LAN with a slow disk."""
LAGGING_RETRY_S = 1.0
"""For a store that is not needed for a majority: it is probably away."""
READ_TRIES_MAX = 5
"""Then the store is taken for gone, and what a majority of the others says decides."""
COMPACT_BYTES = 2**20
"""Entries behind the snapshot, or twice the snapshot: so compacting costs no more than logging."""
COMPACT_BYTES_MAX = 4 * 2**20
"""Half of what a store takes: there must be room for what is on its way."""
SOON_MS = 20


class Phase(enum.Enum):
    """How far an owner is."""

    SEALING = "sealing"
    READING = "reading"
    CONFIRMING = "confirming"
    SERVING = "serving"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Handed:
    """A state that came another way than by a log: from the source of a move, or from this host's own last tenure."""

    position: Position
    state: bytes


class Replica:
    """What an owner knows of one store."""

    __slots__ = (
        "before",
        "in_flight",
        "installing",
        "last",
        "matched",
        "memory",
        "node",
        "sent",
        "snapshot_at",
        "voice",
    )

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.memory: int | None = None
        """None until it has sealed this generation."""
        self.voice = False
        self.last = Position()
        self.before = 0
        self.matched = 0
        """Everything up to here is on its disk, just as the owner has it."""
        self.sent: int | None = None
        """Sent up to here; None: it needs the snapshot first."""
        self.snapshot_at = 0
        self.installing: int | None = None
        """The next part of the snapshot to send."""
        self.in_flight = 0


class DurableOwner:
    """One tenure of one durable actor."""

    replica_kind = Replica

    def __init__(
        self,
        actor: str,
        placed: Placed,
        *,
        life: int,
        make: Applications,
        kind: str = "",
        handed: Handed | None = None,
        heard: Mapping[NodeId, int] | None = None,
        compact_bytes: int = COMPACT_BYTES,
    ) -> None:
        """`heard`: the memories of stores without a voice that were known before this generation was committed."""
        self.actor = actor
        self.placed = placed
        self.life = life
        self.kind = kind
        self.phase = Phase.SEALING
        self.frozen = False
        self.why = "asks its stores"
        self.lost_to: int | None = None
        """The generation that ended this one; the same one: another life of it."""
        self.diverged = 0
        """Operations whose reply was another one when they were applied again: the actor is not deterministic."""
        self.application: Application | None = None
        self.answers = Answers()
        self.log = OperationLog()
        self.committed = 0
        self._make = make
        self._handed = handed
        self._heard = dict(heard or {})
        self._replicas = {node: self.replica_kind(node) for node in placed.stores}
        self._begun_at = 0
        self._waiting: dict[int, tuple[int, NodeId]] = {}
        """Client to the index of its operation and where it is; those that no majority has yet."""
        self._doubted: dict[int, tuple[int, Send]] = {}
        """Client to the refusal it will get, and the index that has to be confirmed first."""
        self._source: Replica | None = None
        self._read: tuple[list[bytes], list[Entry]] = ([], [])
        self._tries = 0
        self._compact_bytes = compact_bytes
        self._digest: tuple[Position, bytes] = (Position(), b"")

    @property
    def quorum(self) -> int:
        """How many stores are a majority."""
        return len(self._replicas) // 2 + 1

    @property
    def serving(self) -> bool:
        """Whether operations are taken; a frozen one takes none, but serves."""
        return self.phase is Phase.SERVING

    @property
    def settled(self) -> bool:
        """Whether nothing is in hand: everything applied is on a majority."""
        return self.phase is Phase.SERVING and self.committed == self.log.last.index

    def renewal(self) -> dict[NodeId, int]:
        """Name the stores that lost their log and can be filled again in a new generation only."""
        return {
            node: each.memory
            for node, each in self._replicas.items()
            if each.memory is not None and not each.voice and self._heard.get(node) != each.memory
        }

    def retry_after(self) -> Seconds | None:
        """Say when `retry` should be called; None while there is nothing to wait for."""
        if self.phase is Phase.ENDED:
            return None
        if self.phase is not Phase.SERVING or not self.settled:
            return RETRY_S
        end = self.log.last.index
        stores = self._replicas.values()
        behind = any(
            each.memory is None or (self._fed(each) and (each.matched < end or not each.voice)) for each in stores
        )
        return LAGGING_RETRY_S if behind or any(map(self._stale, stores)) else None

    def state(self) -> Handed:
        """Give the state as it is now; ask only when `settled`."""
        insist(self.settled, "a state that no majority has must not leave its owner")
        data = self.application.snapshot()  # type: ignore[union-attr]
        return Handed(self.log.last, encode_state(ActorState(self.kind, data, self.answers_kept())))

    def answers_kept(self) -> Any:
        """Give the table of answers for a snapshot."""
        return self.answers.snapshot()

    def end(self, why: str) -> None:
        """Stop at once."""
        self.phase, self.why = Phase.ENDED, why
        self._waiting.clear()
        self._doubted.clear()
        if self.application is not None:
            self.application.end()

    def begin(self) -> list[Effect]:
        """Seal the generation."""
        return [self._seal(each) for each in self._replicas.values()]

    def retry(self, now: Seconds) -> list[Effect]:
        """Send again what was not answered."""
        effects: list[Effect] = []
        for each in self._replicas.values():
            if each.memory is None:
                effects.append(self._seal(each))
            elif self.phase in (Phase.CONFIRMING, Phase.SERVING):
                each.in_flight = 0
                if each.sent is not None:
                    each.sent = max(each.matched, self.log.base.index)
                if self._stale(each) and each.installing is not None:
                    effects.append(self._install(each, each.installing))
                effects += self._feed(each)
        if self.phase is Phase.READING:
            effects += self._read_again(now)
        return effects

    def check(self) -> None:
        """Assert what always holds."""
        self.log.check()
        insist(self.committed <= self.log.last.index or self.phase is Phase.ENDED, "more is committed than there is")
        for each in self._replicas.values():
            insist(each.matched <= self.log.last.index or not self._begun_at, "a store has more than its owner")

    def _seal(self, replica: Replica) -> Send:
        return Send(replica.node, Seal(self.actor, self.placed.generation, self.life), LOG_STORE)

    def _fence(self, replica: Replica) -> tuple[str, int, int, int]:
        return (self.actor, self.placed.generation, self.life, replica.memory or 0)

    def _fed(self, replica: Replica) -> bool:
        """Tell whether a store is written to: one that lost its log only when the generation knows of that."""
        known = replica.voice or self._heard.get(replica.node) == replica.memory
        return replica.memory is not None and known

    def receive(self, sender: NodeId, message: Any, now: Seconds) -> list[Effect]:
        """Take what a store says."""
        replica = self._replicas.get(sender)
        ours = message.generation == self.placed.generation and message.life == self.life
        if replica is None or not ours or self.phase is Phase.ENDED:
            return []
        if isinstance(message, Fenced):
            self.lost_to = message.highest
            self.end(f"{sender.short} knows generation {message.highest}")
            return []
        if isinstance(message, Sealed):
            return self._on_sealed(replica, message, now)
        if isinstance(message, NotSealed):
            return self._on_not_sealed(replica)
        return self._on_answer(replica, message, now) if message.memory == replica.memory else []

    def _on_answer(self, replica: Replica, message: Any, now: Seconds) -> list[Effect]:
        match message:
            case LogPart():
                return self._on_part(replica, message, now)
            case Appended():
                return self._on_appended(replica, message)
            case Installed():
                return self._on_installed(replica, message)
            case StoreFull(compact=True):
                replica.snapshot_at = -1
                return [*self._compact(wanted=True), *self._feed(replica)]
        return []

    def _on_not_sealed(self, replica: Replica) -> list[Effect]:
        replica.memory, replica.voice = None, False
        if replica is self._source:
            self._begin_anew()
        return [self._seal(replica)]

    def _on_sealed(self, replica: Replica, message: Sealed, now: Seconds) -> list[Effect]:
        if replica.memory == message.memory:
            return []
        replica.memory, replica.voice, replica.last = message.memory, message.voice, message.last
        replica.before, replica.matched, replica.in_flight, replica.installing = message.before, 0, 0, None
        if self.phase is Phase.SEALING:
            return self._choose(now)
        if self.phase in (Phase.CONFIRMING, Phase.SERVING):
            self._align(replica)
            return self._feed(replica)
        return []

    def sealed_enough(self, voices: Sequence[Replica]) -> bool:
        """Tell whether these stores, whose logs can be trusted, are a majority."""
        return len(voices) >= self.quorum

    def best_of(self, voices: Sequence[Replica]) -> Replica:
        """Choose the log to adopt."""
        return max(voices, key=lambda each: each.last)

    def _choose(self, now: Seconds) -> list[Effect]:
        voices = [each for each in self._replicas.values() if each.memory is not None and each.voice]
        if not self.sealed_enough(voices):
            return []
        best = self.best_of(voices)
        if self._handed is not None and self._handed.position == best.last:
            return self._adopt(best.last, self._handed.state, [], now)
        if best.last == Position():
            return self._adopt(best.last, b"", [], now)
        self.phase, self.why = Phase.READING, f"reads the log of {best.node.short}"
        self._source, self._read, self._tries = best, ([], []), 0
        return [self._ask_part(best)]

    def _begin_anew(self) -> None:
        self.phase, self.why, self._source = Phase.SEALING, "asks its stores again", None

    def _ask_part(self, source: Replica) -> Send:
        parts, entries = self._read
        after = entries[-1].index if entries else 0
        return Send(source.node, ReadLog(*self._fence(source), len(parts), after), LOG_STORE)

    def _read_again(self, now: Seconds) -> list[Effect]:
        source = self._source
        if source is None:
            return []
        self._tries += 1
        if self._tries <= READ_TRIES_MAX:
            return [self._ask_part(source)]
        source.memory = None
        self._begin_anew()
        return [self._seal(source), *self._choose(now)]

    def _on_part(self, source: Replica, message: LogPart, now: Seconds) -> list[Effect]:
        parts, entries = self._read
        if source is not self._source or self.phase is not Phase.READING:
            return []
        if message.part < message.parts:
            if message.part != len(parts):
                return []
            parts.append(message.data)
        elif message.part == len(parts):
            index = entries[-1].index if entries else message.base.index
            if message.entries and message.entries[0].index != index + 1:
                return []
            entries += message.entries
        self._tries = 0
        end = entries[-1].index if entries else message.base.index
        if len(parts) < message.parts or end < message.last.index:
            return [self._ask_part(source)]
        return self._adopt(message.base, b"".join(parts), entries, now)

    def _adopt(self, base: Position, snapshot: bytes, entries: Sequence[Entry], now: Seconds) -> list[Effect]:
        """Make the log this actor's, and put the entry on top of it that begins the generation."""
        kinds = [entry.operation.decode(errors="replace") for entry in entries if not entry.client]
        try:
            state = decode_state(snapshot) if snapshot else ActorState(self.kind, b"", ())
        except MalformedFrame as error:
            self.end(f"its snapshot cannot be read: {error}")
            return []
        self.kind = kinds[-1] if kinds else state.kind or self.kind
        application = self._make(self.actor, self.kind)
        if application is None:
            self.end(f"no actor of the kind {self.kind} is known here")
            return []
        self.application = application
        self.answers.restore(state.answers, now)
        self.log = OperationLog(base, snapshot, entries)
        try:
            if snapshot:
                application.restore(state.data)
            for entry in entries:
                self._apply_again(application, entry, now)
        except OperationFailed as error:
            self.end(f"its log cannot be applied: {error}")
            return []
        self.phase, self.why, self._source = Phase.CONFIRMING, "has its stores confirm the log", None
        for each in self._replicas.values():
            self._align(each)
        self.begin_generation()
        return self._feed_all()

    def begin_generation(self) -> None:
        """Put the entry on top of the log that begins this generation."""
        self._begun_at = self.log.last.index + 1
        self.log.add(Entry(self.placed.generation, self._begun_at, operation=self.kind.encode()))

    def _apply_again(self, application: Application, entry: Entry, now: Seconds) -> None:
        if entry.client:
            if application.apply(entry.operation, entry.index) != entry.reply:
                self.diverged += 1
            self.answers.note(entry, now)

    def _align(self, replica: Replica) -> None:
        """Find where a store's log leaves ours."""
        replica.snapshot_at = self.log.base.index
        if self.log.has(replica.last):
            replica.matched = replica.sent = replica.last.index
        else:
            replica.sent = self.log.base.index

    def _feed_all(self) -> list[Effect]:
        return [effect for each in self._replicas.values() for effect in self._feed(each)]

    def _stale(self, replica: Replica) -> bool:
        """Tell whether a store should be sent the snapshot."""
        base = self.log.base.index
        return base > 0 and self._fed(replica) and (replica.sent is None or replica.snapshot_at < base)

    def _feed(self, replica: Replica) -> list[Effect]:
        """Send a store what it lacks, as far as it may be sent."""
        if not self._fed(replica):
            return []
        effects: list[Effect] = []
        log = self.log
        if self._stale(replica) and replica.installing is None:
            replica.installing = 0
            effects.append(self._install(replica, 0))
        whole = not replica.voice
        while replica.sent is not None and replica.in_flight < APPENDS_MAX and (replica.sent < log.last.index or whole):
            entries = log.behind(replica.sent)
            after = log.position_at(replica.sent)
            replica.sent = entries[-1].index if entries else replica.sent
            replica.in_flight += 1
            whole = whole and replica.sent == log.last.index
            message = Append(*self._fence(replica), after, entries, whole)
            effects.append(Send(replica.node, message, LOG_STORE))
            if whole:
                break
        return effects

    def _install(self, replica: Replica, part: int) -> Send:
        log = self.log
        if self._digest[0] != log.base:
            self._digest = (log.base, digest_of(log.snapshot))
        parts = parts_of(log.snapshot)
        part = min(part, len(parts) - 1)
        message = Install(*self._fence(replica), log.base, self._digest[1], part, len(parts), parts[part])
        return Send(replica.node, message, LOG_STORE)

    def _on_installed(self, replica: Replica, message: Installed) -> list[Effect]:
        base = self.log.base
        if message.base != base or not self._stale(replica):
            return []
        if message.parts < len(parts_of(self.log.snapshot)):
            if message.parts == replica.installing:
                return []
            replica.installing = message.parts
            return [self._install(replica, message.parts)]
        replica.installing, replica.snapshot_at = None, base.index
        if replica.sent is None:
            replica.sent = base.index
        replica.matched = max(replica.matched, base.index)
        return [*self._feed(replica), *self._commit()]

    def _on_appended(self, replica: Replica, message: Appended) -> list[Effect]:
        if self.phase not in (Phase.CONFIRMING, Phase.SERVING):
            return []
        replica.in_flight = max(0, replica.in_flight - 1)
        replica.voice = replica.voice or message.voice
        if message.missing and message.last.index < replica.matched:
            return []  # Late, or from a disk that lies; the timer asks again.
        if not message.missing:
            replica.matched = max(replica.matched, message.index)
        elif self.log.has(message.last):
            replica.matched = max(replica.matched, message.last.index)
            replica.sent = replica.matched
        elif replica.sent is not None:
            replica.sent = None if self.log.base.index else 0
        return [*self._commit(), *self._feed(replica)]

    def majority_has(self) -> int:
        """Give the index up to which a majority has the log on disk."""
        matched = sorted((each.matched for each in self._replicas.values() if each.voice), reverse=True)
        return matched[self.quorum - 1] if len(matched) >= self.quorum else 0

    def _commit(self) -> list[Effect]:
        if self.phase not in (Phase.CONFIRMING, Phase.SERVING):
            return []
        committed = self.majority_has()
        if committed < self._begun_at or committed <= self.committed:
            return []
        self.committed = committed
        self.phase, self.why = Phase.SERVING, "a majority of its stores has everything"
        effects: list[Effect] = []
        for client, (index, node) in tuple(self._waiting.items()):
            if index <= committed:
                del self._waiting[client]
                effects.append(self._answer(client, node))
        for client, (index, refusal) in tuple(self._doubted.items()):
            if index <= committed:
                del self._doubted[client]
                effects.append(refusal)
        return effects + self._compact()

    def _answer(self, client: int, node: NodeId) -> Send:
        known = self.answers.table[client]
        return Send(
            node, CallAnswered(self.actor, client, known.sequence, known.reply, self.placed.generation), CALLERS
        )

    def _defer(self, sender: NodeId, call: Call, why: str, after_ms: int = SOON_MS) -> list[Effect]:
        return [Send(sender, CallDeferred(self.actor, call.client, call.sequence, after_ms, why), CALLERS)]

    def call(self, sender: NodeId, call: Call, now: Seconds) -> list[Effect]:
        """Take an operation: apply it once, log it, answer when a majority has it."""
        if self.phase is not Phase.SERVING:
            return self._defer(sender, call, self.why)
        if (repeated := self.repeated(sender, call)) is not None:
            return repeated
        forgets = self.answers.room_for(call.client, now)
        if forgets is None:
            return self._defer(sender, call, "too many clients at once", 1000)
        if self.frozen:
            return self._defer(sender, call, "it is about to move")
        full = len(self._waiting) >= PIPELINE_MAX
        if full or self._compaction_due():
            return self._defer(sender, call, "its stores are behind")
        return self._log(sender, call, forgets, now)

    def repeated(self, sender: NodeId, call: Call) -> list[Effect] | None:
        """Answer what was answered before; None for a new operation."""
        known = self.answers.known(call.client)
        newest = known.sequence if known else 0
        if call.sequence == newest + 1:
            return None
        if call.sequence > newest:
            return self._doubt(
                sender, call, f"{call.sequence} does not follow {newest}, the newest known of this client"
            )
        if call.sequence < newest:
            why = f"{call.sequence} is over: {newest} has come from this client"
            return [Send(sender, CallRefused(self.actor, call.client, call.sequence, why), CALLERS)]
        if call.client in self._waiting:
            self._waiting[call.client] = (self._waiting[call.client][0], sender)
            return []
        return [self._answer(call.client, sender)]

    def _doubt(self, sender: NodeId, call: Call, why: str) -> list[Effect]:
        """Refuse an operation once a majority confirms that this owner knows the newest: it may have been replaced."""
        if self.frozen or call.client in self._doubted or len(self._doubted) >= PIPELINE_MAX:
            return self._defer(sender, call, "it is about to move" if self.frozen else "too much at once")
        refusal = Send(sender, CallRefused(self.actor, call.client, call.sequence, why), CALLERS)
        self._doubted[call.client] = (self.log.last.index + 1, refusal)
        self.log.add(Entry(self.placed.generation, self.log.last.index + 1, operation=self.kind.encode()))
        return [*self._feed_all(), *self._commit()]

    def _log(self, sender: NodeId, call: Call, forgets: int, now: Seconds) -> list[Effect]:
        index = self.log.last.index + 1
        insist(self.application is not None, "an owner that serves has an application")
        try:
            reply = self.application.apply(call.operation, index)  # type: ignore[union-attr]
        except OperationFailed as error:
            # What it left behind is not known: the state is built again from the log, in a new generation.
            self.lost_to = self.placed.generation
            self.end(f"an operation failed: {error}")
            why = f"the operation failed and was not applied: {error}"[:300]
            return [Send(sender, CallRefused(self.actor, call.client, call.sequence, why), CALLERS)]
        insist(reply is not None, "a durable actor replies at once")
        entry = Entry(self.placed.generation, index, call.client, call.sequence, call.operation, reply or b"", forgets)
        self.log.add(entry)
        self.answers.note(entry, now)
        self._waiting[call.client] = (index, sender)
        return [*self._feed_all(), *self._commit()]

    def _compaction_due(self) -> bool:
        limit = min(max(self._compact_bytes, 2 * len(self.log.snapshot)), COMPACT_BYTES_MAX)
        return self.log.entry_bytes > limit

    def _compact(self, *, wanted: bool = False) -> list[Effect]:
        """Put a snapshot in the place of the entries, and send it to the stores.

        Once all of them are acknowledged: so a snapshot holds nothing that another owner may not have, and a store
        that is given an older one can tell that it is late.
        """
        if not self.settled or not (wanted or self._compaction_due()):
            return []
        handed = self.state()
        self.log.compact(handed.position, handed.state)
        for each in self._replicas.values():
            each.installing = None
            if each.sent is not None and each.sent < self.log.base.index:
                each.sent = None
        return self._feed_all()

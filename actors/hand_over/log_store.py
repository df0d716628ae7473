"""Keeps the operation logs of durable actors: the resource that checks the fence.

    unknown  --Seal-->  keeps a log: a voice, if it is founded with that; otherwise none yet
    a voice  --its log is found damaged-->  no voice, empty, with a new memory
    no voice --Append that makes it whole, from an owner that knows this memory-->  a voice
    any      --its actor was removed-->  unknown
    any      --its actor is kept elsewhere, and whole there-->  no voice, empty, with a new memory

What a store promises: it takes nothing of a generation lower than the highest it sealed, and nothing of another life in
that one; it answers only when what it says is on disk; it forgets nothing it said, or says that it did (`voice`), and
then counts for nobody until an owner has replicated everything to it again. Without the last rule, two stores of three
could adopt an empty log.

It never compares operations and never applies one.

Source: Raft (Ongaro, 2014, chapters 3 and 5) for logs; the fence as in Gray and Cheriton's write-through leases.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from atoll.actors.hand_over.log import OperationLog, digest_of, parts_of, size_of
from atoll.actors.hand_over.messages import (
    HOSTING,
    LOG_STORE,
    STORE_RECORDS,
    Append,
    Appended,
    EntriesKept,
    Entry,
    Fenced,
    Forget,
    FoundingsOver,
    GenerationSealed,
    Install,
    Installed,
    LogBegun,
    LogDoubted,
    LogLost,
    LogPart,
    NotSealed,
    Position,
    ReadLog,
    Seal,
    Sealed,
    SnapshotPart,
    StoreFull,
)
from atoll.actors.hand_over.retention import Retention
from atoll.actors.placement.messages import Placed, PlaceFound
from atoll.actors.runtime.machine import (
    Effect,
    Input,
    Persist,
    Received,
    Record,
    Rewrite,
    Seconds,
    Send,
    TimerFired,
    insist,
)
from atoll.transport.identity import NodeId

ACTORS_MAX = 1024
LOG_BYTES_MAX = 8 * 2**20
"""Entries of one actor behind its snapshot; beyond, the owner has to compact. Read whole when the actor moves."""
STORE_BYTES_MAX = 512 * 2**20
"""Everything; it is kept in memory, too."""
NONCE_MAX = 2**52


class KeptLog:
    """One actor's log in this store, and who may write it."""

    __slots__ = ("actor", "generation", "incoming", "kind", "life", "log", "memory", "voice")

    def __init__(self, actor: str, memory: int, *, voice: bool, kind: str = "") -> None:
        self.actor = actor
        self.memory = memory
        self.voice = voice
        self.kind = kind
        self.generation = 0
        self.life = 0
        self.log = OperationLog()
        self.incoming: tuple[Position, bytes, list[bytes]] | None = None
        """A snapshot whose parts arrive: where it stands, its digest, what is here."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is in it, and nobody counts it."""
        return not self.voice and self.log.last == Position()

    def records(self) -> tuple[Record, ...]:
        """Give what restores it."""
        log, parts = self.log, parts_of(self.log.snapshot)
        found: list[Record] = [
            LogBegun(self.actor, self.memory, self.voice, self.kind),
            GenerationSealed(self.actor, self.generation, self.life),
        ]
        if log.base.index:
            found += [SnapshotPart(self.actor, log.base, number, len(parts), part) for number, part in enumerate(parts)]
        index = log.base.index
        while entries := log.behind(index):
            found.append(EntriesKept(self.actor, index, entries))
            index = entries[-1].index
        return tuple(found)


class LogStore:
    """The log store machine of one node; the module tells its rules."""

    def __init__(
        self,
        *,
        rng: Random,
        own: NodeId | None = None,
        placement: NodeId | None = None,
        log_bytes_max: int = LOG_BYTES_MAX,
        store_bytes_max: int = STORE_BYTES_MAX,
        actors_max: int = ACTORS_MAX,
    ) -> None:
        """`own`: this node, which then asks what it need not keep; `placement`: where, by default its own actor."""
        self._rng = rng
        self.retention = None if own is None else Retention(own, placement)
        self.generation_floor = 0
        """The highest generation of an actor that was removed: nobody founds one with it, or a lower one, any more."""
        self.dropped = 0
        """Logs that were of no use any more."""
        self._log_bytes_max = log_bytes_max
        self._store_bytes_max = store_bytes_max
        self._actors_max = actors_max
        self.logs: dict[str, KeptLog] = {}
        self.forgetful = False
        """Something was lost, and it is not known of which actor."""
        self.size_bytes = 0
        self.fenced = 0
        """Messages refused because their generation is over."""
        self.ignored = 0
        self._parts: dict[str, tuple[Position, list[bytes]]] = {}
        self._takes: dict[type, Any] = {
            Seal: self._on_seal,
            ReadLog: self._on_read,
            Append: self._on_append,
            Install: self._on_install,
        }

    def start(self, restored: Sequence[Record], _now: Seconds) -> list[Effect]:
        lost: dict[str, None] = {}
        for record in restored:
            if isinstance(record, LogLost):
                lost.update(dict.fromkeys([record.actor] if record.actor else self.logs))
                self.forgetful = self.forgetful or not record.actor
            elif isinstance(record, FoundingsOver):
                self.generation_floor = record.generation
            elif isinstance(record, LogBegun):
                lost.pop(record.actor, None)
                self._restore(record)
            else:
                self._restore(record)
        effects: list[Effect] = []
        for actor in lost:
            effects += self._begin_again(actor)
        self._parts.clear()
        self.size_bytes = sum(kept.log.size_bytes for kept in self.logs.values())
        return [*effects, *self.retention.begin()] if self.retention is not None else effects

    def _begin_again(self, actor: str) -> list[Effect]:
        """Begin a log that was lost: empty, with a new memory, and without a voice."""
        kept = self.logs[actor] = KeptLog(actor, self._nonce(), voice=False)
        return [Rewrite(actor, STORE_RECORDS, kept.records())]

    def _nonce(self) -> int:
        return self._rng.randrange(1, NONCE_MAX)

    def _restore(self, record: Record) -> None:
        if isinstance(record, LogBegun):
            self.logs[record.actor] = KeptLog(record.actor, record.memory, voice=record.voice, kind=record.kind)
            return
        kept = self.logs.get(record.actor)  # type: ignore[attr-defined]
        if kept is None:
            return
        if isinstance(record, GenerationSealed):
            kept.generation, kept.life = record.generation, record.life
        elif isinstance(record, EntriesKept):
            kept.log.cut(record.after)
            for entry in record.entries:
                kept.log.add(entry)
            kept.voice = kept.voice or record.whole
        elif isinstance(record, SnapshotPart):
            base, parts = self._parts.get(record.actor, (record.base, []))
            parts = parts if base == record.base and record.part else []
            parts.append(record.data)
            self._parts[record.actor] = (record.base, parts)
            if len(parts) == record.parts:
                kept.log = OperationLog(record.base, b"".join(parts))

    def handle(self, event: Input, _now: Seconds) -> list[Effect]:
        if self.retention is not None and (about_keeping := self._on_retention(self.retention, event)) is not None:
            return about_keeping
        if not isinstance(event, Received) or (take := self._takes.get(type(event.message))) is None:
            self.ignored += 1
            return []
        message: Any = event.message
        sender = event.sender
        kept = self.logs.get(message.actor)
        if type(message) is not Seal:
            answer = NotSealed(message.actor, message.generation, message.life)
            if kept is None:
                return [self._to(sender, answer)]
            if refusal := self.refusal(kept, message):
                self.fenced += 1
                return [self._to(sender, refusal)]
            if not self.in_force(kept, message):
                return [self._to(sender, answer)]
        return take(sender, kept, message)  # type: ignore[no-any-return]

    def check(self) -> None:
        insist(self.size_bytes == sum(kept.log.size_bytes for kept in self.logs.values()), "sizes do not add up")
        for kept in self.logs.values():
            kept.log.check()
            insist(kept.log.last.generation <= kept.generation, "an entry of a generation that was never sealed")

    def refusal(self, kept: KeptLog, message: Any) -> Fenced | None:
        """Check the fence: refuse lower generations, and another life of the highest."""
        over = message.generation < kept.generation
        if over or (message.generation == kept.generation and message.life != kept.life):
            return Fenced(message.actor, message.generation, message.life, kept.generation)
        return None

    def in_force(self, kept: KeptLog, message: Any) -> bool:
        """Tell whether the message is of the sealed generation, and meant for this log and no earlier one."""
        return bool(message.generation == kept.generation and message.memory == kept.memory)

    def durably(self, records: Sequence[Record], *effects: Effect) -> list[Effect]:
        """Put on disk what the effects say, before they say it."""
        return [*map(Persist, records), *effects]

    def _to(self, node: NodeId, message: Any) -> Send:
        return Send(node, message, HOSTING)

    def _on_seal(self, sender: NodeId, kept: KeptLog | None, message: Seal) -> list[Effect]:
        records: list[Record] = []
        if kept is None:
            if len(self.logs) >= self._actors_max:
                why = f"this store keeps the logs of {self._actors_max} actors already"
                full = StoreFull(message.actor, message.generation, message.life, 0, compact=False, why=why)
                return [self._to(sender, full)]
            voice = self.founds(message)
            kept = self.logs[message.actor] = KeptLog(message.actor, self._nonce(), voice=voice, kind=message.kind)
            records.append(LogBegun(kept.actor, kept.memory, kept.voice, kept.kind))
        if refusal := self.refusal(kept, message):
            self.fenced += 1
            return [self._to(sender, refusal)]
        before = kept.generation
        if self.founds(message) and 0 < kept.generation < message.generation:
            # Of an actor of that name that was removed: all its generations were lower.
            self.size_bytes -= kept.log.size_bytes
            kept = self.logs[message.actor] = KeptLog(message.actor, self._nonce(), voice=True, kind=message.kind)
            kept.generation, kept.life = message.generation, message.life
            sealed = self._sealed(kept, before)
            return [Rewrite(kept.actor, STORE_RECORDS, kept.records()), self._to(sender, sealed)]
        if message.generation > kept.generation:
            kept.generation, kept.life, kept.incoming = message.generation, message.life, None
            records.append(GenerationSealed(kept.actor, kept.generation, kept.life))
        return self.durably(records, self._to(sender, self._sealed(kept, before)))

    def _sealed(self, kept: KeptLog, before: int) -> Sealed:
        voice = self.is_voice(kept)
        return Sealed(kept.actor, kept.generation, kept.life, kept.memory, voice, kept.log.last, before, kept.kind)

    def founds(self, message: Seal) -> bool:
        """Tell whether a log that begins now is whole: nothing can have been acknowledged before it was founded."""
        return message.founds and not self.forgetful and message.generation > self.generation_floor

    def is_voice(self, kept: KeptLog) -> bool:
        """Tell whether the end of this log proves anything."""
        return kept.voice

    def _on_read(self, sender: NodeId, kept: KeptLog, message: ReadLog) -> list[Effect]:
        log = kept.log
        parts = parts_of(log.snapshot) if log.base.index else []
        fence = (kept.actor, message.generation, message.life, kept.memory)
        if message.part < len(parts):
            part = LogPart(*fence, log.base, log.last, message.part, len(parts), parts[message.part])
        else:
            entries = log.behind(max(message.after, log.base.index))
            part = LogPart(*fence, log.base, log.last, len(parts), len(parts), b"", entries)
        return [self._to(sender, part)]

    def _on_append(self, sender: NodeId, kept: KeptLog, message: Append) -> list[Effect]:
        log, fence = kept.log, (kept.actor, kept.generation, kept.life, kept.memory)
        end = message.entries[-1].index if message.entries else message.after.index
        if not self.follows(log, message.after):
            return [self._to(sender, Appended(*fence, log.base.index, kept.voice, missing=True, last=log.last))]
        if not _in_order(message):
            self.ignored += 1
            return []
        fresh = log.fresh(message.entries)
        whole = message.whole and not kept.voice
        records: list[Record] = []
        if fresh or whole:
            before = log.size_bytes
            after = fresh[0].index - 1 if fresh else log.last.index
            room = self._room(kept, fresh)
            if room is not None:
                return [self._to(sender, StoreFull(*fence, compact=room[0], why=room[1]))]
            log.cut(after)
            for entry in fresh:
                log.add(entry)
            self.size_bytes += log.size_bytes - before
            kept.voice = kept.voice or message.whole
            records.append(EntriesKept(kept.actor, after, tuple(fresh), message.whole))
        return self.durably(records, self._to(sender, Appended(*fence, end, kept.voice, last=log.last)))

    def follows(self, log: OperationLog, after: Position) -> bool:
        """Tell whether the log has what the new entries are to follow; below its snapshot it has everything."""
        return after.index < log.base.index or log.has(after)

    def _room(self, kept: KeptLog, fresh: Sequence[Entry]) -> tuple[bool, str] | None:
        """Say why there is no room for new operations.

        What begins a generation always fits, and so does what an earlier one left in another store: until a majority
        has both, nobody can compact.
        """
        added = sum(size_of(entry) for entry in fresh if entry.client and entry.generation == kept.generation)
        if not added:
            return None
        if kept.log.entry_bytes + added > self._log_bytes_max:
            return True, f"the log of {kept.actor} would be longer than {self._log_bytes_max} bytes: compact it"
        if self.size_bytes + added > self._store_bytes_max:
            return False, f"this store holds {self._store_bytes_max} bytes already"
        return None

    def _on_install(self, sender: NodeId, kept: KeptLog, message: Install) -> list[Effect]:
        fence = (kept.actor, message.generation, message.life, kept.memory)
        if self.size_bytes + len(message.data) > self._store_bytes_max:
            why = f"this store holds {self._store_bytes_max} bytes already"
            return [self._to(sender, StoreFull(*fence, compact=False, why=why))]
        if message.base.index <= kept.log.base.index:
            # A snapshot holds only what was acknowledged, so every owner has it: this one came late.
            return [self._to(sender, Installed(*fence, message.base, message.parts))]
        incoming = kept.incoming
        if incoming is None or incoming[:2] != (message.base, message.digest):
            incoming = kept.incoming = (message.base, message.digest, [])
        parts = incoming[2]
        if message.part == len(parts) < message.parts:
            parts.append(message.data)
        if len(parts) < message.parts:
            return [self._to(sender, Installed(*fence, message.base, len(parts)))]
        kept.incoming = None
        state = b"".join(parts)
        if digest_of(state) != message.digest:
            self.ignored += 1
            return [self._to(sender, Installed(*fence, message.base, 0))]
        self.size_bytes -= kept.log.size_bytes
        self.compact(kept.log, message.base, state)
        self.size_bytes += kept.log.size_bytes
        rewrite = Rewrite(kept.actor, STORE_RECORDS, kept.records())
        return [rewrite, self._to(sender, Installed(*fence, message.base, message.parts))]

    # What need not be kept

    def _on_retention(self, retention: Retention, event: Input) -> list[Effect] | None:
        """Take what is about keeping a log at all; None where it is not."""
        if isinstance(event, TimerFired):
            return retention.look(sorted(self.logs))
        if isinstance(event, Received):
            match event.message:
                case LogDoubted(actor):
                    return retention.doubt(actor) if actor in self.logs else []
                case PlaceFound() as found:
                    return self._on_place(retention, found)
                case Forget() as forget:
                    placed = retention.permitted(event.sender, forget)
                    kept = self.logs.get(forget.actor)
                    return self._empty(kept, placed) if kept is not None and placed is not None else []
        return None

    def _on_place(self, retention: Retention, found: PlaceFound) -> list[Effect]:
        effects = retention.heard(found.actor, found.supernode, certain=not found.why)
        kept, placed = self.logs.get(found.actor), found.placed
        if found.why or kept is None:
            return effects
        if placed is None:
            return [*effects, *self._drop(kept, found.first)] if self.is_removed(kept, found.first) else effects
        if retention.own in placed.stores or not self.is_elsewhere(kept, placed) or kept.is_empty:
            return effects
        return [*effects, *retention.ask_host(kept.actor, placed)]

    def is_removed(self, kept: KeptLog, first: int) -> bool:
        """Tell whether the log is of an actor that was removed, and of none that is being founded."""
        return kept.generation < first

    def is_elsewhere(self, kept: KeptLog, placed: Placed) -> bool:
        """Tell whether no owner of that generation, or a later one, has sealed this log."""
        return kept.generation < placed.generation

    def _drop(self, kept: KeptLog, first: int) -> list[Effect]:
        """Forget the log of an actor that was removed; in this order, for a crash in between."""
        effects: list[Effect] = []
        if first - 1 > self.generation_floor:
            self.generation_floor = first - 1
            effects.append(Rewrite("", STORE_RECORDS, (FoundingsOver("", self.generation_floor),)))
        del self.logs[kept.actor]
        self.size_bytes -= kept.log.size_bytes
        self.dropped += 1
        return [*effects, Rewrite(kept.actor, STORE_RECORDS, ())]

    def _empty(self, kept: KeptLog, placed: Placed) -> list[Effect]:
        """Forget what is in the log of an actor that is kept elsewhere, and no fence."""
        if not self.is_elsewhere(kept, placed):
            return []
        self.size_bytes -= kept.log.size_bytes
        self.dropped += 1
        fresh = self.logs[kept.actor] = KeptLog(kept.actor, self._nonce(), voice=False)
        # No owner has this life, so none of this generation or a lower one is heard any more.
        fresh.generation = placed.generation - 1
        return [Rewrite(kept.actor, STORE_RECORDS, fresh.records())]

    def compact(self, log: OperationLog, base: Position, state: bytes) -> None:
        """Put the snapshot in the place of what it covers; later entries stay."""
        log.compact(base, state)


def _in_order(message: Append) -> bool:
    """Tell whether the entries follow each other, in generations that have begun."""
    before = message.after
    for entry in message.entries:
        if entry.index != before.index + 1 or not before.generation <= entry.generation <= message.generation:
            return False
        before = Position(entry.generation, entry.index)
    return True


__all__ = ["LOG_STORE", "KeptLog", "LogStore"]

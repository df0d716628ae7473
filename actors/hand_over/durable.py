"""Owns a durable actor in one generation: adopts its log from the stores, and puts every operation into it.

    sealing    --enough of the stores sealed the generation-->      reading, or confirming: it has the state already
    reading    --the best log is here-->                            confirming
    confirming --a majority holds it, and the entry that begins this generation-->  serving
    any        --a store knows a higher generation, or another life of this one-->  ended, at once

Which log is adopted: the one with the highest (generation of its last entry, index) of stores that have a part in every
majority; what a majority acknowledged is in it. The highest *sealed* generation says nothing: a store that sealed and
never was written to would win over one that has everything. A majority has to have sealed all the same, for each store
takes one life in a generation: two lives that wrote over different logs would make different ones that look alike.

An operation is applied first and logged then, together with its reply; the caller hears of it when a majority has it on
disk. So an operation that fails is never logged, and one that is logged has had its reply fixed. The entry that begins
a generation is there because what an earlier owner wrote counts only when something of this generation lies on top of
it (Ongaro 2014, 3.6.2): a log of a generation in between would be adopted instead, later.

Up to PIPELINE_MAX operations of different clients are on their way to the stores at once; `replication.py` brings them
there.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from atoll.actors.hand_over.application import Application, Applications, OperationFailed
from atoll.actors.hand_over.log import OperationLog
from atoll.actors.hand_over.messages import (
    CALLERS,
    LOG_STORE,
    Appended,
    Call,
    CallAnswered,
    CallDeferred,
    CallRefused,
    Entry,
    Fenced,
    Installed,
    LogPart,
    NotSealed,
    Position,
    ReadLog,
    Sealed,
    StoreFull,
)
from atoll.actors.hand_over.reading import Reading
from atoll.actors.hand_over.replication import Replica, Replication
from atoll.actors.hand_over.state import ActorState, Answers, decode_state, encode_state, stranger
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Effect, Seconds, Send, insist
from atoll.transport.errors import MalformedFrame
from atoll.transport.identity import NodeId

PIPELINE_MAX = 16
"""Even the longest ones, above a log that is about to be compacted, must fit into a store: else nothing moves again."""
RETRY_S = 0.1
"""Ten round trips of a LAN with a slow disk."""
LAGGING_RETRY_S = 1.0
"""For a store that is not needed for a majority: it is probably away."""
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


class Handed(msgspec.Struct, frozen=True):
    """A state that came another way than by a log: from the source of a move, or from this host's own last tenure."""

    position: Position
    state: bytes


class DurableOwner:
    """One tenure of one durable actor."""

    replication_kind = Replication

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
        self.committed = 0
        self.began = 0
        """In which generation the actor began empty."""
        self.stores = self.replication_kind(actor, placed, life, heard or {})
        self._make = make
        self._handed = handed
        self._begun_at = 0
        self._waiting: dict[int, tuple[int, NodeId]] = {}
        """Client to the index of its operation and where it is; those that no majority has yet."""
        self._doubted: dict[int, tuple[int, Send]] = {}
        """Client to the refusal it will get, and the index that has to be confirmed first."""
        self._reading: Reading | None = None
        self._compact_bytes = compact_bytes

    @property
    def log(self) -> OperationLog:
        """The log that the stores are to have."""
        return self.stores.log

    @property
    def serving(self) -> bool:
        """Whether operations are taken; a frozen one takes none, but serves."""
        return self.phase is Phase.SERVING

    @property
    def settled(self) -> bool:
        """Whether nothing is in hand: everything applied is on a majority."""
        return self.phase is Phase.SERVING and self.committed == self.log.last.index

    @property
    def whole(self) -> bool:
        """Whether every store has everything that was acknowledged: no copy elsewhere is of any use."""
        return self.serving and not self.behind

    @property
    def behind(self) -> tuple[NodeId, ...]:
        """Name the stores that are not known to have all that was acknowledged: this actor needs the others."""
        return self.stores.lacking(self.committed)

    def renewal(self) -> dict[NodeId, int]:
        """Name the stores that lost their log and can be filled again in a new generation only."""
        return self.stores.renewal()

    @property
    def stuck(self) -> bool:
        """Whether it cannot serve before stores that lost their log are filled again."""
        waits = self.phase in (Phase.SEALING, Phase.CONFIRMING)
        return waits and self.stores.reads <= len(self.stores.voices()) < self.stores.quorum

    def fits(self, stores: Iterable[NodeId]) -> bool:
        """Tell whether these may keep the log from the next generation on; nothing may be acknowledged after that."""
        if self.phase in (Phase.CONFIRMING, Phase.SERVING):
            index = max(self._begun_at, self.committed)
            return self.stores.fit(stores, lambda each: each.matched >= index)
        voices = self.stores.voices()
        if self.phase is not Phase.SEALING or len(voices) < self.stores.reads:
            return False
        best = self.best_of(voices).last
        return self.stores.fit(stores, lambda each: each.last == best)

    def retry_after(self) -> Seconds | None:
        """Say when `retry` should be called; None while there is nothing to wait for."""
        if self.phase is Phase.ENDED:
            return None
        if self.phase is not Phase.SERVING or not self.settled:
            return RETRY_S
        return LAGGING_RETRY_S if self.stores.lags() else None

    def state(self) -> Handed:
        """Give the state as it is now; ask only when `settled`."""
        insist(self.settled, "a state that no majority has must not leave its owner")
        data = self.application.snapshot()  # type: ignore[union-attr]
        return Handed(self.log.last, encode_state(ActorState(self.kind, data, self.answers_kept(), self.began)))

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
        return self.stores.seal_all()

    def retry(self, now: Seconds) -> list[Effect]:
        """Send again what was not answered."""
        effects: list[Effect] = []
        for each in self.stores.everyone():
            if each.memory is None:
                effects.append(self.stores.seal(each))
            elif self.phase in (Phase.CONFIRMING, Phase.SERVING):
                effects += self.stores.again(each)
        if self.phase is Phase.READING:
            effects += self._read_again(now)
        return effects

    def check(self) -> None:
        """Assert what always holds."""
        self.stores.check()
        insist(self.committed <= self.log.last.index or self.phase is Phase.ENDED, "more is committed than there is")
        if self._begun_at:
            self.stores.insist_no_store_has_more()

    def receive(self, sender: NodeId, message: Any, now: Seconds) -> list[Effect]:
        """Take what a store says."""
        replica = self.stores.find(sender)
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
                return [*self._compact(wanted=True), *self.stores.feed(replica)]
        return []

    def _on_not_sealed(self, replica: Replica) -> list[Effect]:
        replica.memory, replica.voice = None, False
        if self._reading is not None and replica is self._reading.source:
            self._begin_anew()
        return [self.stores.seal(replica)]

    def _on_sealed(self, replica: Replica, message: Sealed, now: Seconds) -> list[Effect]:
        if replica.memory == message.memory:
            return []
        replica.note(message)
        self.kind = self.kind or message.kind
        if self._reading is not None and replica is self._reading.source:
            # It lost what was chosen; what it has now would be read as if it were that.
            self._begin_anew()
        if self.phase is Phase.SEALING:
            return self._choose(now)
        if self.phase in (Phase.CONFIRMING, Phase.SERVING):
            self.stores.align(replica)
            return self.stores.feed(replica)
        return []

    def sealed_enough(self, voices: Sequence[Replica]) -> bool:
        """Tell whether these stores, whose logs can be trusted, have a part in every majority, and one is sealed."""
        return len(voices) >= self.stores.reads and len(voices) + self.stores.refilled() >= self.stores.quorum

    def best_of(self, voices: Sequence[Replica]) -> Replica:
        """Choose the log to adopt."""
        return max(voices, key=lambda each: each.last)

    def _choose(self, now: Seconds) -> list[Effect]:
        voices = self.stores.voices()
        if not self.sealed_enough(voices):
            return []
        best = self.best_of(voices)
        if self._handed is not None and self._handed.position == best.last:
            return self._adopt(best.last, self._handed.state, [], now)
        if best.last == Position():
            return self._adopt(best.last, b"", [], now)
        self.phase, self.why = Phase.READING, f"reads the log of {best.node.short}"
        self._reading = Reading(best)
        return [self._ask_part(self._reading)]

    def _begin_anew(self) -> None:
        self.phase, self.why, self._reading = Phase.SEALING, "asks its stores again", None

    def _ask_part(self, reading: Reading) -> Send:
        source = reading.source
        return Send(source.node, ReadLog(*self.stores.fence(source), *reading.next), LOG_STORE)

    def _read_again(self, now: Seconds) -> list[Effect]:
        reading = self._reading
        if reading is None:
            return []
        if not reading.given_up():
            return [self._ask_part(reading)]
        reading.source.memory = None
        self._begin_anew()
        return [self.stores.seal(reading.source), *self._choose(now)]

    def _on_part(self, source: Replica, message: LogPart, now: Seconds) -> list[Effect]:
        reading = self._reading
        if reading is None or source is not reading.source or not reading.take(message):
            return []
        if not reading.whole_with(message):
            return [self._ask_part(reading)]
        return self._adopt(message.base, reading.snapshot, reading.entries, now)

    def _adopt(self, base: Position, snapshot: bytes, entries: Sequence[Entry], now: Seconds) -> list[Effect]:
        """Make the log this actor's, and put the entry on top of it that begins the generation."""
        kinds = [entry.operation.decode(errors="replace") for entry in entries if not entry.client]
        try:
            state = decode_state(snapshot) if snapshot else ActorState(self.kind, b"", ())
        except MalformedFrame as error:
            self.end(f"its snapshot cannot be read: {error}")
            return []
        self.kind = kinds[-1] if kinds else state.kind or self.kind
        self.began = state.began if snapshot else entries[0].generation if entries else self.placed.generation
        application = self._make(self.actor, self.kind)
        if application is None:
            self.end(f"no actor of the kind {self.kind} is known here")
            return []
        self.application = application
        self.answers.restore(state.answers, now)
        self.stores.log = OperationLog(base, snapshot, entries)
        try:
            if snapshot:
                application.restore(state.data)
            for entry in entries:
                self._apply_again(application, entry, now)
        except OperationFailed as error:
            self.end(f"its log cannot be applied: {error}")
            return []
        self.phase, self.why, self._reading = Phase.CONFIRMING, "has its stores confirm the log", None
        self.stores.align_all()
        self.begin_generation()
        return self.stores.feed_all()

    def begin_generation(self) -> None:
        """Put the entry on top of the log that begins this generation."""
        self._begun_at = self.log.last.index + 1
        self.log.add(Entry(self.placed.generation, self._begun_at, operation=self.kind.encode()))

    def _apply_again(self, application: Application, entry: Entry, now: Seconds) -> None:
        if entry.client:
            if application.apply(entry.operation, entry.index) != entry.reply:
                self.diverged += 1
            self.answers.note(entry, now)

    def _on_installed(self, replica: Replica, message: Installed) -> list[Effect]:
        effects = self.stores.take_installed(replica, message)
        return [*effects, *self._commit()]

    def _on_appended(self, replica: Replica, message: Appended) -> list[Effect]:
        if self.phase not in (Phase.CONFIRMING, Phase.SERVING):
            return []
        if not self.stores.take_appended(replica, message):
            return []
        return [*self._commit(), *self.stores.feed(replica)]

    def majority_has(self) -> int:
        """Give the index up to which a majority has the log on disk."""
        return self.stores.majority_has()

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
        if (refusal := self.stranger(call)) is not None:
            return [Send(sender, refusal, CALLERS)]
        if (repeated := self.repeated(sender, call)) is not None:
            return repeated
        forgets = self.answers.room_for(call.client, now)
        if forgets is None:
            return self._defer(sender, call, "too many clients at once", 1000)
        full = len(self._waiting) >= PIPELINE_MAX
        if self.frozen or full or self._compaction_due():
            return self._defer(sender, call, "it is about to move" if self.frozen else "its stores are behind")
        return self._log(sender, call, forgets, now)

    def stranger(self, call: Call) -> CallRefused | None:
        """Refuse what was asked of an actor that had this name before."""
        return stranger(call, self.began)

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
        unknown = self.answers.known(call.client) is None
        refusal = Send(sender, CallRefused(self.actor, call.client, call.sequence, why, unknown), CALLERS)
        self._doubted[call.client] = (self.log.last.index + 1, refusal)
        self.log.add(Entry(self.placed.generation, self.log.last.index + 1, operation=self.kind.encode()))
        return [*self.stores.feed_all(), *self._commit()]

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
        return [*self.stores.feed_all(), *self._commit()]

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
        try:
            handed = self.state()
        except OperationFailed:
            # It goes on as long as its stores have room.
            return []
        self.log.compact(handed.position, handed.state)
        self.stores.compacted()
        return self.stores.feed_all()

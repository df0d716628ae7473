"""Brings an owner's log to its stores: seals, aligns, feeds, and tells what a majority has.

    unknown --Sealed--> sealed --Appended, or Installed--> matched up to an index

Each store has up to APPENDS_MAX messages unanswered, and what comes meanwhile goes into the next one (one fsync for all
of it). A store that lost its log is left alone until this owner's generation was committed knowing of it (`renewal`):
then nothing that the store may have sealed and forgotten can be as high, and it is filled again.

Stores that are to keep the log later (`learners`) are brought as far as they may be, and count for nothing yet. The set
may change (`fit`) once each store of the new one either has everything that can have been acknowledged, or is known to
have no voice: then nobody can vote for a log that lacks something. It needs no majority of the old set, only what every
majority of it has a part in (`reads`), which is what an owner adopts its log from. So two stores go on with one.

It must never send a store what the owner does not have, and never count one whose log was lost and is not whole again.
"""

from collections.abc import Callable, Iterable, Mapping

from atoll.actors.hand_over.log import OperationLog, digest_of, parts_of
from atoll.actors.hand_over.messages import LOG_STORE, Append, Appended, Install, Installed, Position, Seal, Sealed
from atoll.actors.placement.messages import Placed
from atoll.actors.runtime.machine import Effect, Send, insist
from atoll.transport.identity import NodeId

APPENDS_MAX = 4


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

    def note(self, sealed: Sealed) -> None:
        """Take what the store says about its log."""
        self.memory, self.voice, self.last = sealed.memory, sealed.voice, sealed.last
        self.before, self.matched, self.in_flight, self.installing = sealed.before, 0, 0, None


class Replication:
    """The stores of one tenure, and the log that they are to have."""

    replica_kind = Replica

    def __init__(self, actor: str, placed: Placed, life: int, heard: Mapping[NodeId, int]) -> None:
        """`heard`: the memories of stores without a voice that were known before this generation was committed."""
        self.log = OperationLog()
        self.replicas = {node: self.replica_kind(node) for node in placed.stores}
        self.learners: dict[NodeId, Replica] = {}
        """Stores of the set that is wanted next, and not in this one."""
        self._actor = actor
        self._generation = placed.generation
        self._life = life
        self._heard = dict(heard)
        self._digest: tuple[Position, bytes] = (Position(), b"")

    @property
    def quorum(self) -> int:
        """How many stores are a majority."""
        return len(self.replicas) // 2 + 1

    @property
    def reads(self) -> int:
        """How many stores have a part in every majority: what any majority acknowledged, one of them has."""
        return len(self.replicas) - self.quorum + 1

    def find(self, node: NodeId) -> Replica | None:
        """Give what is known of a store, a learner among them."""
        return self.replicas.get(node) or self.learners.get(node)

    def everyone(self) -> list[Replica]:
        """Give the stores of this set and those of the next one."""
        return [*self.replicas.values(), *self.learners.values()]

    def teach(self, stores: Iterable[NodeId]) -> list[Effect]:
        """Begin to bring the log to those that are to keep it next; whoever was to and is not any more is left."""
        known = self.learners
        self.learners = {
            node: known.get(node) or self.replica_kind(node) for node in stores if node not in self.replicas
        }
        return [self.seal(each) for each in self.learners.values() if each.memory is None]

    def fit(self, stores: Iterable[NodeId], has_everything: Callable[[Replica], bool]) -> bool:
        """Tell whether the log may be kept by these alone: all have everything, or are known to lack a voice."""
        found = [self.find(node) for node in stores]
        known = [each for each in found if each is not None and each.memory is not None]
        voices = [each for each in known if each.voice]
        enough = len(voices) > len(found) - (len(found) // 2 + 1)
        return len(known) == len(found) and enough and all(map(has_everything, voices))

    def refilled(self) -> int:
        """Count the stores without a voice that this generation was committed knowing of: they forgot no seal of it."""
        return sum(
            not each.voice and each.memory is not None and self._heard.get(each.node) == each.memory
            for each in self.replicas.values()
        )

    def voiceless(self, stores: Iterable[NodeId]) -> dict[NodeId, int]:
        """Give the memories of those whose log is lost, or not whole yet."""
        found = [self.find(node) for node in stores]
        return {
            each.node: each.memory for each in found if each is not None and each.memory is not None and not each.voice
        }

    def voices(self) -> list[Replica]:
        """Give the stores that sealed this generation, and whose logs can be trusted."""
        return [each for each in self.replicas.values() if each.memory is not None and each.voice]

    def renewal(self) -> dict[NodeId, int]:
        """Name the stores that lost their log and can be filled again in a new generation only."""
        return {
            node: each.memory
            for node, each in self.replicas.items()
            if each.memory is not None and not each.voice and self._heard.get(node) != each.memory
        }

    def lags(self) -> bool:
        """Tell whether a store should be asked again, or sent something."""
        end = self.log.last.index
        stores = self.everyone()
        return any(
            each.memory is None or (self._fed(each) and (each.matched < end or not each.voice)) for each in stores
        ) or any(map(self._stale, stores))

    def check(self) -> None:
        """Assert what always holds."""
        self.log.check()

    def seal(self, replica: Replica) -> Send:
        """Ask a store to refuse lower generations."""
        return Send(replica.node, Seal(self._actor, self._generation, self._life), LOG_STORE)

    def seal_all(self) -> list[Effect]:
        """Ask every store."""
        return [self.seal(each) for each in self.everyone()]

    def fence(self, replica: Replica) -> tuple[str, int, int, int]:
        """Give what begins each message to a store that has sealed."""
        return (self._actor, self._generation, self._life, replica.memory or 0)

    def _fed(self, replica: Replica) -> bool:
        """Tell whether a store is written to: one that lost its log only when the generation knows of that."""
        known = replica.voice or self._heard.get(replica.node) == replica.memory
        return replica.memory is not None and known

    def again(self, replica: Replica) -> list[Effect]:
        """Send a store again what it did not answer."""
        replica.in_flight = 0
        if replica.sent is not None:
            replica.sent = max(replica.matched, self.log.base.index)
        effects: list[Effect] = []
        if self._stale(replica) and replica.installing is not None:
            effects.append(self._install(replica, replica.installing))
        return effects + self.feed(replica)

    def align(self, replica: Replica) -> None:
        """Find where a store's log leaves ours."""
        replica.snapshot_at = self.log.base.index
        if self.log.has(replica.last):
            replica.matched = replica.sent = replica.last.index
        else:
            replica.sent = self.log.base.index

    def align_all(self) -> None:
        """Begin with a log."""
        for each in self.everyone():
            self.align(each)

    def feed_all(self) -> list[Effect]:
        """Send every store what it lacks."""
        return [effect for each in self.everyone() for effect in self.feed(each)]

    def _stale(self, replica: Replica) -> bool:
        """Tell whether a store should be sent the snapshot."""
        base = self.log.base.index
        return base > 0 and self._fed(replica) and (replica.sent is None or replica.snapshot_at < base)

    def feed(self, replica: Replica) -> list[Effect]:
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
            effects.append(Send(replica.node, Append(*self.fence(replica), after, entries, whole), LOG_STORE))
            if whole:
                break
        return effects

    def _install(self, replica: Replica, part: int) -> Send:
        log = self.log
        if self._digest[0] != log.base:
            self._digest = (log.base, digest_of(log.snapshot))
        parts = parts_of(log.snapshot)
        part = min(part, len(parts) - 1)
        message = Install(*self.fence(replica), log.base, self._digest[1], part, len(parts), parts[part])
        return Send(replica.node, message, LOG_STORE)

    def take_installed(self, replica: Replica, message: Installed) -> list[Effect]:
        """Send the next part of the snapshot, or what follows it."""
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
        return self.feed(replica)

    def take_appended(self, replica: Replica, message: Appended) -> bool:
        """Note how far a store has come; False for word that is late."""
        replica.in_flight = max(0, replica.in_flight - 1)
        replica.voice = replica.voice or message.voice
        if message.missing and message.last.index < replica.matched:
            return False  # Late, or from a disk that lies; the timer asks again.
        if not message.missing:
            replica.matched = max(replica.matched, message.index)
        elif self.log.has(message.last):
            replica.matched = max(replica.matched, message.last.index)
            replica.sent = replica.matched
        elif replica.sent is not None:
            replica.sent = None if self.log.base.index else 0
        return True

    def majority_has(self) -> int:
        """Give the index up to which a majority has the log on disk."""
        matched = sorted((each.matched for each in self.replicas.values() if each.voice), reverse=True)
        return matched[self.quorum - 1] if len(matched) >= self.quorum else 0

    def lacking(self, index: int) -> tuple[NodeId, ...]:
        """Name the stores that do not count, or have not said yet that they have the log up to there on disk."""
        found = self.replicas.values()
        return tuple(each.node for each in found if each.memory is None or not each.voice or each.matched < index)

    def compacted(self) -> None:
        """Send the new snapshot instead of what it covers."""
        for each in self.everyone():
            each.installing = None
            if each.sent is not None and each.sent < self.log.base.index:
                each.sent = None

    def insist_no_store_has_more(self) -> None:
        """Assert that the owner has what its stores have."""
        for each in self.everyone():
            insist(each.matched <= self.log.last.index, "a store has more than its owner")

"""Two ends of a blob's talk under a seeded adversary: lost and doubled messages, cuts, crashes, torn disks, lies.

    BlobWorld(Random(seed)).run() --> what was broken, in words; an empty list when all is well

The disk is modelled as the folder promises it: what was written may be there after a crash, or not, or be torn; what
was sealed is there. Nothing here has a clock.
"""

from collections import Counter, deque
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from atoll.actors.blobs.manifest import Manifest, chunk_bytes_of, chunk_count, chunk_digest
from atoll.actors.blobs.messages import MESSAGES, BlobChunk, BlobOffered, BlobTaken, ChunksWanted, ListPart
from atoll.actors.blobs.receiving import KeepList, Over, Receiving, Seal, Write
from atoll.actors.blobs.sending import Ended, Outcome, Read, Say, Sending
from atoll.transport.codec import Codec, Message
from atoll.transport.errors import MalformedFrame

STEPS_MAX = 3000
CALM_STEPS = 1500
"""Steps without any fault, at the end, within which the blob must be there."""
AFTER_STEPS = 40
"""Steps after the blob is whole: its sender may not have heard of it."""
_CODEC = Codec(MESSAGES)

FAULTS = ("drop", "double", "swap", "cut", "crash receiver", "crash sender", "lie", "change")


def manifest_of(data: bytes) -> Manifest:
    """Make the list of some bytes."""
    size, step = len(data), chunk_bytes_of(len(data))
    pieces = (data[index * step : (index + 1) * step] for index in range(chunk_count(size)))
    return Manifest.of(size, [chunk_digest(piece, index, size) for index, piece in enumerate(pieces)])


class BlobWorld:
    """One blob, one sender, one receiver; `faults` are those that happen."""

    def __init__(
        self,
        rng: Random,
        *,
        size_bytes: int,
        faults: tuple[str, ...] = FAULTS,
        sending: Callable[..., Sending] = Sending,
        receiving: Callable[..., Receiving] = Receiving,
        fault_rate: float = 0.1,
    ) -> None:
        self.rng = rng
        self.faults = faults
        self._faultless = not faults
        self.fault_rate = fault_rate
        self.broken: list[str] = []
        self.counts: Counter[str] = Counter()
        self.offered = rng.randbytes(size_bytes)
        self.file = self.offered
        """What the file has now."""
        self.manifest = manifest_of(self.offered)
        self._make_sending, self._make_receiving = sending, receiving
        self.sender: Sending | None = None
        self.receiver: Receiving | None = None
        self.forth: deque[bytes] = deque()
        self.back: deque[bytes] = deque()
        # The receiver's disk.
        self.listed: Manifest | None = None
        self.part: dict[int, bytes] = {}
        self.sealed: bytes | None = None
        self.memory: bytes | None = None
        self.kept: set[int] = set()
        """Chunks written and not lost since."""

    def run(self) -> list[str]:
        """Run it to its end, and say what was broken."""
        after = 0
        for step in range(STEPS_MAX):
            if step == STEPS_MAX - CALM_STEPS:
                self.faults, self.file = (), self.offered
            if self.faults and self.rng.random() < self.fault_rate:
                self._fault(self.rng.choice(self.faults))
            self._step()
            after += self.sealed is not None
            if self.broken or after > AFTER_STEPS:
                return self.broken
        return ["it never came to its end"]

    # Steps

    def _step(self) -> None:
        if self.sender is None or self.receiver is None:
            self._begin()
        elif self.forth and (not self.back or self.rng.random() < 0.5):
            self._hear(self.receiver, self.forth.popleft())
        elif self.back:
            self._hear(self.sender, self.back.popleft())
        else:
            # Both wait for what was lost: the stream is given up for its silence.
            if self._faultless:
                self.broken.append("both ends wait, and nothing was lost")
            self._cut()

    def _begin(self) -> None:
        self._cut()
        self.sender = self._make_sending(self._offer(), self.manifest)
        have = None
        if self.listed is not None:
            have = self.memory if self.memory is not None else self._verified(self.listed)
        self.receiver = self._make_receiving(self._offer(), self.listed, have)
        self.sender.start()
        if self.sealed is not None:
            self.receiver = None
            self._say(self.back, BlobTaken())
            self._hear(self.sender, self.back.popleft())
            return
        self._carry_out(self.receiver, self.receiver.start())

    def _offer(self) -> BlobOffered:
        return BlobOffered(b"o" * 16, self.manifest.digest, self.manifest.size_bytes, "name")

    def _verified(self, listed: Manifest) -> bytes:
        return bytes(index in self.part and listed.fits(index, self.part[index]) for index in range(listed.count))

    def _cut(self) -> None:
        if self.receiver is not None and self.receiver.manifest is not None:
            self.memory = self.receiver.have
        self.sender = self.receiver = None
        self.forth.clear()
        self.back.clear()

    def _hear(self, machine: Any, data: bytes) -> None:
        try:
            effects = machine.take(_CODEC.decode(data))
        except MalformedFrame:
            self.counts["malformed"] += 1
            if self._faultless:
                self.broken.append("an honest end broke the rules")
            self._cut()
            return
        self._carry_out(machine, effects)
        machine.check()

    def _say(self, way: deque[bytes], message: Message) -> None:
        way.append(_CODEC.encode(message))

    def _carry_out(self, machine: Any, effects: Any) -> None:  # noqa: C901 - one case an effect
        todo = deque(effects)
        while todo and machine in (self.sender, self.receiver):
            effect = todo.popleft()
            match effect:
                case Say(message):
                    self._look_at(message)
                    self._say(self.forth if isinstance(machine, Sending) else self.back, message)
                case Read(index):
                    at = self.manifest.offset(index)
                    todo.extendleft(reversed(machine.read(index, self.file[at : at + self.manifest.length(index)])))
                case KeepList(manifest):
                    self.listed = manifest
                case Write(index, data):
                    self.part[index] = data
                    self.kept.add(index)
                    self.counts["written"] += 1
                case Seal():
                    self._seal()
                case Ended(outcome, _):
                    if outcome is not Outcome.TAKEN:
                        self.counts[outcome.value] += 1
                    self.sender = None
                case Over(_, useless):
                    if useless:
                        self.listed, self.part, self.memory, self.kept = None, {}, None, set()
                        self.receiver = None

    def _seal(self) -> None:
        self.sealed = b"".join(self.part.get(index, b"") for index in range(self.manifest.count))
        if self.sealed != self.offered:
            self.broken.append("what is whole is not what was offered")

    def _look_at(self, message: Message) -> None:
        """Hold what is said against the rules."""
        match message:
            case ChunksWanted(first, count):
                if self.listed is None:
                    self.broken.append("asked for chunks before the list was durable")
                if self.kept & set(range(first, first + count)):
                    self.broken.append("asked again for what was verified and is there")
            case BlobTaken() if self.sealed is None:
                self.broken.append("said that it is taken before it was durable")
            case BlobChunk(index, data) if not self.manifest.fits(index, data):
                self.broken.append("gave a chunk that is not the list's")

    # Faults

    def _fault(self, fault: str) -> None:
        self.counts[fault] += 1
        way = self.rng.choice((self.forth, self.back))
        match fault:
            case "drop" if way:
                del way[self.rng.randrange(len(way))]
            case "double" if way:
                way.append(self.rng.choice(way))
            case "swap" if len(way) > 1:
                way.rotate(1)
            case "cut":
                self._cut()
            case "crash receiver":
                self._crash()
            case "crash sender":
                self.sender = None
            case "lie":
                self._lie()
            case "change":
                at = self.rng.randrange(len(self.file) + 1)
                self.file = self.rng.choice(
                    (self.offered, self.offered[:at], self.file[:at] + b"!" + self.file[at + 1 :])
                )

    def _crash(self) -> None:
        """Lose the memory, and of the disk what was never synced: gone, torn, or of another blob."""
        self._cut()
        self.memory = None
        for index in sorted(self.part):
            if self.rng.random() < 0.3:
                data = self.part[index]
                torn = data[: self.rng.randrange(len(data) + 1)]
                self.part[index] = self.rng.choice((b"", torn + bytes(len(data) - len(torn)), data[::-1]))
                if self.part[index] != data:
                    self.kept.discard(index)

    def _lie(self) -> None:
        """Say something else than the sender does, on its way."""
        if not self.forth:
            return
        at = self.rng.randrange(len(self.forth))
        message = _CODEC.decode(self.forth[at])
        match message:
            case BlobChunk(index, data):
                lies = [
                    BlobChunk(index, data[:-1]),
                    BlobChunk(index, data + b"x"),
                    BlobChunk(index, bytes([data[0] ^ 1]) + data[1:] if data else b"x"),
                    BlobChunk((index + 1) % self.manifest.count, data),
                ]
                message = self.rng.choice(lies)
            case ListPart(first, digests):
                turned = bytes([digests[0] ^ 1]) + digests[1:]
                message = self.rng.choice(
                    (ListPart(first, turned), ListPart(first + 1, digests), ListPart(first, digests * 2))
                )
        try:
            data = _CODEC.encode(message)
            _CODEC.decode(data)
        except (MalformedFrame, msgspec.MsgspecError):
            return
        self.forth[at] = data

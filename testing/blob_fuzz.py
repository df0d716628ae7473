"""Hostile messages about blobs to both ends of a talk, in any state: `MalformedFrame` at most, nothing wrong written.

    good messages of a simulated talk --changed--> RecordStream, codec --> Sending or Receiving, in mid-talk

An end that raised, or that said its last word, is thrown away, as its stream would be.
"""

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from unittest import mock

from atoll.actors.blobs import manifest, receiving, sending
from atoll.actors.blobs.messages import FRAME_BYTES_MAX, MESSAGES, BlobOffered, ChunksWanted
from atoll.actors.blobs.receiving import Over, Receiving, Seal, Write
from atoll.actors.blobs.sending import Ended, Read, Say, Sending
from atoll.testing.blob_world import BlobWorld, manifest_of
from atoll.testing.election_fuzz import FINDINGS_MAX
from atoll.testing.fuzz import Mutator
from atoll.transport.codec import Codec, Message
from atoll.transport.errors import MalformedFrame
from atoll.transport.record_stream import RecordStream, frame_record

CHUNK_BYTES = 64
SIZES = (0, 1, 64, 200, 1000)
EFFECTS_MAX = 128
_CODEC = Codec(MESSAGES)


@contextlib.contextmanager
def small_chunks() -> Iterator[None]:
    """Let a blob of a thousand bytes have many chunks, a list of several parts, and more than a window."""
    with (
        mock.patch.object(manifest, "CHUNK_BYTES_MIN", CHUNK_BYTES),
        mock.patch.object(receiving, "WINDOW_BYTES", 4 * CHUNK_BYTES),
        mock.patch.object(receiving, "LIST_PART_DIGESTS", 4),
        mock.patch.object(sending, "LIST_PART_DIGESTS", 4),
    ):
        yield


class _Heard(BlobWorld):
    """Keeps what both ends say."""

    def __init__(self, rng: Random, size_bytes: int) -> None:
        super().__init__(rng, size_bytes=size_bytes, faults=())
        self.heard: dict[bool, list[bytes]] = {True: [_CODEC.encode(self._offer())], False: []}
        """By whether the sender said it."""

    def _say(self, way: deque[bytes], message: Message) -> None:
        super()._say(way, message)
        self.heard[way is self.forth].append(way[-1])


@dataclass(slots=True)
class BlobFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    fates: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cases: int = 0
    _rng: Random = field(init=False)
    _mutator: Mutator = field(init=False)

    def __post_init__(self) -> None:
        self._rng = Random(self.seed)
        self._mutator = Mutator(self._rng)

    def run(self, cases: int) -> None:
        """Run so many cases."""
        with small_chunks():
            until = self.cases + cases
            while self.cases < until and len(self.findings) < FINDINGS_MAX:
                self._talk()

    def _talk(self) -> None:
        world = _Heard(self._rng, self._rng.choice(SIZES))
        world.run()
        data, every = world.offered, [*world.heard[True], *world.heard[False]]
        offer = BlobOffered(b"o" * 16, world.manifest.digest, len(data), "name")
        for _ in range(20):
            machine = self._end_of(offer, data)
            good = world.heard[isinstance(machine, Receiving)]
            machine.start()
            for message in good[: self._rng.randrange(len(good) + 1)]:
                with contextlib.suppress(MalformedFrame):
                    self._carry_out(machine, machine.take(_CODEC.decode(message)), data)
            for _ in range(10):
                self.cases += 1
                if not self._case(machine, self._mutator.variant(every if self._rng.random() < 0.2 else good), data):
                    break

    def _end_of(self, offer: BlobOffered, data: bytes) -> Sending | Receiving:
        listed = manifest_of(data)
        if self._rng.random() < 0.5:
            return Sending(offer, listed)
        return Receiving(offer, *((listed,) if self._rng.random() < 0.5 else ()))

    def _case(self, machine: Sending | Receiving, message: bytes, data: bytes) -> bool:
        """Give one message to an end; tells whether its stream goes on."""
        try:
            (record,) = RecordStream(FRAME_BYTES_MAX, 1).feed(frame_record(message)) or (b"",)
            effects = machine.take(_CODEC.decode(record))
            self._carry_out(machine, effects, data)
            machine.check()
        except MalformedFrame:
            self.fates["malformed"] += 1
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            self.findings.append(f"{type(machine).__name__}: {type(error).__name__}: {error}; {message[:200].hex()}")
            return False
        self.fates[
            f"{type(machine).__name__} {' '.join(sorted({type(each).__name__ for each in effects})) or '-'}"
        ] += 1
        return not any(isinstance(each, Over | Ended) for each in effects)

    def _carry_out(self, machine: Sending | Receiving, effects: Sequence[object], data: bytes) -> None:
        if len(effects) > EFFECTS_MAX:
            self.findings.append(f"{len(effects)} effects of one message")
        for effect in effects:
            match effect:
                case Read(index) if isinstance(machine, Sending):
                    at = machine.manifest.offset(index)
                    machine.read(index, data[at : at + machine.manifest.length(index)])
                case Write(index, piece) if isinstance(machine, Receiving):
                    at = index * CHUNK_BYTES
                    if piece != data[at : at + CHUNK_BYTES]:
                        self.findings.append(f"chunk {index} was written wrong")
                case Seal() if isinstance(machine, Receiving) and machine.got != machine.count:
                    self.findings.append("sealed before all was there")
                case Say(ChunksWanted(first, count)) if (
                    isinstance(machine, Receiving) and first + count > machine.count
                ):
                    self.findings.append("asked for what there is not")

"""Hostile frames of streams and paths to an end that is in use: nothing but `MalformedFrame` comes, and nothing grows.

    good frames of a simulated session --fields at their limits, bytes changed--> Multipath, while its user goes on

An end that raised is thrown away, as its session would be.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from atoll.testing.election_fuzz import FINDINGS_MAX
from atoll.testing.fuzz import Mutator
from atoll.testing.multipath_world import MultipathFaults, MultipathWorld
from atoll.transport.errors import MalformedFrame
from atoll.transport.fragments import FRAME, Channel, frames_of
from atoll.transport.multipath import Multipath, Via
from atoll.transport.path_set import Rank
from atoll.transport.stream_credit import STREAMS_MAX
from atoll.transport.stream_frames import Buffer

FRAMES_AN_END = 60
HARVEST = 2000
OFFSETS = (0, 1, 100, 65_535, 65_536, 65_537, 2**22, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
NUMBERS = (0, 1, 2, 3, 7, 8, 100, 2**31, 2**32 - 2, 2**32 - 1)
VIA = Via(Rank.BEARER, "relay-1")


class _Listening(Multipath):
    """Keeps the frames that it gives out."""

    heard: list[bytes]

    def outgoing(self, room: int, now: float, records_max: int = 16) -> list[tuple[int, list[Buffer]]]:
        records = super().outgoing(room, now, records_max)
        if len(self.heard) < HARVEST:
            self.heard += [b"".join(parts) for _, parts in records]
        return records


def _harvest(seed: int) -> list[bytes]:
    heard: list[bytes] = []
    kind = type("_Heard", (_Listening,), {"heard": heard})
    plan = MultipathFaults(loss=0.05, ranks=(Rank.SIGNALING, Rank.SIGNALING), bytes_max=40_000, reset_ratio=0.5)
    MultipathWorld(seed, plan, kind).run()
    return heard


@dataclass(slots=True)
class StreamFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    fates: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cases: int = 0
    _mutator: Mutator = field(init=False)
    _frames: list[tuple[int, int, int, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        self._mutator = Mutator(Random(self.seed))
        found = {
            (kind, verb, number, bytes(piece[:2000]))
            for record in _harvest(self.seed)
            for kind, verb, number, _, piece in frames_of(record)
        }
        self._frames = sorted(found)

    def run(self, cases: int) -> None:
        """Run so many frames."""
        until = self.cases + cases
        while self.cases < until and len(self.findings) < FINDINGS_MAX:
            self._live()

    def _live(self) -> None:
        """Give one end frames until it accuses the peer, or enough."""
        rng = self._mutator.rng
        end, now = Multipath(initiator=rng.random() < 0.5), 0.0
        end.paths.add(Rank.BEARER, "relay-1", now)
        for _ in range(3):
            end.streams.write(end.streams.open("echo"), bytes(rng.randrange(200_000)))
        for _ in range(FRAMES_AN_END):
            self.cases += 1
            now += rng.random()
            record = self._record()
            try:
                self._use(end, record, now)
            except MalformedFrame as error:
                self.fates[str(error)[:24]] += 1
                return
            except Exception as error:  # noqa: BLE001 - anything else is a finding
                self.findings.append(
                    f"case {self.cases} of seed {self.seed}: {record[:80]!r}: {type(error).__name__}: {error}"
                )
                return
            self.fates["taken"] += 1

    def _use(self, end: Multipath, record: bytes, now: float) -> None:
        rng = self._mutator.rng
        for frame in frames_of(record):
            if frame[0] in (Channel.STREAMS, Channel.PATHS):
                path = frame[2] if rng.random() < 0.9 else rng.randrange(8)
                end.receive(frame, path, VIA, now)
        for stream in end.streams.numbers():
            if rng.random() < 0.3:
                end.streams.read(stream, rng.randrange(1, 100_000))
        end.tick(now)
        if rng.random() < 0.3:
            end.outgoing(rng.choice((512, 8192)), now)
        end.streams.check()
        end.paths.check()
        if len(end.streams.numbers()) > 2 * STREAMS_MAX:
            raise ValueError("more streams than there may be")

    def _record(self) -> bytes:
        rng = self._mutator.rng
        kind, verb, number, piece = rng.choice(self._frames)
        if rng.random() < 0.3:
            verb = rng.choice((*range(8), 255))
        if rng.random() < 0.3:
            number = rng.choice(NUMBERS)
        if rng.random() < 0.4:
            piece = self._piece(piece)
        record = FRAME.pack(kind, verb, number, 0, len(piece)) + piece
        return self._mutator.variant([record]) if rng.random() < 0.1 else record

    def _piece(self, piece: bytes) -> bytes:
        """Put nasty offsets to where offsets stand."""
        rng = self._mutator.rng
        changed = bytearray(piece)
        for at in (0, 4, 8):
            if rng.random() < 0.4 and at + 8 <= len(changed):
                changed[at : at + 8] = struct.pack(">Q", rng.choice(OFFSETS))
        return bytes(changed) if rng.random() < 0.8 else self._mutator.variant([bytes(changed)])

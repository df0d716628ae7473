"""Hostile bytes to what reads links: frames in any order, and the envelopes inside; nothing but `MalformedFrame` comes.

    good frames, envelopes, runs --mutated (`fuzz.py`)--> kind, greeting, assembly --> envelope --> the elector's codec

An `Assembly` that refused a frame is thrown away, as its link would be; what it holds meanwhile is bounded.
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from msgspec import structs

from atoll.testing.election_fuzz import FINDINGS_MAX, Harvest
from atoll.testing.elections import CODEC, simulated_node
from atoll.testing.fuzz import Mutator
from atoll.transport.base import MESSAGE_BYTES_MAX
from atoll.transport.envelope import CORRELATION_BYTES, Envelope, Fence, Header, Kind, decode_envelope, encode_envelope
from atoll.transport.errors import MalformedFrame
from atoll.transport.link_frames import (
    VERSION,
    Assembly,
    Backlog,
    FrameKind,
    Hello,
    alive_frame,
    bye_frame,
    credit_frame,
    hello_frame,
    kind_of,
    read_alive,
    read_bye,
    read_credit,
    read_hello,
    read_ready,
    ready_frame,
)
from atoll.transport.runs import RUN_MESSAGES_MAX, Run, read_run, split_run

FRAMES_A_LINK = 40
BATCHES = 60
RUNS = 50


@dataclass(slots=True)
class FrameFuzz:
    """Runs cases; `findings` are what should not have been."""

    seed: int
    fates: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    cases: int = 0
    _mutator: Mutator = field(init=False)
    _frames: list[bytes] = field(init=False)
    _envelopes: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        rng = Random(self.seed)
        self._mutator = Mutator(rng)
        messages = [data for samples in Harvest.reaped(self.seed).messages.values() for data in samples]
        self._envelopes = [encode_envelope(_envelope(rng, rng.choice(messages))) for _ in range(100)]
        self._envelopes += [_run(rng, messages) for _ in range(RUNS)]
        self._frames = [
            hello_frame(Hello(VERSION, simulated_node(1), b"b" * 16, "a label", b"credential", 0, 3000, runs=True)),
            ready_frame(1 << 20),
            credit_frame(1 << 16),
            alive_frame(),
            bye_frame("it leaves"),
            *self._batches(rng),
        ]

    def _batches(self, rng: Random) -> list[bytes]:
        backlog, frames = Backlog(), []
        for number in range(BATCHES):
            for _ in range(rng.randrange(1, 6)):
                backlog.put(rng.choice(self._envelopes))
            if number % 20 == 0:
                backlog.put(rng.randbytes(600_000))
            while (frame := backlog.frame()) is not None:
                frames.append(frame)
                backlog.sent()
        return frames

    def run(self, cases: int) -> None:
        """Run so many frames, and as many envelopes."""
        until = self.cases + cases
        while self.cases < until and len(self.findings) < FINDINGS_MAX:
            assembly = Assembly()
            for _ in range(FRAMES_A_LINK):
                self.cases += 1
                if not self._frame(assembly):
                    break
            for _ in range(FRAMES_A_LINK):
                self._envelope(self._mutator.variant(self._envelopes), "envelope")

    def _frame(self, assembly: Assembly) -> bool:
        rng = self._mutator.rng
        # A kind byte in front of it hides a frame's structure from the mutator: that is changed behind it.
        good = rng.choice(self._frames)
        frame = good
        if rng.random() < 0.7:
            short = [good[1:] if len(good) < 20_000 else good[1:2000]]
            frame = bytes([rng.choice((good[0], good[0], good[0], rng.randrange(10)))]) + self._mutator.variant(short)
        try:
            messages = self._read(assembly, frame)
        except MalformedFrame:
            self.fates["frame refused"] += 1
            return False
        except Exception as error:  # noqa: BLE001 - anything else is a finding
            self.findings.append(
                f"case {self.cases} of seed {self.seed}: {frame[:80]!r}: {type(error).__name__}: {error}"
            )
            return False
        self.fates["frame read"] += 1
        for message in messages:
            if len(message) > MESSAGE_BYTES_MAX:
                self.findings.append(f"case {self.cases} of seed {self.seed}: a message of {len(message)} bytes")
            self._envelope(message, "envelope in a frame")
        return True

    def _read(self, assembly: Assembly, frame: bytes) -> list[bytes]:
        kind = kind_of(frame)
        match kind:
            case FrameKind.HELLO:
                read_hello(frame)
            case FrameKind.READY:
                read_ready(frame)
            case FrameKind.CREDIT:
                read_credit(frame)
            case FrameKind.ALIVE:
                read_alive(frame)
            case FrameKind.BYE:
                if not read_bye(frame).isprintable():
                    raise ValueError("a reason that cannot be shown")
            case _:
                return assembly.take(kind, frame)
        return []

    def _envelope(self, data: bytes, what: str) -> None:
        try:
            for each in self._read_envelopes(data):
                CODEC.decode(each.body)
        except MalformedFrame:
            self.fates[f"{what} refused"] += 1
        except Exception as error:  # noqa: BLE001 - anything else is a finding
            self.findings.append(
                f"case {self.cases} of seed {self.seed}: {data[:80]!r}: {type(error).__name__}: {error}"
            )
        else:
            self.fates[f"{what} read"] += 1

    def _read_envelopes(self, data: bytes) -> list[Envelope]:
        envelope = decode_envelope(data)
        if not envelope.header.run:
            return [envelope]
        envelopes = split_run(envelope.header, *read_run(envelope))
        if not 1 <= len(envelopes) <= RUN_MESSAGES_MAX or any(each.header.run for each in envelopes):
            raise ValueError("a run that cannot be")
        self.fates["run read"] += 1
        return envelopes


def _run(rng: Random, messages: list[bytes]) -> bytes:
    header = _envelope(rng, b"").header
    shared = structs.replace(header, correlation=b"")
    bodies = [rng.choice(messages) for _ in range(rng.randrange(2, 9))]
    envelopes = [
        Envelope(
            shared
            if header.kind is Kind.TELL
            else structs.replace(shared, correlation=rng.randbytes(CORRELATION_BYTES)),
            body,
            shared,
        )
        for body in bodies
    ]
    run = Run(envelopes[0])
    for each in envelopes[1:]:
        run.take(each)
    return run.encode()


def _envelope(rng: Random, body: bytes) -> Envelope:
    fence = Fence("registrar", rng.randrange(9)) if rng.random() < 0.2 else None
    header = Header(
        1,
        rng.choice(list(Kind)),
        simulated_node(rng.randrange(6)),
        "elector",
        simulated_node(rng.randrange(6)),
        rng.choice(("elector", "duties", "router")),
        rng.randbytes(16) if rng.random() < 0.5 else b"",
        rng.randrange(10_000),
        "",
        fence,
    )
    return Envelope(header, body)

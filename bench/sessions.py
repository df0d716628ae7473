"""`atoll bench sessions`: what sessions cost in CPU, both ends in one process and no socket between.

Handshakes and re-handshakes stand beside the bare agreements they cannot do without, sealing and opening beside bare
AES-GCM, a stream beside the same bytes sealed only and as messages of calls. Where `noiseprotocol` is installed it does
the same work.
Everything is counted in CPU of this process, so that what else the host does is left out.
"""

import importlib.util
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import psutil
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from atoll.actors.runtime.allocator import keep_memory_for_bursts
from atoll.bench import streams
from atoll.bench.report import BenchReport, Row, row
from atoll.bench.rounds import ROUNDS, WARM_UP_PART, Progress, silent, turns
from atoll.bench.sealed import nonce
from atoll.bench.session_ends import LISTENER, RECORD_BYTES_MAX, SPEAKER, answered, dialled
from atoll.transport.errors import UsageError
from atoll.transport.noise import PROTOCOL
from atoll.transport.records import OVERHEAD_BYTES, PHASE_S, Opener, Sealer
from atoll.transport.session import Session
from atoll.transport.session_events import MessageArrived, State

DURATION_S = 12.0
SIZES = (64, 1024, 65_000)
SIZE_MAX = RECORD_BYTES_MAX - OVERHEAD_BYTES - 100
BATCH = 20
"""Things done between two looks at the clock."""
BURST_BYTES = 256 * 1024
"""What a session queues between two writes, as a busy node does."""
STREAM_BYTES = 120_000_000
"""With less, what stands in the windows at the end and was never read would count."""
AGREEMENTS = 6
"""Noise XK: es, ee and se, at both ends; a re-handshake has the same."""
NOISE = "noiseprotocol"
KEY = bytes(32)

Work = Callable[[], object]


def _cost(work: Work, units: int, round_s: float) -> float:
    """Do it for the time, and give the CPU seconds of one unit."""
    done = 0
    end, began = time.perf_counter() + round_s, time.process_time()
    while not done or time.perf_counter() < end:
        work()
        done += units
    return (time.process_time() - began) / done


def _handshake() -> tuple[Session, Session]:
    """Open a session between two ends here."""
    dialler = dialled(0.0)
    (_, first), *_ = dialler.outgoing(0.0)
    answerer = answered(first, 0.0)
    arriving = [first]
    while State.OPEN is not dialler.state:
        for record in arriving:
            answerer.receive(record, 0.0)
        for _, record in answerer.outgoing(0.0):
            dialler.receive(record, 0.0)
        arriving = [record for _, record in dialler.outgoing(0.0)]
    return dialler, answerer


def _rehandshakes() -> Work:
    """Give what renews the keys of a session once, both ends beginning."""
    ends, now = _handshake(), 0.0

    def renew() -> None:
        nonlocal now
        now += PHASE_S
        for end in ends:
            # Not `tick`: it would find that nobody has used the session for long.
            end.begin_rehandshake(now)
        moving = True
        while moving:
            moving = False
            for speaker, hearer in (ends, reversed(ends)):
                for _, record in speaker.outgoing(now):
                    hearer.receive(record, now)
                    moving = True

    return renew


def _agreements() -> None:
    """Make two fresh keys, and agree as often as a handshake must."""
    mine, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    public = theirs.public_key()
    for _ in range(AGREEMENTS):
        mine.exchange(public)


def _noise_ends() -> tuple[object, object]:
    """Do the same handshake with the library."""
    from noise.connection import Keypair, NoiseConnection

    dialler, answerer = NoiseConnection.from_name(PROTOCOL), NoiseConnection.from_name(PROTOCOL)
    for end, key, begin in (
        (dialler, SPEAKER, dialler.set_as_initiator),
        (answerer, LISTENER, answerer.set_as_responder),
    ):
        begin()
        end.set_keypair_from_private_bytes(Keypair.STATIC, key.curve_secret)
    dialler.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, LISTENER.node_id.curve_key)
    dialler.start_handshake()
    answerer.start_handshake()
    for source, target in ((dialler, answerer), (answerer, dialler), (dialler, answerer)):
        target.read_message(source.write_message())
    return dialler, answerer


def _noise_carries(message: bytes) -> Work:
    dialler, answerer = _noise_ends()

    def carry() -> None:
        for _ in range(BATCH):
            answerer.decrypt(dialler.encrypt(message))  # type: ignore[attr-defined]  # it has no types

    return carry


def _bare_carries(message: bytes) -> Work:
    seal, unseal = AESGCM(KEY).encrypt, AESGCM(KEY).decrypt
    counter = 0

    def carry() -> None:
        nonlocal counter
        for _ in range(BATCH):
            counter += 1
            salt = nonce(counter)
            unseal(salt, seal(salt, message, None), None)

    return carry


def _record_carries(message: bytes) -> Work:
    sealer, opener = Sealer(bytes(8), KEY, 0.0), Opener(KEY, 0.0)

    def carry() -> None:
        for _ in range(BATCH):
            opener.open(sealer.seal(message, 0, 0.0), 0.0)

    return carry


def _session_carries(message: bytes) -> tuple[Work, int]:
    """Give what sends a burst of messages from end to end, and how many they are."""
    speaker, listener = _handshake()
    burst = max(1, BURST_BYTES // len(message))

    def carry() -> None:
        for _ in range(burst):
            speaker.send(message)
        arrived = 0
        for _, record in speaker.outgoing(0.0):
            arrived += sum(type(event) is MessageArrived for event in listener.receive(record, 0.0))
        for _, record in listener.outgoing(0.0):
            speaker.receive(record, 0.0)
        if arrived != burst:
            raise AssertionError(f"{arrived} of {burst} messages arrived")

    return carry, burst


@dataclass(frozen=True, slots=True)
class _Step:
    """Ways that do the same work; each is a piece of work and how many units it has."""

    title: str
    ways: dict[str, tuple[Work, int]]
    unit: str = "us CPU"
    scale: float = 1e6

    def rows(self, round_s: float) -> Iterator[Row]:
        """Measure them in turns; the first is the baseline of all."""
        measures = {way: partial(_cost, work, units) for way, (work, units) in self.ways.items()}
        baseline: Row | None = None
        for way, costs in turns(measures, round_s).items():
            slices = [each * self.scale for each in costs]
            figure = row(f"{way}, {self.title}", self.unit, slices, against=baseline, group=self.title)
            baseline = baseline or figure
            yield figure


def _steps(sizes: Sequence[int]) -> Iterator[_Step]:
    has_noise = importlib.util.find_spec("noise") is not None
    handshakes: dict[str, tuple[Work, int]] = {"bare agreements": (_agreements, 1), "session": (_handshake, 1)}
    if has_noise:
        handshakes[NOISE] = (_noise_ends, 1)
    yield _Step("handshake, both ends", handshakes)
    yield _Step(
        "re-handshake, both ends", {"bare agreements, again": (_agreements, 1), "session, living": (_rehandshakes(), 1)}
    )
    for size in sizes:
        message = os.urandom(size)
        ways = {
            "bare AES-GCM": (_bare_carries(message), BATCH),
            "record": (_record_carries(message), BATCH),
            "session, messages sharing records": _session_carries(message),
        }
        if has_noise:
            ways[NOISE] = (_noise_carries(message), BATCH)
        yield _Step(f"{size} B, sealed and opened", ways)
    bulk: dict[str, tuple[Work, int]] = {
        kind: (partial(work, STREAM_BYTES), STREAM_BYTES) for kind, work in streams.KINDS.items()
    }
    yield _Step("bulk, both ends", bulk, "s CPU/GB", 1e9)


def run(duration_s: float = DURATION_S, *, sizes: Sequence[int] = SIZES, progress: Progress = silent) -> BenchReport:
    """Measure everything; takes about `duration_s`.

    Raises:
        UsageError: A size is out of range.
    """
    if wrong := [size for size in sizes if not 1 <= size <= SIZE_MAX]:
        raise UsageError(f"messages have 1 to {SIZE_MAX} bytes, not {wrong}")
    # As every process of ours does that is not somebody else's.
    kept = keep_memory_for_bursts()
    began, own_s, busy = time.monotonic(), time.process_time(), psutil.cpu_times()
    steps = list(_steps(sizes))
    round_s = duration_s / sum(len(step.ways) for step in steps) / (ROUNDS + WARM_UP_PART)
    rows: list[Row] = []
    for number, step in enumerate(steps, 1):
        progress(f"{number}/{len(steps)} {step.title}")
        rows += step.rows(round_s)
    after = psutil.cpu_times()
    took_s = time.monotonic() - began
    busy_s = sum(after) - after.idle - after.iowait - (sum(busy) - busy.idle - busy.iowait)
    others_s = max(0.0, busy_s - (time.process_time() - own_s))
    notes = {
        "memory": "kept for bursts, as in our processes" if kept else "given back as the system's allocator does",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "rounds": f"{ROUNDS} of {round_s:.3g} s each, turn and turn about, after one of {WARM_UP_PART:g} of that which "
        "is not counted; ratios are taken round by round",
        "counted": "CPU of one process that is both ends; per second: 1,000,000 divided by the figure in us",
        "took": f"{took_s:.1f} s on {os.cpu_count()} cores",
        "CPU used by others meanwhile": f"{others_s / took_s:.2f} cores",
    }
    if importlib.util.find_spec("noise") is None:
        notes[f"absent: {NOISE}"] = f"not installed (pip install {NOISE})"
    return BenchReport("sessions", rows, notes, ours=("record", "session", "calls", "streams"))

"""`atoll bench relay`: what a relay costs, beside raw TCP and the barest splice in the same run.

Sender, receiver and relay are processes of their own. What goes through is sealed by the ends, so a ratio to sealed
direct TCP is the price of the relay alone. On two cores the three share them: CPU seconds of the relay per GB are the
figure to trust, a rate is only as good as its ratio.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import psutil

from atoll.bench.peers import ALL, chosen
from atoll.bench.relay_ends import DESCRIPTORS_MAX
from atoll.bench.relay_latency import round_trips, slow_readers, under_load
from atoll.bench.relay_switching import slow_callee, switching
from atoll.bench.relay_throughput import both_ways, fairness, throughput
from atoll.bench.relay_tunnels import idle, set_up
from atoll.bench.report import BenchReport
from atoll.bench.rounds import ROUNDS, WARM_UP_PART, Progress, silent
from atoll.bench.stage import Stage
from atoll.transport.errors import UsageError

DURATION_S = 30.0
SIZES = (65_000, 1024, 64)
"""One message that fills a record (64 KiB in all), and two sizes that share one."""
SIZE_MAX = 65_000
TUNNELS = 8
IDLE_TUNNELS = 300
ROUND_TRIP_BYTES = 64
SWITCHED_BYTES = 1024


def _check(sizes: Sequence[int], tunnels: int) -> None:
    if not hasattr(os, "splice"):
        raise UsageError("this system has no splice(2), on which bearers are built; measure on Linux")
    if wrong := [size for size in sizes if not 1 <= size <= SIZE_MAX]:
        raise UsageError(f"messages have 1 to {SIZE_MAX} bytes, not {wrong}")
    if not 1 <= tunnels <= DESCRIPTORS_MAX:
        raise UsageError(f"1 to {DESCRIPTORS_MAX} tunnels can compete, not {tunnels}")


def run(
    duration_s: float = DURATION_S,
    *,
    sizes: Sequence[int] = SIZES,
    tunnels: int = TUNNELS,
    idle_tunnels: int = IDLE_TUNNELS,
    peers: Sequence[str] = (),
    progress: Progress = silent,
) -> BenchReport:
    """Measure everything for `duration_s` in all, each thing that is compared as long as any other.

    Raises:
        UsageError: An argument is out of range, a peer that was named is not here, or this system cannot splice.
        Unreachable: A process of the benchmark did not start, failed or ended early.
    """
    _check(sizes, tunnels)
    began = time.monotonic()
    before = psutil.cpu_times()
    here, absent = chosen(peers)
    with ExitStack() as stack:
        if here:
            progress(f"starting {', '.join(each.name for each in here)}")
        stage = Stage(stack, here, absent if ALL in peers else None)
        own_s, others = time.process_time(), len(stage.peers)
        steps: list[tuple[str, int, Callable[[], None]]] = [
            # What is measured, and how many things are compared; first, while the relay is as fresh as it will be:
            (f"{idle_tunnels} idle tunnels", 1, lambda: idle(stage, idle_tunnels)),
            *((f"messages of {size} B", 6 + others, lambda size=size: throughput(stage, size)) for size in sizes),
            ("round trips", 3 + others, lambda: round_trips(stage, ROUND_TRIP_BYTES)),
            ("both ways at once", 3, lambda: both_ways(stage)),
            ("delay under load", 5, lambda: under_load(stage)),
            ("slow readers", 2, lambda: slow_readers(stage)),
            ("the SEP", 2, lambda: switching(stage, SWITCHED_BYTES)),
            ("a slow callee on the SEP", 2, lambda: slow_callee(stage)),
            ("tunnels set up", 2, lambda: set_up(stage)),
            (f"fairness of {tunnels} tunnels", 2, lambda: fairness(stage, tunnels)),
        ]
        stage.round_s = duration_s / sum(count for _, count, _ in steps) / (ROUNDS + WARM_UP_PART)
        for number, (what, _, measure) in enumerate(steps, 1):
            progress(f"{number}/{len(steps)} {what}")
            measure()
        ours_s = stage.cpu_s() - own_s
        after = psutil.cpu_times()
    all_s = sum(after) - after.idle - after.iowait - (sum(before) - before.idle - before.iowait)
    took_s = time.monotonic() - began
    notes = {
        "rounds": f"{ROUNDS} of {stage.round_s:.3g} s, turn and turn about, after one of {WARM_UP_PART:g} of that "
        "which is not counted; ratios are taken round by round",
        "sealed": "AES-256-GCM at both ends (raw TCP: not); small messages share records; session: Atoll's own",
        "took": f"{took_s:.1f} s on {os.cpu_count()} cores",
        "CPU used by others meanwhile": f"{max(0.0, all_s - ours_s) / took_s:.2f} cores",
    }
    if stage.peers:
        notes["peers"] = "sealed by our ends as our own are; a ratio of theirs is to BEP, in the same round"
    notes |= {f"absent: {name}": reason for name, reason in absent.items()}
    return BenchReport("relay", stage.rows, notes, ours=("BEP", "SEP", "relay"))

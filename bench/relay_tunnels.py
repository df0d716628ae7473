"""Tunnels themselves: how fast they are set up, and what an idle one costs."""

import statistics
import time
from collections.abc import Callable

from atoll.bench.relay_process import RelayProcess
from atoll.bench.rounds import turns
from atoll.bench.session_ends import hand_shaken
from atoll.bench.stage import Stage
from atoll.bench.way import Pair, spent_s
from atoll.transport.errors import UsageError


def set_up(stage: Stage) -> None:
    """Measure tunnels made one after the other: two tickets, two connections, two OK; and with a session inside."""

    def measure(use: Callable[[Pair], object], round_s: float) -> tuple[list[float], float]:
        times: list[float] = []
        before = stage.bearer.clocks()
        until = time.perf_counter() + round_s
        while (began := time.perf_counter()) < until:
            pair = stage.bearer.pair()
            use(pair)
            times.append(time.perf_counter() - began)
            for sock in pair:
                sock.close()
        return times, spent_s(before, stage.bearer.clocks()) / len(times) * 1e6

    rounds = turns(
        {
            "": lambda round_s: measure(lambda _pair: None, round_s),
            " with session": lambda round_s: measure(hand_shaken, round_s),
        },
        stage.round_s,
    )
    for kind, answers in rounds.items():
        rates = [1 / statistics.fmean(times) for times, _ in answers]
        stage.add(f"BEP, tunnels set up{kind and f'{kind}s'}", "1/s", rates, group="tunnels set up")
        worst = [sorted(times)[len(times) * 99 // 100] * 1e3 for times, _ in answers]
        stage.add(f"BEP, set-up{kind} p99", "ms", worst, group="set-up, p99")
    stage.add("BEP, set-up, relay CPU each", "us", [cpu_us for _, cpu_us in rounds[""]])


def idle(stage: Stage, tunnels: int) -> None:
    """Measure the relay's memory per idle tunnel, and its CPU while nothing happens."""
    relay: RelayProcess = stage.relay
    before_bytes = relay.rss_bytes()
    pairs: list[Pair] = []
    try:
        pairs.extend(relay.pair() for _ in range(tunnels))
    except OSError as error:
        raise UsageError(f"{len(pairs)} of {tunnels} idle tunnels could be opened: {error}") from error
    after_bytes = relay.rss_bytes()
    before_s = relay.cpu_s()
    time.sleep(stage.round_s)
    spent = (relay.cpu_s() - before_s) / stage.round_s
    for sock in (sock for pair in pairs for sock in pair):
        sock.close()
    stage.add("relay, memory at rest", "MB", [before_bytes / 1e6])
    stage.add(f"relay, memory with {tunnels} idle", "MB", [after_bytes / 1e6])
    stage.add(f"BEP, memory per tunnel ({tunnels} idle)", "KB", [(after_bytes - before_bytes) / tunnels / 1e3])
    stage.add(f"BEP, CPU with {tunnels} idle", "% of a core", [spent * 100])

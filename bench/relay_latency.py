"""How long it takes: a round trip alone, beside bulk, inside bulk, and beside readers that do not read."""

from contextlib import ExitStack
from functools import partial
from typing import Any

from atoll.bench.report import Row
from atoll.bench.rounds import turns, turns_of
from atoll.bench.stage import Stage
from atoll.bench.way import Pair, Way

PROBE_BYTES = 64
SLOW_READERS = 8
CHUNK = bytes(65_536)
FULL_S = 0.02
"""A tunnel that takes nothing for so long is full; the relay moves what it can within a hundredth of that."""


def round_trips(stage: Stage, message_bytes: int) -> None:
    """Compare round trips of sealed messages: direct, bare splice, BEP, peers."""

    def measure(way: Way, round_s: float) -> dict[str, Any]:
        pair = way.pair()
        stage.receiver.begin(f"{way.ends}echo", pair[1])
        got = stage.sender.do(f"{way.ends}ping", pair[0], message_bytes=message_bytes, duration_s=round_s)
        stage.receiver.answer()
        way.finish()
        return got

    ways = (stage.bare, stage.direct, stage.bearer, *stage.peers)
    answers = turns_of(ways, measure, stage.round_s)
    for quantile in ("p50", "p99"):
        group = f"round trip {message_bytes} B, {quantile}"
        baseline: Row | None = None
        for way in ways:
            slices = [got[f"{quantile}_s"] * 1e6 for got in answers[way.name]]
            name = f"{way.name}, round trip {message_bytes} B {quantile}"
            figure = stage.add(name, "us", slices, baseline, group=group)
            # We are held against the barest, others against us.
            if way in (stage.bare, stage.bearer):
                baseline = figure


def under_load(stage: Stage) -> None:
    """Measure the queueing delay: of a probe beside bulk in another tunnel, and of bulk itself.

    On few cores a probe waits for them, too; so it is also sent beside bulk that does not go through the relay.
    """

    def beside(bulk_way: Way | None, round_s: float) -> dict[str, Any]:
        if bulk_way is not None:
            bulk = bulk_way.pair()
            stage.receiver.begin("drain_many", bulk[1])
            # Longer than the probe, so that it never is alone.
            stage.sender.begin("pump_many", bulk[0], duration_s=round_s * 1.2)
        got = stage.third.do("probe", *stage.bearer.pair(), message_bytes=PROBE_BYTES, duration_s=round_s)
        if bulk_way is not None:
            stage.sender.answer()
            stage.receiver.answer()
        return got

    def inside(way: Way, round_s: float) -> dict[str, Any]:
        pair = way.pair()
        stage.receiver.begin("drain_stamped", pair[1])
        stage.sender.do("pump_stamped", pair[0], duration_s=round_s)
        return stage.receiver.answer()

    probes = {
        "probe alone": partial(beside, None),
        "probe beside bulk past the relay": partial(beside, stage.direct),
        "probe beside bulk in another tunnel": partial(beside, stage.bearer),
    }
    bulk = {f"{way.name}, age of bulk": partial(inside, way) for way in (stage.direct, stage.bearer)}
    answers = turns({f"BEP, {kind}": measure for kind, measure in probes.items()} | bulk, stage.round_s)
    for what, names in (("probe", [f"BEP, {kind}" for kind in probes]), ("age of bulk", list(bulk))):
        for quantile in ("p50", "p99"):
            baseline: Row | None = None
            for name in names:
                slices = [got[f"{quantile}_s"] * 1e6 for got in answers[name]]
                group = f"delay under load, {what}, {quantile}"
                figure = stage.add(f"{name}, {quantile}", "us", slices, baseline, group=group)
                baseline = baseline or figure


def slow_readers(stage: Stage) -> None:
    """Fill tunnels that nobody reads, and see what that costs the others and the relay."""
    grown: list[float] = []

    def measure(readers: int, round_s: float) -> dict[str, Any]:
        with ExitStack() as stack:
            before_bytes = stage.relay.rss_bytes()
            for _ in range(readers):
                _fill(stack, stage.bearer.pair())
            got = stage.third.do("probe", *stage.bearer.pair(), message_bytes=PROBE_BYTES, duration_s=round_s)
            if readers:
                grown.append((stage.relay.rss_bytes() - before_bytes) / readers / 1e6)
            return got

    answers = turns(
        {
            "no slow": lambda round_s: measure(0, round_s),
            "slow": lambda round_s: measure(SLOW_READERS, round_s),
        },
        stage.round_s,
    )
    for quantile in ("p50", "p99"):
        baseline: Row | None = None
        for which in ("no slow", "slow"):
            slices = [got[f"{quantile}_s"] * 1e6 for got in answers[which]]
            group = f"beside {SLOW_READERS} slow readers, {quantile}"
            name = f"BEP, round trip beside {which} readers {quantile}"
            baseline = stage.add(name, "us", slices, baseline, group=group)
    # The first of these is the warm-up's, and the greatest: later ones find the memory of earlier ones.
    stage.add("relay, memory per slow reader", "MB", [max(grown)])


def _fill(stack: ExitStack, pair: Pair) -> None:
    """Send into a tunnel until nothing more fits; the other end never reads."""
    for sock in pair:
        stack.callback(sock.close)
    near = pair[0]
    near.settimeout(FULL_S)
    try:
        while True:
            near.send(CHUNK)
    except TimeoutError:
        return

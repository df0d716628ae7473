"""How much goes through: one way, both ways at once, many tunnels together; and what a byte and a message cost."""

from typing import Any

from atoll.bench.report import Row
from atoll.bench.rounds import turns, turns_of
from atoll.bench.sealed import RECORD_BYTES
from atoll.bench.stage import Stage
from atoll.bench.way import Way, spent_s


def throughput(stage: Stage, message_bytes: int) -> None:
    """Compare raw and sealed TCP, bare splice, BEP and peers: rate, and CPU of what lies between."""
    whole = message_bytes > RECORD_BYTES // 2
    size = f"{message_bytes} B {'records' if whole else 'messages'}"
    answers = turns(
        {
            "raw TCP": stage.transfer(stage.direct, message_bytes, raw=True),
            "direct TCP": stage.transfer(stage.direct, message_bytes),
            "bare splice": stage.transfer(stage.bare, message_bytes),
            "BEP": stage.transfer(stage.bearer, message_bytes),
            "direct TCP, session": stage.transfer(stage.direct, message_bytes, ends="session_"),
            "BEP, session": stage.transfer(stage.bearer, message_bytes, ends="session_"),
            **{peer.name: stage.transfer(peer, message_bytes) for peer in stage.peers},
        },
        stage.round_s,
    )
    _rates(stage, answers, size, whole=whole)
    _costs(stage, answers, size, whole=whole)


def _rates(stage: Stage, answers: dict[str, list[Any]], size: str, *, whole: bool) -> None:
    count, scale, unit = ("bytes", 1e9, "GB/s") if whole else ("messages", 1e3, "thousand/s")
    group = f"rate, {size}"

    def add(way: str, against: Row | None = None) -> Row:
        rates = [got[count] / scale / got["took_s"] for got in answers[way]]
        return stage.add(f"{way}, {size}", unit, rates, against, group=group)

    direct = add("direct TCP", add("raw TCP"))
    add("bare splice", direct)
    bearer = add("BEP", direct)
    add("BEP, session", add("direct TCP, session", direct))
    for peer in stage.peers:
        rates = add(peer.name, bearer).slices
        ratios = [ours / theirs for ours, theirs in zip(bearer.slices, rates, strict=True)]
        stage.add(f"BEP to {peer.name}, {size}", "x", ratios, group=f"BEP to others, {size}")


def _costs(stage: Stage, answers: dict[str, list[Any]], size: str, *, whole: bool) -> None:
    measures = [("bytes", 1e9, "s/GB", "CPU")]
    if not whole:
        measures.append(("messages", 1e9, "ns", "CPU each"))
    agents = [peer for peer in stage.peers if peer.has_agents]
    for count, scale, unit, what in measures:

        def costs(way: str, cpu: str = "cpu_s", *, count: str = count, scale: float = scale) -> list[float]:
            return [got[cpu] / got[count] * scale for got in answers[way]]

        group = f"{what} of what lies between, {size}"
        baseline = stage.add(f"bare splice, {size}, {what}", unit, costs("bare splice"), group=group)
        bearer = stage.add(f"BEP, {size}, {what}", unit, costs("BEP"), baseline, group=group)
        for peer in stage.peers:
            stage.add(f"{peer.name}, {size}, {what}", unit, costs(peer.name), bearer, group=group)
        for peer in agents:
            name = f"{peer.name}'s agent, {size}, {what}"
            stage.add(name, unit, costs(peer.name, "agents_cpu_s"), bearer, group=group)


def both_ways(stage: Stage) -> None:
    """Load one tunnel in both directions at once, with plain bytes: their sum, and the CPU per GB."""

    def measure(way: Way, round_s: float) -> dict[str, float]:
        pair = way.pair()
        with pair[0].dup(), pair[1].dup():
            before = way.clocks()
            stage.receiver.begin("exchange", pair[1], duration_s=round_s)
            there = stage.sender.do("exchange", pair[0], duration_s=round_s)
            back = stage.receiver.answer()
            cpu_s = spent_s(before, way.clocks())
        way.finish()
        moved = there["bytes"] + back["bytes"]
        return {"rate": moved / max(there["took_s"], back["took_s"]) / 1e9, "cost": cpu_s / moved * 1e9}

    ways = (stage.direct, stage.bare, stage.bearer)
    answers = turns_of(ways, measure, stage.round_s)
    baseline = None
    for name, rounds in answers.items():
        rates = [got["rate"] for got in rounds]
        figure = stage.add(f"{name}, both ways at once", "GB/s", rates, baseline, group="both ways at once")
        baseline = baseline or figure
    cost = None
    for name in ("bare splice", "BEP"):
        costs = [got["cost"] for got in answers[name]]
        cost = stage.add(f"{name}, both ways at once, CPU", "s/GB", costs, cost, group="both ways at once, CPU")


def fairness(stage: Stage, tunnels: int) -> None:
    """Load many tunnels alike, and compare what each gets: Jain's index, 1 is fair, 1/n is one takes all."""

    def measure(way: Way, round_s: float) -> dict[str, float]:
        pairs = [way.pair() for _ in range(tunnels)]
        before = way.clocks()
        stage.receiver.begin("drain_many", *(pair[1] for pair in pairs))
        stage.sender.do("pump_many", *(pair[0] for pair in pairs), duration_s=round_s)
        got = stage.receiver.answer()
        cpu_s = spent_s(before, way.clocks())
        moved, squares = sum(got["bytes"]), sum(each**2 for each in got["bytes"])
        return {
            "index": moved**2 / (tunnels * squares),
            "rate": moved / got["took_s"] / 1e9,
            "cost": cpu_s / moved * 1e9,
        }

    ways = (stage.direct, stage.bearer)
    answers = turns_of(ways, measure, stage.round_s)
    for what, unit, figure in (
        (f"fairness of {tunnels}", "Jain", "index"),
        (f"{tunnels} tunnels together", "GB/s", "rate"),
    ):
        baseline = None
        for name, rounds in answers.items():
            slices = [got[figure] for got in rounds]
            baseline = stage.add(f"{name}, {what}", unit, slices, baseline, group=what)
    costs = [got["cost"] for got in answers["BEP"]]
    stage.add(f"BEP, {tunnels} tunnels together, CPU", "s/GB", costs, group=f"{tunnels} tunnels together")

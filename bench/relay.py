"""`atoll bench relay`: what a relay costs, beside raw TCP and the barest splice in the same run.

Sender, receiver and relay are processes of their own. What goes through is sealed by the ends, so a ratio to sealed
direct TCP is the price of the relay alone. On two cores the three share them: CPU seconds of the relay per GB are the
figure to trust, a rate is only as good as its ratio.
"""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import psutil

from atoll.actors.tunnel_relay.sep_client import FreshKey
from atoll.actors.tunnel_relay.tickets import Role
from atoll.bench.processes import End
from atoll.bench.relay_ends import DESCRIPTORS_MAX, RECORD_BYTES
from atoll.bench.relay_process import RELAY, Pair, RelayProcess, direct_pair, ticket
from atoll.bench.report import BenchReport, Row, row
from atoll.bench.rounds import ROUNDS, WARM_UP_PART, Progress, silent, turns
from atoll.transport.errors import UsageError
from atoll.transport.keys import NodeKey

DURATION_S = 1.25
SIZES = (65_000, 1024, 64)
"""One message that fills a record (64 KiB in all), and two sizes that share one."""
SIZE_MAX = 65_000
TUNNELS = 8
IDLE_TUNNELS = 300
ROUND_TRIP_BYTES = 64
SWITCHED_BYTES = 1024


def _dialled(port: int, server: NodeKey, key: FreshKey) -> dict[str, Any]:
    """Give what an end needs to dial a CURVE port, as plain data."""
    return {
        "port": port,
        "server": server.node_id.curve_key.hex(),
        "public": key.public.hex(),
        "secret": key.secret.hex(),
    }


class Bench:
    """The processes of one run, and what is measured with them."""

    def __init__(self, stack: ExitStack, duration_s: float) -> None:
        self.processes = [End(), End(), End()]
        self.sender, self.receiver, self.splicer = self.processes
        for end in self.processes:
            stack.callback(end.close)
        self.relay = RelayProcess()
        stack.callback(self.relay.close)
        self.round_s = duration_s / ROUNDS
        self.rows: list[Row] = []

    def add(self, name: str, unit: str, slices: Sequence[float], against: Row | None = None) -> Row:
        """Keep a figure."""
        self.rows.append(row(name, unit, slices, against=against))
        return self.rows[-1]

    def cpu_s(self) -> float:
        """CPU seconds of all processes of the benchmark."""
        return time.process_time() + self.relay.cpu_s() + sum(end.cpu_s() for end in self.processes)

    def bare_pair(self) -> Pair:
        """Put the barest splice between two sockets; `splicer` answers when both have ended."""
        left, right = direct_pair(), direct_pair()
        self.splicer.begin("bare", left[1], right[0])
        return left[0], right[1]

    def _transfer(self, make_pair: Callable[[], Pair], message_bytes: int, **how: Any) -> Callable[[float], Any]:
        """Give what pumps one way for a round and adds the CPU of what lies between; `how` says with which ends."""
        between = {self.bare_pair: self.splicer, self.relay.pair: self.relay}.get(make_pair)
        kind = "session_" if how.pop("session", False) else ""

        def measure(round_s: float) -> dict[str, Any]:
            pair = make_pair()
            before_s = between.cpu_s() if between else 0.0
            self.receiver.begin(f"{kind}drain", pair[1], message_bytes=message_bytes, **how)
            self.sender.do(f"{kind}pump", pair[0], message_bytes=message_bytes, duration_s=round_s, **how)
            got = self.receiver.answer()
            if between is self.splicer:
                self.splicer.answer()
            return got | {"cpu_s": between.cpu_s() - before_s if between else 0.0}

        return measure

    def throughput(self, message_bytes: int) -> None:
        """Compare raw and sealed TCP, bare splice and BEP: rate, and CPU of what lies between per GB."""
        whole = message_bytes > RECORD_BYTES // 2
        unit = "GB/s" if whole else "thousand/s"
        size = f"{message_bytes} B {'records' if whole else 'messages'}"
        answers = turns(
            {
                "raw TCP": self._transfer(direct_pair, message_bytes, raw=True),
                "direct TCP": self._transfer(direct_pair, message_bytes),
                "bare splice": self._transfer(self.bare_pair, message_bytes),
                "BEP": self._transfer(self.relay.pair, message_bytes),
                "direct TCP, session": self._transfer(direct_pair, message_bytes, session=True),
                "BEP, session": self._transfer(self.relay.pair, message_bytes, session=True),
            },
            self.round_s,
        )

        def rates(way: str) -> list[float]:
            count, scale = ("bytes", 1e9) if whole else ("messages", 1e3)
            return [got[count] / scale / got["took_s"] for got in answers[way]]

        def costs(way: str) -> list[float]:
            return [got["cpu_s"] / got["bytes"] * 1e9 for got in answers[way]]

        raw = self.add(f"raw TCP, {size}", unit, rates("raw TCP"))
        direct = self.add(f"direct TCP, {size}", unit, rates("direct TCP"), raw)
        for way in ("bare splice", "BEP", "direct TCP, session"):
            figure = self.add(f"{way}, {size}", unit, rates(way), direct)
        self.add(f"BEP, session, {size}", unit, rates("BEP, session"), figure)
        baseline = self.add(f"bare splice, {size}, CPU", "s/GB", costs("bare splice"))
        self.add(f"BEP, {size}, CPU", "s/GB", costs("BEP"), baseline)

    def round_trips(self, message_bytes: int) -> None:
        """Compare round trips of sealed messages: direct, bare splice, BEP."""

        def way(make_pair: Callable[[], Pair]) -> Callable[[float], dict[str, Any]]:
            def measure(round_s: float) -> dict[str, Any]:
                pair = make_pair()
                self.receiver.begin("echo", pair[1])
                got = self.sender.do("ping", pair[0], message_bytes=message_bytes, duration_s=round_s)
                self.receiver.answer()
                if make_pair == self.bare_pair:
                    self.splicer.answer()
                return got

            return measure

        answers = turns(
            {"direct TCP": way(direct_pair), "bare splice": way(self.bare_pair), "BEP": way(self.relay.pair)},
            self.round_s,
        )
        for quantile in ("p50", "p99"):
            baseline = None
            for name in ("bare splice", "direct TCP", "BEP"):
                slices = [got[f"{quantile}_s"] * 1e6 for got in answers[name]]
                figure = self.add(f"{name}, round trip {message_bytes} B {quantile}", "us", slices, baseline)
                baseline = baseline or figure

    def set_up(self) -> None:
        """Measure tunnels made one after the other: two tickets, two connections, two OK."""

        def measure(round_s: float) -> list[float]:
            times: list[float] = []
            until = time.perf_counter() + round_s
            while (began := time.perf_counter()) < until:
                pair = self.relay.pair()
                times.append(time.perf_counter() - began)
                for sock in pair:
                    sock.close()
            return times

        rounds = turns({"BEP": measure}, self.round_s)["BEP"]
        self.add("BEP, tunnels set up", "1/s", [1 / statistics.fmean(times) for times in rounds])
        self.add("BEP, set-up p99", "ms", [sorted(times)[len(times) * 99 // 100] * 1e3 for times in rounds])

    def fairness(self, tunnels: int) -> None:
        """Load many tunnels alike and compare what each gets: Jain's index, 1 is fair, 1/n is one takes all."""

        def way(make_pair: Callable[[], Pair]) -> Callable[[float], float]:
            def measure(round_s: float) -> float:
                pairs = [make_pair() for _ in range(tunnels)]
                self.receiver.begin("drain_many", *(pair[1] for pair in pairs))
                self.sender.do("pump_many", *(pair[0] for pair in pairs), duration_s=round_s)
                got = self.receiver.answer()["bytes"]
                return float(sum(got) ** 2 / (len(got) * sum(each**2 for each in got)))

            return measure

        index = turns({"direct TCP": way(direct_pair), "BEP": way(self.relay.pair)}, self.round_s)
        baseline = self.add(f"direct TCP, fairness of {tunnels}", "Jain", index["direct TCP"])
        self.add(f"BEP, fairness of {tunnels}", "Jain", index["BEP"], baseline)

    def switching(self, message_bytes: int) -> None:
        """Compare the SEP with libzmq's own proxy in C: sealed records from a caller to a callee, CURVE on both."""
        answers = turns(
            {
                "C switch": lambda round_s: self._through_c(message_bytes, round_s),
                "SEP": lambda round_s: self._through_sep(message_bytes, round_s),
            },
            self.round_s,
        )
        baselines: dict[str, Row] = {}
        for way, rounds in answers.items():
            rates = [got["records"] / got["took_s"] / 1e3 for got in rounds]
            costs = [got["cpu_s"] / max(1, got["records"]) * 1e6 for got in rounds]
            for unit, slices in (("thousand/s", rates), ("us CPU", costs)):
                name = f"{way}, {message_bytes} B records{', CPU each' if unit == 'us CPU' else ''}"
                figure = self.add(name, unit, slices, baselines.get(unit))
                baselines.setdefault(unit, figure)
        self.add("SEP, records lost", "records", [sum(got["lost"] for got in answers["SEP"])])

    def _through_sep(self, message_bytes: int, round_s: float) -> dict[str, Any]:
        calling, serving, registration = FreshKey.generate(), FreshKey.generate(), os.urandom(16)
        before_s = self.relay.cpu_s()
        self.receiver.begin(
            "sep_serve",
            tickets=ticket(Role.REGISTER, registration, holder=serving.public).hex(),
            **_dialled(self.relay.sep_port, RELAY, serving),
        )
        got = self.sender.do(
            "sep_call",
            message_bytes=message_bytes,
            duration_s=round_s,
            ticket=ticket(Role.REACH, registration, holder=calling.public).hex(),
            **_dialled(self.relay.sep_port, RELAY, calling),
        )
        self.receiver.answer()
        return got | {"cpu_s": self.relay.cpu_s() - before_s}

    def _through_c(self, message_bytes: int, round_s: float) -> dict[str, Any]:
        before_s = self.splicer.cpu_s()
        ports = self.splicer.do("c_switch", secret=RELAY.curve_secret.hex())
        self.receiver.begin("sep_serve", tickets="", **_dialled(ports["serving"], RELAY, FreshKey.generate()))
        called = _dialled(ports["calling"], RELAY, FreshKey.generate())
        got = self.sender.do("sep_call", message_bytes=message_bytes, duration_s=round_s, ticket="", **called)
        self.receiver.answer()
        self.splicer.do("c_switch_ends")
        return got | {"cpu_s": self.splicer.cpu_s() - before_s}

    def idle(self, tunnels: int) -> None:
        """Measure the relay's memory per idle tunnel, and its CPU while nothing happens."""
        before_bytes = self.relay.rss_bytes()
        pairs: list[Pair] = []
        try:
            pairs.extend(self.relay.pair() for _ in range(tunnels))
        except OSError as error:
            raise UsageError(f"{len(pairs)} of {tunnels} idle tunnels could be opened: {error}") from error
        after_bytes = self.relay.rss_bytes()
        before_s = self.relay.cpu_s()
        time.sleep(self.round_s)
        spent = (self.relay.cpu_s() - before_s) / self.round_s
        for sock in (sock for pair in pairs for sock in pair):
            sock.close()
        self.add("relay, memory at rest", "MB", [before_bytes / 1e6])
        self.add(f"BEP, memory per tunnel ({tunnels} idle)", "KB", [(after_bytes - before_bytes) / tunnels / 1e3])
        self.add(f"BEP, CPU with {tunnels} idle", "% of a core", [spent * 100])


def _check(sizes: Sequence[int], tunnels: int) -> None:
    if not hasattr(os, "splice"):
        raise UsageError("this system has no splice(2), on which bearers are built; measure on Linux")
    if wrong := [size for size in sizes if not 1 <= size <= SIZE_MAX]:
        raise UsageError(f"messages have 1 to {SIZE_MAX} bytes, not {wrong}")
    if not 1 <= tunnels <= DESCRIPTORS_MAX:
        raise UsageError(f"1 to {DESCRIPTORS_MAX} tunnels can compete, not {tunnels}")


def run(
    duration_s: float = DURATION_S,
    sizes: Sequence[int] = SIZES,
    tunnels: int = TUNNELS,
    idle_tunnels: int = IDLE_TUNNELS,
    progress: Progress = silent,
) -> BenchReport:
    """Measure everything; each figure takes about `duration_s` per thing compared.

    Raises:
        UsageError: An argument is out of range, or this system cannot splice.
        Unreachable: A process of the benchmark did not start, failed or ended early.
    """
    _check(sizes, tunnels)
    began = time.monotonic()
    before = psutil.cpu_times()
    with ExitStack() as stack:
        bench = Bench(stack, duration_s)
        own_s = time.process_time()
        steps: list[tuple[str, Callable[[], None]]] = [
            # First, while the relay is as fresh as it will be.
            (f"{idle_tunnels} idle tunnels", lambda: bench.idle(idle_tunnels)),
            *((f"messages of {size} B", lambda size=size: bench.throughput(size)) for size in sizes),
            ("round trips", lambda: bench.round_trips(ROUND_TRIP_BYTES)),
            ("the SEP", lambda: bench.switching(SWITCHED_BYTES)),
            ("tunnels set up", bench.set_up),
            (f"fairness of {tunnels} tunnels", lambda: bench.fairness(tunnels)),
        ]
        for number, (what, measure) in enumerate(steps, 1):
            progress(f"{number}/{len(steps)} {what}")
            measure()
        ours_s = bench.cpu_s() - own_s
        after = psutil.cpu_times()
    all_s = sum(after) - after.idle - after.iowait - (sum(before) - before.idle - before.iowait)
    took_s = time.monotonic() - began
    notes = {
        "rounds": f"{ROUNDS} of {bench.round_s:.3g} s, turn and turn about, after one of {WARM_UP_PART:g} of that "
        "which is not counted; ratios are taken round by round",
        "sealed": "AES-256-GCM at both ends (raw TCP: not); small messages share records; session: Atoll's own",
        "took": f"{took_s:.1f} s on {os.cpu_count()} cores",
        "CPU used by others meanwhile": f"{max(0.0, all_s - ours_s) / took_s:.2f} cores",
    }
    return BenchReport("relay", bench.rows, notes)
